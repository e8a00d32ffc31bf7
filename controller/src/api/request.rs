//! What people ask for over the socket, and what is answered, as types.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trueup_schema::kind::Duration;
use trueup_schema::status::Actor;
use trueup_schema::{HostName, Timestamp};

use super::document::Suspension;

/// `POST /v1/reconcile`: no host means all of them and the source.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reconcile {
    /// Which; none: all.
    #[serde(default)]
    pub hosts: Vec<HostName>,
    /// Try again what was quarantined.
    #[serde(default)]
    pub retry: bool,
    /// Why, for the events.
    #[serde(default)]
    pub reason: String,
}

/// What was asked for; on the disk.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Nudged {
    /// One for each host, or one for all.
    pub nudges: Vec<NudgeId>,
}

/// One request.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct NudgeId {
    /// For `GET /v1/nudges/{id}`.
    pub id: String,
    /// Which host; none: all.
    pub host: Option<HostName>,
}

/// `POST /v1/suspend`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Suspend {
    /// Whom.
    pub host: HostName,
    /// Why: others will read it.
    pub reason: String,
    /// For how long; none: until resumed.
    #[serde(rename = "for")]
    pub lasts: Option<Duration>,
}

/// The suspension, as it holds.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Suspended {
    /// As it holds.
    pub suspension: Suspension,
}

/// `POST /v1/resume`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// Whom.
    pub host: HostName,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resumed {
    /// A command's suspension was lifted.
    pub resumed: bool,
    /// Its manifest says `suspend: true`: that stays.
    pub suspended_by_git: bool,
}

/// `POST /v1/rollback`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// Whom.
    pub host: HostName,
    /// A closure or a revision; none: what was confirmed before what runs.
    #[serde(default)]
    pub to: Option<String>,
    /// Why, for the events.
    #[serde(default)]
    pub reason: String,
}

/// The rollback, as it holds; on the disk.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RolledBack {
    /// As it holds.
    pub rollback: super::document::Rollback,
}

/// `POST /v1/leave`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Leave {
    /// Whom.
    pub host: HostName,
    /// Also while the trunk has it.
    #[serde(default)]
    pub still_managed: bool,
    /// Why, for the events.
    #[serde(default)]
    pub reason: String,
}

/// What was asked for; on the disk.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Leaving {
    /// How far it is.
    pub left: super::document::LeftStatus,
}

/// `POST /v1/adopt`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Adopt {
    /// Whom.
    #[serde(default)]
    pub hosts: Vec<HostName>,
    /// All that are not yet.
    #[serde(default)]
    pub all: bool,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Adopted {
    /// Now.
    pub adopted: Vec<HostName>,
    /// Before.
    pub already: Vec<HostName>,
}

/// `POST /v1/source/accept`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Accept {
    /// The whole commit id.
    pub sha1: String,
}

/// A person's word that a rewritten history is meant.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Accepted {
    /// Which commit.
    pub sha1: String,
    /// Who said so.
    pub by: Actor,
    /// When.
    pub at: Timestamp,
}

/// `POST /v1/builds/retry`: which failed builds are to be tried again.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// As `get builds` shows them: derivations or their hashes.
    #[serde(default)]
    pub builds: Vec<String>,
    /// All that failed.
    #[serde(default)]
    pub all: bool,
}

/// What is built again where it is wanted.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Retried {
    /// Derivations.
    pub retried: Vec<String>,
}
