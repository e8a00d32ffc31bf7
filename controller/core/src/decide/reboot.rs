//! A host on its way through a reboot, and one that runs its goal and still needs one.

use std::time::Duration;

use trueup_schema::status::{Phase, Reason};
use trueup_schema::wire::{BootReport, Mode, Report};

use super::deliver::deliver_what_is_there;
use super::talk::Talk;
use super::{Decision, FOLLOW, Step};
use crate::conditions::State;
use crate::host::{Claim, Wanted};
use crate::way::Way;

/// A machine takes seconds to minutes to come back; one with much memory to test takes ten. Then a person should look.
pub const REBOOT_MAX: Duration = Duration::from_secs(15 * 60);

/// The reboot of a host that runs its goal; `None`: none is needed, or none is allowed now.
pub(super) fn due(t: &Talk<'_, '_>, wanted: &Wanted, report: &Report) -> Option<Decision> {
    let manifest = t.view.manifest;
    let way = Way::now(manifest, report, wanted, t.now);
    let debt = &report.running.reboot_required;
    if debt.is_empty() || way.mode != Mode::Boot || !way.may_reboot {
        return None;
    }
    let mut d = deliver_what_is_there(t, wanted, report, None);
    if matches!(d.step, Step::Ask { .. }) {
        d.verdict.message = format!("to be rebooted for {}", debt.join(", "));
    }
    Some(d)
}

/// The claim's host reboots: it is looked for often, and missed only when it takes too long.
pub(super) fn under_way(t: &Talk<'_, '_>, claim: &Claim, boot: Option<&BootReport>) -> Decision {
    let m = t.view.memory;
    let since = m.rebooting_since.unwrap_or(claim.granted_at);
    let fallback = boot.and_then(|b| b.fallback.as_ref());
    let then = fallback.map_or("the boot default".to_owned(), |f| f.short());
    let verdict = if since + REBOOT_MAX <= t.now {
        let message = format!(
            "has not come back since {since}, when it rebooted into {}: look at it; a power cycle boots {then}",
            claim.closure.short()
        );
        let phase = Phase::Unreachable;
        t.say(phase, State::Retrying, Reason::RebootOverdue, message)
    } else {
        let message = format!(
            "rebooting into {}; a power cycle boots {then}",
            claim.closure.short()
        );
        t.working(Phase::Rebooting, message)
    };
    let next = m.tried_at.unwrap_or(since) + FOLLOW;
    let step = if next <= t.now {
        Step::Observe
    } else {
        Step::Wait { until: next }
    };
    Decision { step, verdict }
}
