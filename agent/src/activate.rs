//! Carries an attempt from wherever its journal says it is to its end. Runs in the activation's transient unit, and,
//! on the way back, in the dead-man. Each event is written before the effect that follows it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trueup_core::agent::{End, Event, Fault, Moment, Phase, Session, State, Step};
use trueup_schema::status::Outcome;
use trueup_schema::wire::{ConfirmBy, Goal, Order, Stage, SystemGoal};
use trueup_schema::{ComponentName, Digest};

use crate::component::{self, Applied, Committed, Component, Context, Refusal};
use crate::files::{self, Layout};
use crate::journal::{self, Journal};
use crate::{AgentError, deadman, resume};

/// How often the confirmation is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// After an error that remains, before the unit starts this anew.
const GIVE_UP_PAUSE: Duration = Duration::from_secs(2);
/// Digests kept in quarantine for each component; the oldest go first.
const MAX_QUARANTINE: usize = 64;

/// What `confirm` leaves for the activation's process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Confirmation {
    /// The nonce that it carried.
    pub nonce: String,
    /// Over which connection.
    pub session: Session,
}

/// What is kept of a component, past all attempts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Kept {
    /// The goal that runs, confirmed.
    pub confirmed: Option<Digest>,
    /// How the last attempt ended.
    pub last: Option<(Digest, Outcome)>,
    /// Goals that are not tried again.
    pub quarantined: Vec<Digest>,
}

/// All components' memory.
pub type Memory = BTreeMap<ComponentName, Kept>;

/// Reads it.
pub fn memory(layout: &Layout) -> Result<Memory, files::FileError> {
    Ok(files::read_json(&layout.file("last.json"))?.unwrap_or_default())
}

/// Writes it.
pub fn remember(layout: &Layout, memory: &Memory) -> Result<(), files::FileError> {
    files::write_json(&layout.file("last.json"), memory)
}

/// An attempt's intent and where it lies.
pub fn context(layout: &Layout, order: Order) -> Result<Context, AgentError> {
    let intent = files::read_json(&layout.attempt(order).join("intent.json"))?;
    Ok(Context {
        layout: layout.clone(),
        intent: intent.ok_or(AgentError::NoIntent(order))?,
    })
}

/// The verb `activate`.
pub fn run(layout: &Layout, order: Order) -> Result<(), AgentError> {
    let ctx = context(layout, order)?;
    let mut journal = Journal::open(layout, order)?;
    resume::note_reboot(layout, &mut journal)?;
    drive(&ctx, &mut journal)
}

/// Steps until the end.
pub fn drive(ctx: &Context, journal: &mut Journal) -> Result<(), AgentError> {
    let mut parts: Vec<(ComponentName, Box<dyn Component>)> = Vec::new();
    for goal in &ctx.intent.goals {
        parts.push((goal.component.clone(), component::of(goal)?));
    }
    let mut run = Run {
        ctx,
        journal,
        parts,
    };
    loop {
        let step = run.journal.state.next();
        match step {
            Step::Done => {
                deadman::clean(&ctx.layout, ctx.order());
                return Ok(());
            }
            step => match run.step(step) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(e) => run.give_up(e)?,
            },
        }
    }
}

struct Run<'a> {
    ctx: &'a Context,
    journal: &'a mut Journal,
    parts: Vec<(ComponentName, Box<dyn Component>)>,
}

