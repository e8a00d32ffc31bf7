//! Where this host's SSH host keys lie: in the usual place, else where sshd's own configuration says. It gives paths; who
//! reads them, and what for, is not its business.

use std::path::PathBuf;
use std::time::Duration;

use crate::exec;

/// Where NixOS and others have it, unless somebody says otherwise.
pub(crate) const USUAL: &str = "/etc/ssh/ssh_host_ed25519_key";
/// sshd reads its configuration and ends.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// A host has three; one with more has these.
const KEYS_MAX: usize = 16;

/// The private keys that sshd shows the public halves of: `sshd -T`, which reads includes and defaults as sshd does. None
/// where there is no sshd, or where it does not like its configuration.
pub(crate) fn of_sshd() -> Vec<PathBuf> {
    exec::tool_ok("sshd", &["-T"], ASK_LIMIT).map_or_else(|_| Vec::new(), |text| paths(&text))
}

fn paths(text: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let (key, value) = line.trim().split_once(' ')?;
        let value = value.trim();
        (key.eq_ignore_ascii_case("hostkey") && value.starts_with('/')).then(|| value.into())
    };
    text.lines().filter_map(path).take(KEYS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_lie_somewhere_are_listed() {
        let text = "port 22\nhostkeyagent none\nhostkeyalgorithms ssh-ed25519\nhostkey /persist/ssh/a key\n\
                    hostkey none\nHostKey /etc/ssh/ssh_host_rsa_key\nhostkey\n";
        let found = [
            PathBuf::from("/persist/ssh/a key"),
            PathBuf::from("/etc/ssh/ssh_host_rsa_key"),
        ];
        assert_eq!(paths(text), found);
        assert_eq!(paths(&"hostkey /x\n".repeat(100)).len(), KEYS_MAX);
        assert_eq!(paths(""), Vec::<PathBuf>::new());
    }
}
