//! What travels of the way from a commit to a closure: revisions, the source, builds, and the machines that build.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trueup_engine::ports::BuildFailure;
use trueup_engine::record;
use trueup_schema::status::Reason;
use trueup_schema::{DrvPath, ErrorClass, HostName, Revision, StorePath, Timestamp};

/// A commit of the trunk that was seen.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStatus {
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
    /// Why not, as people read it.
    pub problems: Vec<String>,
}

impl From<record::RevisionRecord> for RevisionStatus {
    fn from(r: record::RevisionRecord) -> Self {
        Self {
            revision: r.revision,
            author: r.author,
            subject: r.subject,
            committed_at: r.committed_at,
            seen_at: r.seen_at,
            accepted: r.accepted,
            problems: r.problems,
        }
    }
}

/// A machine that builds.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuilderStatus {
    /// `Unknown`, `Ready`, or `Lost`: then builds go elsewhere.
    pub state: String,
    /// What it said, or why it does not answer.
    pub message: String,
    /// When the state began.
    pub since: Timestamp,
    /// What it builds for us now, by name.
    pub building: Vec<String>,
}

impl From<trueup_engine::ports::MachineStatus> for BuilderStatus {
    fn from(m: trueup_engine::ports::MachineStatus) -> Self {
        Self {
            state: format!("{:?}", m.state),
            message: m.message,
            since: m.since,
            building: m.building,
        }
    }
}

/// A build, while it runs and after.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildStatus {
    /// Of what.
    pub drv: DrvPath,
    /// Into what.
    pub out: StorePath,
    /// Who wanted it first.
    pub host: HostName,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When it ended; none: it runs.
    pub ended_at: Option<Timestamp>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// Whether the closure is signed.
    pub published: bool,
    /// While it runs: how far it is, such as `3/9`, and what is built now.
    pub progress: Option<String>,
}

impl From<record::BuildRecord> for BuildStatus {
    fn from(b: record::BuildRecord) -> Self {
        Self {
            drv: b.drv,
            out: b.out,
            host: b.host,
            started_at: b.started_at,
            ended_at: b.ended_at,
            failure: b.failure.map(Failure::from),
            published: b.published,
            progress: b
                .progress
                .map(|p| format!("{}/{} {}", p.done, p.expected, p.current.join(" "))),
        }
    }
}

/// Why a derivation failed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Who has to act.
    pub class: ErrorClass,
    /// Which derivation; it may be a dependency of the wanted one.
    pub drv: String,
    /// One sentence.
    pub message: String,
    /// Its last lines.
    pub log_tail: Vec<String>,
}

impl From<BuildFailure> for Failure {
    fn from(f: BuildFailure) -> Self {
        Self {
            class: f.class,
            drv: f.drv,
            message: f.message,
            log_tail: f.log_tail,
        }
    }
}

/// The trunk, as the controller sees it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// What the fleet is to be.
    pub accepted: Option<Revision>,
    /// Since when.
    pub accepted_at: Option<Timestamp>,
    /// The trunk's head, as last fetched.
    pub head: Option<Revision>,
    /// What keeps the head from being accepted.
    pub problem: Option<Problem>,
}

impl From<record::SourceRecord> for SourceStatus {
    fn from(s: record::SourceRecord) -> Self {
        Self {
            accepted: s.accepted,
            accepted_at: s.accepted_at,
            head: s.head,
            problem: s.problem.map(Problem::from),
        }
    }
}

/// A failure, classed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Who has to act.
    pub class: ErrorClass,
    /// For machines.
    pub reason: Reason,
    /// For people.
    pub message: String,
    /// When it is tried again, if it is.
    pub retry_at: Option<Timestamp>,
}

impl From<record::Problem> for Problem {
    fn from(p: record::Problem) -> Self {
        Self {
            class: p.class,
            reason: p.reason,
            message: p.message,
            retry_at: p.retry_at,
        }
    }
}
