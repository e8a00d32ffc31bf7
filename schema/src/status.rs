//! What the API shows and the db keeps: phases, outcomes, conditions, events. One enum each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ComponentName, Digest, HostName, Revision, StorePath, Timestamp};

/// Where a host is. Derived from (desired, wants, claim, report), never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub enum Phase {
    /// Known, nothing decided yet.
    Pending,
    /// Its derivation is being worked out.
    Evaluating,
    /// Its closure is being built.
    Building,
    /// Signed and pushed to caches.
    Publishing,
    /// The closure travels to the host.
    Copying,
    /// The host activates.
    Activating,
    /// The host reboots into what it is to run.
    Rebooting,
    /// The host waits for a fresh connection.
    AwaitingConfirmation,
    /// The host goes back.
    RollingBack,
    /// Runs the newest good revision, confirmed.
    Ready,
    /// Waits for a budget, a dependency, a window or an adoption.
    Held,
    /// Needs a person or a commit.
    Stalled,
    /// A person or Git said so: observed, not touched.
    Suspended,
    /// Does not answer.
    Unreachable,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub enum Outcome {
    /// Runs, confirmed, boot default.
    Succeeded,
    /// Nothing to do.
    Skipped,
    /// Only a reboot can bring it.
    RebootRequired,
    /// As before: path, units and contact agree.
    RolledBack,
    /// Back, but something differs, named.
    #[serde(rename = "RolledBack(partial)")]
    RolledBackPartial,
    /// Could not go back.
    RollbackFailed,
    /// Runs and is confirmed, but a power cut would boot the old one.
    BootNotCommitted,
    /// Somebody else switched meanwhile: nothing was touched.
    Superseded,
    /// A power cut or a crash ended it; the old system runs.
    Interrupted,
    /// The host was not there.
    Unreachable,
    /// See stage and message.
    Failed,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::RolledBackPartial => f.write_str("RolledBack(partial)"),
            other => write!(f, "{other:?}"),
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Kubernetes' three truth values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Not known.
    Unknown,
}

/// Which condition. `Reconciling`, `Stalled` and the abnormal ones are present only while true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub enum ConditionType {
    /// The newest good revision runs, confirmed.
    Ready,
    /// Work goes on.
    Reconciling,
    /// A person or a commit is needed.
    Stalled,
    /// The last probes were answered.
    Reachable,
    /// Observed differs from the last confirmed goals, with no new revision to explain it.
    Drifted,
    /// Only a reboot completes it.
    RebootRequired,
    /// A person or Git suspended it.
    Suspended,
    /// A person holds it, there (`trueup-agent hold`): it takes no intent until that ends.
    Held,
}

/// Why: one enum for conditions and events, as the issue tracker of the field would name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[allow(missing_docs)]
pub enum Reason {
    // source and desired
    RevisionAccepted,
    RevisionRejected,
    SourceFetchFailed,
    SourceRecovered,
    HistoryRewritten,
    HistoryAccepted,
    // pipeline
    EvaluationStarted,
    EvaluationFinished,
    EvaluationFailed,
    BuildStarted,
    BuildFinished,
    BuildFailed,
    PublishFinished,
    PublishFailed,
    BuilderLost,
    BuilderReady,
    // host
    Progressing,
    ProgressingWithRetry,
    ReconciliationSucceeded,
    HostAdded,
    HostReleased,
    HostAdopted,
    AdoptionRequired,
    IdentityMismatch,
    Unreachable,
    Reachable,
    CopyFailed,
    ActivationStarted,
    ActivationFailed,
    ActivationOverdue,
    AwaitingConfirmation,
    RebootStarted,
    Rebooted,
    RebootOverdue,
    DryActivated,
    Confirmed,
    ConfirmTimedOut,
    HealthCheckFailed,
    Succeeded,
    Skipped,
    RebootRequired,
    RolledBack,
    RollbackFailed,
    BootNotCommitted,
    Superseded,
    Interrupted,
    Refused,
    Failed,
    Quarantined,
    Drifted,
    DriftCorrected,
    DriftEnded,
    Suspended,
    Resumed,
    Held,
    HoldEnded,
    ObservedOnly,
    RollbackRequested,
    RolledBackByHand,
    RollbackRefused,
    RollbackEnded,
    LeaveRequested,
    Left,
    LeaveFailed,
    BudgetExhausted,
    DependencyNotReady,
    // people and controller
    NudgeRequested,
    NudgeHandled,
    ControllerStarted,
    KeysRotated,
    AlertFailed,
    Bug,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A condition, with Kubernetes' laws.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which.
    #[serde(rename = "type")]
    pub kind: ConditionType,
    /// Does it hold?
    pub status: Truth,
    /// Why, for machines.
    pub reason: Reason,
    /// Why, for people.
    pub message: String,
    /// When `status` last changed.
    pub last_transition_time: Timestamp,
    /// The revision that it was judged for.
    pub observed_revision: Option<Revision>,
}

