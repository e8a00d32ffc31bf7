//! One fetch: which URL, as whom, and whether the other side is who it should be. Keeps nothing.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use git2::cert::Cert;
use git2::{
    AutotagOption, CertificateCheckStatus, Cred, CredentialType, FetchOptions, FetchPrune, Oid,
    RemoteCallbacks, Repository,
};
use trueup_engine::ports::SourceError;

use super::SourceSettings;

/// libgit2 asks again and again while credentials are refused.
const LOGIN_TRIES: u32 = 3;

const REFUSED: &str = "the Git host refused our login: is the key or token allowed to read there?";

/// How to log in.
#[derive(Clone, Default)]
pub struct Credentials {
    /// Private key for `ssh://`; without it the agent of `SSH_AUTH_SOCK` is asked.
    pub ssh_key: Option<PathBuf>,
    /// Lines of a known_hosts file: `host type base64`, `[host]:port type base64`. All that is believed.
    pub known_hosts: Vec<String>,
    /// User for `https://`.
    pub user: Option<String>,
    /// Token for `https://`.
    pub token: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("ssh_key", &self.ssh_key)
            .field("known_hosts", &self.known_hosts.len())
            .field("token", &self.token.as_ref().map(|_| "<redacted>"))
            .finish()
    }
}

/// A URL without what may be a secret in it.
pub(super) fn shown(url: &str) -> String {
    match (url.split_once("://"), url.rfind('@')) {
        (Some((scheme, rest)), Some(_)) => match rest.split_once('@') {
            Some((user, rest)) if !user.contains('/') => format!("{scheme}://{rest}"),
            _ => url.to_owned(),
        },
        _ => url.to_owned(),
    }
}

/// The repository's folder, if it is on this machine.
pub(super) fn local_path(url: &str) -> Option<PathBuf> {
    if let Some(path) = url.strip_prefix("file://") {
        return Some(PathBuf::from(path));
    }
    url.starts_with('/').then(|| PathBuf::from(url))
}

/// `host` or `[host]:port`, as known_hosts names it.
fn known_name(url: &str) -> String {
    let rest = url.strip_prefix("ssh://").unwrap_or(url);
    let rest = rest.split_once('@').map_or(rest, |(_, r)| r);
    if !url.starts_with("ssh://") {
        // scp's form: host:path
        return rest.split(':').next().unwrap_or_default().to_owned();
    }
    let authority = rest.split('/').next().unwrap_or_default();
    if let Some((host, port)) = authority.rsplit_once(':')
        && !port.is_empty()
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        return if port == "22" {
            host.to_owned()
        } else {
            format!("[{host}]:{port}")
        };
    }
    authority
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned()
}

/// Is this the key that was pinned for the host? All of the check is ours: with a callback set, libgit2 does none.
fn pinned(known_hosts: &[String], name: &str, key: &[u8]) -> Result<(), String> {
    let mut kinds = Vec::new();
    let mut revoked = false;
    for line in known_hosts {
        let mut words = line.split_whitespace().peekable();
        let of_revoked = words.next_if_eq(&"@revoked").is_some();
        let (Some(hosts), Some(kind), Some(base64)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        if hosts.starts_with(['#', '@', '|']) || !hosts.split(',').any(|h| h == name) {
            continue;
        }
        let same = BASE64.decode(base64).is_ok_and(|pinned| pinned == key);
        revoked |= same && of_revoked;
        if !of_revoked {
            kinds.push((kind, same));
        }
    }
    if revoked {
        return Err(format!(
            "{name} shows a host key that the known hosts file revokes: talk to its administrator"
        ));
    }
    if kinds.iter().any(|(_, same)| *same) {
        return Ok(());
    }
    if kinds.is_empty() {
        return Err(format!(
            "no host key is pinned for {name}: put the line of `ssh-keyscan`, checked, into the known hosts file \
             (hashed names are not read)"
        ));
    }
    let kind = kind_of(key);
    if kinds.iter().any(|(k, _)| *k == kind) {
        return Err(format!(
            "{name} shows another host key than the pinned one: somebody may be in between, or it was renewed; ask its \
             administrator, then change the known hosts"
        ));
    }
    // A server has several, and which it shows is settled between it and libssh2.
    Err(format!(
        "{name} shows its {kind} host key, and only {} is pinned for it: pin that one too, checked",
        kinds.iter().map(|(k, _)| *k).collect::<Vec<_>>().join(", ")
    ))
}

/// What an SSH key says of itself: a length, then its name.
fn kind_of(key: &[u8]) -> String {
    let name = key.split_first_chunk::<4>().and_then(|(length, rest)| {
        rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?.min(64))
    });
    let name = name.and_then(|n| std::str::from_utf8(n).ok());
    let safe = name.filter(|n| n.bytes().all(|b| b.is_ascii_graphic()) && !n.is_empty());
    safe.unwrap_or("unknown").to_owned()
}

