//! `trueup.yaml`: all that can't be in Git. Fragment (the file as written) and flags become inputs, inputs become
//! [`Settings`] (validated, every default filled in). Only settings travel further. Reads one file; makes none.

mod credentials;
mod fragment;
mod read;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration as StdDuration;

use serde::Serialize;
use trueup_schema::System;

pub use fragment::{Credentials, Fragment};
pub use read::{Wrong, nearest, parse, read};
pub use validate::validate;

/// Where the settings lie unless `--config` or `TRUEUP_CONFIG` says otherwise.
pub const DEFAULT_FILE: &str = "/etc/trueup/trueup.yaml";
/// Where the controller keeps its state.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/trueup";
/// Where the controller listens.
pub const DEFAULT_SOCKET: &str = "/run/trueup/api.sock";

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
    /// The key that signs store paths, where a person gave one; else one is made at first start, below `stateDir`.
    pub signing_key_file: Option<PathBuf>,
    /// The one that comes after it: both sign from now on.
    pub next_signing_key_file: Option<PathBuf>,
    /// The key that signs intents, where a person gave one; else one is made at first start, below `stateDir`.
    pub intent_key_file: Option<PathBuf>,
    /// The one that comes after it: hosts take both from now on.
    pub next_intent_key_file: Option<PathBuf>,
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
    /// How long a host that the trunk no longer has is remembered, and its closures kept in the hub's store.
    pub released_roots: StdDuration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            evaluations: 2,
            evaluation_memory_mib: 4096,
            evaluation_timeout: StdDuration::from_secs(30 * 60),
            build_silence: StdDuration::from_secs(30 * 60),
            builds: 8,
            released_roots: trueup_engine::RELEASED_ROOTS,
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

/// Reads the file, lays flags over it, checks the result. A default file that is not there is an empty one; a file that
/// was asked for must be there.
pub fn load(asked: Option<&Path>, overrides: &Overrides) -> Result<Settings, SettingsError> {
    let folder = std::env::var_os(credentials::FOLDER).map(PathBuf::from);
    let given = merge(read(asked)?, overrides);
    validate(credentials::fill(given, folder.as_deref()))
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
