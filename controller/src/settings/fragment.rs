//! The settings' file as written: every key may be left out, no key may be unknown. Knows no defaults.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use trueup_schema::System;
use trueup_schema::kind::Duration;

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
    pub next_key_file: Option<PathBuf>,
    pub intent_key_file: Option<PathBuf>,
    pub next_intent_key_file: Option<PathBuf>,
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
    pub released_roots: Option<Duration>,
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
