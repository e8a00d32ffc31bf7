//! What manifests come to: every default and override merged, so that nobody downstream asks what "not given" means.
//!
//! The only `Option`s left are those whose absence is a meaning of its own (no specialisation, no jump host).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Adopt, Confirm, Delivery, DiscoverFrom, DriftPolicy, Duration, FailedUnitsPolicy, FileMode,
    HostKey, Jump, Labels, MaxUnavailable, Mode, OnTimeout, Owner, PublicKey, Reboot, RebootWindow,
    SecretFormat, Selector, Signatures, UnconfirmedBoot,
};
use crate::{
    Address, HostName, System,
    status::{Reason, Severity},
};

/// All manifests of one revision, checked against each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FleetManifests {
    /// What holds for all.
    pub fleet: ResolvedFleet,
    /// Hosts by name.
    pub hosts: BTreeMap<HostName, ResolvedHost>,
    /// Checks by name; those of a host are also in its `activation.health`.
    pub checks: BTreeMap<String, ResolvedCheck>,
    /// Sinks of events by name.
    pub alerts: BTreeMap<String, ResolvedAlert>,
    /// Binary caches by name.
    pub caches: BTreeMap<String, ResolvedCache>,
    /// Secrets by name.
    #[serde(default)]
    pub secrets: BTreeMap<String, ResolvedSecret>,
    /// Machines that build, by name.
    #[serde(default)]
    pub builders: BTreeMap<String, ResolvedBuilder>,
}

/// What holds for the fleet as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedFleet {
    /// The fleet's name.
    pub name: String,
    /// How many hosts change at once.
    pub rollout: ResolvedRollout,
    /// Whether new hosts are taken over without asking.
    pub adopt: Adopt,
    /// Where hosts come from.
    pub discover_from: DiscoverFrom,
    /// Labels of hosts that were discovered.
    pub discovered_labels: Labels,
    /// Whether commits must be signed.
    pub signatures: Signatures,
    /// Public keys of people who can read every secret.
    #[serde(default)]
    pub admins: Vec<PublicKey>,
}

/// How many hosts change at once, and when to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedRollout {
    /// Hosts that change at the same time.
    pub max_concurrent: u32,
    /// Groups by a label's value.
    pub max_unavailable: Vec<MaxUnavailable>,
    /// Failed hosts after which a revision goes no further.
    pub max_failures: u32,
}

impl Default for ResolvedRollout {
    fn default() -> Self {
        Self {
            max_concurrent: 10,
            max_unavailable: Vec::new(),
            max_failures: 1,
        }
    }
}

/// One host with all that is to be known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedHost {
    /// Its name.
    pub name: HostName,
    /// What selectors see.
    pub labels: Labels,
    /// Notes.
    pub annotations: Labels,
    /// Nix' name of its platform.
    pub system: System,
    /// What is evaluated for it.
    pub target: Target,
    /// Where it answers.
    pub address: Address,
    /// How to connect.
    pub ssh: ResolvedSsh,
    /// Who brings new configurations.
    pub delivery: Delivery,
    /// How they are activated, confirmed and judged.
    pub activation: ResolvedActivation,
    /// What happens when somebody else changed it.
    pub drift: ResolvedDrift,
    /// Hosts that must be ready before it changes.
    pub depends_on: Vec<HostName>,
    /// Whether Git says to leave it alone.
    pub suspend: bool,
    /// Generations that stay on it.
    pub keep_generations: u32,
    /// Whether it may be rebooted.
    pub reboot: Reboot,
    /// When, if not at any time.
    #[serde(default)]
    pub reboot_window: Option<RebootWindow>,
    /// The specialisation to run; none: the configuration itself.
    pub specialisation: Option<String>,
    /// How it opens secrets.
    #[serde(default)]
    pub secrets: ResolvedHostSecrets,
}

/// How a host opens secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedHostSecrets {
    /// Whether its configuration has trueup's module.
    pub module: bool,
    /// Its public age keys, besides its SSH host keys.
    pub age_keys: Vec<PublicKey>,
    /// Where its private keys are; what is not there is passed over.
    pub identity_files: Vec<String>,
}

