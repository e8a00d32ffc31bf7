//! One generated configuration file for each way to a host, for our `ssh` and for the one that Nix starts: pinned keys,
//! bounded waits, one shared connection. The person's own configuration is included after ours: it adds and can't undo.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use trueup_engine::ports::Target;
use trueup_schema::Digest;

use super::SshSettings;

/// A Unix socket's path has 107 bytes; ssh appends a dot and 16 letters while it makes one, we a name of [`ID_LEN`] and
/// a suffix.
const RUN_DIR_MAX: usize = 107 - 17 - 1 - ID_LEN - SOCKET.len();
/// Digits of a file's name.
const ID_LEN: usize = 16;
/// The Nix at the other end, told not to wait for a cache that is away or hangs: what the host can't fetch at once is
/// sent directly. Without `fallback` it would ask the dead cache again for each path. (Of a user who is not root it is
/// the daemon's own configuration that holds.)
const NIX_DAEMON: &str = "nix-daemon%20--option%20connect-timeout%203%20--option%20stalled-download-timeout%204\
     %20--option%20download-attempts%201%20--option%20fallback%20true";
/// What a shared connection's socket ends with.
pub(super) const SOCKET: &str = ".sock";
const CONFIG: &str = ".conf";
/// The configuration of connections that are made to confirm.
const CONFIRM: &str = ".confirm.conf";
const KEYS: &str = ".keys";

/// Last, so that a person's own choice comes before it. An `ssh` older than ML-KEM prefers a key exchange (sntrup761) that
/// costs it more time than all the rest of a login. It keeps what is said from those who record it now and have a quantum
/// computer later; a confirmation says nothing that is secret, and who may log in does not depend on it.
const QUICK_EXCHANGE: &str = "Host *\n  KexAlgorithms ^curve25519-sha256\n";
/// Who has this exchange needs no quicker one.
pub(super) const ML_KEM: &str = "mlkem768x25519-sha256";

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

/// How one target is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// Passed as `-F`.
    pub config: PathBuf,
    /// The same for a connection of its own.
    pub confirm: PathBuf,
    /// `user@name`, to be given after `--`; the name is that of the file's block.
    pub login: String,
    /// The host's store, for `nix copy`.
    pub store_url: String,
    /// Of the shared connection.
    pub socket: PathBuf,
}

/// The folder for sockets and files, for us alone. A long path can't hold sockets: a short one in the temporary folder
/// then, the same at each start, so that a new controller finds the connections of the one before.
pub fn private_dir(wanted: &Path) -> io::Result<PathBuf> {
    let text = wanted.to_str().unwrap_or_default();
    let dir = if text.len() > RUN_DIR_MAX || !is_safe_word(text) {
        let name = Digest::of(wanted.as_os_str().as_encoded_bytes());
        std::env::temp_dir().join(format!("trueup-{}", name.short()))
    } else {
        wanted.to_owned()
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)?;
    let meta = std::fs::symlink_metadata(&dir)?;
    // Somebody else may have made it first, in a folder that all may write to.
    if !meta.is_dir()
        || meta.uid() != rustix::process::geteuid().as_raw()
        || meta.mode() & 0o077 != 0
    {
        return Err(io::Error::other(format!(
            "{} must be a folder of ours that nobody else can enter (mode 700): remove it, and start again",
            dir.display()
        )));
    }
    Ok(dir)
}

/// Writes the target's files, if they are not there as they should be. They are named by their content, so that the
/// connection to an older revision's address is never taken for one to the new.
pub(super) fn route(
    dir: &Path,
    settings: &SshSettings,
    target: &Target,
    slow_exchange: bool,
) -> io::Result<Route> {
    let what = format!("{target:?} {:?} {:?}", settings.identity, settings.config);
    let id = Digest::of(what.as_bytes()).as_str()[..ID_LEN].to_owned();
    let file = |suffix: &str| dir.join(format!("{id}{suffix}"));
    let known: String = target
        .host_keys
        .iter()
        .map(|k| format!("{} {k}\n", target.host))
        .collect();
    let name = name(target, &id);
    let route = Route {
        config: file(CONFIG),
        confirm: file(CONFIRM),
        login: format!("{}@{name}", target.user),
        store_url: format!(
            "ssh-ng://{}@{name}?remote-program={NIX_DAEMON}",
            target.user
        ),
        socket: file(SOCKET),
    };
    replace(&file(KEYS), &known)?;
    let text = text(&name, &file(KEYS), &route.socket, settings, target)?;
    replace(&route.config, &text)?;
    let mut confirm = text;
    if slow_exchange {
        confirm.push_str(QUICK_EXCHANGE);
    }
    replace(&route.confirm, &confirm)?;
    Ok(route)
}

/// The address itself, so that blocks of the person's configuration match it; but Nix can't take one with colons.
fn name(target: &Target, id: &str) -> String {
    if target.address.as_str().contains(':') {
        format!("trueup-{id}")
    } else {
        target.address.to_string()
    }
}

