//! Carries an attempt from wherever its journal says it is to its end. Runs in the activation's transient unit, and,
//! on the way back, in the dead-man. Each event is written before the effect that follows it.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use trueup_core::agent::{End, Event, Fault, Moment, Phase, Recorded, State, Step};
use trueup_schema::ComponentName;
use trueup_schema::status::Outcome;
use trueup_schema::wire::{ConfirmBy, Mode, Order, Stage, SystemGoal};

use crate::component::{self, Applied, Committed, Component, Context, Parts, Refusal};
use crate::files::{self, Layout};
use crate::journal::{self, Journal};
use crate::{AgentError, contact, deadman, memory, reboot, resume};

mod awaiting;

pub use awaiting::Confirmation;

/// Checks that took longer have used up too much of the activation's limit.
const CHECKS_MAX: Duration = Duration::from_secs(5);
/// After an error that remains, before the unit starts this anew.
const GIVE_UP_PAUSE: Duration = Duration::from_secs(2);
/// After the way back somebody must get in within the confirmation's time, but never longer than this.
const CONTACT_MAX_SECS: u64 = 300;

/// The activation's limit of an intent that changes no system.
const ACTIVATION_SECS: u64 = 900;

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
    let parts = component::all(&ctx.intent)?;
    let mut run = Run {
        ctx,
        journal,
        parts,
        arming: None,
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
    parts: Parts,
    /// The dead-man, being armed for this deadline.
    arming: Option<(Moment, JoinHandle<Result<(), AgentError>>)>,
}

