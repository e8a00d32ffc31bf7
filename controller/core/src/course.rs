//! What a host is on its way to, so that commits which come faster than it can be reached never starve it: after one goal
//! that gave way before it was delivered, the next one stands until it is. When a course begins and ends, and whether the
//! trunk's goal or this one is wanted meanwhile, is `decide::course` and [`crate::rollback::effective`].

use serde::{Deserialize, Serialize};
use trueup_schema::wire::Order;
use trueup_schema::{Digest, DrvPath, Revision, StorePath, Timestamp};

use crate::host::{ClosureStage, Memory, Wanted, Work};

/// Which of all accepted revisions one is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Place {
    /// How many were accepted, itself included.
    pub number: u64,
    /// The first one of this history: what was accepted before a person accepted a rewritten one is no part of it.
    pub line: u64,
}

impl Place {
    /// Of the next one.
    #[must_use]
    pub fn next(self, rewritten: bool) -> Self {
        let number = self.number + 1;
        let line = if rewritten { number } else { self.line };
        Self { number, line }
    }

    /// Is a revision with this number part of this history? One above is of a db that knew more.
    #[must_use]
    pub fn has(self, number: u64) -> bool {
        (self.line..=self.number).contains(&number)
    }
}

/// A goal of the trunk that is to be delivered, and was not yet. Remembered with the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Course {
    /// The newest revision that was seen to want it.
    pub revision: Revision,
    /// Its [`Place::number`].
    pub number: u64,
    /// To build.
    pub drv: DrvPath,
    /// To run.
    pub closure: StorePath,
    /// Its specialisation.
    pub specialisation: Option<String>,
    /// Of the component `system`.
    pub digest: Digest,
    /// The greatest order before: an attempt of this goal above it is this course's, and ends it.
    pub above: Order,
    /// Since when.
    pub since: Timestamp,
    /// The revision whose goal gave way to this one before it was delivered. Then this one gives way to none.
    pub passed: Option<Revision>,
}

impl Course {
    /// It is what is wanted, whatever the trunk says since.
    #[must_use]
    pub fn stands(&self) -> bool {
        self.passed.is_some()
    }
}

/// Need a host that stands by this number no longer wait for one with this memory, which it depends on? That got so far,
/// and nothing is done to it now.
#[must_use]
pub fn is_past(memory: &Memory, claimed: bool, number: u64) -> bool {
    memory.reached >= number && memory.misses == 0 && !claimed
}

/// A course with what a decision needs beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heading {
    /// As it is remembered.
    pub course: Course,
    /// Always there.
    pub goal: Work<Wanted>,
    /// Whether it can be delivered.
    pub closure: Work<()>,
    /// The stage, while that is under way.
    pub stage: ClosureStage,
}

impl Heading {
    /// With what is known of its closure.
    #[must_use]
    pub fn new(course: Course, closure: Work<()>, stage: ClosureStage) -> Self {
        let goal = Work::Done(Wanted {
            drv: course.drv.clone(),
            closure: course.closure.clone(),
            digest: course.digest.clone(),
        });
        Self {
            course,
            goal,
            closure,
            stage,
        }
    }

    /// Is it what is wanted, rather than the trunk's own goal? Not where the newest revision wants the same.
    #[must_use]
    pub fn stands_against(&self, trunk: &Work<Wanted>) -> bool {
        let same = matches!(trunk, Work::Done(w) if w.digest == self.course.digest);
        self.course.stands() && !same
    }
}
