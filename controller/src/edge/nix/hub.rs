//! A hub on another machine, reached over SSH: its roots, and what its Nix has to be told of builders. Nix sends no
//! settings over `ssh-ng`, so they lie in the hub's store as a file that its end of the connection reads.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::machines::percent;
use super::{Nix, NixSettings, exec};
use crate::edge::exec::{ExecSpec, Limits};

/// For every `ssh` that Nix starts here: it never asks, gives up on whom it can't reach, and notices a dead connection.
/// Nix by itself waits for ever.
pub(super) const SSH_OPTIONS: &str =
    "-oBatchMode=yes -oConnectTimeout=10 -oServerAliveInterval=5 -oServerAliveCountMax=3";
/// The same as a file, for the `ssh` that the hub starts to a builder.
const SSH_CONFIG: &str =
    "BatchMode yes\nConnectTimeout 10\nServerAliveInterval 5\nServerAliveCountMax 3\n";
/// One command on the hub.
const HUB_WALL: Duration = Duration::from_secs(60);
/// Derivations and their sources are small, but may be many.
const BRING_WALL: Duration = Duration::from_secs(1800);
/// Roots that lie in the folder: links of a fleet's builds.
const ROOTS_BYTES: usize = 16 << 20;

/// A hub behind `ssh-ng://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hub {
    /// `user@host`.
    login: String,
    /// From the URL's parameters, as Nix takes them.
    key: Option<String>,
    host_key: Option<String>,
    /// The URL, with parameters or without.
    url: String,
}

impl Hub {
    /// `None`: the store is on this machine.
    pub(super) fn parse(store: &str) -> Option<Self> {
        let rest = store
            .strip_prefix("ssh-ng://")
            .or_else(|| store.strip_prefix("ssh://"))?;
        let (login, query) = rest.split_once('?').unwrap_or((rest, ""));
        let parameter = |name: &str| {
            query.split('&').find_map(|pair| {
                let (key, value) = pair.split_once('=')?;
                (key == name).then(|| decoded(value)).flatten()
            })
        };
        let host_key = parameter("base64-ssh-public-host-key")
            .and_then(|k| String::from_utf8(BASE64.decode(k).ok()?).ok());
        Some(Self {
            login: login.trim_end_matches('/').to_owned(),
            key: parameter("ssh-key"),
            host_key,
            url: store.to_owned(),
        })
    }

    /// The store's URL, with an environment for the Nix at the other end.
    fn url_with(&self, env: &[(&str, &str)]) -> String {
        let mut program = "env".to_owned();
        for (name, value) in env {
            program.push_str(&format!(" {name}={value}"));
        }
        program.push_str(" nix-daemon");
        let joint = if self.url.contains('?') { '&' } else { '?' };
        format!("{}{joint}remote-program={}", self.url, percent(&program))
    }

    /// Whoever is root needs nobody's trust.
    fn is_root(&self) -> bool {
        self.login.starts_with("root@")
    }

    fn user(&self) -> &str {
        self.login
            .split_once('@')
            .map_or("our user", |(user, _)| user)
    }

    /// A command on the hub. The user's shell over there reads the words, so each is one that no shell reads more into.
    fn command(&self, settings: &NixSettings, words: &[&str]) -> ExecSpec {
        let mut args: Vec<String> = SSH_OPTIONS.split(' ').map(str::to_owned).collect();
        if let Some(key) = &self.key {
            args.extend([
                "-i".to_owned(),
                key.clone(),
                "-oIdentitiesOnly=yes".to_owned(),
            ]);
        }
        if self.host_key.is_some() {
            let file = self.known_hosts(settings);
            args.push(format!("-oUserKnownHostsFile={}", file.display()));
            args.push("-oStrictHostKeyChecking=yes".to_owned());
        }
        args.extend(["--".to_owned(), self.login.clone()]);
        args.extend(words.iter().map(|w| quoted(w)));
        let mut spec = ExecSpec::new("ssh", args);
        spec.env.clone_from(&settings.env);
        spec.limits = Limits {
            wall: HUB_WALL,
            output: ROOTS_BYTES,
            rss: None,
        };
        spec
    }

    /// `nix ARGS` on the hub.
    pub(super) fn nix(&self, settings: &NixSettings, args: &[&str]) -> ExecSpec {
        let features = ["--extra-experimental-features", "nix-command"];
        let options = format!("NIX_SSHOPTS={SSH_OPTIONS}");
        let mut words = vec!["env", options.as_str(), "nix"];
        words.extend(features);
        words.extend(args);
        self.command(settings, &words)
    }