/// `status` of a host, as the API shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct HostStatus {
    /// Where it is.
    pub phase: Phase,
    /// More about the phase, for people: `41/57`, `until 14:05:06`.
    pub detail: Option<String>,
    /// How the last attempt ended.
    pub outcome: Option<Outcome>,
    /// The newest accepted.
    pub desired_revision: Option<Revision>,
    /// The one of the last attempt.
    pub attempted_revision: Option<Revision>,
    /// The one whose goals run, confirmed.
    pub applied_revision: Option<Revision>,
    /// The last that ended Ready or Stalled.
    pub observed_revision: Option<Revision>,
    /// What should run.
    pub desired_closure: Option<StorePath>,
    /// What runs.
    pub running_closure: Option<StorePath>,
    /// What was booted.
    pub booted_closure: Option<StorePath>,
    /// What a power cut would boot.
    pub boot_default_closure: Option<StorePath>,
    /// One for each component.
    pub components: Vec<ComponentStatus>,
    /// With Kubernetes' laws.
    pub conditions: Vec<Condition>,
    /// When the host last reported.
    pub last_report_time: Option<Timestamp>,
    /// When it is looked at again, at the latest.
    pub next_at: Option<Timestamp>,
}

/// A component of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ComponentStatus {
    /// Which.
    pub name: ComponentName,
    /// What it is to be.
    pub desired: Option<Digest>,
    /// What it is.
    pub observed: Option<Digest>,
    /// How the last attempt ended.
    pub outcome: Option<Outcome>,
}

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// As it should be.
    Info,
    /// Somebody should look.
    Warning,
    /// Somebody must look.
    Error,
}

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Actor {
    /// `person`, `controller`, `host`.
    pub kind: ActorKind,
    /// Unix user id of a person on the socket.
    pub uid: Option<u32>,
    /// Their name.
    pub name: String,
    /// From where: `socket`, an address, `git`.
    pub from: String,
}

/// See [`Actor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum ActorKind {
    /// A person.
    Person,
    /// The controller itself.
    Controller,
    /// A host's agent.
    Host,
}

impl Actor {
    /// The controller itself.
    #[must_use]
    pub fn controller() -> Self {
        Self {
            kind: ActorKind::Controller,
            uid: None,
            name: "trueup".to_owned(),
            from: "controller".to_owned(),
        }
    }
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", tag = "kind", content = "name")]
pub enum Subject {
    /// A host.
    Host(HostName),
    /// A revision.
    Revision(Revision),
    /// A derivation, by its store path.
    Build(String),
    /// The controller or its source.
    Controller(String),
}

/// Written on transitions only, in the transaction of the change that it tells of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// `<DbRev>-<n>`; filled in by the db at commit.
    pub id: String,
    /// When.
    pub at: Timestamp,
    /// How much it matters.
    pub severity: Severity,
    /// What happened.
    pub reason: Reason,
    /// About what.
    pub subject: Subject,
    /// Which revision it concerns.
    pub revision: Option<Revision>,
    /// Which goal it concerns.
    pub goal: Option<(ComponentName, Digest)>,
    /// For people: who, what, why, and what now.
    pub message: String,
    /// For machines.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
    /// The event that led to this one.
    pub cause: Option<String>,
    /// Who did it.
    pub by: Actor,
}
