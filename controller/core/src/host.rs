//! What is known of one host: what is remembered between decisions, what people asked, and the view that a decision
//! is taken from. Values only; they are stored as they are (JSON) by the engine.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use trueup_schema::kind::{Adopt, ResolvedHost};
use trueup_schema::status::{Actor, Condition, Outcome, Reason};
use trueup_schema::wire::{AttemptState, Identity, Order, Report, Stage};
use trueup_schema::{Digest, DrvPath, ErrorClass, HostName, Revision, StorePath, Timestamp};

use crate::course::{Course, Heading, Place};
use crate::history::{Cause, Word};
use crate::rollback::Back;
use crate::way::Way;

/// Goals whose tries are remembered, per host.
pub const MAX_REMEMBERED: usize = 16;

/// What is remembered of a host, beside its manifest. Everything here can be lost without harm to the host: it then
/// is only observed again, and the host keeps its own quarantine and order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// The host's last report.
    pub report: Option<Report>,
    /// The profile before the present one: what a person would go back to.
    pub ran_before: Option<StorePath>,
    /// When it came, by the controller's clock.
    pub seen_at: Option<Timestamp>,
    /// When it last answered what we asked, with no failed contact and nothing begun since. Unlike a report that came by
    /// itself, and may have been long on its way, such an answer tells of everything that was sent before. Not kept over
    /// a restart.
    #[serde(skip)]
    pub answered_at: Option<Timestamp>,
    /// When contact was tried last.
    pub tried_at: Option<Timestamp>,
    /// Attempts at contact in a row that failed.
    pub misses: u32,
    /// The first of them.
    pub unreachable_since: Option<Timestamp>,
    /// What the last of them said.
    pub last_error: Option<Problem>,
    /// Back-off: the host is not contacted before.
    pub not_before: Option<Timestamp>,
    /// The greatest order that was allocated for this host.
    pub order: Order,
    /// The order that the host said it began: only its reports tell how that goes on.
    pub begun: Option<Order>,
    /// Attempts per goal, by the digest of `system`.
    pub tries: BTreeMap<Digest, Tries>,
    /// Goals that are not tried again, and why.
    pub quarantined: BTreeMap<Digest, String>,
    /// How the last attempt ended.
    pub ended: Option<Ended>,
    /// The last accepted revision for which an attempt was begun.
    pub attempted_revision: Option<Revision>,
    /// The revision whose goals run, confirmed.
    pub applied_revision: Option<Revision>,
    /// The last revision that ended Ready or Stalled.
    pub observed_revision: Option<Revision>,
    /// Since when the claim's host reboots.
    pub rebooting_since: Option<Timestamp>,
    /// When drift was corrected, within the last hour.
    pub corrections: Vec<Timestamp>,
    /// Paths that the host said it needs for this goal.
    pub needs: Option<(Digest, Vec<StorePath>)>,
    /// A person asked to try again what is quarantined: holds until an attempt began, or the host settled.
    pub retry: bool,
    /// A person asked for this host by name: its drift is undone whatever its policy. Holds until the host settled.
    pub correct: bool,
    /// Who that was, as long as it holds.
    pub asked: Option<Word>,
    /// The goal that the last offer was refused for, until goal, host or a nudge changes it.
    pub refused: Option<(Digest, Problem)>,
    /// What it is on its way to.
    pub course: Option<Course>,
    /// The greatest number of a revision ([`Place::number`]) whose goal it was seen to run, confirmed.
    pub reached: u64,
}

impl Memory {
    /// By its last word, it has begun something and not come to an end.
    #[must_use]
    pub fn is_at_an_attempt(&self) -> bool {
        let attempt = self.report.as_ref().and_then(|r| r.attempt.as_ref());
        attempt.is_some_and(|a| !matches!(a.state, AttemptState::Offered | AttemptState::Ended))
    }
}

impl Memory {
    /// What the host may need again of the hub's store: what runs, what ran before, what would boot. One may come twice.
    pub fn closures(&self) -> impl Iterator<Item = &StorePath> {
        let running = self.report.as_ref().map(|r| &r.running);
        let four = running.map(|r| [&r.running, &r.profile, &r.booted, &r.boot_default]);
        let four = four.into_iter().flatten().flatten();
        self.ran_before.iter().chain(four)
    }
}

/// A failure, classed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// Attempts at one goal that did not end well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tries {
    /// How many.
    pub count: u32,
    /// Of these, how many ended because no fresh connection confirmed.
    pub unconfirmed: u32,
    /// Not before.
    pub not_before: Timestamp,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// Which intent.
    pub order: Order,
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
    /// By which way.
    #[serde(default)]
    pub way: Way,
    /// Which boot of the host it ended in.
    #[serde(default)]
    pub boot_id: Option<String>,
}

/// A granted permission to disturb a host now; `/claims/<host>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Whom.
    pub host: HostName,
    /// The intent's order, allocated in the transaction that records the claim.
    pub order: Order,
    /// Where the goal comes from.
    pub revision: Revision,
    /// The goal of `system`; of `secrets`, where that goes alone.
    pub digest: Digest,
    /// The goal of `secrets`, where it goes too.
    #[serde(default)]
    pub secrets: Option<Digest>,
    /// Only `secrets` goes: what runs stays.
    #[serde(default)]
    pub secrets_alone: bool,
    /// Its closure.
    pub closure: StorePath,
    /// Its specialisation.
    pub specialisation: Option<String>,
    /// Which try of this goal, from 1.
    pub attempt: u32,
    /// Values of the labels that budgets go by.
    pub groups: BTreeMap<String, String>,
    /// When it was granted; the intent's `issuedAt`.
    pub granted_at: Timestamp,
    /// The intent is not begun after this.
    pub expires_at: Timestamp,
    /// It corrects drift.
    pub correction: bool,
    /// A person asked to try again what is quarantined.
    pub retry: bool,
    /// Who wanted it.
    #[serde(default)]
    pub cause: Cause,
    /// The revision whose goals these are, where that is not `revision`: of a rollback.
    #[serde(default)]
    pub of: Option<Revision>,
    /// By which way.
    #[serde(default)]
    pub way: Way,
}

