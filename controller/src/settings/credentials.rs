//! Keys as systemd hands them to a service: files of well-known names in the folder that `CREDENTIALS_DIRECTORY` names. A
//! key that the file or a flag names wins.

use std::path::{Path, PathBuf};

use super::Fragment;

/// systemd's name for the folder.
pub const FOLDER: &str = "CREDENTIALS_DIRECTORY";

/// Fills in what is not given and is there.
#[must_use]
pub fn fill(mut fragment: Fragment, folder: Option<&Path>) -> Fragment {
    let Some(folder) = folder else {
        return fragment;
    };
    let there = |name: &str| Some(folder.join(name)).filter(|p| p.is_file());
    let put = |slot: &mut Option<PathBuf>, name: &str| {
        if slot.is_none() {
            *slot = there(name);
        }
    };
    put(&mut fragment.signing.key_file, "store.key");
    put(&mut fragment.signing.intent_key_file, "intent.key");
    put(&mut fragment.ssh.identity_file, "ssh.key");
    let credentials = &mut fragment.repository.credentials;
    match fragment.repository.url.as_deref() {
        Some(url) if url.starts_with("https://") => put(&mut credentials.token_file, "git.token"),
        Some(url) if url.starts_with("ssh://") => put(&mut credentials.ssh_key_file, "git.key"),
        _ => {}
    }
    fragment
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn a_credential_is_taken_where_nothing_else_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["store.key", "ssh.key", "git.token", "git.key"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let of = |text: &str| fill(parse(Path::new("t"), text).unwrap(), Some(folder.path()));
        let at = |name: &str| Some(folder.path().join(name));
        let ssh = of("repository: {url: 'ssh://git@h/x'}\nsigning: {keyFile: /given}\n");
        assert_eq!(ssh.signing.key_file, Some("/given".into()));
        assert_eq!(ssh.ssh.identity_file, at("ssh.key"));
        assert_eq!(ssh.repository.credentials.ssh_key_file, at("git.key"));
        assert_eq!(ssh.repository.credentials.token_file, None);
        let https = of("repository: {url: 'https://h/x'}\n");
        assert_eq!(https.repository.credentials.token_file, at("git.token"));
        assert_eq!(https.signing.key_file, at("store.key"));
        std::fs::remove_file(folder.path().join("store.key")).unwrap();
        assert_eq!(of("repository: {url: /x}\n").signing.key_file, None);
        assert_eq!(fill(Fragment::default(), None), Fragment::default());
    }
}
