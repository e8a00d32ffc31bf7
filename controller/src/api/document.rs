//! What travels over the socket, as types: the server fills them, the client reads them, the OpenAPI is made from them.
//! They are no storage: a record of the db may change without them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trueup_engine::record;
use trueup_schema::status::{Actor, Event, HostStatus, Outcome, Phase, Reason};
use trueup_schema::wire::{AttemptReport, Hold, Identity, OtherManager, Stage, WatchReport};
use trueup_schema::{Digest, DrvPath, HostName, Revision, StorePath, Timestamp};

pub use super::document_byhand::{Attempt, CatchingUp, LeftStatus, Rollback};
pub use super::document_pipeline::{
    BuildStatus, BuilderStatus, Failure, Problem, RevisionStatus, SourceStatus,
};

/// The version of everything here.
pub const API_VERSION: &str = "trueup/v1alpha1";

/// One thing, in Kubernetes' shape.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Object<T> {
    /// `trueup/v1alpha1`.
    pub api_version: String,
    /// `Host`, `Revision`, `Build`, `Builder`, `Event`, `Source`, `Nudge`.
    pub kind: String,
    /// What it is called.
    pub metadata: Metadata,
    /// Of a host or builder: its manifest with every default filled in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<serde_json::Map<String, serde_json::Value>>,
    /// What is known of it.
    pub status: T,
}

impl<T> Object<T> {
    /// Without a spec.
    pub fn new(kind: &str, name: &str, status: T) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: kind.to_owned(),
            metadata: Metadata {
                name: name.to_owned(),
                ..Metadata::default()
            },
            spec: None,
            status,
        }
    }
}

/// A name and labels.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct Metadata {
    /// Unique in its kind.
    pub name: String,
    /// What selectors look at.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Notes for people and tools.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// A list, as of one revision of the db.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct List<T> {
    /// `trueup/v1alpha1`.
    pub api_version: String,
    /// `List`.
    pub kind: String,
    /// As of when.
    pub metadata: ListMetadata,
    /// All of them.
    pub items: Vec<T>,
}

impl<T> List<T> {
    /// Of things as of a revision of the db.
    pub fn new(db_revision: u64, items: Vec<T>) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: "List".to_owned(),
            metadata: ListMetadata { db_revision },
            items,
        }
    }
}

/// As of when.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListMetadata {
    /// Watch from here to miss nothing.
    pub db_revision: u64,
}

/// A host.
pub type Host = Object<HostStatus>;

/// `GET /v1/version`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    /// The controller's.
    pub version: String,
    /// Who asks, as the controller sees them.
    pub actor: Actor,
}

/// A person's request to reconcile now.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NudgeStatus {
    /// Which.
    pub id: String,
    /// Which host; none: all of them and the source.
    pub host: Option<HostName>,
    /// Lifts the quarantine of the wanted goal.
    pub retry: bool,
    /// When it was asked.
    pub requested_at: Timestamp,
    /// Who asked.
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// Set once the host was observed (or the source fetched) after the request.
    pub handled_at: Option<Timestamp>,
}

impl From<record::Nudge> for NudgeStatus {
    fn from(n: record::Nudge) -> Self {
        Self {
            id: n.id,
            host: n.host,
            retry: n.retry,
            requested_at: n.requested_at,
            by: n.by,
            reason: n.reason,
            handled_at: n.handled_at,
        }
    }
}

/// A person's word to leave a host alone.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Suspension {
    /// Whom.
    pub host: HostName,
    /// Who said so.
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// Since when.
    pub at: Timestamp,
    /// Until when; none: until resumed.
    pub until: Option<Timestamp>,
}

impl From<record::Suspension> for Suspension {
    fn from(s: record::Suspension) -> Self {
        Self {
            host: s.host,
            by: s.by,
            reason: s.reason,
            at: s.at,
            until: s.until,
        }
    }
}

/// A person's word (or the fleet's policy) that a host is ours.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Adoption {
    /// Whom.
    pub host: HostName,
    /// Which machine; none until the next report.
    pub identity: Option<Identity>,
    /// Who said so.
    pub by: Actor,
    /// When.
    pub at: Timestamp,
}

