//! `trueup.yaml`: all that can't be in Git. Fragment (the file as written) and flags become inputs, inputs become
//! [`Settings`] (validated, every default filled in). Only settings travel further. Reads one file; makes none.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration as StdDuration;

use serde::{Deserialize, Serialize};
use trueup_schema::System;
use trueup_schema::kind::Duration;

/// Where the settings lie unless `--settings` or `TRUEUP_SETTINGS` says otherwise.
pub const DEFAULT_FILE: &str = "/etc/trueup/trueup.yaml";
/// Where the controller keeps its state.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/trueup";
/// Where the controller listens.
pub const DEFAULT_SOCKET: &str = "/run/trueup/api.sock";
/// A settings file is a page, not a book.
const FILE_MAX: u64 = 64 * 1024;
/// Polling more often than this is an attack on the Git host.
const INTERVAL_MIN: Duration = Duration::from_secs(5);
/// Less often than this, nobody would call it continuous.
const INTERVAL_MAX: Duration = Duration::from_mins(24 * 60);

/// The file as written. Everything may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Fragment {
    /// The trunk.
    pub repository: RepositoryFragment,
    /// Where the controller keeps its database, mirror, keys and logs.
    pub state_dir: Option<PathBuf>,
    /// Where it listens.
    pub listen: ListenFragment,
    /// Where builds begin.
    pub hub: HubFragment,
    /// The fleet's key.
    pub signing: SigningFragment,
    /// How it connects to hosts.
    pub ssh: SshFragment,
    /// What it brings to hosts.
    pub agent: AgentFragment,
    /// Which Nix.
    pub nix: NixFragment,
    /// Bounds on what it uses.
    pub limits: LimitsFragment,
}

/// See [`Repository`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct RepositoryFragment {
    pub url: Option<String>,
    pub branch: Option<String>,
    pub path: Option<String>,
    pub interval: Option<Duration>,
    pub credentials: Credentials,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct ListenFragment {
    pub socket: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct HubFragment {
    pub store: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct SigningFragment {
    pub key_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct SshFragment {
    pub identity_file: Option<PathBuf>,
    pub config_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct AgentFragment {
    pub packages: BTreeMap<System, PathBuf>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct NixFragment {
    pub program: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct LimitsFragment {
    pub evaluations: Option<u32>,
    #[serde(rename = "evaluationMemoryMiB")]
    pub evaluation_memory_mib: Option<u64>,
    pub evaluation_timeout: Option<Duration>,
    pub build_silence: Option<Duration>,
    pub builds: Option<u32>,
}

/// How the Git host knows us. Files, never the secrets themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Credentials {
    /// User for `https://`; `git` unless given.
    pub username: Option<String>,
    /// File with a token, for `https://`.
    pub token_file: Option<PathBuf>,
    /// Private key, for `ssh://`; the agent's keys unless given.
    pub ssh_key_file: Option<PathBuf>,
    /// Host keys that the Git host may show, for `ssh://`.
    pub known_hosts_file: Option<PathBuf>,
}

/// What flags and `TRUEUP_*` say; each wins over the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--repository`, `TRUEUP_REPOSITORY`.
    pub repository: Option<String>,
    /// `--branch`, `TRUEUP_BRANCH`.
    pub branch: Option<String>,
    /// `--state-dir`, `TRUEUP_STATE_DIR`.
    pub state_dir: Option<PathBuf>,
    /// `--socket`, `TRUEUP_SOCKET`.
    pub socket: Option<PathBuf>,
}

/// Validated, with no `Option` left that has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// The trunk.
    pub repository: Repository,
    /// Where the controller keeps its state.
    pub state_dir: PathBuf,
    /// The API's Unix socket.
    pub socket: PathBuf,
    /// The hub's store, as Nix writes it; `auto` is Nix' own choice on this machine.
    pub hub_store: String,
    /// The fleet's Ed25519 key; made at first start when it is not there.
    pub signing_key_file: PathBuf,
    /// Private key for hosts; ssh's own choice unless given.
    pub ssh_identity_file: Option<PathBuf>,
    /// ssh's configuration; the user's own unless given.
    pub ssh_config_file: Option<PathBuf>,
    /// The static agent for each system that hosts have.
    pub agent_packages: BTreeMap<System, PathBuf>,
    /// The `nix` program.
    pub nix_program: PathBuf,
    /// Bounds.
    pub limits: Limits,
}

/// The trunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Repository {
    /// `file://`, `ssh://` or `https://`; an absolute path stands for `file://`.
    pub url: String,
    /// The branch that is the truth.
    pub branch: String,
    /// Folder of the manifests.
    pub path: String,
    /// How often it is asked, ± 10 %.
    pub interval: StdDuration,
    /// How it knows us.
    pub credentials: Credentials,
}

/// Bounds on what the controller uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Evaluations at the same time.
    pub evaluations: u32,
    /// Memory that all evaluations together may take, in MiB.
    pub evaluation_memory_mib: u64,
    /// Wall time of one.
    pub evaluation_timeout: StdDuration,
    /// A build that says nothing for this long is ended.
    pub build_silence: StdDuration,
    /// Builds that trueup asks Nix for at the same time.
    pub builds: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            evaluations: 2,
            evaluation_memory_mib: 4096,
            evaluation_timeout: StdDuration::from_secs(30 * 60),
            build_silence: StdDuration::from_secs(30 * 60),
            builds: 8,
        }
    }
}