impl Claim {
    /// The revision whose goals run when it ends well.
    #[must_use]
    pub fn applies(&self) -> &Revision {
        self.of.as_ref().unwrap_or(&self.revision)
    }
}

/// A person's word that trueup leaves a host for good; `/left/<host>`. Nothing is asked of it from then on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Left {
    /// Whom.
    pub host: HostName,
    /// The trunk managed it when it was left: it is not touched until somebody adopts it.
    pub managed: bool,
    /// Who said so.
    pub by: Actor,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// When nothing of trueup was left on it.
    #[serde(default)]
    pub done_at: Option<Timestamp>,
    /// What was removed there, and what stays until when.
    #[serde(default)]
    pub told: Vec<String>,
    /// What the last try said.
    #[serde(default)]
    pub problem: Option<String>,
}

/// A person's word to leave a host alone; `/suspensions/<host>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Suspension {
    /// Whom.
    pub host: HostName,
    /// Who said so.
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// Since when.
    pub at: Timestamp,
    /// Until when; `None`: until resumed.
    pub until: Option<Timestamp>,
}

/// A person's word (or the fleet's policy) that a host is ours; `/adoptions/<host>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Adoption {
    /// Whom.
    pub host: HostName,
    /// Which machine; `None` until the next report, whose identity is then pinned.
    pub identity: Option<Identity>,
    /// Who said so.
    pub by: Actor,
    /// When.
    pub at: Timestamp,
}

/// A person's request to reconcile now; `/nudges/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Nudge {
    /// The last part of its key; any unique text of the key's alphabet.
    pub id: String,
    /// Which host; `None`: the source alone.
    pub host: Option<HostName>,
    /// Lift the quarantine of the wanted goal and forget its tries.
    #[serde(default)]
    pub retry: bool,
    /// When it was asked.
    pub requested_at: Timestamp,
    /// Who asked.
    pub by: Actor,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Set by the engine once the host was observed (or the source fetched) after `requested_at`.
    #[serde(default)]
    pub handled_at: Option<Timestamp>,
}

/// What the pipeline has for a want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work<T> {
    /// Nobody asked for it yet.
    None,
    /// Under way, with a word for people (`41/57`).
    Running(Option<String>),
    /// There.
    Done(T),
    /// Not to be had; `retry_at` says whether it is tried again.
    Failed(Problem),
}

/// What one host is to be, by its evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// To build.
    pub drv: DrvPath,
    /// To run.
    pub closure: StorePath,
    /// Of the component `system`.
    pub digest: Digest,
}

/// The secrets that one host is to have: ciphertext and places, by their digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedSecrets {
    /// Of the component `secrets`.
    pub digest: Digest,
    /// None at all.
    pub empty: bool,
}

/// How far a closure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosureStage {
    /// Being built.
    Building,
    /// Being signed.
    Publishing,
}

/// Everything that a decision about one host is taken from.
#[derive(Debug, Clone)]
pub struct HostView<'a> {
    /// Its manifest at the desired revision.
    pub manifest: &'a ResolvedHost,
    /// The newest accepted revision.
    pub revision: &'a Revision,
    /// Which one that is.
    pub place: Place,
    /// Whether new hosts are taken over without asking.
    pub adopt: Adopt,
    /// Remembered.
    pub memory: &'a Memory,
    /// Conditions as last written, for `lastTransitionTime`.
    pub conditions: &'a [Condition],
    /// What it is to be.
    pub evaluation: &'a Work<Wanted>,
    /// The secrets that it is to have, where that is known; they need no evaluation.
    pub secrets: Option<&'a WantedSecrets>,
    /// Whether that can be delivered: built and signed.
    pub closure: &'a Work<()>,
    /// The stage, while it is under way.
    pub closure_stage: ClosureStage,
    /// What it is on its way to. In an effective view: only where that is wanted, and not what the trunk wants.
    pub heading: Option<&'a Heading>,
    /// The permission it holds.
    pub claim: Option<&'a Claim>,
    /// Why it was not given one, when it asked last.
    pub denied: Option<&'a str>,
    /// A person's suspension.
    pub suspension: Option<&'a Suspension>,
    /// Whether it is ours.
    pub adoption: Option<&'a Adoption>,
    /// The newest request that is not handled.
    pub nudge: Option<&'a Nudge>,
    /// A person took it back; holds as [`crate::rollback::effective`] says.
    pub rollback: Option<&'a Back>,
    /// A person had trueup leave it.
    pub left: Option<&'a Left>,
    /// The trunk no longer has it: what was begun ends, and no more.
    pub released: bool,
    /// Hosts of `dependsOn` that are not ready.
    pub waits_for: &'a BTreeSet<HostName>,
    /// How often a host is asked.
    pub report_interval: std::time::Duration,
}
