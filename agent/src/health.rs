//! Checks that a person gave for a host, made from the host. No name service: addresses are IPs or `localhost`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use trueup_schema::wire::{Check, Probe};

use crate::{exec, units};

/// One try has at most so long, whatever it asks for: what the manifest allows.
const LONGEST: u64 = 600;
/// A try has at least so long, however late it is.
const SHORTEST: Duration = Duration::from_millis(100);
/// Of an HTTP answer only the first line is read.
const STATUS_LINE: usize = 256;

/// The first check that does not pass in any of its tries, as one sentence. All of them together have until `end`: who
/// waits longer is overtaken by the dead-man, which knows nothing of checks.
#[must_use]
pub fn failing(checks: &[Check], target: &Path, end: Instant) -> Option<String> {
    checks.iter().find_map(|check| failed(check, target, end))
}

fn failed(check: &Check, target: &Path, end: Instant) -> Option<String> {
    let longest = Duration::from_secs(check.timeout_secs.clamp(1, LONGEST));
    let pause = Duration::from_millis(check.interval_ms);
    let mut tries = 0;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let Err(why) = probe(&check.probe, target, longest.min(left).max(SHORTEST)) else {
            return None;
        };
        tries += 1;
        let late = end.saturating_duration_since(Instant::now()) <= pause;
        if tries >= check.attempts.max(1) || late {
            let cut = if late && tries < check.attempts {
                ", no time for more before the confirmation's deadline"
            } else {
                ""
            };
            let times = if tries == 1 { "try" } else { "tries" };
            return Some(format!(
                "check `{}`: {why} ({tries} {times}{cut})",
                check.name
            ));
        }
        thread::sleep(pause);
    }
}

fn probe(probe: &Probe, target: &Path, limit: Duration) -> Result<(), String> {
    match probe {
        Probe::Unit(name) => units::systemctl(&["is-active", "--quiet"], &[name], limit)
            .map_err(|_| format!("{name} is not active")),
        Probe::Tcp(address) => connect(address, limit).map(|_| ()),
        Probe::Http { url, status } => http(url, *status, limit),
        Probe::Command(argv) => command(argv, target, limit),
    }
}

fn connect(address: &str, limit: Duration) -> Result<TcpStream, String> {
    let numeric = address.replacen("localhost:", "127.0.0.1:", 1);
    let parsed: SocketAddr = numeric
        .parse()
        .map_err(|_| format!("`{address}` is not IP:PORT or localhost:PORT"))?;
    TcpStream::connect_timeout(&parsed, limit).map_err(|e| format!("{address}: {e}"))
}

fn http(url: &str, status: u16, limit: Duration) -> Result<(), String> {
    let rest = url
        .strip_prefix("http://")
        .ok_or_else(|| format!("`{url}` is not http://IP:PORT/PATH"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if url.bytes().any(|b| b.is_ascii_control() || b == b' ') {
        return Err("the address has blanks".to_owned());
    }
    let bare_v6 = host.ends_with(']');
    let address = if !bare_v6 && host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let mut stream = connect(&address, limit)?;
    let told = |e: std::io::Error| format!("{url}: {e}");
    stream.set_read_timeout(Some(limit)).map_err(told)?;
    stream.set_write_timeout(Some(limit)).map_err(told)?;
    let request = format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(told)?;
    let mut line = Vec::new();
    let mut byte = [0_u8; 1];
    while line.len() < STATUS_LINE && stream.read(&mut byte).map_err(told)? == 1 && byte[0] != b'\n'
    {
        line.push(byte[0]);
    }
    let line = String::from_utf8_lossy(&line).into_owned();
    let got = line.split_whitespace().nth(1).and_then(|s| s.parse().ok());
    if got == Some(status) {
        return Ok(());
    }
    Err(format!("{url} answers `{}`, wanted {status}", line.trim()))
}

fn command(argv: &[String], target: &Path, limit: Duration) -> Result<(), String> {
    let (name, args) = argv.split_first().ok_or("no command")?;
    let program = if name.starts_with('/') {
        PathBuf::from(name)
    } else {
        target.join("sw/bin").join(name)
    };
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let out = exec::run(&program, &args, limit).map_err(|e| e.to_string())?;
    if out.code == 0 {
        return Ok(());
    }
    let said: String = out.stderr.trim().chars().take(200).collect();
    Err(format!("{name} ended with {}: {said}", out.code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn check(probe: Probe) -> Vec<Check> {
        vec![Check {
            name: "c".to_owned(),
            probe,
            timeout_secs: 1,
            attempts: 2,
            interval_ms: 1,
        }]
    }

    fn failing(checks: &[Check], target: &Path) -> Option<String> {
        super::failing(checks, target, Instant::now() + Duration::from_secs(60))
    }

    #[test]
    fn a_check_is_tried_as_often_as_it_asks_and_no_longer_than_there_is_time() {
        let dir = tempfile::tempdir().expect("a folder");
        let counter = dir.path().join("tries");
        let script = format!(
            "echo x >> {0}; test $(wc -l < {0}) -ge 3",
            counter.display()
        );
        let argv = ["/bin/sh", "-c", &script].map(str::to_owned).to_vec();
        let mut checks = check(Probe::Command(argv));
        checks[0].attempts = 3;
        assert_eq!(failing(&checks, Path::new("/")), None);
        checks[0].probe = Probe::Command(vec!["/bin/false".to_owned()]);
        let said = failing(&checks, Path::new("/")).expect("failed");
        assert!(said.ends_with("(3 tries)"), "{said}");
        checks[0].interval_ms = 120_000;
        let said = failing(&checks, Path::new("/")).expect("failed");
        assert!(said.contains("(1 try, no time for more"), "{said}");
    }

    #[test]
    fn an_open_port_passes_and_a_closed_one_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let open = check(Probe::Tcp(format!("localhost:{port}")));
        assert_eq!(failing(&open, Path::new("/")), None);
        drop(listener);
        let said = failing(&open, Path::new("/")).expect("closed");
        assert!(said.starts_with("check `c`: localhost:"), "{said}");
    }

    #[test]
    fn a_status_other_than_the_wanted_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = listener.local_addr().expect("an address").port();
        thread::spawn(move || {
            for stream in listener.incoming().take(4).flatten() {
                let mut stream = stream;
                let mut request = [0_u8; 512];
                let _read = stream.read(&mut request);
                let _sent = stream.write_all(b"HTTP/1.0 503 No\r\n\r\n");
            }
        });
        let url = format!("http://127.0.0.1:{port}/x");
        let unwell = Probe::Http {
            url: url.clone(),
            status: 200,
        };
        assert!(
            failing(&check(unwell), Path::new("/"))
                .expect("told")
                .contains("503")
        );
        assert_eq!(
            failing(&check(Probe::Http { url, status: 503 }), Path::new("/")),
            None
        );
    }

    #[test]
    fn a_command_is_judged_by_its_exit() {
        let run = |argv: &[&str]| Probe::Command(argv.iter().map(|s| (*s).to_owned()).collect());
        assert_eq!(failing(&check(run(&["/bin/true"])), Path::new("/")), None);
        assert!(failing(&check(run(&["/bin/false"])), Path::new("/")).is_some());
    }
}
