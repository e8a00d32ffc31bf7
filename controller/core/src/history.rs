//! What was tried on a host, as people look back at it: each attempt that the host began, with its end and who wanted it.
//! Bounded, and only looked at: nothing is decided by it but where a person's rollback goes to.

use serde::{Deserialize, Serialize};
use trueup_schema::status::{Actor, Outcome};
use trueup_schema::wire::{Order, Stage};
use trueup_schema::{Digest, Revision, StorePath, Timestamp};

use crate::host::{Claim, Ended};

/// Attempts that are kept for each host; the oldest go first. Some 500 bytes each.
pub const HISTORY_MAX: usize = 100;
/// Characters of a message that are kept here; the event has all of it.
const MESSAGE_MAX: usize = 300;

/// Who wanted an attempt, beside the trunk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// The trunk wants it so.
    #[default]
    Trunk,
    /// Somebody had changed the host.
    Drift,
    /// A person asked for this host by name.
    Asked(Word),
    /// A person took the host back.
    Rollback(Word),
}

/// What a person said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Word {
    /// Who.
    pub by: Actor,
    /// Why; may be empty.
    pub reason: String,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Which intent.
    pub order: Order,
    /// When it was allowed.
    pub began: Timestamp,
    /// When its end was known.
    pub ended: Timestamp,
    /// The revision whose goals these are.
    pub revision: Revision,
    /// What was to run.
    pub closure: StorePath,
    /// Its specialisation.
    #[serde(default)]
    pub specialisation: Option<String>,
    /// Its goal; of `secrets` where those went alone.
    pub digest: Digest,
    /// Only secrets went.
    #[serde(default)]
    pub secrets_alone: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// Where, if it failed.
    #[serde(default)]
    pub stage: Option<Stage>,
    /// Why, for people.
    pub message: String,
    /// Who wanted it.
    #[serde(default)]
    pub cause: Cause,
}

impl Attempt {
    /// Of a claim and its end.
    #[must_use]
    pub fn of(claim: &Claim, end: &Ended) -> Self {
        Self {
            order: claim.order,
            began: claim.granted_at,
            ended: end.at,
            revision: claim.applies().clone(),
            closure: claim.closure.clone(),
            specialisation: claim.specialisation.clone(),
            digest: claim.digest.clone(),
            secrets_alone: claim.secrets_alone,
            outcome: end.outcome,
            stage: end.stage,
            message: end.message.chars().take(MESSAGE_MAX).collect(),
            cause: claim.cause.clone(),
        }
    }

    /// Did the host run it, confirmed?
    #[must_use]
    pub fn ran(&self) -> bool {
        matches!(self.outcome, Outcome::Succeeded | Outcome::Skipped) && !self.secrets_alone
    }
}

/// Adds one, once; the oldest go where there are too many.
pub fn add(history: &mut Vec<Attempt>, attempt: Attempt) {
    if history.iter().any(|a| a.order == attempt.order) {
        return;
    }
    history.push(attempt);
    let over = history.len().saturating_sub(HISTORY_MAX);
    history.drain(..over);
}
