//! Whether a host is ours, and the machine that it was: if not, it is only observed.

use trueup_schema::status::{Phase, Reason};

use super::talk::Talk;
use super::{Decision, Step};
use crate::conditions::State;

/// Adoption and identity: a host that is not ours is only observed.
pub(super) fn ours(t: &Talk<'_, '_>) -> Option<Decision> {
    let view = t.view;
    let report = view.memory.report.as_ref()?;
    let Some(adoption) = view.adoption else {
        if view.adopt == trueup_schema::kind::Adopt::Auto {
            let verdict = t.working(Phase::Pending, "adopting");
            return Some(Decision {
                step: Step::Adopt,
                verdict,
            });
        }
        let name = &view.manifest.name;
        let message = format!("not adopted, so only observed: `trueup adopt host/{name}`");
        let verdict = t.say(
            Phase::Held,
            State::Stalled,
            Reason::AdoptionRequired,
            message,
        );
        return Some(t.look_or_wait(verdict));
    };
    let Some(pinned) = &adoption.identity else {
        return Some(Decision {
            step: Step::Adopt,
            verdict: t.working(Phase::Pending, "adopting"),
        });
    };
    // A machine may get new host keys beside an old one; machine-id or all keys gone means another machine.
    let keys = &report.identity.host_keys;
    let same_keys =
        pinned.host_keys.is_empty() || pinned.host_keys.iter().any(|k| keys.contains(k));
    if pinned.machine_id != report.identity.machine_id || !same_keys {
        let message = format!(
            "another machine answers: machine-id {} instead of {}; if that is meant, `trueup adopt host/{}`",
            report.identity.machine_id, pinned.machine_id, view.manifest.name
        );
        let verdict = t.say(
            Phase::Stalled,
            State::Stalled,
            Reason::IdentityMismatch,
            message,
        );
        return Some(t.look_or_wait(verdict));
    }
    None
}
