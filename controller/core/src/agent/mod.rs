//! The agent's machine: what an attempt on a host is, which event may follow which, and what is to be done next.
//! Pure: the journal's records are folded by [`apply`], the agent executes [`State::next`]. No I/O, no clock.

use serde::{Deserialize, Serialize};
use trueup_schema::ComponentName;
use trueup_schema::status::Outcome;
use trueup_schema::wire::Activation;

mod event;
pub use event::{Accepted, BootSet, End, Event, Fault, Moment, Recorded, Session};

/// A killed activation is begun anew this often; then it is rolled back.
pub const MAX_RUNS: u32 = 3;

/// Where the attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Taken.
    Accepted,
    /// Checked.
    Staged,
    /// Written down.
    Recorded,
    /// Guarded.
    Armed,
    /// Being applied.
    Applying,
    /// The closure is booted next: about to reboot, or rebooting.
    Rebooting,
    /// Applied, unconfirmed.
    Awaiting,
    /// Confirmed, nothing of the commit done.
    Committing,
    /// The profile is set.
    ProfileSet,
    /// The boot entry was asked for.
    BootAsked,
    /// Going back.
    RollingBack,
    /// Rebooted before the end: the record is to be closed.
    Rebooted,
    /// Decided.
    Ended,
}

/// An attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// What it is at.
    pub accepted: Accepted,
    /// Where it is.
    pub phase: Phase,
    /// Where it was when the host rebooted.
    pub cut_in: Option<Phase>,
    /// What was before.
    pub recorded: Option<Recorded>,
    /// How often a component was begun.
    pub runs: u32,
    /// Components in effect, in order.
    pub applied: Vec<ComponentName>,
    /// Did each run to its end?
    pub activation: Activation,
    /// Components taken back.
    pub reverted: Vec<ComponentName>,
    /// Jobs of an overdue activation.
    pub waiting_jobs: Vec<String>,
    /// The confirmation's nonce.
    pub nonce: Option<String>,
    /// Since when a confirmation counts.
    pub since: Option<Moment>,
    /// When the host gives up.
    pub deadline: Option<Moment>,
    /// Units and checks are good.
    pub good: bool,
    /// Confirmed.
    pub confirmed: bool,
    /// Why it goes back.
    pub fault: Option<Fault>,
    /// Until when somebody's contact is waited for, after the way back.
    pub contact_until: Option<Moment>,
    /// The host was to be rebooted, as nothing else helped.
    pub last_resort: bool,
    /// The reboot that it takes.
    pub boot: Option<BootSet>,
    /// What it set to be booted came up.
    pub came_up: bool,
    /// How it ended.
    pub end: Option<End>,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask every component whether it can.
    Stage,
    /// Root and write down.
    Record,
    /// Arm the dead-man.
    Arm,
    /// Apply this one.
    Apply(ComponentName),
    /// Reboot into what is set, unless it is up already.
    Reboot,
    /// What was booted is not to stay: reboot into the boot default.
    RebootBack,
    /// Move the dead-man to the confirmation's deadline.
    Await,
    /// Judge over the settle time and wait for the confirmation, until the deadline.
    JudgeAndConfirm,
    /// Is everything still ours? Then disarm.
    Commit,
    /// Set the profile.
    SetProfile,
    /// Write the boot entry.
    WriteBoot,
    /// Read the boot default back and end.
    ReadBack,
    /// Take this one back.
    Revert(ComponentName),
    /// All are taken back: begin to wait for contact.
    AwaitContact,
    /// Wait for it, compare with the record and end.
    Verify,
    /// Close the record after a reboot.
    CloseAfterReboot,
    /// Nothing.
    Done,
}

/// An event that can't follow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{event}` can't follow in phase {phase:?}")]
pub struct IllegalEvent {
    /// Where the attempt was.
    pub phase: Option<Phase>,
    /// What came.
    pub event: &'static str,
}

