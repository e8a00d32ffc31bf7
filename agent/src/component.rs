//! What a host is made of, as a transaction: each component stages (all may fail, nothing has changed), applies,
//! commits after the confirmation, or reverts in reverse. Every call may be repeated after a crash.

use trueup_core::agent::{Fault, Recorded};
use trueup_schema::status::Outcome;
use trueup_schema::wire::{Activation, Goal, Intent, Order, Stage};

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
    },
    /// Asked for, without effect; what was set is set back.
    Without(String),
}

/// A component.
pub trait Component {
    /// Asks whether it can; touches nothing.
    fn stage(&mut self, ctx: &Context) -> Result<(), Refusal>;
    /// Roots and writes down what is there.
    fn record(&mut self, ctx: &Context, into: &mut Recorded) -> Result<(), AgentError>;
    /// Makes it so. `overdue` is told when the limit passed and what is waited for.
    fn apply(
        &mut self,
        ctx: &Context,
        overdue: &mut dyn FnMut(Vec<String>) -> Result<(), AgentError>,
    ) -> Result<Applied, AgentError>;
    /// Looks at it after the settle time.
    fn judge(&mut self, ctx: &Context) -> Result<Option<Fault>, AgentError>;
    /// Is what we left still there? Else who came between.
    fn is_ours(&self, ctx: &Context, recorded: &Recorded) -> Result<(), String>;
    /// Makes it last past a power cut: first half.
    fn set_profile(&mut self, ctx: &Context, recorded: &Recorded) -> Result<(), AgentError>;
    /// Second half, read back.
    fn write_boot(&mut self, ctx: &Context, recorded: &Recorded) -> Result<Committed, AgentError>;
    /// Back to the recorded state.
    fn revert(&mut self, ctx: &Context, recorded: &Recorded) -> Result<(), AgentError>;
    /// What differs from the recorded state, and whether the main thing is back.
    fn verify(&mut self, ctx: &Context, recorded: &Recorded) -> Result<Verified, AgentError>;
}

/// What is found after the way back.
#[derive(Debug, Default)]
pub struct Verified {
    /// The recorded path runs again.
    pub back: bool,
    /// What differs.
    pub differs: Vec<String>,
    /// What still runs from the candidate.
    pub restart_debt: Vec<String>,
}

/// The component behind a goal.
pub fn of(goal: &Goal) -> Result<Box<dyn Component>, AgentError> {
    match goal.component.as_str() {
        "system" => Ok(Box::new(crate::system::SystemComponent::new(goal)?)),
        other => Err(AgentError::Component {
            component: other.to_owned(),
            message: "NotYet: this agent has no such component".to_owned(),
        }),
    }
}