fn credentials(
    with: &Credentials,
    user: Option<&str>,
    allowed: CredentialType,
) -> Result<Cred, git2::Error> {
    let user = with.user.as_deref().or(user).unwrap_or("git");
    if allowed.contains(CredentialType::USERNAME) {
        return Cred::username(user);
    }
    if allowed.contains(CredentialType::SSH_KEY) {
        return match &with.ssh_key {
            Some(key) => Cred::ssh_key(user, None, key, None),
            None => Cred::ssh_key_from_agent(user),
        };
    }
    if allowed.contains(CredentialType::USER_PASS_PLAINTEXT)
        && let Some(token) = &with.token
    {
        return Cred::userpass_plaintext(user, token);
    }
    Err(git2::Error::from_str(
        "the Git host wants a login: give a key file (ssh) or a token (https) in trueup.yaml",
    ))
}

/// Fetches the branch into the mirror; the commit that it is at.
pub(super) fn fetch(
    settings: &SourceSettings,
    repo: &Repository,
    wall: Duration,
) -> Result<Oid, SourceError> {
    let refused = std::cell::RefCell::new(None);
    let name = known_name(&settings.url);
    let mut tries = 0;
    let began = Instant::now();
    let mut callbacks = RemoteCallbacks::new();
    callbacks.credentials(|_, user, allowed| {
        tries += 1;
        if tries > LOGIN_TRIES {
            return Err(git2::Error::from_str(REFUSED));
        }
        credentials(&settings.credentials, user, allowed)
    });
    let most = settings.bounds.fetch;
    callbacks.transfer_progress(|p| {
        let why = if p.received_bytes() > most {
            format!(
                "it sends more than {most} bytes: is this the right repository? A fleet's is small"
            )
        } else if began.elapsed() > wall {
            format!("it was still sending after {} s", wall.as_secs())
        } else {
            return true;
        };
        *refused.borrow_mut() = Some(why);
        false
    });
    callbacks.certificate_check(|cert: &Cert<'_>, _| {
        let Some(hostkey) = cert.as_hostkey() else {
            // TLS: libgit2's own verdict, by the system's certificates.
            return Ok(CertificateCheckStatus::CertificatePassthrough);
        };
        match pinned(
            &settings.credentials.known_hosts,
            &name,
            hostkey.hostkey().unwrap_or_default(),
        ) {
            Ok(()) => Ok(CertificateCheckStatus::CertificateOk),
            Err(why) => {
                *refused.borrow_mut() = Some(why.clone());
                Err(git2::Error::from_str(&why))
            }
        }
    });
    let mut options = FetchOptions::new();
    options
        .remote_callbacks(callbacks)
        .download_tags(AutotagOption::None)
        .prune(FetchPrune::Off)
        .update_fetchhead(false);
    let reference = format!("refs/heads/{}", settings.branch);
    let result = repo.remote_anonymous(&settings.url).and_then(|mut remote| {
        remote.fetch(
            &[format!("+{reference}:{reference}")],
            Some(&mut options),
            None,
        )?;
        let heads = remote.list()?;
        Ok(heads
            .iter()
            .find(|h| h.name() == reference)
            .map(|h| h.oid()))
    });
    drop(options);
    let url = shown(&settings.url);
    match result {
        Ok(Some(oid)) => Ok(oid),
        Ok(None) => Err(SourceError::NoBranch {
            url,
            branch: settings.branch.clone(),
        }),
        Err(e) => {
            let why = refused.into_inner();
            let said: String = e.message().chars().take(500).collect();
            let why = why.unwrap_or_else(|| {
                match e.code() == git2::ErrorCode::Auth || said.contains("authentication") {
                    true => format!("{REFUSED} ({said})"),
                    false => said,
                }
            });
            Err(SourceError::Fetch { url, why })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pinned_key_of_that_host_is_believed() {
        let key = b"0000key";
        let line = |host: &str| format!("{host} ssh-ed25519 {} comment", BASE64.encode(key));
        let known = [
            line("git.example.org,10.0.0.1"),
            line("[git.example.org]:2222"),
        ];
        assert!(pinned(&known, "git.example.org", key).is_ok());
        assert!(pinned(&known, "[git.example.org]:2222", key).is_ok());
        assert!(pinned(&known, "git.example.org", b"other").is_err());
        assert!(pinned(&known, "evil.example.org", key).is_err());
        assert!(pinned(&[], "git.example.org", key).is_err());
    }

    #[test]
    fn a_key_of_a_kind_that_is_not_pinned_is_told_apart_from_another_key() {
        let key = |kind: &str, rest: &[u8]| {
            let length = u32::try_from(kind.len()).unwrap().to_be_bytes();
            [&length[..], kind.as_bytes(), rest].concat()
        };
        let pin = |k: &[u8], kind: &str| format!("h {kind} {}", BASE64.encode(k));
        let known = [pin(&key("ssh-ed25519", b"1"), "ssh-ed25519")];
        let e = pinned(&known, "h", &key("ssh-rsa", b"2")).unwrap_err();
        assert!(
            e.contains("its ssh-rsa host key, and only ssh-ed25519"),
            "{e}"
        );
        let e = pinned(&known, "h", &key("ssh-ed25519", b"2")).unwrap_err();
        assert!(e.contains("another host key"), "{e}");
        let good = key("ssh-ed25519", b"1");
        let known = [known[0].clone(), format!("@revoked {}", known[0])];
        assert!(pinned(&known, "h", &good).unwrap_err().contains("revokes"));
    }

    proptest::proptest! {
        #[test]
        fn nothing_but_the_pinned_bytes_is_believed(
            lines in proptest::collection::vec("(h|\\[h\\]:22|@revoked h|#h|h,g)? ?[a-z-]{0,9} [A-Za-z0-9+/=]{0,9}|.*", 0..5),
            name in "h|g|\\[h\\]:22", key: Vec<u8>
        ) {
            let verdict = pinned(&lines, &name, &key);
            let encoded = BASE64.encode(&key);
            let there = lines.iter().any(|l| l.split_whitespace().any(|w| w == encoded));
            assert!(verdict.is_err() || there);
        }

        #[test]
        fn no_url_panics_and_a_password_is_never_shown(url: String, secret in "[a-z]{12}") {
            let _any = (known_name(&url), shown(&url), local_path(&url));
            for url in [format!("https://u:{secret}@h/x"), format!("https://{secret}@h/@/x")] {
                assert!(!shown(&url).contains(&secret), "{url}");
            }
        }
    }

    #[test]
    fn the_name_of_a_host_is_as_known_hosts_writes_it() {
        for (url, name) in [
            ("ssh://git@git.example.org/x.git", "git.example.org"),
            (
                "ssh://git@git.example.org:2222/x.git",
                "[git.example.org]:2222",
            ),
            ("ssh://git.example.org:22/x", "git.example.org"),
            ("git@git.example.org:x.git", "git.example.org"),
        ] {
            assert_eq!(known_name(url), name, "{url}");
        }
    }

    #[test]
    fn a_shown_url_has_no_credentials() {
        assert_eq!(shown("https://u:secret@h/x"), "https://h/x");
        assert_eq!(shown("file:///x@y"), "file:///x@y");
    }
}
