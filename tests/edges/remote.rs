//! The trunk over the network: a real sshd and a real `git http-backend` behind TLS, both on this machine's loopback.
//! Each fetch is done by a child, since keys in an agent and certificates come to libgit2 through the environment.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use trueup::edge::source::{Bounds, Credentials, GitSource, SourceSettings};
use trueup_engine::ports::Source as _;
use trueup_fixtures::fleet::commit_all;

use crate::{local, tls};

const FETCH: &str = "TRUEUP_TEST_FETCH";

/// What a child is to fetch.
#[derive(Default, Serialize, Deserialize)]
struct Fetch {
    url: String,
    state: PathBuf,
    ssh_key: Option<PathBuf>,
    known_hosts: Vec<String>,
    token: Option<String>,
}

impl Fetch {
    /// The head's commit, or what the error says.
    fn in_a_child(&self, env: &[(&str, &str)]) -> Result<String, String> {
        let mut command = program(&std::env::current_exe().unwrap());
        command
            .args(["--exact", "remote::a_child_fetches", "--nocapture"])
            .env(FETCH, serde_json::to_string(self).unwrap())
            .env_remove("SSH_AUTH_SOCK");
        for (name, value) in env {
            command.env(name, value);
        }
        let out = command.output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let line = |prefix: &str| {
            let found = text.lines().find_map(|l| l.strip_prefix(prefix));
            found.map(str::to_owned)
        };
        match line("head ") {
            Some(head) => Ok(head),
            None => Err(line("error ").unwrap_or_else(|| panic!("{text}"))),
        }
    }
}

/// Not a test of its own: what the others start.
#[test]
fn a_child_fetches() {
    let Ok(fetch) = std::env::var(FETCH) else {
        return;
    };
    let fetch: Fetch = serde_json::from_str(&fetch).unwrap();
    let source = GitSource::new(SourceSettings {
        url: fetch.url,
        branch: "main".to_owned(),
        fleet: "fleet".to_owned(),
        state: fetch.state,
        credentials: Credentials {
            ssh_key: fetch.ssh_key,
            known_hosts: fetch.known_hosts,
            user: None,
            token: fetch.token,
        },
        bounds: Bounds::default(),
        read: |_, _| Err(Vec::new()),
    });
    match local(source.fetch(None)) {
        Ok(head) => println!("\nhead {}", head.revision.sha1()),
        Err(e) => println!("\nerror {}", e.to_string().replace('\n', " ")),
    }
}

#[allow(clippy::disallowed_methods)] // the test's own programs
pub fn program(path: &Path) -> Command {
    Command::new(path)
}

pub fn must(command: &mut Command) -> Output {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {out:?}");
    out
}

pub fn found(name: &str) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    folders.extend(["/usr/sbin", "/usr/bin"].map(PathBuf::from));
    let path = folders
        .into_iter()
        .map(|f| f.join(name))
        .find(|p| p.is_file());
    if path.is_none() {
        eprintln!("SKIPPED: there is no `{name}` here");
    }
    path
}

/// Killed with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn key(dir: &Path, name: &str) -> Option<PathBuf> {
    let path = dir.join(name);
    must(
        program(&found("ssh-keygen")?)
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&path),
    );
    Some(path)
}

fn public(key: &Path) -> String {
    let text = fs::read_to_string(key.with_extension("pub")).unwrap();
    text.split_whitespace()
        .take(2)
        .collect::<Vec<_>>()
        .join(" ")
}

struct Sshd {
    dir: tempfile::TempDir,
    port: u16,
    commit: String,
    login: PathBuf,
    host: PathBuf,
    _server: Server,
}

