//! What a host is made of, as a transaction: each component stages (all may fail, nothing has changed), records, applies,
//! commits after the confirmation, or reverts in reverse. Every call may be repeated after a crash, and each is journaled
//! before it is made.

use std::path::PathBuf;

use trueup_core::agent::{BootSet, Fault, Recorded};
use trueup_schema::status::Outcome;
use trueup_schema::wire::{Activation, Goal, Intent, Order, Stage};
use trueup_schema::{ComponentName, StorePath};

use crate::AgentError;
use crate::files::Layout;

/// What every component's call gets.
#[derive(Debug)]
pub struct Context {
    /// Where the state lies.
    pub layout: Layout,
    /// What is to be.
    pub intent: Intent,
}

impl Context {
    /// Which attempt.
    #[must_use]
    pub fn order(&self) -> Order {
        self.intent.order
    }

    /// The attempt's own folder: what a component records beyond [`Recorded`] lies there, in files of its name.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.layout.attempt(self.order())
    }
}

/// What is found of a goal, whoever brought it about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observed {
    /// It is in effect now.
    pub in_effect: bool,
    /// It would be after a power cut, too.
    pub lasting: bool,
}

/// An end before anything was touched.
#[derive(Debug)]
pub struct Refusal {
    /// Its name.
    pub outcome: Outcome,
    /// In which stage.
    pub stage: Stage,
    /// Why, for people.
    pub message: String,
    /// Is the goal at fault?
    pub evidence: bool,
}

/// How applying went.
#[derive(Debug)]
pub enum Applied {
    /// In effect.
    Done(Activation),
    /// In effect after a reboot, which is set.
    BootSet(BootSet),
    /// In effect or half, and it must go back.
    Faulty(Fault),
    /// Nothing was touched.
    Untouched(Refusal),
}

/// How the commit went.
#[derive(Debug)]
pub enum Committed {
    /// Read back and right.
    Done {
        /// What only a reboot brings.
        reboot_required: Vec<String>,
        /// Units that still run from another closure.
        restart_debt: Vec<String>,
    },
    /// Asked for, without effect.
    Without(String),
}

impl Committed {
    /// Done, with nothing left to do.
    #[must_use]
    pub fn plainly() -> Self {
        Self::Done {
            reboot_required: Vec::new(),
            restart_debt: Vec::new(),
        }
    }
}

/// What is found after the way back.
#[derive(Debug, Default)]
pub struct Verified {
    /// The main thing is as recorded again.
    pub back: bool,
    /// What differs besides.
    pub differs: Vec<String>,
    /// What still runs from the candidate.
    pub restart_debt: Vec<String>,
}

/// A component. Calls come in this order; `revert` may follow any `apply`, also one that was cut short, and `uncommit`
/// any `commit`. A component has no memory between calls: it may be another process each time.
pub trait Component {
    /// Store paths that must be here and valid before an attempt begins; the caller has them copied, and roots them.
    fn needs(&self) -> Vec<StorePath> {
        Vec::new()
    }
    /// What of this goal is not built yet, by name; such an offer is refused.
    fn not_yet(&self) -> Option<String> {
        None
    }
    /// Is the goal in effect, and would it last? Reads only.
    fn observe(&self, layout: &Layout) -> Result<Observed, AgentError>;
    /// Asks whether it can; touches nothing.
    fn stage(&mut self, ctx: &Context) -> Result<(), Refusal>;
    /// Roots and writes down what is there.
    fn record(&mut self, ctx: &Context, into: &mut Recorded) -> Result<(), AgentError>;
    /// Makes it so. `overdue` is told when the limit passed and what is waited for.
    fn apply(
        &mut self,
        ctx: &Context,
        recorded: &Recorded,
        overdue: &mut dyn FnMut(Vec<String>) -> Result<(), AgentError>,
    ) -> Result<Applied, AgentError>;
    /// Looks at it after the settle time.
    fn judge(&mut self, _ctx: &Context) -> Result<Option<Fault>, AgentError> {
        Ok(None)
    }
    /// Is what we left still there? Else who came between.
    fn is_ours(&self, _ctx: &Context, _recorded: &Recorded) -> Result<(), String> {
        Ok(())
    }
    /// Makes it last past a power cut: the half that `uncommit` can take back. All components commit before one seals.
    fn commit(&mut self, _ctx: &Context, _recorded: &Recorded) -> Result<(), AgentError> {
        Ok(())
    }
    /// The half after which it lasts, read back.
    fn seal(&mut self, _ctx: &Context, _recorded: &Recorded) -> Result<Committed, AgentError> {
        Ok(Committed::plainly())
    }
    /// Takes back what `commit` set: a seal without effect, or a power cut between the two. Does not touch what runs.
    fn uncommit(&mut self, _ctx: &Context, _recorded: &Recorded) -> Result<(), AgentError> {
        Ok(())
    }
    /// The host booted anew before the end, and the old system came up: what `apply` left on the disk goes back. (What was
    /// committed is taken back by `uncommit`, before.)
    fn after_power_cut(&mut self, _ctx: &Context, _recorded: &Recorded) -> Result<(), AgentError> {
        Ok(())
    }
    /// Back to the recorded state. An error is told; what then differs is found by `verify`.
    fn revert(&mut self, ctx: &Context, recorded: &Recorded) -> Result<(), AgentError>;
    /// What differs from the recorded state, and whether the main thing is back.
    fn verify(&mut self, ctx: &Context, recorded: &Recorded) -> Result<Verified, AgentError>;
}

/// The component behind a goal.
pub fn of(goal: &Goal) -> Result<Box<dyn Component>, AgentError> {
    match goal.component.as_str() {
        "secrets" => Ok(Box::new(crate::secrets::SecretsComponent::new(goal)?)),
        "system" => Ok(Box::new(crate::system::SystemComponent::new(goal)?)),
        #[cfg(feature = "planted")]
        "second" => Ok(Box::new(crate::second::Second::new(goal)?)),
        other => Err(AgentError::Component {
            component: other.to_owned(),
            message: "NotYet: this agent has no such component".to_owned(),
        }),
    }
}

/// Components by name.
pub type Parts = Vec<(ComponentName, Box<dyn Component>)>;

/// All components of an intent, in the order in which they are applied.
pub fn all(intent: &Intent) -> Result<Parts, AgentError> {
    let one = |g: &Goal| Ok((g.component.clone(), of(g)?));
    intent.goals.iter().map(one).collect()
}
