//! What travels of the things that people do by hand: rollbacks, attempts, hosts that were left.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trueup_core::{history, rollback};
use trueup_engine::record;
use trueup_schema::status::{Actor, Outcome};
use trueup_schema::wire::Stage;
use trueup_schema::{HostName, Revision, StorePath, Timestamp};

/// The host goes to an older revision first, since one before it gave way already: commits came faster than it could be
/// reached. It goes to the newest as soon as that one is delivered, or can't be.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CatchingUp {
    /// What stands until it is delivered.
    pub revision: Revision,
    /// What is to run then.
    pub closure: StorePath,
    /// What it is on its way to after that.
    pub newest: Revision,
    /// The revision that gave way before it was delivered.
    pub passed: Revision,
    /// Since when it is on its way.
    pub since: Timestamp,
}

impl CatchingUp {
    /// Of a host; `None`: it is on its way to the newest, or at rest.
    pub(crate) fn of(record: &record::HostRecord) -> Option<Self> {
        let course = record.memory.course.as_ref()?;
        let passed = course.passed.clone()?;
        (course.revision != record.revision).then(|| Self {
            revision: course.revision.clone(),
            closure: course.closure.clone(),
            newest: record.revision.clone(),
            passed,
            since: course.since,
        })
    }
}

/// A person's word that a host goes back.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollback {
    /// Of this word.
    pub id: String,
    /// Whom.
    pub host: HostName,
    /// What is to run.
    pub to: StorePath,
    /// The revision that it came from, where that is known.
    pub revision: Option<Revision>,
    /// What ran then; it is not deployed again until the trunk changes it.
    pub from: Option<StorePath>,
    /// Who asked.
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// Why it no longer holds: `trunk` (which changed the host), `lifted` (by a person), `refused` (it could not be
    /// done). None: it holds.
    pub over: Option<String>,
    /// The same, for people.
    pub message: Option<String>,
    /// Since when.
    pub over_at: Option<Timestamp>,
}

impl From<rollback::Rollback> for Rollback {
    fn from(r: rollback::Rollback) -> Self {
        let how = |o: &rollback::Over| match o.how {
            rollback::How::Trunk => "trunk",
            rollback::How::Lifted => "lifted",
            rollback::How::Refused => "refused",
        };
        Self {
            id: r.id,
            host: r.host,
            to: r.to,
            revision: r.revision,
            from: r.from,
            by: r.by,
            reason: r.reason,
            at: r.at,
            over: r.over.as_ref().map(|o| how(o).to_owned()),
            over_at: r.over.as_ref().map(|o| o.at),
            message: r.over.map(|o| o.message),
        }
    }
}

/// One attempt that a host began.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// When it was allowed.
    pub began: Timestamp,
    /// When its end was known.
    pub ended: Timestamp,
    /// The revision whose goals these are.
    pub revision: Revision,
    /// What was to run.
    pub closure: StorePath,
    /// Its specialisation.
    pub specialisation: Option<String>,
    /// Only secrets went; what runs stayed.
    pub secrets_alone: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// Where, if it failed.
    pub stage: Option<Stage>,
    /// Why, for people.
    pub message: String,
    /// `trunk`, `drift`, `asked` (by a person, by name) or `rollback`.
    pub cause: String,
    /// The person.
    pub by: Option<Actor>,
    /// What they said.
    pub reason: Option<String>,
}

impl From<history::Attempt> for Attempt {
    fn from(a: history::Attempt) -> Self {
        let (cause, word) = match a.cause {
            history::Cause::Trunk => ("trunk", None),
            history::Cause::Drift => ("drift", None),
            history::Cause::Asked(word) => ("asked", Some(word)),
            history::Cause::Rollback(word) => ("rollback", Some(word)),
        };
        let (by, reason) = word.map_or((None, None), |w| (Some(w.by), Some(w.reason)));
        Self {
            began: a.began,
            ended: a.ended,
            revision: a.revision,
            closure: a.closure,
            specialisation: a.specialisation,
            secrets_alone: a.secrets_alone,
            outcome: a.outcome,
            stage: a.stage,
            message: a.message,
            cause: cause.to_owned(),
            by,
            reason,
        }
    }
}

/// A host that trueup leaves, or has left.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeftStatus {
    /// Whom.
    pub host: HostName,
    /// The trunk has it still.
    pub managed: bool,
    /// Who said so.
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// When nothing of trueup was left on it; none: under way.
    pub done_at: Option<Timestamp>,
    /// What was removed there, and what stays until when.
    pub told: Vec<String>,
    /// What the last try said.
    pub problem: Option<String>,
}

impl From<record::Left> for LeftStatus {
    fn from(l: record::Left) -> Self {
        Self {
            host: l.host,
            managed: l.managed,
            by: l.by,
            reason: l.reason,
            at: l.at,
            done_at: l.done_at,
            told: l.told,
            problem: l.problem,
        }
    }
}
