//! What lies in the db, under which key. Values are JSON; format header and checksum are the edge's matter.
//!
//! | key | value | written by |
//! | --- | --- | --- |
//! | `/hosts/<name>` | [`HostRecord`]: manifest, status, memory; what `get hosts` lists | engine |
//! | `/claims/<name>` | [`Claim`]: permission to disturb the host now | engine |
//! | `/evaluations/<name>` | [`EvaluationRecord`] | engine |
//! | `/builds/<drv hash>` | [`BuildRecord`] | engine |
//! | `/builders/<name>` | [`BuilderRecord`] | engine |
//! | `/revisions/<sha1>` | [`RevisionRecord`] | engine |
//! | `/meta/source` | [`SourceRecord`]: the accepted revision, and what stalls the source | engine |
//! | `/meta/fleet` | [`FleetRecord`]: what holds for all hosts at the accepted revision | engine |
//! | `/outbox/<id>` | [`Outgoing`]: a message that a sink has not taken yet | engine |
//! | `/meta/controller` | [`ControllerRecord`] | engine |
//! | `/nudges/<id>` | [`Nudge`]; the engine sets `handledAt` | API, then [`crate::Wake`] |
//! | `/suspensions/<name>` | [`Suspension`] | API (`resume` deletes it), then wake |
//! | `/adoptions/<name>` | [`Adoption`] | API or engine (`adopt: auto`) |
//! | `/rollbacks/<id>` | [`Rollback`]; the engine sets `over` | API, then wake |
//! | `/left/<name>` | [`Left`]; the engine sets `doneAt` | API (`adopt` deletes it), then wake |
//! | `/history/<name>` | attempts that the host began, at most [`trueup_core::history::HISTORY_MAX`] | engine |
//! | `/released/<name>` | [`Released`]: what is known of a host that the trunk no longer has | engine |
//! | `/sinks/<alert>` | [`SinkTold`]: it is an event already that this sink does not take alerts | engine |
//! | `/meta/accept` | [`SourceAccept`]: `trueup source accept <sha1>` | API, then wake |

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
pub use trueup_core::course::Place;
pub use trueup_core::history::Attempt;
pub use trueup_core::host::{Adoption, Claim, Left, Memory, Nudge, Problem, Suspension};
pub use trueup_core::rollback::Rollback;
use trueup_schema::kind::{ResolvedAlert, ResolvedBuilder, ResolvedFleet, ResolvedHost};
use trueup_schema::status::{Actor, Event, HostStatus};
use trueup_schema::{DrvPath, HostName, Revision, StorePath, Timestamp};

use crate::ports::{BuildFailure, BuildProgress, DbError, Evaluated, Key, MachineStatus};

/// Prefix of all hosts.
pub const HOSTS: &str = "/hosts/";
/// Prefix of all claims.
pub const CLAIMS: &str = "/claims/";
/// Prefix of all nudges.
pub const NUDGES: &str = "/nudges/";
/// Prefix of all suspensions.
pub const SUSPENSIONS: &str = "/suspensions/";
/// Prefix of all adoptions.
pub const ADOPTIONS: &str = "/adoptions/";
/// Prefix of all rollbacks.
pub const ROLLBACKS: &str = "/rollbacks/";
/// Prefix of all hosts that were left.
pub const LEFT: &str = "/left/";
/// Prefix of all hosts that the trunk no longer has.
pub const RELEASED: &str = "/released/";
/// Prefix of all revisions.
pub const REVISIONS: &str = "/revisions/";
/// Prefix of all builds.
pub const BUILDS: &str = "/builds/";
/// Prefix of all machines that build.
pub const BUILDERS: &str = "/builders/";
/// Prefix of all evaluations.
pub const EVALUATIONS: &str = "/evaluations/";
/// Prefix of sinks that do not take alerts, and of which that was told.
pub const SINKS: &str = "/sinks/";
/// Prefix of all messages to sinks.
pub const OUTBOX: &str = "/outbox/";

