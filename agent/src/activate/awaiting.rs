//! Between the activation and the commit: units are judged, somebody confirms, or the deadline comes.

use std::fs;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trueup_core::agent::{Event, Fault, Moment, Session};
use trueup_schema::wire::Stage;

use super::{Run, in_secs, system_goal};
use crate::changes::Changes;
use crate::component::Context;
use crate::plant::{self, Bug};
use crate::{AgentError, deadman, files, journal};

/// Who waits for the confirmation looks at the deadlines at least so often.
const LOOK: Duration = Duration::from_millis(500);
/// A confirmation that comes at once ends the wait before both lines of the dead-man are armed anew.
const ARM_ANEW_AFTER: Duration = Duration::from_secs(3);

/// What `confirm` leaves for the activation's process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Confirmation {
    /// The nonce that it carried.
    pub nonce: String,
    /// Over which connection.
    pub session: Session,
}

impl Run<'_> {
    pub(super) fn begin_to_await(&mut self) -> Result<(), AgentError> {
        if plant::is(Bug::ProfileBeforeConfirm) {
            self.commit_parts()?;
        }
        let deadline = in_secs(self.ctx.intent.confirm.timeout_secs);
        // Before it is written that somebody is awaited: whoever dies from then on is brought back at this deadline.
        deadman::bring_forward(&self.ctx.layout, self.ctx.order(), deadline.at)?;
        self.append(Event::Awaiting {
            nonce: crate::nonce(),
            since: journal::now(),
            deadline,
        })
    }

    pub(super) fn judge_and_confirm(&mut self) -> Result<(), AgentError> {
        let (Some(since), Some(deadline)) =
            (self.state().since.clone(), self.state().deadline.clone())
        else {
            return Ok(());
        };
        // The first line was brought forward already. Both are armed anew unless this ends in a moment: systemd has a login
        // to let in meanwhile.
        let begin = since.at.saturating_add(journal::nanos(ARM_ANEW_AFTER));
        let pause = Duration::from_nanos(begin.saturating_sub(journal::boottime()));
        let (layout, order, at) = (self.ctx.layout.clone(), self.ctx.order(), deadline.at);
        let (ended, wait) = mpsc::channel::<()>();
        let arming = thread::spawn(move || match wait.recv_timeout(pause) {
            Err(mpsc::RecvTimeoutError::Timeout) => deadman::arm_once(&layout, order, at),
            _ => Ok(()),
        });
        let event = self.verdict(&since, &deadline);
        drop(ended);
        let armed = arming.join().unwrap_or(Ok(()));
        let event = event?;
        if !matches!(event, Event::RollingBack(_)) {
            armed?;
        }
        self.append(event)
    }

    /// Waits for what comes first: judged, confirmed, or the deadline.
    fn verdict(&mut self, since: &Moment, deadline: &Moment) -> Result<Event, AgentError> {
        let settle = settle_secs(self.ctx);
        let settled = since
            .at
            .saturating_add(settle.saturating_mul(1_000_000_000));
        let file = self.ctx.dir().join("confirm");
        let changes = Changes::of(&self.ctx.dir());
        loop {
            let now = journal::boottime();
            if !self.state().good && now >= settled.min(deadline.at) {
                for (name, part) in &mut self.parts {
                    if let Some(fault) = part.judge(self.ctx)? {
                        // Who finds it is to blame, and no goal beside it.
                        let component = fault.component.clone().or_else(|| Some(name.clone()));
                        return Ok(Event::RollingBack(Fault { component, ..fault }));
                    }
                }
                return Ok(Event::JudgedGood);
            }
            if !self.state().confirmed
                && let Some(c) = files::noted::<Confirmation>(&file)
            {
                if Some(&c.nonce) == self.state().nonce.as_ref() {
                    return Ok(Event::Confirmed);
                }
                let _stale = fs::remove_file(&file);
            }
            if now >= deadline.at {
                let secs = self.ctx.intent.confirm.timeout_secs;
                let witness = self.ctx.intent.confirm.witness.as_ref();
                let nobody = witness.map_or("nobody confirmed".to_owned(), |w| {
                    format!("the witness {} did not confirm", w.host)
                });
                let message = format!("{nobody} over a new connection within {secs} s");
                return Ok(Event::RollingBack(Fault::new(Stage::Confirm, message)));
            }
            let next = if self.state().good {
                deadline.at
            } else {
                settled.min(deadline.at)
            };
            changes.wait(LOOK.min(Duration::from_nanos(next.saturating_sub(now))));
        }
    }
}

/// For how long units are watched, by whichever goal says so.
fn settle_secs(ctx: &Context) -> u64 {
    let secrets = || {
        let goal = ctx.intent.goals.first()?;
        crate::secrets::body(goal).ok().map(|g| g.settle_secs)
    };
    let system = system_goal(ctx).map(|g| g.settle_secs);
    system.or_else(secrets).unwrap_or(10)
}
