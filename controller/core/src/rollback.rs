//! A person's word that a host goes back: where to, for how long it holds, and what is wanted of the host meanwhile. Pure;
//! the way there is the way of any other goal, with the same care.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use trueup_schema::status::Actor;
use trueup_schema::{Digest, DrvPath, HostName, Revision, StorePath, Timestamp};

use crate::history::Attempt;
use crate::host::{HostView, Wanted, Work};

/// What a person asked for; `/rollbacks/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollback {
    /// The last part of its key.
    pub id: String,
    /// Whom.
    pub host: HostName,
    /// What is to run.
    pub to: StorePath,
    /// Its specialisation.
    #[serde(default)]
    pub specialisation: Option<String>,
    /// The goal that this makes.
    pub digest: Digest,
    /// The revision that it came from, where that is known.
    pub revision: Option<Revision>,
    /// What is not deployed again until the trunk changes it: what ran, and what the trunk wanted then.
    pub held: BTreeSet<Digest>,
    /// What ran then.
    pub from: Option<StorePath>,
    /// Who asked.
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// It no longer holds.
    #[serde(default)]
    pub over: Option<Over>,
}

/// Why a rollback no longer holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Over {
    /// When.
    pub at: Timestamp,
    /// How.
    pub how: How,
    /// For people.
    pub message: String,
}

/// See [`Over`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum How {
    /// The trunk wants something else of the host now.
    Trunk,
    /// A person lifted it: `reconcile --retry`.
    Lifted,
    /// It could not be done.
    Refused,
}

/// A rollback with what a decision needs beside it: its goal, and whether the closure is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Back {
    /// What was asked.
    pub rollback: Rollback,
    /// Always there.
    pub goal: Work<Wanted>,
    /// Whether it can be delivered: the host or the hub has it.
    pub closure: Work<()>,
}

/// A goal of a rollback is never built, so its derivation is a name only.
fn derivation(closure: &StorePath) -> Option<DrvPath> {
    format!("{closure}.drv").parse().ok()
}

impl Back {
    /// With a closure that nobody looked for yet. `None`: its path can't be one of a system.
    #[must_use]
    pub fn new(rollback: Rollback) -> Option<Self> {
        let wanted = Wanted {
            drv: derivation(&rollback.to)?,
            closure: rollback.to.clone(),
            digest: rollback.digest.clone(),
        };
        Some(Self {
            rollback,
            goal: Work::Done(wanted),
            closure: Work::None,
        })
    }
}

impl Rollback {
    /// Does it hold against what the trunk wants? As long as that is not known, too.
    #[must_use]
    pub fn holds(&self, trunk: &Work<Wanted>) -> bool {
        let changed = matches!(trunk, Work::Done(w) if !self.held.contains(&w.digest));
        self.over.is_none() && !changed
    }
}

/// The view with what is really wanted: the rollback's goal while it holds, else the goal that the host is on its way to
/// where that stands, else the trunk's. `rollback` and `heading` are there in what comes back if, and only if, it is theirs.
#[must_use]
pub fn effective<'a>(view: &HostView<'a>) -> HostView<'a> {
    static NOBODY: BTreeSet<HostName> = BTreeSet::new();
    let mut out = view.clone();
    let Some(back) = view.rollback.filter(|b| b.rollback.holds(view.evaluation)) else {
        out.rollback = None;
        // What the trunk wants is still to be found out: only that ends the wait for the newest.
        let known = *view.evaluation != Work::None;
        let heading = view
            .heading
            .filter(|h| known && h.stands_against(view.evaluation));
        out.heading = heading;
        if let Some(h) = heading {
            out.evaluation = &h.goal;
            out.closure = &h.closure;
            out.closure_stage = h.stage;
            out.revision = &h.course.revision;
        }
        return out;
    };
    out.heading = None;
    // What the trunk wants is still to be found out: it ends the rollback.
    if *view.evaluation != Work::None {
        out.evaluation = &back.goal;
    }
    out.closure = &back.closure;
    // A person wants this host back now, whatever becomes of those that it depends on.
    out.waits_for = &NOBODY;
    out
}

/// Where a person wants to go back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked<'a> {
    /// The last confirmed goals before the current ones.
    Before,
    /// What ran while this commit was the newest, by the first digits of its id; `older`: commits seen no later than it,
    /// newest first, itself included.
    Revision {
        /// As asked.
        sha1: &'a str,
        /// See above.
        older: &'a [Revision],
    },
    /// A closure: its path, its name or the beginning of its hash.
    Closure(&'a str),
}

/// Why there is nowhere to go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Nowhere {
    /// Nothing else was ever confirmed there.
    #[error("nothing that ran there before is known")]
    NothingBefore,
    /// The attempt at that revision did not end well.
    #[error("its attempt at {revision} ended {outcome}")]
    NeverRan {
        /// Which.
        revision: String,
        /// How.
        outcome: String,
    },
    /// There is no such thing in its history.
    #[error("`{0}` never ran there, as far as its history goes")]
    Unknown(String),
    /// More than one closure is meant.
    #[error("`{0}` could be more than one closure")]
    Ambiguous(String),
    /// It runs now.
    #[error("{0} is what runs there now")]
    Current(String),
}

/// Finds the attempt to go back to. `current`: what runs confirmed, or is being activated; `passed`: what was rolled back
/// before and still holds.
pub fn choose<'h>(
    history: &'h [Attempt],
    asked: &Asked<'_>,
    current: &BTreeSet<Digest>,
    passed: &BTreeSet<Digest>,
) -> Result<&'h Attempt, Nowhere> {
    let found = match asked {
        Asked::Before => {
            let other = |a: &&Attempt| {
                a.ran() && !current.contains(&a.digest) && !passed.contains(&a.digest)
            };
            return history
                .iter()
                .rev()
                .find(other)
                .ok_or(Nowhere::NothingBefore);
        }
        Asked::Revision { sha1, older } => at_revision(history, sha1, older)?,
        Asked::Closure(text) => {
            let name = text.strip_prefix("/nix/store/").unwrap_or(text);
            let is = |a: &&Attempt| {
                a.ran() && a.closure.as_str()["/nix/store/".len()..].starts_with(name)
            };
            let mut all = history.iter().rev().filter(is);
            let newest = all
                .next()
                .ok_or_else(|| Nowhere::Unknown((*text).to_owned()))?;
            if all.any(|a| a.closure != newest.closure) {
                return Err(Nowhere::Ambiguous((*text).to_owned()));
            }
            newest
        }
    };
    if current.contains(&found.digest) {
        return Err(Nowhere::Current(found.closure.short()));
    }
    Ok(found)
}

/// The last attempt at that revision, or else at the newest one before it: what did not change a host made no attempt.
fn at_revision<'h>(
    history: &'h [Attempt],
    sha1: &str,
    older: &[Revision],
) -> Result<&'h Attempt, Nowhere> {
    let attempts = |r: &Revision| {
        history
            .iter()
            .rev()
            .find(|a| a.revision == *r && !a.secrets_alone)
    };
    let found = older.iter().find_map(attempts);
    let found = found.ok_or_else(|| Nowhere::Unknown(sha1.to_owned()))?;
    if found.ran() {
        return Ok(found);
    }
    Err(Nowhere::NeverRan {
        revision: found.revision.short(),
        outcome: found.outcome.to_string(),
    })
}

#[cfg(test)]
#[path = "rollback_tests.rs"]
mod tests;
