//! The intent: a self-contained document that tells one host its goals.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{ComponentName, Digest, HostName, Revision, StorePath};

/// DSSE payload type of an [`Intent`].
pub const INTENT_PAYLOAD_TYPE: &str = "application/vnd.trueup.intent+json";

/// What a reader of a `system` goal must understand.
pub const SYSTEM_V1: &str = "component/system/1";

/// What a reader must understand of a `system` goal whose mode is not `switch`, or that may reboot the host.
pub const MODES_V1: &str = "modes/1";

/// The order of intents to one host: it only rises. The term rises when a controller lost its database.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Term of the database.
    pub term: u64,
    /// Serial within the term, allocated in the transaction that records the claim.
    pub serial: u64,
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.term, self.serial)
    }
}

/// Tells one host its goals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// [`super::FORMAT`].
    pub format: u32,
    /// Which fleet's controller speaks: its public key in base 64.
    pub cluster: String,
    /// The host that is meant. Another one refuses.
    pub host: HostName,
    /// `/etc/machine-id` of that host as recorded at enrolment; `None` only before.
    pub machine_id: Option<String>,
    /// Order, see [`Order`].
    #[serde(flatten)]
    pub order: Order,
    /// What the goals come from.
    pub revision: Revision,
    /// When it was made.
    pub issued_at: Timestamp,
    /// After this it is not begun.
    pub expires_at: Timestamp,
    /// All that a reader must understand, e.g. [`SYSTEM_V1`]; else it answers `Unsupported`.
    pub requires: BTreeSet<String>,
    /// Who confirms, and for how long the host waits.
    pub confirm: Confirm,
    /// A person asked to try again what the host has quarantined.
    #[serde(default)]
    pub retry: bool,
    /// What each component is to be. Applied in this order.
    pub goals: Vec<Goal>,
}

/// Who confirms an activation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Confirm {
    /// `controller` (over a new connection), `witness`, `self`, or `none`.
    pub by: ConfirmBy,
    /// Seconds the host waits before it rolls back.
    pub timeout_secs: u64,
    /// Whose word counts, and no other's, where `by` is `witness`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<super::Witness>,
}

/// See [`Confirm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum ConfirmBy {
    /// The controller, over a connection made after the activation ended.
    Controller,
    /// Another host, named in [`Confirm::witness`], over a connection made after the activation ended.
    Witness,
    /// The host itself, by fetching its intent anew.
    #[serde(rename = "self")]
    Itself,
    /// Nobody: committed when the checks pass.
    None,
    /// In a report of a later agent: a word that is not known here. An intent with it is refused.
    Unknown,
}

/// What one component is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Goal {
    /// Which component.
    pub component: ComponentName,
    /// Identity of the goal: attempts, outcome and quarantine are kept under it.
    pub digest: Digest,
    /// The component's own document, e.g. [`SystemGoal`].
    pub body: serde_json::Value,
}

/// Body of the `system` goal. Its digest is of closure and specialisation alone: policy may change without a new goal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SystemGoal {
    /// `system.build.toplevel`.
    pub closure: StorePath,
    /// The platform that it is for.
    pub system: crate::System,
    /// How it is activated.
    pub mode: Mode,
    /// Below the closure: `specialisation/<name>`.
    #[serde(default)]
    pub specialisation: Option<String>,
    /// After so long without an end the activation is reported, then [`OnTimeout`].
    pub activation_timeout_secs: u64,
    /// See [`OnTimeout`].
    pub on_timeout: OnTimeout,
    /// For so long units are watched after the activation ended.
    pub settle_secs: u64,
    /// What newly failed units mean.
    pub failed_units: FailedUnits,
    /// Checks on the host that must pass.
    #[serde(default)]
    pub health: Vec<Check>,
    /// Generations kept in the profile.
    pub keep_generations: u32,
    /// The host may reboot into its old boot default when the way back did not restore it and nobody gets in.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reboot_as_last_resort: bool,
    /// The host may reboot now where only that brings the closure. It then boots it once, and the old one after that
    /// until it was confirmed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_reboot: bool,
    /// Where the loader can't boot an entry once, the closure may become the boot default unconfirmed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unconfirmed_boot: bool,
}

/// How a closure is activated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// `test`, confirmation, then profile and boot default.
    #[default]
    Switch,
    /// Booted once, confirmed after the reboot, then profile and boot default.
    Boot,
    /// Never the boot default.
    Test,
    /// Only shown.
    DryActivate,
}

/// What happens when an activation runs out of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnTimeout {
    /// Report which jobs wait, and go on waiting.
    Wait,
    /// Roll back.
    Rollback,
}

/// What newly failed units mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedUnits {
    /// Roll back or only report.
    pub policy: FailedUnitsPolicy,
    /// Names that never count; a trailing `*` matches a prefix.
    #[serde(default)]
    pub ignore: Vec<String>,
}

/// See [`FailedUnits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FailedUnitsPolicy {
    /// A newly failed unit rolls the host back.
    Rollback,
    /// It is only reported.
    Report,
}

/// A check that the host makes of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Its name, for people.
    pub name: String,
    /// What is asked.
    pub probe: Probe,
    /// Seconds for one try.
    pub timeout_secs: u64,
    /// How often it is tried before it has failed.
    #[serde(default = "one")]
    pub attempts: u32,
    /// Milliseconds between two tries.
    #[serde(default)]
    pub interval_ms: u64,
}

fn one() -> u32 {
    1
}

/// What a [`Check`] asks. Addresses are IPs or `localhost`: there is no name service in the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Probe {
    /// The unit is active.
    Unit(String),
    /// A TCP connection is accepted.
    Tcp(String),
    /// `GET` answers with this status.
    #[serde(rename_all = "camelCase")]
    Http {
        /// `http://IP:PORT/PATH`.
        url: String,
        /// Expected status.
        status: u16,
    },
    /// The program exits 0: `[argv…]`, absolute or from the candidate's `sw/bin`.
    Command(Vec<String>),
}

/// The digest of a `system` goal.
#[must_use]
pub fn system_digest(closure: &StorePath, specialisation: Option<&str>) -> Digest {
    Digest::of(format!("{SYSTEM_V1}\0{closure}\0{}", specialisation.unwrap_or("")).as_bytes())
}