impl Settings {
    /// The database's folder.
    #[must_use]
    pub fn db_folder(&self) -> PathBuf {
        db_folder(&self.state_dir)
    }
    /// Logs of builds, one file a derivation.
    #[must_use]
    pub fn logs_dir(&self) -> PathBuf {
        self.state_dir.join("logs")
    }
}

/// The database's folder below a state folder.
#[must_use]
pub fn db_folder(state_dir: &Path) -> PathBuf {
    state_dir.join("db")
}

/// Why there are no settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The file could not be read.
    #[error("reading the settings {}: {why}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// The file says something that can't be.
    #[error("{0}")]
    Wrong(Box<Wrong>),
    /// Values that can't be, after merging: all of them.
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
}

/// A problem with a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// In which file.
    pub path: PathBuf,
    /// One sentence.
    pub message: String,
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// The line itself.
    pub excerpt: String,
    /// What would be right.
    pub help: Option<String>,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let pad = " ".repeat(number.len());
        let caret = " ".repeat(
            usize::try_from(self.column.saturating_sub(1))
                .unwrap_or(0)
                .min(200),
        );
        writeln!(f, "{}", self.message)?;
        writeln!(
            f,
            "{pad} ╭─[{}:{}:{}]",
            self.path.display(),
            self.line,
            self.column
        )?;
        writeln!(f, "{number} │ {}", self.excerpt)?;
        write!(f, "{pad} · {caret}┬")?;
        match &self.help {
            Some(help) => write!(f, "\n{pad} · {caret}╰── {help}"),
            None => Ok(()),
        }
    }
}

/// Reads the file, lays flags over it, checks the result. A default file that is not there is an empty one; a file that
/// was asked for must be there.
pub fn load(asked: Option<&Path>, overrides: &Overrides) -> Result<Settings, SettingsError> {
    validate(merge(read(asked)?, overrides))
}

/// The file as written.
pub fn read(asked: Option<&Path>) -> Result<Fragment, SettingsError> {
    let path = asked.unwrap_or(Path::new(DEFAULT_FILE));
    let fail = |why: String| SettingsError::Read {
        path: path.to_owned(),
        why,
    };
    match std::fs::metadata(path) {
        Err(e) if asked.is_none() && e.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Fragment::default());
        }
        Err(e) => return Err(fail(e.to_string())),
        Ok(meta) if !meta.is_file() => return Err(fail("not a file".to_owned())),
        Ok(meta) if meta.len() > FILE_MAX => {
            return Err(fail(format!("larger than {FILE_MAX} bytes")));
        }
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    parse(path, &text)
}

/// From text; `path` is for messages.
pub fn parse(path: &Path, text: &str) -> Result<Fragment, SettingsError> {
    if text
        .lines()
        .all(|l| l.trim().is_empty() || l.trim_start().starts_with('#'))
    {
        return Ok(Fragment::default());
    }
    serde_saphyr::from_str(text).map_err(|e| SettingsError::Wrong(Box::new(place(path, text, &e))))
}

