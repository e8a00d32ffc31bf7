//! What the closure itself says of a switch to it, before anything is touched: `check`, and `dry-activate`.

use std::thread;

use trueup_schema::status::Outcome;
use trueup_schema::wire::Stage;

use super::{
    CHECK_LIMIT, ENV, LOCK_HELD, LOCK_PAUSE, LOCK_TRIES, LOCKED, SystemComponent, log_file,
};
use crate::component::{Context, Refusal};
use crate::{AgentError, exec, files};

impl SystemComponent {
    /// What the closure's own `dry-activate` says it would do.
    pub(super) fn dry_activate(&self, ctx: &Context) -> Refusal {
        const LOG: &str = "dry-activate.log";
        let program = self.target().join("bin/switch-to-configuration");
        let run = log_file(ctx, LOG)
            .map_err(AgentError::from)
            .and_then(|log| {
                Ok(exec::run_logged(
                    &program,
                    &["dry-activate"],
                    &ENV,
                    &log,
                    CHECK_LIMIT,
                )?)
            });
        let said = tail(&files::text(ctx.dir().join(LOG)));
        let (outcome, message) = match run {
            Ok(Some(0)) => (Outcome::Skipped, format!("dry-activate: {said}")),
            Ok(code) => (
                Outcome::Failed,
                format!("`dry-activate` ended with {code:?}: {said}"),
            ),
            Err(e) => (Outcome::Failed, e.to_string()),
        };
        Refusal {
            outcome,
            stage: Stage::Preflight,
            message,
            evidence: false,
        }
    }

    /// The closure's own `check`, before anything is touched. Older ones have no such verb and check in `test`.
    pub(super) fn pre_switch_check(&self, ctx: &Context) -> Result<(), Refusal> {
        const LOG: &str = "check.log";
        let program = self.target().join("bin/switch-to-configuration");
        let no = |outcome, message: String, evidence| Refusal {
            outcome,
            stage: Stage::Preflight,
            message,
            evidence,
        };
        let ours = |message: String| no(Outcome::Failed, message, false);
        let mut code = None;
        for try_no in 0..LOCK_TRIES {
            let log = log_file(ctx, LOG).map_err(|e| ours(e.to_string()))?;
            code = exec::run_logged(&program, &["check"], &ENV, &log, CHECK_LIMIT)
                .map_err(|e| ours(e.to_string()))?;
            if code != Some(LOCKED) {
                break;
            }
            if try_no + 1 < LOCK_TRIES {
                thread::sleep(LOCK_PAUSE);
            }
        }
        let said = files::text(ctx.dir().join(LOG));
        match code {
            Some(0) => Ok(()),
            Some(1) if said.contains("Usage:") => Ok(()),
            Some(LOCKED) => Err(ours(LOCK_HELD.to_owned())),
            Some(1) if said.contains("changes to critical components") => Err(no(
                Outcome::RebootRequired,
                "SwitchInhibited: the closure's pre-switch check forbids to switch".to_owned(),
                false,
            )),
            Some(1) => Err(no(
                Outcome::Failed,
                format!("the closure's pre-switch checks refused: {}", tail(&said)),
                true,
            )),
            Some(code) => Err(ours(format!("`check` ended with {code}: {}", tail(&said)))),
            None => Err(ours("`check` did not end in time".to_owned())),
        }
    }
}

/// The end of what a program said, as one short line.
fn tail(said: &str) -> String {
    const CHARS: usize = 300;
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let skip = line.chars().count().saturating_sub(CHARS);
    line.chars().skip(skip).collect()
}