/// One host, as the API shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostRecord {
    /// Its manifest at `revision`.
    pub manifest: ResolvedHost,
    /// The newest accepted revision that has this host.
    pub revision: Revision,
    /// What is shown.
    pub status: HostStatus,
    /// What decisions need beside it.
    pub memory: Memory,
}

/// A host that the trunk no longer has. Nothing is done to it; added again, it goes on from here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Released {
    /// As it was last known.
    pub record: HostRecord,
    /// Since when.
    pub at: Timestamp,
}

/// What an evaluation found for one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationRecord {
    /// At which revision.
    pub revision: Revision,
    /// When.
    pub at: Timestamp,
    /// What, if it went well.
    pub evaluated: Option<Evaluated>,
    /// Why not.
    pub problem: Option<Problem>,
    /// Nix's own trace, bounded.
    #[serde(default)]
    pub trace: String,
}

/// A build, while it runs and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildRecord {
    /// Of what.
    pub drv: DrvPath,
    /// Into what.
    pub out: StorePath,
    /// Who wanted it first.
    pub host: HostName,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When it ended; `None`: it runs.
    pub ended_at: Option<Timestamp>,
    /// Why it failed.
    pub failure: Option<BuildFailure>,
    /// Whether the closure is signed.
    pub published: bool,
    /// How far it is, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<BuildProgress>,
}

/// A machine that builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuilderRecord {
    /// Its manifest.
    pub manifest: ResolvedBuilder,
    /// What is known of it.
    pub status: MachineStatus,
}

/// A commit of the trunk that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionRecord {
    /// Which.
    pub revision: Revision,
    /// Who wrote it.
    pub author: String,
    /// Its message's first line.
    pub subject: String,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// When it was seen.
    pub seen_at: Timestamp,
    /// Was it accepted as what the fleet is to be?
    pub accepted: bool,
    /// Why not: its problems, as people read them.
    pub problems: Vec<String>,
}

/// The source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceRecord {
    /// What the fleet is to be.
    pub accepted: Option<Revision>,
    /// Since when.
    pub accepted_at: Option<Timestamp>,
    /// Which of all that were accepted this is.
    #[serde(default)]
    pub place: Place,
    /// The trunk's head, as last fetched.
    pub head: Option<Revision>,
    /// What keeps the head from being accepted (rewritten history, bad manifests, no connection).
    pub problem: Option<Problem>,
}

/// What holds for all hosts at the accepted revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FleetRecord {
    /// Limits and policies.
    pub fleet: ResolvedFleet,
    /// Sinks, so that what happens before the manifests are read again is told too.
    pub alerts: BTreeMap<String, ResolvedAlert>,
}

/// That a sink does not take alerts was told; deleted once it takes one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SinkTold {
    /// When.
    pub at: Timestamp,
}

/// A message to a sink, written with the event that it tells of and deleted once the sink took it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outgoing {
    /// Its key's last part, and the same at each try.
    pub id: String,
    /// The `Alert`; where it goes is read from the manifests when it is sent.
    pub alert: String,
    /// What is told; the db had not given it an id yet.
    pub event: Event,
}

/// The controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ControllerRecord {
    /// When it started last.
    pub started_at: Timestamp,
    /// Its version.
    pub version: String,
}

/// A person's word that a rewritten history is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceAccept {
    /// The commit that is accepted: 40 hex digits.
    pub sha1: String,
    /// Who.
    pub by: Actor,
    /// When.
    pub at: Timestamp,
}

/// A record's key from its kind and name, both of the key's alphabet.
pub fn key(kind: &str, name: &str) -> Result<Key, DbError> {
    Key::new(&[kind, name])
}

/// A value as it is stored.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, DbError> {
    serde_json::to_vec(value).map_err(|e| DbError::Storage {
        attempt: "encode a record",
        why: e.to_string(),
    })
}

/// A stored value; one that cannot be read is `Corrupt`, by its key.
pub fn decode<T: DeserializeOwned>(key: &Key, value: &[u8]) -> Result<T, DbError> {
    serde_json::from_slice(value).map_err(|e| DbError::Corrupt {
        key: key.as_str().to_owned(),
        why: e.to_string(),
    })
}
