//! A component for tests only (feature `planted`): it writes down which calls it got, and can be told where to fail, so
//! that the order of a transaction over several components is seen on a real host.

use std::fs::OpenOptions;
use std::io::Write as _;

use serde::Deserialize;
use trueup_core::agent::{Fault, Recorded};
use trueup_schema::status::Outcome;
use trueup_schema::wire::{Activation, Goal, Stage};

use crate::AgentError;
use crate::component::{Applied, Committed, Component, Context, Observed, Refusal, Verified};
use crate::files::{FileError, Layout};

/// What a reader of such a goal must understand.
pub const SECOND_V1: &str = "component/second/1";

/// See the module.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Second {
    /// The call that fails: `stage`, `apply`, `judge`, `seal`.
    #[serde(default)]
    fails_in: String,
}

impl Second {
    /// From its goal.
    pub fn new(goal: &Goal) -> Result<Self, AgentError> {
        serde_json::from_value(goal.body.clone()).map_err(|e| AgentError::Component {
            component: "second".to_owned(),
            message: e.to_string(),
        })
    }

    /// One word a call in `second.log` of the state folder; `false`: this is the one that fails.
    fn called(&self, layout: &Layout, call: &str) -> Result<bool, AgentError> {
        let path = layout.file("second.log");
        let runs = crate::files::store_path(crate::files::CURRENT);
        let line = format!("{call} {}\n", runs.map_or(String::new(), |p| p.to_string()));
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .and_then(|mut f| f.write_all(line.as_bytes()))
            .map_err(|source| FileError::Write { path, source })?;
        Ok(self.fails_in != call)
    }
}

impl Component for Second {
    fn observe(&self, _layout: &Layout) -> Result<Observed, AgentError> {
        Ok(Observed::default())
    }
    fn stage(&mut self, ctx: &Context) -> Result<(), Refusal> {
        match self.called(&ctx.layout, "stage") {
            Ok(true) => Ok(()),
            _ => Err(Refusal {
                outcome: Outcome::Failed,
                stage: Stage::Preflight,
                message: "second: told to fail".to_owned(),
                evidence: true,
            }),
        }
    }
    fn record(&mut self, ctx: &Context, _into: &mut Recorded) -> Result<(), AgentError> {
        self.called(&ctx.layout, "record").map(|_| ())
    }
    fn apply(
        &mut self,
        ctx: &Context,
        _recorded: &Recorded,
        _overdue: &mut dyn FnMut(Vec<String>) -> Result<(), AgentError>,
    ) -> Result<Applied, AgentError> {
        let told = || "second: told to fail".to_owned();
        Ok(match self.called(&ctx.layout, "apply")? {
            true => Applied::Done(Activation::Complete),
            false => Applied::Faulty(Fault::evident(Stage::Activate, told())),
        })
    }
    fn judge(&mut self, ctx: &Context) -> Result<Option<Fault>, AgentError> {
        let told = || "second: told to fail".to_owned();
        let good = self.called(&ctx.layout, "judge")?;
        Ok((!good).then(|| Fault::evident(Stage::Judge, told())))
    }
    fn commit(&mut self, ctx: &Context, _recorded: &Recorded) -> Result<(), AgentError> {
        self.called(&ctx.layout, "commit").map(|_| ())
    }
    fn seal(&mut self, ctx: &Context, _recorded: &Recorded) -> Result<Committed, AgentError> {
        Ok(match self.called(&ctx.layout, "seal")? {
            true => Committed::plainly(),
            false => Committed::Without("second: told to fail".to_owned()),
        })
    }
    fn uncommit(&mut self, ctx: &Context, _recorded: &Recorded) -> Result<(), AgentError> {
        self.called(&ctx.layout, "uncommit").map(|_| ())
    }
    fn revert(&mut self, ctx: &Context, _recorded: &Recorded) -> Result<(), AgentError> {
        self.called(&ctx.layout, "revert").map(|_| ())
    }
    fn verify(&mut self, ctx: &Context, _recorded: &Recorded) -> Result<Verified, AgentError> {
        self.called(&ctx.layout, "verify")?;
        Ok(Verified {
            back: true,
            ..Verified::default()
        })
    }
}
