//! One generated configuration file for each host, for our `ssh` and for the one that Nix starts: pinned keys, bounded
//! waits, one shared connection. The person's own configuration is included after ours, so that it adds and can't undo.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use trueup_engine::ports::Target;

use super::SshSettings;
use crate::edge::exec::{self, ExecSpec, Limits};

/// A Unix socket's path has 108 bytes; ssh adds 40 of hash and 17 of a temporary name.
const RUN_DIR_MAX: usize = 45;

/// Which connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// The shared one.
    Reuse,
    /// One of its own, made now. `ControlMaster=no` alone would still use the shared one.
    New,
}

impl Freshness {
    pub(super) fn options(self) -> &'static [&'static str] {
        match self {
            Self::Reuse => &[],
            Self::New => &[
                "-o",
                "ControlMaster=no",
                "-o",
                "ControlPath=none",
                "-o",
                "ControlPersist=no",
                "-o",
                "ConnectTimeout=5",
            ],
        }
    }
}

/// Makes the folder, for us alone. A long path can't hold sockets: a short one in the temporary folder then.
pub fn private_dir(wanted: &Path) -> io::Result<PathBuf> {
    let dir = if wanted.as_os_str().len() > RUN_DIR_MAX || has_blank(wanted) {
        std::env::temp_dir().join(format!("trueup-{}", std::process::id()))
    } else {
        wanted.to_owned()
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)?;
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700))?;
    Ok(dir)
}

fn has_blank(path: &Path) -> bool {
    path.to_string_lossy()
        .chars()
        .any(|c| c.is_whitespace() || c == '"')
}

/// Writes the host's file, if it is not already so, and gives its path.
pub fn write(dir: &Path, settings: &SshSettings, target: &Target) -> io::Result<PathBuf> {
    let keys = dir.join(format!("{}.keys", target.host));
    let known: String = target
        .host_keys
        .iter()
        .map(|k| format!("{} {k}\n", target.host))
        .collect();
    replace(&keys, &known)?;
    let path = dir.join(format!("{}.conf", target.host));
    replace(&path, &text(dir, &keys, settings, target))?;
    Ok(path)
}

fn text(dir: &Path, keys: &Path, settings: &SshSettings, target: &Target) -> String {
    let mut out = format!(
        "BatchMode yes\nStrictHostKeyChecking yes\nUserKnownHostsFile \"{}\"\nGlobalKnownHostsFile /dev/null\n\
         HostKeyAlias {}\nCheckHostIP no\nUpdateHostKeys no\nForwardAgent no\nForwardX11 no\nClearAllForwardings yes\n\
         RequestTTY no\nPermitLocalCommand no\nConnectTimeout 10\nServerAliveInterval 5\nServerAliveCountMax 3\n\
         ControlMaster auto\nControlPath \"{}/%C\"\nControlPersist 30\nLogLevel ERROR\n",
        keys.display(),
        target.host,
        dir.display(),
    );
    if target.port != 22 {
        out.push_str(&format!("Port {}\n", target.port));
    }
    if let Some(identity) = &settings.identity {
        out.push_str(&format!(
            "IdentityFile \"{}\"\nIdentitiesOnly yes\n",
            identity.display()
        ));
    }
    if !target.jump.is_empty() {
        out.push_str(&format!("ProxyJump {}\n", target.jump.join(",")));
    }
    if let Some(config) = &settings.config {
        out.push_str(&format!("Include \"{}\"\n", config.display()));
    }
    out
}

/// Temporary file and rename: several of us may start at once.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|now| now == text) {
        return Ok(());
    }
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, text)?;
    std::fs::rename(&temporary, path)
}

/// `user@address`, after `--`.
pub fn login(target: &Target) -> String {
    format!("{}@{}", target.user, target.address)
}

/// The host's store, for `nix copy`.
pub fn store_url(target: &Target) -> String {
    let address = target.address.as_str();
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => format!("ssh-ng://{}@[{address}]", target.user),
        _ => format!("ssh-ng://{}@{address}", target.user),
    }
}

/// sshd hands the words to a shell: only those that no shell reads anything into.
pub fn is_safe_word(word: &str) -> bool {
    !word.is_empty()
        && word
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/._-+=:,@".contains(&b))
}

/// Ends the shared connection, after it was seen not to answer.
pub async fn forget_master(dir: &Path, settings: &SshSettings, target: &Target) {
    let Ok(file) = write(dir, settings, target) else {
        return;
    };
    let login = login(target);
    let args = [
        "-F".as_ref(),
        file.as_os_str(),
        "-O".as_ref(),
        "exit".as_ref(),
        "--".as_ref(),
        login.as_ref(),
    ];
    let mut spec = ExecSpec::new(settings.ssh.clone(), args);
    spec.env = settings.env.clone();
    spec.limits = Limits {
        wall: Duration::from_secs(5),
        ..Limits::default()
    };
    let _gone_already = exec::run(&spec).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_read_is_no_word() {
        for bad in [
            "", "a b", "$(id)", "a;b", "a&b", "`x`", "a|b", "'", "a\nb", "*", "~",
        ] {
            assert!(!is_safe_word(bad), "{bad:?}");
        }
        assert!(is_safe_word("/nix/store/0c0-trueup-agent/bin/trueup-agent"));
    }

    #[test]
    fn a_new_connection_never_uses_the_shared_one() {
        assert!(Freshness::New.options().contains(&"ControlPath=none"));
        assert!(Freshness::Reuse.options().is_empty());
    }
}