impl Default for ResolvedHostSecrets {
    fn default() -> Self {
        Self {
            module: false,
            age_keys: Vec::new(),
            identity_files: ["ed25519", "rsa"]
                .map(|kind| format!("/etc/ssh/ssh_host_{kind}_key"))
                .into(),
        }
    }
}

/// A secret and the hosts that get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedSecret {
    /// Its name, and its file's.
    pub name: String,
    /// The encrypted file, relative to the repository's root.
    pub source: String,
    /// The file's format.
    pub format: SecretFormat,
    /// The string within; none: the whole file.
    pub key: Option<String>,
    /// Which hosts were meant.
    pub selector: Selector,
    /// Which hosts get it.
    pub hosts: BTreeSet<HostName>,
    /// Where a link to it is, besides its own place.
    pub path: Option<String>,
    /// Whose it is.
    pub owner: Owner,
    /// Its group; none: the owner's own.
    pub group: Option<Owner>,
    /// Its permissions.
    pub mode: FileMode,
    /// Those of folders that are made for `path`.
    pub directory_mode: FileMode,
    /// It is there before users are made.
    pub needed_for_users: bool,
    /// Units that restart when it changed.
    pub restart_units: Vec<String>,
    /// Units that reload then.
    pub reload_units: Vec<String>,
    /// Texts with values in them.
    pub templates: Vec<ResolvedTemplate>,
}

impl ResolvedSecret {
    /// Where its file is on a host.
    #[must_use]
    pub fn place(&self) -> String {
        let dir = if self.needed_for_users {
            super::SECRETS_FOR_USERS_DIR
        } else {
            super::SECRETS_DIR
        };
        format!("{dir}/{}", self.name)
    }
}

/// A text with values of secrets in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedTemplate {
    /// Its file's name.
    pub name: String,
    /// The text.
    pub content: String,
    /// Where a link to it is, besides its own place.
    pub path: Option<String>,
    /// Whose it is.
    pub owner: Owner,
    /// Its group; none: the owner's own.
    pub group: Option<Owner>,
    /// Its permissions.
    pub mode: FileMode,
    /// Units that restart when it changed.
    pub restart_units: Vec<String>,
    /// Units that reload then.
    pub reload_units: Vec<String>,
}

impl ResolvedTemplate {
    /// Where its file is on a host.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}/{}/{}", super::SECRETS_DIR, super::RENDERED, self.name)
    }
}

/// What is evaluated for a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// An attribute of the repository's flake.
    Flake {
        /// Such as `nixosConfigurations.web-1.config.system.build.toplevel`.
        attribute: String,
    },
    /// An attribute of a Nix file of the repository.
    File {
        /// Relative to the repository's root, without `..`.
        file: String,
        /// The attribute within.
        attr: String,
    },
}

/// How to connect to a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedSsh {
    /// The user.
    pub user: String,
    /// The port.
    pub port: u16,
    /// Keys that the host may show; empty: those recorded at adoption, if it was adopted.
    pub host_keys: Vec<HostKey>,
    /// A machine on the way.
    pub jump: Option<Jump>,
    /// Become root by passwordless sudo.
    #[serde(rename = "become")]
    pub become_root: bool,
}

impl Default for ResolvedSsh {
    fn default() -> Self {
        Self {
            user: "root".to_owned(),
            port: 22,
            host_keys: Vec::new(),
            jump: None,
            become_root: false,
        }
    }
}

fn refuse() -> UnconfirmedBoot {
    UnconfirmedBoot::Refuse
}

/// How a configuration is activated, confirmed and judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedActivation {
    /// What an activation does.
    pub mode: Mode,
    /// A reboot that a power cycle could not undo.
    #[serde(default = "refuse")]
    pub unconfirmed_boot: UnconfirmedBoot,
    /// Who confirms.
    pub confirm: Confirm,
    /// The witness that does, where one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<HostName>,
    /// How long the host waits for that.
    pub confirm_timeout: Duration,
    /// After how long an activation is stuck.
    pub activation_timeout: Duration,
    /// What happens to a stuck one.
    pub on_timeout: OnTimeout,
    /// How long units are watched.
    pub settle: Duration,
    /// What newly failed units mean.
    pub failed_units: ResolvedFailedUnits,
    /// Checks that must pass, in the order of their names.
    pub health: Vec<ResolvedCheck>,
}