/// In ssh the first value wins: ours stand first, the person's file comes last. What concerns this host stands in its
/// own block, so that a jump host is looked up as the person has it.
fn text(
    name: &str,
    keys: &Path,
    socket: &Path,
    settings: &SshSettings,
    target: &Target,
) -> io::Result<String> {
    let mut out = format!(
        "Host {name}\n  HostKeyAlias {}\n  UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n  Port {}\n  \
         CheckHostIP no\n  UpdateHostKeys no\n  VerifyHostKeyDNS no\n  KnownHostsCommand none\n  ControlMaster auto\n  \
         ControlPath {}\n  ControlPersist 30\n",
        target.host,
        quoted(keys)?,
        target.port,
        quoted(socket)?,
    );
    if name != target.address.as_str() {
        out.push_str(&format!("  HostName {}\n", target.address));
    }
    if !target.jump.is_empty() {
        out.push_str(&format!("  ProxyJump {}\n", target.jump.join(",")));
    }
    out.push_str(
        "Host *\n  BatchMode yes\n  StrictHostKeyChecking yes\n  ConnectTimeout 10\n  ServerAliveInterval 5\n  \
         ServerAliveCountMax 3\n  ClearAllForwardings yes\n  ForwardAgent no\n  ForwardX11 no\n  PermitLocalCommand no\n  \
         RemoteCommand none\n  RequestTTY no\n  LogLevel ERROR\n",
    );
    if let Some(identity) = &settings.identity {
        let identity = quoted(identity)?;
        out.push_str(&format!(
            "  IdentityFile {identity}\n  IdentitiesOnly yes\n"
        ));
    }
    match &settings.config {
        Some(config) => out.push_str(&format!("  Include {}\n", quoted(config)?)),
        // `-F` turns these off, so they are asked for.
        None => out.push_str("  Include ~/.ssh/config\n  Include /etc/ssh/ssh_config\n"),
    }
    Ok(out)
}

fn quoted(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some(text) if !text.contains(['"', '\n']) => Ok(format!("\"{text}\"")),
        _ => Err(io::Error::other(format!(
            "{} has a character that ssh's configuration can't hold: use another path",
            path.display()
        ))),
    }
}

/// Temporary file and rename: several of us may start at once.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|now| now == text) {
        return Ok(());
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    std::fs::write(&temporary, text)?;
    std::fs::rename(&temporary, path)
}

/// sshd hands the words to a shell: only those that no shell reads anything into.
pub fn is_safe_word(word: &str) -> bool {
    !word.is_empty()
        && word
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/._-+=:,@".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(address: &str, jump: &[&str]) -> Target {
        Target {
            host: "web-1".parse().unwrap(),
            system: "x86_64-linux".parse().unwrap(),
            address: address.parse().unwrap(),
            port: 2222,
            user: "root".to_owned(),
            become_root: false,
            host_keys: vec!["ssh-ed25519 AAAA".to_owned()],
            jump: jump.iter().map(|j| (*j).to_owned()).collect(),
        }
    }

    fn settings() -> SshSettings {
        SshSettings {
            ssh: "ssh".into(),
            nix: "nix".into(),
            env: std::collections::BTreeMap::new(),
            identity: None,
            config: None,
            run_dir: PathBuf::new(),
            hub: None,
            agents: std::collections::BTreeMap::new(),
            pin: String::new(),
            book: None,
            store_key: String::new(),
        }
    }

    fn written(target: &Target) -> (Route, String) {
        let dir = tempfile::tempdir().unwrap();
        let route = route(dir.path(), &settings(), target, false).unwrap();
        let text = std::fs::read_to_string(&route.config).unwrap();
        (route, text)
    }

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

    #[test]
    fn only_a_confirmation_by_an_older_ssh_takes_the_quick_exchange_and_a_persons_choice_comes_first()
     {
        let dir = tempfile::tempdir().unwrap();
        for slow in [false, true] {
            let route = route(dir.path(), &settings(), &target("10.0.0.1", &[]), slow).unwrap();
            let read = |path| std::fs::read_to_string(path).unwrap();
            assert!(!read(&route.config).contains("KexAlgorithms"));
            assert_eq!(read(&route.confirm).contains("KexAlgorithms"), slow);
            let (before, _) = read(&route.confirm)
                .rsplit_once("Include")
                .map(|(b, a)| (b.to_owned(), a.to_owned()))
                .unwrap();
            assert!(!before.contains("KexAlgorithms"), "{before}");
        }
    }

    /// `ssh -G` would show it for the jump host too, if it stood under `Host *`.
    #[test]
    fn what_concerns_the_host_is_not_said_of_the_jump_host() {
        let (_, text) = written(&target("10.0.0.1", &["gate.example.org"]));
        let (host, all) = text.split_once("Host *\n").unwrap();
        for ours in [
            "Port 2222",
            "HostKeyAlias web-1",
            "UserKnownHostsFile",
            "ControlPath",
            "ProxyJump gate",
        ] {
            assert!(host.contains(ours) && !all.contains(ours), "{ours}: {text}");
        }
        assert!(all.contains("StrictHostKeyChecking yes"), "{text}");
    }

    #[test]
    fn an_address_with_colons_goes_by_an_alias_that_nix_can_take() {
        let (route, text) = written(&target("fd00::1", &[]));
        assert!(text.contains("HostName fd00::1\n"), "{text}");
        assert!(!route.store_url["ssh-ng://".len()..].contains(':'));
        let (route, _) = written(&target("10.0.0.1", &[]));
        assert_eq!(route.login, "root@10.0.0.1");
    }

    #[test]
    fn another_way_to_the_same_host_has_another_connection() {
        let dir = tempfile::tempdir().unwrap();
        let of = |t: &Target| route(dir.path(), &settings(), t, false).unwrap().socket;
        let first = target("10.0.0.1", &[]);
        let moved = Target {
            port: 22,
            ..first.clone()
        };
        assert_ne!(of(&first), of(&moved));
        assert_eq!(of(&first), of(&first.clone()));
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(private_dir(&open).is_err());
        assert!(private_dir(&dir.path().join("new")).is_ok());
    }
}
