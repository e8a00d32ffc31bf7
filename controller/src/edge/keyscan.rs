//! Host keys as OpenSSH's own tools know them: what this person's `known_hosts` has, and what a machine shows now. Nothing
//! is believed here: who asks shows fingerprints, and a person compares.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, STANDARD_NO_PAD};
use sha2::{Digest as _, Sha256};
use trueup_schema::Address;
use trueup_schema::kind::HostKey;

use super::exec::{self, ExecSpec, Limits};

/// One machine is given no longer.
const WALL: Duration = Duration::from_secs(10);
/// ssh-keyscan's own patience for each connection, in seconds.
const SCAN_SECS: &str = "5";
/// More keys of one machine are not taken.
const KEYS_MAX: usize = 8;

/// Files of accepted keys that are looked through.
const FILES_MAX: usize = 4;

/// Where a machine is found, after the person's ssh configuration was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As ssh would connect.
    pub host: String,
    /// Port.
    pub port: u16,
    /// It is reached over another machine, which ssh-keyscan can't.
    pub by_way_of: Option<String>,
    /// Where ssh would look for its key.
    files: Vec<String>,
}

/// As `ssh-keygen -l` prints it.
#[must_use]
pub fn fingerprint(key: &HostKey) -> String {
    let blob = BASE64.decode(key.base64()).unwrap_or_default();
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(blob)))
}

async fn said(env: &BTreeMap<String, OsString>, program: &str, args: &[&str]) -> Option<String> {
    let mut spec = ExecSpec::new(program, args.iter().map(OsString::from));
    spec.env.clone_from(env);
    spec.limits = Limits {
        wall: WALL,
        ..Limits::default()
    };
    let exit = exec::run(&spec).await.ok()?;
    Some(exit.out_text())
}

/// What `ssh ADDRESS` would connect to, by the person's configuration. It connects to nobody.
pub async fn place(
    env: &BTreeMap<String, OsString>,
    config: Option<&str>,
    address: &Address,
    port: Option<u16>,
) -> Place {
    let number = port.map(|p| p.to_string());
    let mut args = vec!["-G"];
    if let Some(config) = config {
        args.extend(["-F", config]);
    }
    if let Some(number) = &number {
        args.extend(["-p", number]);
    }
    args.extend(["--", address.as_str()]);
    let text = said(env, "ssh", &args).await.unwrap_or_default();
    let value = |key: &str| {
        text.lines()
            .filter_map(|l| l.split_once(' '))
            .find(|(k, _)| *k == key)
            .map(|(_, v)| v.trim())
    };
    // What comes back is said to ssh-keyscan: only what could be an address is.
    let host = value("hostname").and_then(|h| h.parse::<Address>().ok());
    Place {
        host: host.as_ref().unwrap_or(address).to_string(),
        port: value("port")
            .and_then(|p| p.parse().ok())
            .or(port)
            .unwrap_or(22),
        by_way_of: ["proxyjump", "proxycommand"]
            .iter()
            .find_map(|k| value(k))
            .filter(|v| *v != "none")
            .map(str::to_owned),
        files: ["userknownhostsfile", "globalknownhostsfile"]
            .iter()
            .filter_map(|k| value(k))
            .flat_map(str::split_whitespace)
            .take(FILES_MAX)
            .map(str::to_owned)
            .collect(),
    }
}

fn known_name(place: &Place) -> String {
    if place.port == 22 {
        place.host.clone()
    } else {
        format!("[{}]:{}", place.host, place.port)
    }
}

/// The keys that this person has accepted for it before.
pub async fn known(env: &BTreeMap<String, OsString>, place: &Place) -> Vec<HostKey> {
    for file in &place.files {
        let text = said(env, "ssh-keygen", &["-F", &known_name(place), "-f", file]).await;
        let found = keys(&text.unwrap_or_default());
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

/// The keys that it shows now, to anybody. A machine between could show its own.
pub async fn scanned(env: &BTreeMap<String, OsString>, place: &Place) -> Vec<HostKey> {
    let port = place.port.to_string();
    let args = [
        "-T",
        SCAN_SECS,
        "-p",
        &port,
        "-t",
        "ed25519,ecdsa,rsa",
        "--",
        &place.host,
    ];
    keys(&said(env, "ssh-keyscan", &args).await.unwrap_or_default())
}

/// `NAME TYPE BASE64` lines. An ed25519 key alone, where there is one: it is what a manifest needs.
fn keys(text: &str) -> Vec<HostKey> {
    let mut found: Vec<HostKey> = Vec::new();
    for line in text.lines() {
        // A revoked key, or one of an authority, is no host's key.
        if line.starts_with('#') || line.starts_with('@') {
            continue;
        }
        let Some((_, key)) = line.split_once(' ') else {
            continue;
        };
        if let Ok(key) = key.parse::<HostKey>()
            && !found.contains(&key)
            && found.len() < KEYS_MAX
        {
            found.push(key);
        }
    }
    if found.iter().any(|k| k.kind() == "ssh-ed25519") {
        found.retain(|k| k.kind() == "ssh-ed25519");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIE0MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM";

    #[test]
    fn keys_are_taken_from_lines_and_nothing_else_is() {
        let text = format!(
            "# web-1:22 SSH-2.0-OpenSSH_9.6\nweb-1 ssh-ed25519 {KEY}\n@revoked web-1 ssh-ed25519 {KEY}\nweb-1 ssh-ed25519 {KEY}\nweb-1 ssh-ed25519 AAAA\nrubbish\n\n"
        );
        let found = keys(&text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].base64(), KEY);
        assert!(fingerprint(&found[0]).starts_with("SHA256:"));
        assert_eq!(fingerprint(&found[0]).len(), "SHA256:".len() + 43);
    }
}