impl Run<'_> {
    fn append(&mut self, event: Event) -> Result<(), AgentError> {
        Ok(self.journal.append(&self.ctx.layout, event)?)
    }

    fn state(&self) -> &State {
        &self.journal.state
    }

    fn part(&mut self, name: &ComponentName) -> Result<&mut Box<dyn Component>, AgentError> {
        let found = self.parts.iter_mut().find(|(n, _)| n == name);
        found.map(|(_, c)| c).ok_or_else(|| AgentError::Component {
            component: name.to_string(),
            message: "not among the goals".to_owned(),
        })
    }

    /// `false`: somebody else goes on with this attempt.
    fn step(&mut self, step: Step) -> Result<bool, AgentError> {
        match step {
            Step::Stage => self.stage()?,
            Step::Record => self.record()?,
            Step::Arm => {
                let deadline =
                    in_secs(system_goal(self.ctx).map_or(900, |g| g.activation_timeout_secs));
                deadman::arm(&self.ctx.layout, self.ctx.order(), deadline.at)?;
                self.append(Event::Armed { deadline })?;
            }
            Step::Apply(name) => self.apply(&name)?,
            Step::Await => {
                let since = journal::now();
                let deadline = in_secs(self.ctx.intent.confirm.timeout_secs);
                deadman::arm(&self.ctx.layout, self.ctx.order(), deadline.at)?;
                self.append(Event::Awaiting {
                    nonce: crate::nonce(),
                    since,
                    deadline,
                })?;
            }
            Step::JudgeAndConfirm => self.judge_and_confirm()?,
            Step::Commit => return self.commit(),
            Step::SetProfile => {
                let recorded = self.state().recorded.clone().unwrap_or_default();
                for (_, part) in &mut self.parts {
                    part.set_profile(self.ctx, &recorded)?;
                }
                self.append(Event::ProfileSet)?;
            }
            Step::WriteBoot => self.append(Event::BootAsked)?,
            Step::ReadBack => self.read_back()?,
            Step::Revert(name) => {
                if !deadman::fire(&self.ctx.layout, self.ctx.order())? {
                    return Ok(false);
                }
                let recorded = self.state().recorded.clone().unwrap_or_default();
                let ctx = self.ctx;
                if let Err(e) = self.part(&name)?.revert(ctx, &recorded) {
                    eprintln!("trueup-agent: going back: {e}"); // what differs is read and told by Verify
                }
                self.append(Event::Reverted { component: name })?;
            }
            Step::Verify => self.verify()?,
            Step::CloseAfterReboot => {
                let end = resume::after_reboot(self.ctx, self.journal.state.clone())?;
                self.end(end)?;
            }
            Step::Done => {}
        }
        Ok(true)
    }

    /// A step could not be done: end, go back or say so, but never try the same thing for ever. An error that
    /// remains ends this process after a pause; its unit starts it again, and the dead-man stands behind it.
    fn give_up(&mut self, error: AgentError) -> Result<(), AgentError> {
        eprintln!("trueup-agent: {error}");
        let (message, phase) = (error.to_string(), self.state().phase);
        let done = match phase {
            Phase::Accepted | Phase::Staged | Phase::Recorded => self.refuse(Refusal {
                outcome: Outcome::Failed,
                stage: Stage::Preflight,
                message,
                evidence: false,
            }),
            Phase::Armed | Phase::Applying | Phase::Awaiting => {
                self.append(Event::RollingBack(Fault {
                    stage: Stage::Activate,
                    message,
                    evidence: false,
                    failed_units: Vec::new(),
                }))
            }
            Phase::Committing | Phase::ProfileSet | Phase::BootAsked => self.end(End {
                outcome: Outcome::BootNotCommitted,
                stage: Some(Stage::Boot),
                message: Some(message),
                evidence: false,
                differs: Vec::new(),
                restart_debt: Vec::new(),
            }),
            Phase::RollingBack | Phase::Rebooted | Phase::Ended => Err(error),
        };
        if done.is_err() {
            thread::sleep(GIVE_UP_PAUSE);
        }
        done
    }

    fn stage(&mut self) -> Result<(), AgentError> {
        let ctx = self.ctx;
        let refused = self.parts.iter_mut().find_map(|(_, p)| p.stage(ctx).err());
        match refused {
            None => self.append(Event::Staged),
            Some(refusal) => self.refuse(refusal),
        }
    }

    fn record(&mut self) -> Result<(), AgentError> {
        let mut recorded = trueup_core::agent::Recorded::default();
        for (_, part) in &mut self.parts {
            part.record(self.ctx, &mut recorded)?;
        }
        self.append(Event::Recorded(recorded))
    }

    fn apply(&mut self, name: &ComponentName) -> Result<(), AgentError> {
        if self.state().runs >= trueup_core::agent::MAX_RUNS {
            let message = format!("the activation was cut short {} times", self.state().runs);
            return self.append(Event::RollingBack(Fault {
                stage: Stage::Activate,
                message,
                evidence: false,
                failed_units: Vec::new(),
            }));
        }
        self.append(Event::Applying {
            component: name.clone(),
        })?;
        let (ctx, journal) = (self.ctx, &mut *self.journal);
        let limit = system_goal(ctx).map_or(900, |g| g.activation_timeout_secs);
        let mut overdue = |jobs: Vec<String>| -> Result<(), AgentError> {
            journal.append(&ctx.layout, Event::Overdue { jobs })?;
            deadman::arm(&ctx.layout, ctx.order(), in_secs(limit).at)
        };
        let found = self.parts.iter_mut().find(|(n, _)| n == name);
        let Some((_, part)) = found else {
            return Ok(());
        };
        match part.apply(ctx, &mut overdue)? {
            Applied::Done(activation) => self.append(Event::Applied {
                component: name.clone(),
                activation,
            }),
            Applied::Faulty(fault) => self.append(Event::RollingBack(fault)),
            Applied::Untouched(refusal) if self.state().applied.is_empty() => self.refuse(refusal),
            Applied::Untouched(refusal) => self.append(Event::RollingBack(Fault {
                stage: refusal.stage,
                message: refusal.message,
                evidence: refusal.evidence,
                failed_units: Vec::new(),
            })),
        }
    }

    fn judge_and_confirm(&mut self) -> Result<(), AgentError> {
        let (Some(since), Some(deadline)) =
            (self.state().since.clone(), self.state().deadline.clone())
        else {
            return Ok(());
        };
        let settle = system_goal(self.ctx).map_or(10, |g| g.settle_secs);
        let settled = since
            .at
            .saturating_add(settle.saturating_mul(1_000_000_000));
        let file = self.ctx.layout.attempt(self.ctx.order()).join("confirm");
        loop {
            let now = journal::boottime();
            if !self.state().good && now >= settled.min(deadline.at) {
                for (_, part) in &mut self.parts {
                    if let Some(fault) = part.judge(self.ctx)? {
                        return self.append(Event::RollingBack(fault));
                    }
                }
                return self.append(Event::JudgedGood);
            }
            if !self.state().confirmed
                && let Some(c) = files::read_json::<Confirmation>(&file)?
            {
                if Some(&c.nonce) == self.state().nonce.as_ref() {
                    return self.append(Event::Confirmed);
                }
                let _stale = fs::remove_file(&file);
            }
            if now >= deadline.at {
                return self.append(Event::RollingBack(Fault {
                    stage: Stage::Confirm,
                    message: format!(
                        "nobody confirmed over a new connection within {} s",
                        self.ctx.intent.confirm.timeout_secs
                    ),
                    evidence: false,
                    failed_units: Vec::new(),
                }));
            }
            thread::sleep(LOOK);
        }
    }

    fn commit(&mut self) -> Result<bool, AgentError> {
        let recorded = self.state().recorded.clone().unwrap_or_default();
        let came_between = self
            .parts
            .iter()
            .find_map(|(_, p)| p.is_ours(self.ctx, &recorded).err());
        if !deadman::disarm(&self.ctx.layout, self.ctx.order())? {
            return Ok(false); // the dead-man was first, and goes on
        }
        if let Some(by) = came_between {
            self.end(End {
                outcome: Outcome::Superseded,
                stage: Some(Stage::Confirm),
                message: Some(by),
                evidence: false,
                differs: Vec::new(),
                restart_debt: Vec::new(),
            })?;
            return Ok(true);
        }
        self.append(Event::Committing)?;
        Ok(true)
    }

    fn read_back(&mut self) -> Result<(), AgentError> {
        let recorded = self.state().recorded.clone().unwrap_or_default();
        let mut end = End {
            outcome: Outcome::Succeeded,
            stage: None,
            message: None,
            evidence: false,
            differs: Vec::new(),
            restart_debt: Vec::new(),
        };
        for (_, part) in &mut self.parts {
            match part.write_boot(self.ctx, &recorded)? {
                Committed::Done { reboot_required } if !reboot_required.is_empty() => {
                    end.outcome = Outcome::RebootRequired;
                    end.message = Some(format!(
                        "runs and is the boot default; only a reboot brings: {}",
                        reboot_required.join(", ")
                    ));
                }
                Committed::Done { .. } => {}
                Committed::Without(why) => {
                    end.outcome = Outcome::BootNotCommitted;
                    end.stage = Some(Stage::Boot);
                    end.message = Some(why);
                }
            }
        }
        self.end(end)
    }

    fn verify(&mut self) -> Result<(), AgentError> {
        let recorded = self.state().recorded.clone().unwrap_or_default();
        let fault = self.state().fault.clone();
        let mut outcome = Outcome::RolledBack;
        let (mut differs, mut restart_debt) = (Vec::new(), Vec::new());
        for (_, part) in &mut self.parts {
            let v = part.verify(self.ctx, &recorded)?;
            if !v.back {
                outcome = Outcome::RollbackFailed;
            } else if !v.differs.is_empty() && outcome == Outcome::RolledBack {
                outcome = Outcome::RolledBackPartial;
            }
            differs.extend(v.differs);
            restart_debt.extend(v.restart_debt);
        }
        self.end(End {
            outcome,
            stage: fault.as_ref().map(|f| f.stage),
            message: fault.as_ref().map(|f| f.message.clone()),
            evidence: fault.is_some_and(|f| f.evidence),
            differs,
            restart_debt,
        })
    }

    fn refuse(&mut self, refusal: Refusal) -> Result<(), AgentError> {
        if !deadman::disarm(&self.ctx.layout, self.ctx.order())? && deadman::stands(self.ctx) {
            return Ok(());
        }
        self.end(End {
            outcome: refusal.outcome,
            stage: Some(refusal.stage),
            message: Some(refusal.message),
            evidence: refusal.evidence,
            differs: Vec::new(),
            restart_debt: Vec::new(),
        })
    }

    fn end(&mut self, end: End) -> Result<(), AgentError> {
        conclude(self.ctx, self.state().phase, &end)?;
        self.append(Event::Ended(end))
    }
}