/// sshd with one host key and one login key, and a repository that it serves.
fn sshd() -> Option<Sshd> {
    let sshd = found("sshd")?;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (host, login) = (key(dir.path(), "host")?, key(dir.path(), "login")?);
    fs::copy(at("login.pub"), at("authorized")).unwrap();
    fs::create_dir(at("repo")).unwrap();
    fs::write(at("repo/file"), "x").unwrap();
    let commit = commit_all(&at("repo"), "first").unwrap();
    let port = free_port();
    let config = format!(
        "ListenAddress 127.0.0.1\nPort {port}\nHostKey {host}\nAuthorizedKeysFile {keys}\nStrictModes no\nUsePAM no\n\
         PidFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nSetEnv PATH={path}\n",
        host = host.display(),
        keys = at("authorized").display(),
        path = std::env::var("PATH").unwrap(),
    );
    fs::write(at("config"), config).unwrap();
    // sshd as root wants this folder; elsewhere it is not needed.
    let _not_root = fs::create_dir_all("/run/sshd");
    let log = fs::File::create(at("log")).unwrap();
    let child = program(&sshd)
        .args(["-D", "-e", "-f"])
        .arg(at("config"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let server = Server(child);
    let until = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let log = fs::read_to_string(at("log")).unwrap_or_default();
        assert!(Instant::now() < until, "sshd does not come up: {log}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(Sshd {
        port,
        commit,
        login,
        host,
        _server: server,
        dir,
    })
}

impl Sshd {
    fn fetch(&self, state: &str) -> Fetch {
        let user = String::from_utf8(must(program(Path::new("id")).arg("-un")).stdout).unwrap();
        Fetch {
            url: format!(
                "ssh://{}@127.0.0.1:{}{}",
                user.trim(),
                self.port,
                self.dir.path().join("repo").display()
            ),
            state: self.dir.path().join(state),
            ssh_key: Some(self.login.clone()),
            known_hosts: vec![format!("[127.0.0.1]:{} {}", self.port, public(&self.host))],
            token: None,
        }
    }
}

#[test]
fn over_ssh_with_a_key_file_and_only_from_the_pinned_host() {
    let Some(sshd) = sshd() else { return };
    assert_eq!(sshd.fetch("good").in_a_child(&[]).unwrap(), sshd.commit);

    // Another key under the same name: refused before anything of ours is shown.
    let other = key(sshd.dir.path(), "other").unwrap();
    let mut fetch = sshd.fetch("other-host");
    fetch.known_hosts = vec![format!("[127.0.0.1]:{} {}", sshd.port, public(&other))];
    let e = fetch.in_a_child(&[]).unwrap_err();
    assert!(
        e.contains("shows another host key than the pinned one"),
        "{e}"
    );

    // Not pinned at all, though the person's own known_hosts would have it: only ours counts.
    let home = sshd.dir.path().join("home");
    fs::create_dir_all(home.join(".ssh")).unwrap();
    let line = format!("[127.0.0.1]:{} {}\n", sshd.port, public(&sshd.host));
    fs::write(home.join(".ssh/known_hosts"), line).unwrap();
    let mut fetch = sshd.fetch("unpinned");
    fetch.known_hosts.clear();
    let e = fetch
        .in_a_child(&[("HOME", home.to_str().unwrap())])
        .unwrap_err();
    assert!(e.contains("no host key is pinned for [127.0.0.1]"), "{e}");

    // A key that may not log in.
    let mut fetch = sshd.fetch("no-login");
    fetch.ssh_key = Some(other);
    let e = fetch.in_a_child(&[]).unwrap_err();
    assert!(e.contains("refused our login"), "{e}");
    let log = fs::read_to_string(sshd.dir.path().join("log")).unwrap();
    assert!(log.contains("Accepted publickey"), "{log}");
}

#[test]
fn over_ssh_with_an_agent() {
    let (Some(sshd), Some(agent), Some(add)) = (sshd(), found("ssh-agent"), found("ssh-add"))
    else {
        return;
    };
    let socket = sshd.dir.path().join("agent.sock");
    let child = program(&agent)
        .arg("-D")
        .arg("-a")
        .arg(&socket)
        .stdout(Stdio::null())
        .spawn();
    let _agent = Server(child.unwrap());
    let until = Instant::now() + Duration::from_secs(20);
    while !socket.exists() {
        assert!(Instant::now() < until, "ssh-agent does not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
    let env = [("SSH_AUTH_SOCK", socket.to_str().unwrap())];
    let mut fetch = sshd.fetch("agent");
    fetch.ssh_key = None;
    let e = fetch.in_a_child(&env).unwrap_err();
    assert!(e.contains("127.0.0.1"), "an agent without keys: {e}");
    must(
        program(&add)
            .arg(&sshd.login)
            .env(env[0].0, env[0].1)
            .stderr(Stdio::null()),
    );
    assert_eq!(fetch.in_a_child(&env).unwrap(), sshd.commit);
}

struct Https {
    dir: tempfile::TempDir,
    port: u16,
    commit: String,
    /// What each request carried as `Authorization`.
    logins: Receiver<Option<String>>,
}

const TOKEN: &str = "tok3n-of-the-test";

/// `git http-backend` behind TLS, for whoever knows the token.
fn https() -> Option<Https> {
    let git = found("git")?;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("repo")).unwrap();
    fs::write(at("repo/file"), "x").unwrap();
    let commit = commit_all(&at("repo"), "first").unwrap();
    let config = tls::server(dir.path(), "good")?;
    tls::server(dir.path(), "stranger")?;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let root = dir.path().to_owned();
    let (tell, logins) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (config, root, git, tell) =
                (config.clone(), root.clone(), git.clone(), tell.clone());
            std::thread::spawn(move || {
                let tls = rustls::ServerConnection::new(config).unwrap();
                let mut stream = BufReader::new(rustls::StreamOwned::new(tls, stream));
                // A client that does not like our certificate hangs up.
                while answer(&mut stream, &git, &root, &tell).is_some() {}
            });
        }
    });
    Some(Https {
        dir,
        port,
        commit,
        logins,
    })
}