impl Default for ResolvedActivation {
    fn default() -> Self {
        Self {
            mode: Mode::Switch,
            unconfirmed_boot: UnconfirmedBoot::Refuse,
            confirm: Confirm::Controller,
            witness: None,
            confirm_timeout: Duration::from_secs(120),
            activation_timeout: Duration::from_mins(15),
            on_timeout: OnTimeout::Report,
            settle: Duration::from_secs(10),
            failed_units: ResolvedFailedUnits::default(),
            health: Vec::new(),
        }
    }
}

/// What newly failed units mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedFailedUnits {
    /// Back, or only told.
    pub policy: FailedUnitsPolicy,
    /// Units that don't count.
    pub ignore: Vec<String>,
}

impl Default for ResolvedFailedUnits {
    fn default() -> Self {
        Self {
            policy: FailedUnitsPolicy::Rollback,
            ignore: Vec::new(),
        }
    }
}

/// What happens when somebody else changed a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedDrift {
    /// Corrected, told or ignored.
    pub policy: DriftPolicy,
    /// How often the host is looked at.
    pub interval: Duration,
}

impl Default for ResolvedDrift {
    fn default() -> Self {
        Self {
            policy: DriftPolicy::Alert,
            interval: Duration::from_mins(5),
        }
    }
}

/// A check that a host must pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedCheck {
    /// Its name.
    pub name: String,
    /// What is asked.
    pub probe: Probe,
    /// How long one try may take.
    pub timeout: Duration,
    /// How many tries.
    pub attempts: u32,
    /// The time between two.
    pub interval: Duration,
}

/// What a check asks, on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Probe {
    /// A unit is active.
    Unit {
        /// With its suffix.
        name: String,
    },
    /// A port takes connections.
    Tcp {
        /// An IP address: the agent resolves no names.
        address: std::net::IpAddr,
        /// The port.
        port: u16,
    },
    /// A URL answers.
    Http {
        /// `http://` with an IP address or `localhost`.
        url: String,
        /// The wanted status.
        status: u16,
    },
    /// A command ends with 0.
    Command {
        /// Program and arguments; no shell.
        argv: Vec<String>,
    },
}

/// A sink of events and its filters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedAlert {
    /// Its name.
    pub name: String,
    /// Where events go.
    pub url: String,
    /// The file with the HMAC key, on the controller's machine.
    pub secret_file: String,
    /// The least severity.
    pub severity: Severity,
    /// Reasons that pass; empty: all.
    pub kinds: Vec<Reason>,
    /// Hosts whose events pass; none: all, and events of no host.
    pub hosts: Option<Selector>,
    /// Nothing is sent.
    pub suspend: bool,
}

/// A binary cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedCache {
    /// Its name.
    pub name: String,
    /// `file:///path`, `http(s)://…`, `s3://…` or `ssh-ng://…`, as Nix takes it.
    pub url: String,
    /// The key its paths are signed with; none: the fleet's own.
    pub public_key: Option<String>,
    /// A file with the login that copies there, on the controller's machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_file: Option<String>,
    /// Whether trueup copies what it built there.
    pub push: bool,
}

/// A machine that builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedBuilder {
    /// Its name.
    pub name: String,
    /// Where it answers, as the hub knows it.
    pub address: Address,
    /// The user to log in as.
    pub user: String,
    /// What it builds for.
    pub systems: Vec<System>,
    /// Builds at the same time.
    pub max_jobs: u32,
    /// The greatest comes first.
    pub speed_factor: u32,
    /// What derivations may ask for.
    pub supported_features: Vec<String>,
    /// What derivations must ask for.
    pub mandatory_features: Vec<String>,
    /// The only key that is believed.
    pub host_key: HostKey,
    /// A file on the hub; none: what ssh finds there.
    pub ssh_key: Option<String>,
}