/// Folds one event. `None` is the state before the first.
pub fn apply(state: Option<State>, event: Event) -> Result<State, IllegalEvent> {
    let illegal = |phase| IllegalEvent {
        phase,
        event: event.name(),
    };
    let Some(mut s) = state else {
        let Event::Accepted(accepted) = event else {
            return Err(illegal(None));
        };
        return Ok(State::new(accepted));
    };
    let phase = s.phase;
    let bad = illegal(Some(phase));
    match (phase, event) {
        (Phase::Ended, _) => return Err(bad),
        (_, Event::Rebooted { .. }) => {
            s.cut_in = s.cut_in.or(Some(phase));
            s.phase = Phase::Rebooted;
        }
        (_, Event::Ended(end)) => {
            // In the middle of a change nothing ends but by the commit, the way back, or a reboot.
            if matches!(phase, Phase::Armed | Phase::Applying) && end.outcome == Outcome::Succeeded
            {
                return Err(bad);
            }
            s.phase = Phase::Ended;
            s.end = Some(end);
        }
        (Phase::Accepted, Event::Staged) => s.phase = Phase::Staged,
        (Phase::Staged, Event::Recorded(r)) => {
            s.recorded = Some(r);
            s.phase = Phase::Recorded;
        }
        (Phase::Recorded, Event::Armed { deadline }) => {
            s.deadline = Some(deadline);
            s.phase = Phase::Armed;
        }
        (Phase::Armed | Phase::Applying, Event::Applying { component }) => {
            if s.pending() != Some(&component) {
                return Err(bad);
            }
            s.runs += 1;
            s.phase = Phase::Applying;
        }
        (Phase::Applying, Event::Overdue { jobs }) => s.waiting_jobs = jobs,
        (
            Phase::Applying,
            Event::Applied {
                component,
                activation,
            },
        ) => {
            if s.pending() != Some(&component) {
                return Err(bad);
            }
            s.applied.push(component);
            s.runs = 0;
            s.waiting_jobs.clear();
            if activation == Activation::Partial {
                s.activation = Activation::Partial;
            }
        }
        // One component only: what others had applied would be gone after the reboot.
        (Phase::Applying, Event::BootSet(boot)) if s.accepted.goals.len() == 1 => {
            s.boot = Some(boot);
            s.phase = Phase::Rebooting;
        }
        // Up without a reboot: somebody had booted it before, or the last attempt was cut after its own.
        (Phase::Rebooting, Event::CameUp) => s.come_up(),
        (Phase::Rebooted, Event::CameUp) if s.cut_in == Some(Phase::Rebooting) => s.come_up(),
        (
            Phase::Applying | Phase::Armed,
            Event::Awaiting {
                nonce,
                since,
                deadline,
            },
        ) if s.pending().is_none() => {
            s.nonce = Some(nonce);
            s.since = Some(since);
            s.deadline = Some(deadline);
            s.phase = Phase::Awaiting;
        }
        (Phase::Awaiting, Event::JudgedGood) => s.good = true,
        (Phase::Awaiting, Event::Confirmed) => s.confirmed = true,
        (Phase::Awaiting, Event::Committing) if s.good && s.is_confirmed() => {
            s.phase = Phase::Committing;
        }
        (Phase::Committing, Event::ProfileSet) => s.phase = Phase::ProfileSet,
        (Phase::ProfileSet, Event::BootAsked) => s.phase = Phase::BootAsked,
        // What came up could not be guarded: it is not left running.
        (Phase::Recorded, Event::RollingBack(fault)) if s.came_up => {
            s.fault.get_or_insert(fault);
            s.phase = Phase::RollingBack;
        }
        (
            Phase::Armed
            | Phase::Applying
            | Phase::Rebooting
            | Phase::Awaiting
            | Phase::RollingBack,
            Event::RollingBack(fault),
        ) => {
            // The first reason is the one to tell.
            s.fault.get_or_insert(fault);
            s.phase = Phase::RollingBack;
        }
        (Phase::RollingBack, Event::Reverted { component }) => {
            if s.to_revert() != Some(&component) {
                return Err(bad);
            }
            s.reverted.push(component);
        }
        (Phase::RollingBack, Event::AwaitingContact { until }) if s.to_revert().is_none() => {
            s.contact_until = Some(until);
        }
        (Phase::RollingBack, Event::LastResort) if s.to_revert().is_none() && !s.last_resort => {
            s.last_resort = true;
        }
        _ => return Err(bad),
    }
    Ok(s)
}

impl State {
    fn new(accepted: Accepted) -> Self {
        Self {
            accepted,
            phase: Phase::Accepted,
            cut_in: None,
            recorded: None,
            runs: 0,
            applied: Vec::new(),
            activation: Activation::Complete,
            reverted: Vec::new(),
            waiting_jobs: Vec::new(),
            nonce: None,
            since: None,
            deadline: None,
            good: false,
            confirmed: false,
            fault: None,
            contact_until: None,
            last_resort: false,
            boot: None,
            came_up: false,
            end: None,
        }
    }

    /// Guarded anew, judged and confirmed like any other from here on.
    fn come_up(&mut self) {
        self.came_up = true;
        self.cut_in = None;
        self.applied = self.accepted.goals.iter().map(|(n, _)| n.clone()).collect();
        self.runs = 0;
        self.phase = Phase::Recorded;
    }

    /// The component that is to be applied next.
    #[must_use]
    pub fn pending(&self) -> Option<&ComponentName> {
        let next = self.accepted.goals.get(self.applied.len());
        next.map(|(name, _)| name)
    }

    /// The component that is to be taken back next: the last that may have been touched.
    #[must_use]
    pub fn to_revert(&self) -> Option<&ComponentName> {
        let left = self.touched().checked_sub(self.reverted.len() + 1)?;
        self.accepted.goals.get(left).map(|(name, _)| name)
    }

    /// How many components may have been touched.
    #[must_use]
    pub fn touched(&self) -> usize {
        let touched = self.applied.len() + usize::from(self.runs > 0);
        touched.min(self.accepted.goals.len())
    }

    /// Confirmed, or nobody needs to.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.confirmed || self.accepted.unattended
    }

    /// What is to be done.
    #[must_use]
    pub fn next(&self) -> Step {
        match self.phase {
            Phase::Accepted => Step::Stage,
            Phase::Staged => Step::Record,
            Phase::Recorded => Step::Arm,
            Phase::Armed | Phase::Applying => match self.pending() {
                Some(name) => Step::Apply(name.clone()),
                None => Step::Await,
            },
            Phase::Rebooting => Step::Reboot,
            Phase::Awaiting if self.good && self.is_confirmed() => Step::Commit,
            Phase::Awaiting => Step::JudgeAndConfirm,
            Phase::Committing => Step::SetProfile,
            Phase::ProfileSet => Step::WriteBoot,
            Phase::BootAsked => Step::ReadBack,
            Phase::RollingBack => match self.to_revert() {
                Some(name) => Step::Revert(name.clone()),
                None if self.came_up && !self.last_resort => Step::RebootBack,
                None if self.touched() > 0 && self.contact_until.is_none() => Step::AwaitContact,
                None => Step::Verify,
            },
            Phase::Rebooted => Step::CloseAfterReboot,
            Phase::Ended => Step::Done,
        }
    }
}

#[cfg(test)]
mod tests;
