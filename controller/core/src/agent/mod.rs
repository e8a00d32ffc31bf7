//! The agent's machine: what an attempt on a host is, which event may follow which, and what is to be done next.
//! Pure: the journal's records are folded by [`apply`], the agent executes [`State::next`]. No I/O, no clock.

use serde::{Deserialize, Serialize};
use trueup_schema::status::Outcome;
use trueup_schema::wire::{Activation, FailedUnit, Order, Stage};
use trueup_schema::{ComponentName, Digest, Revision, StorePath};

/// A killed activation is begun anew this often; then it is rolled back.
pub const MAX_RUNS: u32 = 3;

/// A moment of one boot: absolute `CLOCK_BOOTTIME`, so that neither a set clock nor a suspend moves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Nanoseconds since boot.
    pub at: u64,
}

/// What an attempt is at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// Which intent.
    pub order: Order,
    /// Where it comes from.
    pub revision: Revision,
    /// Component and digest, in the order in which they are applied.
    pub goals: Vec<(ComponentName, Digest)>,
    /// Nobody needs to confirm.
    pub unattended: bool,
    /// The SSH session that offered: it can't confirm.
    pub session: Option<Session>,
}

/// An SSH connection's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// Its process id.
    pub pid: u32,
    /// Start of it in nanoseconds of boot time, as exact as the kernel tells.
    pub started: u64,
}

/// What was there before anything changed: where a roll-back goes to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recorded {
    /// `/run/current-system`.
    pub running: Option<StorePath>,
    /// Below `running`'s top level, when a specialisation of it ran.
    pub running_link: Option<String>,
    /// The system profile.
    pub profile: Option<StorePath>,
    /// What a power cut would boot.
    pub boot_default: Option<StorePath>,
}

/// Why an attempt goes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// In which stage.
    pub stage: Stage,
    /// One sentence for people.
    pub message: String,
    /// Is the goal at fault, by what this host saw?
    pub evidence: bool,
    /// Units that failed by it.
    #[serde(default)]
    pub failed_units: Vec<FailedUnit>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// Its name.
    pub outcome: Outcome,
    /// In which stage, if it failed.
    pub stage: Option<Stage>,
    /// One sentence for people.
    pub message: Option<String>,
    /// Is the goal at fault?
    #[serde(default)]
    pub evidence: bool,
    /// What differs after a partial roll-back.
    #[serde(default)]
    pub differs: Vec<String>,
    /// Units that still run from the other closure.
    #[serde(default)]
    pub restart_debt: Vec<String>,
}

/// What happened. Each is written and synced before the effect that follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Event {
    /// The offer was taken.
    Accepted(Accepted),
    /// Every component can do it; nothing was touched.
    Staged,
    /// Roots are set, the present is written down.
    Recorded(Recorded),
    /// Both lines of the dead-man stand, for the activation's limit.
    Armed {
        /// When the agent itself gives up.
        deadline: Moment,
    },
    /// A component is about to be applied (again, after a crash).
    Applying {
        /// Which.
        component: ComponentName,
    },
    /// The activation is overdue.
    Overdue {
        /// What systemd waits for.
        jobs: Vec<String>,
    },
    /// A component is in effect.
    Applied {
        /// Which.
        component: ComponentName,
        /// Did it run to its end?
        activation: Activation,
    },
    /// The dead-man stands for the confirmation's deadline; units settle meanwhile.
    Awaiting {
        /// What the confirmation must carry.
        nonce: String,
        /// When activation had ended: the confirming session must be younger.
        since: Moment,
        /// When the host gives up.
        deadline: Moment,
    },
    /// Units and checks are good after the settle time.
    JudgedGood,
    /// A fresh connection carried the nonce.
    Confirmed,
    /// The dead-man is off; from here on it is committed.
    Committing,
    /// The component's state is now what boots (the profile, for `system`).
    ProfileSet,
    /// The boot entry was asked for; it is read back before the end.
    BootAsked,
    /// On the way back.
    RollingBack(Fault),
    /// A component is as it was.
    Reverted {
        /// Which.
        component: ComponentName,
    },
    /// The host booted anew meanwhile.
    Rebooted {
        /// The new boot.
        boot_id: String,
    },
    /// Decided.
    Ended(End),
}

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
    /// All are taken back: compare with the record and end.
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

impl Event {
    /// Its name, for people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accepted(_) => "accepted",
            Self::Staged => "staged",
            Self::Recorded(_) => "recorded",
            Self::Armed { .. } => "armed",
            Self::Applying { .. } => "applying",
            Self::Overdue { .. } => "overdue",
            Self::Applied { .. } => "applied",
            Self::Awaiting { .. } => "awaiting",
            Self::JudgedGood => "judgedGood",
            Self::Confirmed => "confirmed",
            Self::Committing => "committing",
            Self::ProfileSet => "profileSet",
            Self::BootAsked => "bootAsked",
            Self::RollingBack(_) => "rollingBack",
            Self::Reverted { .. } => "reverted",
            Self::Rebooted { .. } => "rebooted",
            Self::Ended(_) => "ended",
        }
    }

    /// The stage that this event begins, for the timeline.
    #[must_use]
    pub fn stage(&self) -> Option<Stage> {
        Some(match self {
            Self::Accepted(_) => Stage::Accept,
            Self::Staged => Stage::Record,
            Self::Recorded(_) => Stage::Arm,
            Self::Applying { .. } => Stage::Activate,
            Self::Awaiting { .. } => Stage::Confirm,
            Self::Committing => Stage::Profile,
            Self::ProfileSet => Stage::Boot,
            Self::RollingBack(_) => Stage::RollBack,
            _ => return None,
        })
    }
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
        (
            Phase::Applying,
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
        (
            Phase::Armed | Phase::Applying | Phase::Awaiting | Phase::RollingBack,
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
            end: None,
        }
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
        let touched = self.applied.len() + usize::from(self.runs > 0);
        let left = touched
            .min(self.accepted.goals.len())
            .checked_sub(self.reverted.len() + 1)?;
        self.accepted.goals.get(left).map(|(name, _)| name)
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
            Phase::Awaiting if self.good && self.is_confirmed() => Step::Commit,
            Phase::Awaiting => Step::JudgeAndConfirm,
            Phase::Committing => Step::SetProfile,
            Phase::ProfileSet => Step::WriteBoot,
            Phase::BootAsked => Step::ReadBack,
            Phase::RollingBack => match self.to_revert() {
                Some(name) => Step::Revert(name.clone()),
                None => Step::Verify,
            },
            Phase::Rebooted => Step::CloseAfterReboot,
            Phase::Ended => Step::Done,
        }
    }
}

#[cfg(test)]
mod tests;