impl From<record::Adoption> for Adoption {
    fn from(a: record::Adoption) -> Self {
        Self {
            host: a.host,
            identity: a.identity,
            by: a.by,
            at: a.at,
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// From which revision.
    pub revision: Revision,
    /// The goal.
    pub digest: Digest,
    /// How.
    pub outcome: Outcome,
    /// Where, if it failed.
    pub stage: Option<Stage>,
    /// For people.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

impl From<trueup_core::host::Ended> for Ended {
    fn from(e: trueup_core::host::Ended) -> Self {
        Self {
            revision: e.revision,
            digest: e.digest,
            outcome: e.outcome,
            stage: e.stage,
            message: e.message,
            at: e.at,
        }
    }
}

/// What an evaluation found for one host.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Evaluation {
    /// At which revision.
    pub revision: Revision,
    /// When.
    pub at: Timestamp,
    /// The derivation, if it went well.
    pub drv: Option<DrvPath>,
    /// Why not.
    pub problem: Option<Problem>,
    /// What it warned of.
    pub warnings: Vec<String>,
    /// Nix's own trace, bounded.
    pub trace: String,
}

impl From<record::EvaluationRecord> for Evaluation {
    fn from(e: record::EvaluationRecord) -> Self {
        let (drv, warnings) = e
            .evaluated
            .map_or((None, Vec::new()), |e| (Some(e.drv), e.warnings));
        Self {
            revision: e.revision,
            at: e.at,
            drv,
            problem: e.problem.map(Problem::from),
            warnings,
            trace: e.trace,
        }
    }
}

/// One host with all that explains it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Described {
    /// Itself.
    pub host: Host,
    /// The commit that says what it is to be.
    pub revision: Option<RevisionStatus>,
    /// Goals that are not tried again, by digest, and why.
    pub quarantined: BTreeMap<Digest, String>,
    /// How the last attempt ended.
    pub last_attempt: Option<Ended>,
    /// The current or last attempt, in the host's own words.
    pub attempt: Option<AttemptReport>,
    /// What the last try to reach or change it said.
    pub last_error: Option<Problem>,
    /// Since when it does not answer.
    pub unreachable_since: Option<Timestamp>,
    /// Its evaluation.
    pub evaluation: Option<Evaluation>,
    /// A person's suspension.
    pub suspension: Option<Suspension>,
    /// Whether it is ours.
    pub adoption: Option<Adoption>,
    /// The last word of a person that took it back, whether it still holds or not.
    #[serde(default)]
    pub rollback: Option<Rollback>,
    /// An older revision is delivered first.
    #[serde(default)]
    pub catching_up: Option<CatchingUp>,
    /// A person had trueup leave it.
    #[serde(default)]
    pub left: Option<LeftStatus>,
    /// Which machine answered last.
    pub seen: Option<Identity>,
    /// What its system profile is, which another tool may have set to something around the closure that runs.
    pub profile: Option<StorePath>,
    /// Its boot loader.
    pub loader: Option<String>,
    /// A hold that a person laid on it, there.
    pub hold: Option<Hold>,
    /// What its witness said last of its work here, if another host confirms this one.
    #[serde(default)]
    pub witness: Option<WatchReport>,
    /// Whom it confirms as a witness, or did last.
    #[serde(default)]
    pub watches: Vec<WatchReport>,
    /// Other tools that deploy to it.
    pub other_managers: Vec<OtherManager>,
    /// What is promised less than usual there, and why.
    pub warnings: Vec<String>,
    /// What happened, oldest first.
    pub events: Vec<Event>,
}

/// Changes after a revision of the db.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Changes {
    /// Watch from here next.
    pub db_revision: u64,
    /// Empty: nothing changed in time.
    pub changes: Vec<Change>,
}

/// One.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// Which key of the db.
    pub key: String,
    /// Gone, as opposed to written.
    pub deleted: bool,
}

/// What is left to do for one host, and what is done about it now.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlannedHost {
    /// Whom.
    pub host: HostName,
    /// What differs.
    pub change: PlannedChange,
    /// What runs.
    pub from: Option<StorePath>,
    /// What is to run.
    pub to: Option<StorePath>,
    /// Of drift: what differs; of what can't be told: why.
    pub why: Option<String>,
    /// The next step, in words.
    pub next: String,
    /// Would the host be changed now?
    pub begins: bool,
    /// Where it stands.
    pub phase: Phase,
    /// Why, for machines.
    pub reason: Reason,
    /// Why, for people.
    pub message: String,
    /// The controller runs on it, so it goes last in a revision.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub goes_last: bool,
}

/// See [`PlannedHost`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PlannedChange {
    /// It runs its goal, confirmed.
    Nothing,
    /// Its goal is still to be delivered.
    Deliver,
    /// Somebody changed it after its goal was confirmed.
    Drift,
    /// Not evaluated, or it never answered.
    Unknown,
}