    fn known_hosts(&self, settings: &NixSettings) -> PathBuf {
        let file = settings.state.join("hub.known_hosts");
        let host = self.login.rsplit('@').next().unwrap_or_default();
        if let Some(key) = &self.host_key {
            // Without it the hub is not believed, which is told by ssh.
            let _told_by_ssh = std::fs::write(&file, format!("{host} {}\n", key.trim()));
        }
        file
    }
}

/// A word that the shell at the other end takes as it is.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            b => b,
        });
    }
    String::from_utf8(out).ok()
}

impl Nix {
    /// The store to build in: the hub, told of its builders.
    pub(super) async fn store_for_builds(&self) -> Result<Option<String>, String> {
        let (Some(hub), Some(lines)) = (&self.hub, self.machines.lines()) else {
            return Ok(self.settings.store.clone());
        };
        let config = format!("builders = {lines}\nbuilders-use-substitutes = true\n");
        let known = self.told.lock().await.clone();
        if let Some((text, url)) = known
            && text == config
        {
            return Ok(Some(url));
        }
        let settings = self.put("trueup-builders.conf", &config).await?;
        let ssh = self.put("trueup-ssh.conf", SSH_CONFIG).await?;
        // Not of a build, so none of those that are dropped when nobody wants it any more.
        let links = [
            ("trueup-builders.conf", &settings),
            ("trueup-ssh.conf", &ssh),
        ];
        let links = links.map(|(name, path)| (name.to_owned(), path.as_str()));
        let _alone = self.roots.lock().await;
        self.link_roots(&links).await?;
        let url = hub.url_with(&[
            ("NIX_USER_CONF_FILES", &settings),
            ("NIX_SSHOPTS", &format!("-F{ssh}")),
        ]);
        *self.told.lock().await = Some((config, url.clone()));
        Ok(Some(url))
    }

    /// Where derivations of a remote hub are made, before they travel there.
    pub(super) fn evaluation_store(&self) -> PathBuf {
        self.settings.state.join("evaluation")
    }

    /// Takes a derivation, and all that it needs to be built, to a remote hub.
    pub(super) async fn bring(&self, drv: &str) -> Result<(), String> {
        let Some(hub) = &self.hub else { return Ok(()) };
        if self
            .ask(["path-info", drv])
            .await
            .is_ok_and(|exit| exit.ok())
        {
            return Ok(());
        }
        let from = self.evaluation_store();
        let mut spec = self.spec(
            vec!["copy".into(), "--from".into()],
            Limits {
                wall: BRING_WALL,
                ..Limits::default()
            },
        );
        spec.args.truncate(2); // between two stores, neither is `--store`
        spec.args.extend([
            from.into(),
            "--to".into(),
            hub.url.clone().into(),
            drv.into(),
        ]);
        match exec::run(&spec).await {
            Ok(exit) if exit.ok() => Ok(()),
            Ok(exit) => {
                let said = super::log::plain(&exit.err_text());
                Err(format!(
                    "taking it to the hub: {}",
                    super::publish::last_error(&said)
                ))
            }
            Err(e) => Err(format!("taking it to the hub: {e}")),
        }
    }