/// What the YAML reader said, in our words.
fn place(path: &Path, text: &str, error: &serde_saphyr::Error) -> Wrong {
    use serde_saphyr::Error as E;
    let inner = error.without_snippet();
    let at = inner.location();
    let (line, column) = at.map_or((1, 1), |l| (l.line().max(1), l.column().max(1)));
    let (message, help) = match inner {
        E::SerdeUnknownField {
            field, expected, ..
        } => (
            format!("unknown key `{field}` in the settings"),
            Some(match nearest(field, expected) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", expected.join(", ")),
            }),
        ),
        E::DuplicateMappingKey { key, .. } => (
            match key {
                Some(key) => format!("`{key}` is given twice in the settings"),
                None => "a key is given twice in the settings".to_owned(),
            },
            None,
        ),
        other => {
            let said = other.render();
            let first = said.lines().next().unwrap_or("not YAML").to_owned();
            (
                format!("wrong settings: {}", first.trim_start_matches("error: ")),
                None,
            )
        }
    };
    let excerpt = usize::try_from(line)
        .ok()
        .and_then(|n| text.lines().nth(n.saturating_sub(1)))
        .unwrap_or_default();
    Wrong {
        path: path.to_owned(),
        message,
        line,
        column,
        excerpt: excerpt.chars().take(120).collect(),
        help,
    }
}

/// The known word that somebody probably meant.
#[must_use]
pub fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |s: &str| s.to_lowercase().replace(['_', '-'], "");
    let given = plain(given);
    known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(&given, &plain(word)), *word))
        .filter(|(distance, word)| *distance <= (word.len().max(given.len()) / 3).max(1))
        .min()
        .map(|(_, word)| word)
}

/// Flags over the file.
#[must_use]
pub fn merge(mut fragment: Fragment, over: &Overrides) -> Fragment {
    fn put<T: Clone>(slot: &mut Option<T>, value: &Option<T>) {
        if value.is_some() {
            slot.clone_from(value);
        }
    }
    put(&mut fragment.repository.url, &over.repository);
    put(&mut fragment.repository.branch, &over.branch);
    put(&mut fragment.state_dir, &over.state_dir);
    put(&mut fragment.listen.socket, &over.socket);
    fragment
}

/// Fills in the defaults and finds every value that can't be.
pub fn validate(inputs: Fragment) -> Result<Settings, SettingsError> {
    let mut wrong = Vec::new();
    let state_dir = inputs
        .state_dir
        .unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR));
    absolute(&mut wrong, "stateDir", Some(&state_dir));
    absolute(&mut wrong, "listen.socket", inputs.listen.socket.as_deref());
    absolute(
        &mut wrong,
        "signing.keyFile",
        inputs.signing.key_file.as_deref(),
    );
    absolute(
        &mut wrong,
        "ssh.identityFile",
        inputs.ssh.identity_file.as_deref(),
    );
    absolute(
        &mut wrong,
        "ssh.configFile",
        inputs.ssh.config_file.as_deref(),
    );
    for (system, path) in &inputs.agent.packages {
        absolute(&mut wrong, &format!("agent.packages.{system}"), Some(path));
    }
    let repository = repository(inputs.repository, &mut wrong);
    let hub_store = inputs.hub.store.unwrap_or_else(|| "auto".to_owned());
    if hub_store.is_empty() || hub_store.starts_with('-') {
        wrong.push(format!(
            "hub.store is `{hub_store}`: give a store as Nix writes it, such as `auto` or `daemon`"
        ));
    } else if hub_store.starts_with("ssh") {
        wrong.push("hub.store: a hub on another machine is not built yet; use `auto`".to_owned());
    }
    let limits = limits(&inputs.limits, &mut wrong);
    if !wrong.is_empty() {
        return Err(SettingsError::Invalid(wrong));
    }
    Ok(Settings {
        repository,
        socket: inputs
            .listen
            .socket
            .unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET)),
        hub_store,
        signing_key_file: inputs
            .signing
            .key_file
            .unwrap_or_else(|| state_dir.join("keys").join("fleet.key")),
        state_dir,
        ssh_identity_file: inputs.ssh.identity_file,
        ssh_config_file: inputs.ssh.config_file,
        agent_packages: inputs.agent.packages,
        nix_program: inputs.nix.program.unwrap_or_else(|| PathBuf::from("nix")),
        limits,
    })
}

fn absolute(wrong: &mut Vec<String>, key: &str, path: Option<&Path>) {
    if let Some(path) = path.filter(|p| !p.is_absolute()) {
        wrong.push(format!(
            "{key} is `{}`: write the whole path, from `/`",
            path.display()
        ));
    }
}