/// What is remembered of an end, before the journal says that it ended.
pub fn conclude(ctx: &Context, phase: Phase, end: &End) -> Result<(), AgentError> {
    let mut all = memory(&ctx.layout)?;
    for Goal {
        component, digest, ..
    } in &ctx.intent.goals
    {
        let kept = all.entry(component.clone()).or_default();
        kept.last = Some((digest.clone(), end.outcome));
        let committed = end.outcome == Outcome::Succeeded
            || (end.outcome == Outcome::RebootRequired && phase >= Phase::Committing);
        if committed {
            kept.confirmed = Some(digest.clone());
            kept.quarantined.retain(|d| d != digest);
        }
        if end.evidence && !kept.quarantined.contains(digest) {
            kept.quarantined.push(digest.clone());
            let over = kept.quarantined.len().saturating_sub(MAX_QUARANTINE);
            kept.quarantined.drain(..over);
        }
    }
    remember(&ctx.layout, &all)?;
    prune(&ctx.layout, ctx.order());
    Ok(())
}

/// Roots and folders of the attempts before the one before this go.
fn prune(layout: &Layout, current: Order) {
    let mut older: Vec<Order> = journal::orders(layout)
        .into_iter()
        .filter(|o| *o < current)
        .collect();
    older.pop();
    for order in older {
        for kind in ["candidate", "recorded", "agent"] {
            let _gone = fs::remove_file(Path::new(files::ROOTS).join(format!("{kind}-{order}")));
        }
        let _gone = fs::remove_dir_all(layout.attempt(order));
        let _gone = fs::remove_file(layout.journal(order));
    }
}

/// The `system` goal, if the intent has one.
#[must_use]
pub fn system_goal(ctx: &Context) -> Option<SystemGoal> {
    let goal = ctx
        .intent
        .goals
        .iter()
        .find(|g| g.component.as_str() == "system")?;
    serde_json::from_value(goal.body.clone()).ok()
}

/// Nobody has to confirm.
#[must_use]
pub fn unattended(by: ConfirmBy) -> bool {
    by == ConfirmBy::None
}

fn in_secs(secs: u64) -> Moment {
    let mut now = journal::now();
    now.at = now.at.saturating_add(secs.saturating_mul(1_000_000_000));
    now
}
