//! Hosts at rest by a person's word or by Git: taken back by hand, observed only, left for good. Nothing is done to them.

use std::time::Duration;

use trueup_schema::status::{Phase, Reason};

use super::talk::Talk;
use super::{Decision, Runs, Step};
use crate::conditions::State;
use crate::host::Wanted;

/// A host that was left is not asked for anything; this only bounds how long nobody looks at what is written of it.
const LEFT_LOOK: Duration = Duration::from_secs(3600);

/// It runs what a person took it back to, confirmed.
pub(super) fn rolled_back(t: &Talk<'_, '_>) -> Decision {
    let back = t.view.rollback.map(|b| &b.rollback);
    let message = back.map_or_else(String::new, |r| {
        let of = r
            .revision
            .as_ref()
            .map_or_else(String::new, |v| format!(" of {}", v.short()));
        let from = r.from.as_ref().map_or_else(
            || "what the trunk wants".to_owned(),
            trueup_schema::StorePath::short,
        );
        let why = if r.reason.is_empty() {
            String::new()
        } else {
            format!(": {}", r.reason)
        };
        format!(
            "taken back to {}{of} by {}{why}. {from} is not deployed again until the trunk changes it, or \
             `trueup reconcile --host {} --retry`",
            r.to.short(),
            r.by.name,
            r.host
        )
    });
    let mut verdict = t.say(
        Phase::Held,
        State::Resting,
        Reason::RolledBackByHand,
        message,
    );
    verdict.detail = Some("rolled back".to_owned());
    t.look_or_wait(verdict)
}

/// `delivery: observe`: what differs is shown, and never touched.
pub(super) fn observed(t: &Talk<'_, '_>, wanted: &Wanted, runs: Runs) -> Decision {
    let verdict = match runs {
        Runs::Goal => {
            let message = format!(
                "runs {} of {}; observed only (spec.delivery: observe)",
                wanted.closure.short(),
                t.view.revision.short()
            );
            t.say(Phase::Ready, State::Ready, Reason::ObservedOnly, message)
        }
        Runs::Drifted(what) => {
            let message = format!("{what}; observed only (spec.delivery: observe)");
            let mut v = t.say(Phase::Held, State::Resting, Reason::ObservedOnly, message);
            v.detail = Some("observed only".to_owned());
            v.drifted = Some(what);
            v
        }
        Runs::Other => t.say(
            Phase::Held,
            State::Resting,
            Reason::ObservedOnly,
            "observed only (spec.delivery: observe)",
        ),
    };
    t.look_or_wait(verdict)
}

/// Left by `trueup leave`, or no longer in the trunk: not even looked at.
pub(super) fn left(t: &Talk<'_, '_>) -> Option<Decision> {
    let view = t.view;
    let (reason, message) = match view.left {
        Some(l) => {
            let done = match (&l.done_at, &l.problem) {
                (Some(_), _) => "left".to_owned(),
                (None, None) => "being left".to_owned(),
                (None, Some(p)) => format!("being left (tried again: {p})"),
            };
            let why = if l.reason.is_empty() {
                String::new()
            } else {
                format!(": {}", l.reason)
            };
            let message = format!(
                "{done}, as {} said{why}; not asked or touched until `trueup adopt host/{}`",
                l.by.name, l.host
            );
            (Reason::Left, message)
        }
        None if view.released => (
            Reason::HostReleased,
            "no longer in the trunk; nothing is done to it".to_owned(),
        ),
        None => return None,
    };
    let mut verdict = t.say(Phase::Held, State::Resting, reason, message);
    verdict.detail = view.left.map(|_| "left".to_owned());
    Some(Decision {
        step: Step::Wait {
            until: t.now + LEFT_LOOK,
        },
        verdict,
    })
}