fn repository(given: RepositoryFragment, wrong: &mut Vec<String>) -> Repository {
    let url = match given.url {
        Some(path) if path.starts_with('/') => format!("file://{path}"),
        Some(url)
            if ["file:///", "ssh://", "https://"]
                .iter()
                .any(|s| url.starts_with(s)) =>
        {
            url
        }
        Some(other) => {
            wrong.push(format!(
                "repository.url is `{other}`: use file:///…, ssh://… or https://…"
            ));
            other
        }
        None => {
            wrong.push(
                "repository.url is not given: add it to the settings, or pass --repository URL"
                    .to_owned(),
            );
            String::new()
        }
    };
    let branch = given.branch.unwrap_or_else(|| "main".to_owned());
    if trueup_schema::Revision::new(&branch, &"0".repeat(40)).is_err() {
        wrong.push(format!(
            "repository.branch is `{branch}`: not the name of a branch"
        ));
    }
    let path = given.path.unwrap_or_else(|| "fleet".to_owned());
    if path.starts_with('/') || path.split('/').any(|p| p == "..") {
        wrong.push(format!(
            "repository.path is `{path}`: a folder inside the repository, without `..`"
        ));
    }
    let interval = given.interval.unwrap_or(Duration::from_secs(60));
    if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) {
        wrong.push(format!(
            "repository.interval is {interval}: {INTERVAL_MIN} to {INTERVAL_MAX}"
        ));
    }
    Repository {
        url,
        branch,
        path,
        interval: interval.get(),
        credentials: given.credentials,
    }
}

fn limits(given: &LimitsFragment, wrong: &mut Vec<String>) -> Limits {
    let d = Limits::default();
    let mut bounded = |key: &str, value: u64, low: u64, high: u64| {
        if !(low..=high).contains(&value) {
            wrong.push(format!("limits.{key} is {value}: {low} to {high}"));
        }
        value.clamp(low, high)
    };
    let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Limits {
        evaluations: count(bounded(
            "evaluations",
            given.evaluations.unwrap_or(d.evaluations).into(),
            1,
            64,
        )),
        builds: count(bounded(
            "builds",
            given.builds.unwrap_or(d.builds).into(),
            1,
            256,
        )),
        evaluation_memory_mib: bounded(
            "evaluationMemoryMiB",
            given
                .evaluation_memory_mib
                .unwrap_or(d.evaluation_memory_mib),
            256,
            1 << 20,
        ),
        evaluation_timeout: given
            .evaluation_timeout
            .map_or(d.evaluation_timeout, Duration::get),
        build_silence: given.build_silence.map_or(d.build_silence, Duration::get),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Fragment, String> {
        parse(Path::new("trueup.yaml"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn a_wrong_key_names_file_line_and_the_nearest_key() {
        let said = parsed("repository:\n  url: /srv/fleet\nstatDir: /x\n").unwrap_err();
        assert!(said.contains("unknown key `statDir`"), "{said}");
        assert!(said.contains("trueup.yaml:3:1"), "{said}");
        assert!(said.contains("did you mean `stateDir`?"), "{said}");
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        assert!(
            parsed("stateDir: /a\nstateDir: /b\n")
                .unwrap_err()
                .contains("twice")
        );
    }

    #[test]
    fn flags_win_over_the_file_and_defaults_fill_the_rest() {
        let file = parsed(
            "repository: {url: /srv/a, interval: 90s}\nlimits: {evaluationMemoryMiB: 512}\n",
        )
        .unwrap();
        let over = Overrides {
            repository: Some("file:///srv/b".to_owned()),
            ..Overrides::default()
        };
        let s = validate(merge(file, &over)).unwrap();
        assert_eq!(s.repository.url, "file:///srv/b");
        assert_eq!(s.repository.branch, "main");
        assert_eq!(s.repository.interval.as_secs(), 90);
        assert_eq!(s.limits.evaluation_memory_mib, 512);
        assert_eq!(s.socket, Path::new(DEFAULT_SOCKET));
        assert_eq!(
            s.signing_key_file,
            Path::new("/var/lib/trueup/keys/fleet.key")
        );
    }

    #[test]
    fn all_values_that_cannot_be_are_named_at_once() {
        let file = parsed(
            "repository: {url: 'git://x', branch: '-x', path: ../x, interval: 1s}\nstateDir: x\n",
        )
        .unwrap();
        let Err(SettingsError::Invalid(wrong)) = validate(file) else {
            panic!("accepted")
        };
        assert_eq!(wrong.len(), 5, "{wrong:?}");
    }

    #[test]
    fn an_empty_file_lacks_only_the_repository() {
        let Err(SettingsError::Invalid(wrong)) = validate(parsed("# nothing\n").unwrap()) else {
            panic!("accepted")
        };
        assert_eq!(wrong.len(), 1);
        assert!(wrong[0].contains("--repository"));
    }
}