type Tls = BufReader<rustls::StreamOwned<rustls::ServerConnection, TcpStream>>;

/// One request by CGI. What it carried as login is told *before* it is answered, so that whoever has the answer finds it
/// told. `None`: the connection ended.
fn answer(stream: &mut Tls, git: &Path, root: &Path, tell: &Sender<Option<String>>) -> Option<()> {
    let mut first = String::new();
    stream.read_line(&mut first).ok().filter(|n| *n > 0)?;
    let mut words = first.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = std::collections::BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(": ") else {
            break;
        };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let mut body = Vec::new();
    if let Some(length) = headers.get("content-length") {
        body.resize(length.parse().ok()?, 0);
        stream.read_exact(&mut body).ok()?;
    } else if headers.contains_key("transfer-encoding") {
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).ok()?;
            let mut chunk = vec![0; usize::from_str_radix(line.trim(), 16).ok()? + 2];
            stream.read_exact(&mut chunk).ok()?;
            chunk.truncate(chunk.len() - 2);
            if chunk.is_empty() {
                break;
            }
            body.extend(chunk);
        }
    }
    let login = headers.get("authorization").cloned();
    let wanted = format!("Basic {}", BASE64.encode(format!("git:{TOKEN}")));
    let known = login.as_ref() == Some(&wanted);
    let _test_ended = tell.send(login);
    let stream = stream.get_mut();
    if !known {
        stream
            .write_all(b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"test\"\r\nContent-Length: 0\r\n\r\n")
            .ok()?;
        return Some(());
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut child = program(git)
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env(
            "CONTENT_TYPE",
            headers.get("content-type").cloned().unwrap_or_default(),
        )
        .env("CONTENT_LENGTH", body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(&body).ok()?;
    let out = child.wait_with_output().ok()?.stdout;
    let split = out.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&out[..split]).into_owned();
    let status = head
        .lines()
        .find_map(|l| l.strip_prefix("Status: "))
        .unwrap_or("200 OK");
    let body = &out[split + 4..];
    let answer = format!(
        "HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(answer.as_bytes()).ok()?;
    stream.write_all(body).ok()?;
    stream.flush().ok()
}

#[test]
fn over_https_with_a_token_and_only_with_a_certificate_that_is_trusted() {
    let Some(https) = https() else { return };
    let at = |name: &str| https.dir.path().join(name).to_str().unwrap().to_owned();
    let fetch = |state: &str, token: Option<&str>| Fetch {
        url: format!("https://127.0.0.1:{}/repo/.git", https.port),
        state: https.dir.path().join(state),
        token: token.map(str::to_owned),
        ..Fetch::default()
    };
    let good = [
        ("SSL_CERT_FILE", &*at("good.pem")),
        ("SSL_CERT_DIR", "/nowhere"),
    ];
    let head = fetch("good", Some(TOKEN)).in_a_child(&good).unwrap();
    assert_eq!(head, https.commit);

    for (state, token, says) in [
        ("bad-token", Some("wrong"), "refused our login"),
        ("no-token", None, "a token (https)"),
    ] {
        let e = fetch(state, token).in_a_child(&good).unwrap_err();
        assert!(e.contains(says), "{e}");
        assert!(!e.contains("wrong"), "no token in a message: {e}");
    }

    // Nobody vouches for it: not a byte of a request is sent, the token least of all.
    while https.logins.try_recv().is_ok() {}
    let stranger = [
        ("SSL_CERT_FILE", &*at("stranger.pem")),
        ("SSL_CERT_DIR", "/nowhere"),
    ];
    let e = fetch("untrusted", Some(TOKEN))
        .in_a_child(&stranger)
        .unwrap_err();
    assert!(e.to_lowercase().contains("certificate"), "{e}");
    assert!(https.logins.try_recv().is_err());
}