impl Run<'_> {
    fn append(&mut self, event: Event) -> Result<(), AgentError> {
        Ok(self.journal.append(&self.ctx.layout, event)?)
    }

    fn state(&self) -> &State {
        &self.journal.state
    }

    fn recorded(&self) -> Recorded {
        self.state().recorded.clone().unwrap_or_default()
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
            Step::Arm => self.arm()?,
            Step::Apply(name) => self.apply(&name)?,
            Step::Reboot => self.reboot()?,
            Step::RebootBack => {
                self.append(Event::LastResort)?;
                reboot::reboot("what was booted is not to stay: rebooting into the boot default");
            }
            Step::Await => self.begin_to_await()?,
            Step::JudgeAndConfirm => self.judge_and_confirm()?,
            Step::Commit => return self.commit(),
            Step::SetProfile => {
                self.commit_parts()?;
                self.append(Event::ProfileSet)?;
            }
            Step::WriteBoot => self.append(Event::BootAsked)?,
            Step::ReadBack => self.read_back()?,
            Step::Revert(name) => return self.revert(name),
            Step::AwaitContact => {
                let secs = self.ctx.intent.confirm.timeout_secs.min(CONTACT_MAX_SECS);
                self.append(Event::AwaitingContact {
                    until: in_secs(secs),
                })?;
            }
            Step::Verify => self.verify()?,
            Step::CloseAfterReboot if self.came_up() => {
                let limit = activation_secs(self.ctx);
                reboot::wait_for_boot(Duration::from_secs(limit));
                self.append(Event::CameUp)?;
            }
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
            Phase::Recorded if self.state().came_up => {
                self.append(Event::RollingBack(Fault::new(Stage::Arm, message)))
            }
            Phase::Accepted | Phase::Staged | Phase::Recorded => self.refuse(
                None,
                Refusal {
                    outcome: Outcome::Failed,
                    stage: Stage::Preflight,
                    message,
                    evidence: false,
                },
            ),
            Phase::Armed | Phase::Applying | Phase::Rebooting | Phase::Awaiting => {
                self.append(Event::RollingBack(Fault::new(Stage::Activate, message)))
            }
            Phase::Committing | Phase::ProfileSet | Phase::BootAsked => {
                self.uncommit();
                self.end(End {
                    stage: Some(Stage::Boot),
                    message: Some(message),
                    ..End::of(Outcome::BootNotCommitted)
                })
            }
            Phase::RollingBack | Phase::Rebooted | Phase::Ended => Err(error),
        };
        if done.is_err() {
            thread::sleep(GIVE_UP_PAUSE);
        }
        done
    }

    fn stage(&mut self) -> Result<(), AgentError> {
        let ctx = self.ctx;
        self.begin_to_arm();
        let refused = self
            .parts
            .iter_mut()
            .find_map(|(name, p)| Some((name.clone(), p.stage(ctx).err()?)));
        match refused {
            None => self.append(Event::Staged),
            Some((by, refusal)) => self.refuse(Some(by), refusal),
        }
    }

    fn record(&mut self) -> Result<(), AgentError> {
        let mut recorded = Recorded::default();
        for (_, part) in &mut self.parts {
            part.record(self.ctx, &mut recorded)?;
        }
        self.append(Event::Recorded(recorded))
    }

    /// Begun beside the checks, since both ask others and touch nothing; after a crash, or after checks that took long, anew.
    fn arm(&mut self) -> Result<(), AgentError> {
        let fresh = self.activation_deadline();
        let begun = self.arming.take().map(|(at, arming)| (at, arming.join()));
        let deadline = match begun {
            Some((at, Ok(armed)))
                if fresh.at - at.at.min(fresh.at) < journal::nanos(CHECKS_MAX) =>
            {
                armed?;
                at
            }
            _ => {
                deadman::arm(&self.ctx.layout, self.ctx.order(), fresh.at)?;
                fresh
            }
        };
        self.append(Event::Armed { deadline })
    }

    fn begin_to_arm(&mut self) {
        if system_goal(self.ctx).map(|g| g.mode) == Some(Mode::DryActivate) {
            return; // nothing will be touched
        }
        let deadline = self.activation_deadline();
        let (layout, order, at) = (self.ctx.layout.clone(), self.ctx.order(), deadline.at);
        let arming = thread::spawn(move || deadman::arm(&layout, order, at));
        self.arming = Some((deadline, arming));
    }

    fn activation_deadline(&self) -> Moment {
        in_secs(activation_secs(self.ctx))
    }

    fn apply(&mut self, name: &ComponentName) -> Result<(), AgentError> {
        if self.state().runs >= trueup_core::agent::MAX_RUNS {
            let message = format!("the activation was cut short {} times", self.state().runs);
            return self.append(Event::RollingBack(Fault::new(Stage::Activate, message)));
        }
        self.append(Event::Applying {
            component: name.clone(),
        })?;
        let recorded = self.recorded();
        let (ctx, journal) = (self.ctx, &mut *self.journal);
        let limit = activation_secs(ctx);
        let mut overdue = |jobs: Vec<String>| -> Result<(), AgentError> {
            journal.append(&ctx.layout, Event::Overdue { jobs })?;
            deadman::arm(&ctx.layout, ctx.order(), in_secs(limit).at)
        };
        let found = self.parts.iter_mut().find(|(n, _)| n == name);
        let Some((_, part)) = found else {
            return Ok(());
        };
        match part.apply(ctx, &recorded, &mut overdue)? {
            Applied::Done(activation) => self.append(Event::Applied {
                component: name.clone(),
                activation,
            }),
            Applied::BootSet(set) => self.append(Event::BootSet(set)),
            Applied::Faulty(fault) => self.append(Event::RollingBack(Fault {
                component: Some(name.clone()),
                ..fault
            })),
            Applied::Untouched(refusal) if self.state().applied.is_empty() => {
                self.refuse(Some(name.clone()), refusal)
            }
            Applied::Untouched(refusal) => self.append(Event::RollingBack(Fault {
                evidence: refusal.evidence,
                component: Some(name.clone()),
                ..Fault::new(refusal.stage, refusal.message)
            })),
        }
    }

    /// After a reboot of ours: is it what was to be booted?
    fn came_up(&self) -> bool {
        resume::has_come_up(self.state())
    }

    fn reboot(&mut self) -> Result<(), AgentError> {
        let Some(set) = self.state().boot.clone() else {
            return Ok(());
        };
        if reboot::is_up(&set.closure) {
            return self.append(Event::CameUp);
        }
        reboot::reboot(&format!("rebooting into {}", set.closure));
        let message = "neither systemd nor the kernel rebooted the host".to_owned();
        self.append(Event::RollingBack(Fault::new(Stage::Boot, message)))
    }

    fn commit(&mut self) -> Result<bool, AgentError> {
        let recorded = self.recorded();
        let came_between = self
            .parts
            .iter()
            .find_map(|(_, p)| p.is_ours(self.ctx, &recorded).err());
        if !deadman::disarm(&self.ctx.layout, self.ctx.order())? {
            return Ok(false); // the dead-man was first, and goes on
        }
        if let Some(by) = came_between {
            self.end(End {
                stage: Some(Stage::Confirm),
                message: Some(by),
                ..End::of(Outcome::Superseded)
            })?;
            return Ok(true);
        }
        self.append(Event::Committing)?;
        Ok(true)
    }

    fn commit_parts(&mut self) -> Result<(), AgentError> {
        let recorded = self.recorded();
        for (_, part) in &mut self.parts {
            part.commit(self.ctx, &recorded)?;
        }
        Ok(())
    }

    fn uncommit(&mut self) {
        let recorded = self.recorded();
        for (name, part) in self.parts.iter_mut().rev() {
            if let Err(e) = part.uncommit(self.ctx, &recorded) {
                eprintln!("trueup-agent: taking back the commit of {name}: {e}");
            }
        }
    }

    fn read_back(&mut self) -> Result<(), AgentError> {
        let recorded = self.recorded();
        let mut end = End::of(Outcome::Succeeded);
        let (mut reboot, mut without) = (Vec::new(), None);
        // The first component, `system`, last: its boot entry decides what a power cut boots.
        for (_, part) in self.parts.iter_mut().rev() {
            match part.seal(self.ctx, &recorded)? {
                Committed::Done {
                    reboot_required,
                    restart_debt,
                } => {
                    reboot.extend(reboot_required);
                    end.restart_debt.extend(restart_debt);
                }
                Committed::Without(why) => {
                    without = Some(why);
                    break;
                }
            }
        }
        if let Some(why) = without {
            self.uncommit();
            end.outcome = Outcome::BootNotCommitted;
            end.stage = Some(Stage::Boot);
            end.message = Some(why);
        } else if !reboot.is_empty() {
            end.outcome = Outcome::RebootRequired;
            end.message = Some(format!(
                "runs and is the boot default; only a reboot brings: {}",
                reboot.join(", ")
            ));
        }
        self.end(end)
    }

    fn revert(&mut self, name: ComponentName) -> Result<bool, AgentError> {
        if !deadman::fire(&self.ctx.layout, self.ctx.order())? {
            return Ok(false);
        }
        let (ctx, recorded) = (self.ctx, self.recorded());
        if let Err(e) = self.part(&name)?.revert(ctx, &recorded) {
            eprintln!("trueup-agent: going back: {e}"); // what differs is read and told by Verify
        }
        self.append(Event::Reverted { component: name })?;
        Ok(true)
    }

    fn verify(&mut self) -> Result<(), AgentError> {
        let contact = contact::wait(&self.ctx.layout, self.state());
        let recorded = self.recorded();
        let fault = self.state().fault.clone();
        let mut end = End {
            stage: fault.as_ref().map(|f| f.stage),
            message: fault.as_ref().map(|f| f.message.clone()),
            evidence: fault.as_ref().is_some_and(|f| f.evidence),
            component: fault.and_then(|f| f.component),
            ..End::of(Outcome::RolledBack)
        };
        let mut back = true;
        for (_, part) in &mut self.parts {
            let v = part.verify(self.ctx, &recorded)?;
            back &= v.back;
            end.differs.extend(v.differs);
            end.restart_debt.extend(v.restart_debt);
        }
        let lost = !back || (!contact && !end.differs.is_empty());
        if lost && system_goal(self.ctx).is_some_and(|g| g.reboot_as_last_resort) {
            if !self.state().last_resort {
                self.append(Event::LastResort)?;
                reboot::reboot("the way back did not do; rebooting into the old boot default");
            }
            end.differs
                .push("the reboot as a last resort did not come".to_owned());
        }
        if !contact {
            end.differs
                .push("nobody has been able to get in since the way back".to_owned());
        }
        if !back {
            end.outcome = Outcome::RollbackFailed;
        } else if !end.differs.is_empty() {
            end.outcome = Outcome::RolledBackPartial;
        }
        self.end(end)
    }

    /// Nothing was touched, so it does not matter whether the dead-man fired meanwhile: whoever has the journal says
    /// that it ended, and the other one finds that.
    fn refuse(&mut self, by: Option<ComponentName>, refusal: Refusal) -> Result<(), AgentError> {
        // Not before it stands: what is armed later nobody would take away.
        let _armed_or_not = self.arming.take().map(|(_, arming)| arming.join());
        let _either_way = deadman::disarm(&self.ctx.layout, self.ctx.order())?;
        self.end(End {
            stage: Some(refusal.stage),
            message: Some(refusal.message),
            evidence: refusal.evidence,
            component: by,
            ..End::of(refusal.outcome)
        })
    }

    fn end(&mut self, end: End) -> Result<(), AgentError> {
        memory::conclude(self.ctx, self.state().phase, &end)?;
        self.append(Event::Ended(end))?;
        contact::forget(&self.ctx.layout);
        Ok(())
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

/// How long what changes the host may take.
fn activation_secs(ctx: &Context) -> u64 {
    system_goal(ctx).map_or(ACTIVATION_SECS, |g| g.activation_timeout_secs)
}

fn in_secs(secs: u64) -> Moment {
    let mut now = journal::now();
    now.at = now.at.saturating_add(secs.saturating_mul(1_000_000_000));
    now
}
