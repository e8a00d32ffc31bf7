//! What is to be done with one host: one step, or a wait, with the verdict that is shown. A function of the view, the
//! time and a seed (for jitter); it remembers nothing and touches nothing.

mod claim;
mod course;
mod deliver;
mod orphan;
mod ours;
mod reboot;
mod rests;
mod runs;
mod talk;

use std::time::Duration;

use trueup_schema::kind::{self, Delivery};
use trueup_schema::status::{Phase, Reason};
use trueup_schema::wire::Order;
use trueup_schema::{StorePath, Timestamp};

use crate::conditions::{State, Verdict};
use crate::host::{HostView, Work};
use crate::rollback::effective;
use crate::way::{self, Way};
use claim::with_claim;
pub use course::{course, reached};
use deliver::{deliver, drift, secrets, with_secrets_that_hurt};
use orphan::orphan;
use ours::ours;
pub use reboot::REBOOT_MAX;
use rests::{left, observed, rolled_back};
pub use runs::{Runs, has_secrets, parts, runs, runs_there, system};
pub use talk::suspended;
use talk::{Talk, unreachable};

/// Attempts at contact in a row that fail before a host counts as unreachable.
pub const MISSES: u32 = 3;
/// Attempts at one goal that end without evidence against it, before a person is needed.
pub const MAX_TRIES: u32 = 3;
/// Corrections of drift within an hour, before it is only told.
pub const MAX_CORRECTIONS: usize = 3;
/// How often a host is asked while an attempt runs there and no report comes by itself.
pub const FOLLOW: Duration = Duration::from_secs(5);
/// How often a host is looked at, at least, while a person holds it there: nothing tells of an early release but its report.
pub const HELD_LOOK: Duration = Duration::from_secs(30);

/// The one thing to do now. Each is safe to repeat and to be cut off: the next decision is taken from what is then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask the host for a report.
    Observe,
    /// Record that the host is ours, with the identity that it reported (`adopt: auto`, or a person's word).
    Adopt,
    /// Put the want for an evaluation into the pipeline.
    WantEvaluation,
    /// Put the want for the closure (built and signed) into the pipeline, and open the connection meanwhile.
    WantClosure,
    /// Ask for permission to change the host.
    Ask {
        /// It corrects drift.
        correction: bool,
    },
    /// Offer the claim's intent.
    Offer,
    /// Copy what the host said it needs.
    Copy(Vec<StorePath>),
    /// Confirm the activation over a new connection.
    Confirm {
        /// Which.
        order: Order,
        /// The activation's.
        nonce: String,
        /// The host's own deadline, if it said one.
        within_secs: Option<u64>,
    },
    /// Give the claim back: its intent was not begun and no longer will be.
    Release,
    /// Nothing before `until`, unless something changes.
    Wait {
        /// Look again then, at the latest.
        until: Timestamp,
    },
}

/// A step and what is shown meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What to do.
    pub step: Step,
    /// What to show.
    pub verdict: Verdict,
}

impl Decision {
    /// Does it end at rest, so that the revision counts as observed?
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self.verdict.state, State::Ready | State::Stalled)
            && matches!(self.step, Step::Wait { .. })
    }
}

/// See the module.
#[must_use]
pub fn decide(view: &HostView<'_>, now: Timestamp, seed: u64) -> Decision {
    let view = &effective(view);
    let t = Talk { view, now, seed };
    let m = view.memory;
    // An attempt that may run there comes first: it is never abandoned, not even by a suspension.
    if let Some(d) = with_claim(&t) {
        return d;
    }
    if let Some(d) = left(&t) {
        return d;
    }
    if *view.evaluation == Work::None {
        let verdict = t.working(
            Phase::Evaluating,
            format!("evaluating {}", view.revision.short()),
        );
        return Decision {
            step: Step::WantEvaluation,
            verdict,
        };
    }
    if m.report.is_none() && (m.not_before.is_none_or(|n| n <= now) || t.nudged()) {
        // Asked again, it is no less unreachable until it answers.
        let verdict = match &m.last_error {
            Some(p) if m.misses > 0 => unreachable(&t, &p.message),
            _ => t.working(Phase::Pending, "asking the host for its first report"),
        };
        return Decision {
            step: Step::Observe,
            verdict,
        };
    }
    if let Some(why) = suspended(view, now) {
        let ready = view.rollback.is_none()
            && matches!((view.evaluation, &m.report), (Work::Done(w), Some(r))
                if runs_there(view, r, w) == Runs::Goal);
        let state = if ready { State::Ready } else { State::Resting };
        let verdict = t.say(Phase::Suspended, state, Reason::Suspended, why);
        return t.look_or_wait_until(verdict, view.suspension.and_then(|s| s.until));
    }
    let observed_only = view.manifest.delivery == Delivery::Observe;
    if !observed_only && let Some(d) = ours(&t) {
        return d;
    }
    let wanted = match view.evaluation {
        Work::Done(w) => w,
        Work::Failed(p) => {
            let verdict = t.problem(Phase::Evaluating, p);
            return t.look_or_wait_until(verdict, p.retry_at);
        }
        Work::None | Work::Running(_) => {
            let verdict = t.working(
                Phase::Evaluating,
                format!("evaluating {}", view.revision.short()),
            );
            return t.look_or_wait(verdict);
        }
    };
    let Some(report) = &m.report else {
        let why = m
            .last_error
            .as_ref()
            .map_or("no report yet", |p| p.message.as_str());
        return t.look_or_wait(unreachable(&t, why));
    };
    if m.misses > 0 {
        let why = m
            .last_error
            .as_ref()
            .map_or("does not answer", |p| p.message.as_str());
        return t.look_or_wait(unreachable(&t, why));
    }
    if let Some(d) = orphan(&t, wanted, report) {
        return d;
    }
    if t.nudged() {
        let verdict = t.working(Phase::Pending, "asked by a person: looking at the host");
        return Decision {
            step: Step::Observe,
            verdict,
        };
    }
    let now_runs = runs_there(view, report, wanted);
    if observed_only {
        return observed(&t, wanted, now_runs);
    }
    let dry = view.manifest.activation.mode == kind::Mode::DryActivate;
    let alone = Way::of(view.manifest, now).may_go_by_reboot();
    if dry && has_secrets(report, view.secrets) != Runs::Goal {
        let message =
            "its secrets differ; nothing is delivered, since activation.mode is dryActivate";
        let reason = Reason::DryActivated;
        return t.look_or_wait(t.say(Phase::Held, State::Resting, reason, message));
    }
    if (now_runs != Runs::Other || alone)
        && let Some(mine) = view.secrets
    {
        match has_secrets(report, view.secrets) {
            Runs::Goal => {}
            Runs::Drifted(what) => return secrets(&t, wanted, &mine.digest, report, Some(&what)),
            Runs::Other => return secrets(&t, wanted, &mine.digest, report, None),
        }
    }
    match now_runs {
        Runs::Goal if view.rollback.is_some() => rolled_back(&t),
        Runs::Goal => {
            if let Some(d) = reboot::due(&t, wanted, report) {
                return d;
            }
            let message = format!(
                "runs {} of {}",
                wanted.closure.short(),
                view.revision.short()
            );
            let reason = Reason::ReconciliationSucceeded;
            let verdict = t.say(Phase::Ready, State::Ready, reason, message);
            t.look_or_wait_until(verdict, way::opens(view.manifest, now))
        }
        Runs::Drifted(what) => drift(&t, wanted, report, &what),
        Runs::Other => with_secrets_that_hurt(&t, wanted, report)
            .unwrap_or_else(|| deliver(&t, wanted, report, None)),
    }
}