    /// A small file in the hub's store, by its content: what is there already costs nothing.
    async fn put(&self, name: &str, text: &str) -> Result<String, String> {
        let folder = self.settings.state.join("hub");
        let file = folder.join(name);
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(&file, text))
            .map_err(|e| format!("{}: {e}", file.display()))?;
        let args = ["store", "add", "--mode", "flat", "--name", name].map(Into::into);
        let mut args: Vec<std::ffi::OsString> = args.into();
        args.push(file.into_os_string());
        let told = self.must(args, HUB_WALL, Vec::new()).await?;
        let path = String::from_utf8_lossy(&told).trim().to_owned();
        let known: Result<trueup_schema::StorePath, _> = path.parse();
        known
            .map(|p| p.as_str().to_owned())
            .map_err(|e| format!("`nix store add`: {e}"))
    }

    /// Makes links in the folder of roots: each a name and what it names.
    pub(super) async fn link_roots(&self, links: &[(String, &str)]) -> Result<(), String> {
        let folder = &self.settings.roots;
        let Some(hub) = &self.hub else {
            let here = || -> std::io::Result<()> {
                std::fs::create_dir_all(folder)?;
                for (name, to) in links {
                    super::build::relink(&folder.join(name), Path::new(to))?;
                }
                Ok(())
            };
            return here().map_err(|e| format!("rooting in {}: {e}", folder.display()));
        };
        let folder = folder.display().to_string();
        let mut commands = vec![vec!["mkdir".to_owned(), "-p".to_owned(), folder.clone()]];
        for (name, to) in links {
            let words = ["ln", "-sfn", to, &format!("{folder}/{name}")];
            commands.push(words.map(str::to_owned).into());
        }
        for command in commands {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            self.on_hub(hub, &words).await?;
        }
        Ok(())
    }

    /// Names of the links in the folder of roots.
    pub(super) async fn root_links(&self) -> Result<Vec<String>, String> {
        let folder = &self.settings.roots;
        let Some(hub) = &self.hub else {
            let Ok(entries) = std::fs::read_dir(folder) else {
                return Ok(Vec::new());
            };
            let links = entries
                .flatten()
                .filter(|e| e.file_type().is_ok_and(|t| t.is_symlink()));
            return Ok(links
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect());
        };
        let folder = folder.display().to_string();
        let found = self
            .on_hub(hub, &["find", &folder, "-maxdepth", "1", "-type", "l"])
            .await?;
        let names = found.lines().filter_map(|l| l.rsplit('/').next());
        Ok(names.map(str::to_owned).collect())
    }

    pub(super) async fn unlink_roots(&self, names: &[String]) -> Result<(), String> {
        let folder = &self.settings.roots;
        let Some(hub) = &self.hub else {
            for name in names {
                let _gone_already = std::fs::remove_file(folder.join(name));
            }
            return Ok(());
        };
        for some in names.chunks(100) {
            let paths: Vec<String> = some
                .iter()
                .map(|n| format!("{}/{n}", folder.display()))
                .collect();
            let mut words = vec!["rm", "-f", "--"];
            words.extend(paths.iter().map(String::as_str));
            self.on_hub(hub, &words).await?;
        }
        Ok(())
    }

    /// Of a hub on another machine: does its store answer, and may roots be kept there? `None`: the hub is here.
    pub async fn hub_answers(&self) -> Option<Result<(), String>> {
        let hub = self.hub.as_ref()?;
        if let Err(e) = self.answers(&hub.url).await {
            return Some(Err(e));
        }
        let folder = self.settings.roots.display().to_string();
        let asked = self.on_hub(hub, &["mkdir", "-p", &folder]).await;
        Some(asked.map(drop))
    }

    /// Does the hub's Nix take our word for its builders? It ignores that of a user whom it does not trust, and says so to
    /// nobody. `Ok` where it can't be told: it does not answer, or is too old to say.
    pub async fn hub_takes_builders(&self) -> Result<(), String> {
        let Some(hub) = self.hub.as_ref().filter(|h| !h.is_root()) else {
            return Ok(());
        };
        let spec = self.question(&hub.url, &["--json"]);
        let Ok(exit) = exec::run(&spec).await else {
            return Ok(());
        };
        let said: serde_json::Value = serde_json::from_slice(&exit.stdout).unwrap_or_default();
        if said["trusted"].as_u64() != Some(0) {
            return Ok(());
        }
        let user = hub.user();
        Err(format!(
            "the hub's Nix does not trust `{user}`, so it ignores every Builder: add `{user}` to nix.settings.trusted-users on \
             the hub, or name root in hub.store"
        ))
    }

    async fn on_hub(&self, hub: &Hub, words: &[&str]) -> Result<String, String> {
        let exit = exec::run(&hub.command(&self.settings, words))
            .await
            .map_err(|e| e.to_string())?;
        match exit.ok() {
            true => Ok(exit.out_text()),
            false => Err(format!(
                "`{}` on the hub: {}",
                words.join(" "),
                exit.err_text()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_is_taken_from_the_url_that_nix_takes() {
        assert_eq!(Hub::parse("auto"), None);
        assert_eq!(Hub::parse("/srv/store"), None);
        let key = BASE64.encode("ssh-ed25519 AAAA");
        let url = format!("ssh-ng://root@hub?ssh-key=/k%20y&base64-ssh-public-host-key={key}");
        let hub = Hub::parse(&url).unwrap();
        assert_eq!(hub.login, "root@hub");
        assert_eq!(hub.key.as_deref(), Some("/k y"));
        assert_eq!(hub.host_key.as_deref(), Some("ssh-ed25519 AAAA"));
        let told = hub.url_with(&[("A", "/b")]);
        assert!(
            told.ends_with("&remote-program=env%20A%3D/b%20nix-daemon"),
            "{told}"
        );
    }

    #[test]
    fn no_word_is_more_than_a_word_to_the_shell_over_there() {
        assert_eq!(quoted("/nix/store/x-1.drv"), "/nix/store/x-1.drv");
        assert_eq!(quoted("a;b"), "'a;b'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }
}
