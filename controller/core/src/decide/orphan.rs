//! An attempt that goes on on a host and that no claim is held for: the database is a backup, older than the attempt. It is
//! ours, since the host takes intents of our key only. What is to run anyway is confirmed; all else is left to its end.

use trueup_schema::status::Phase;
use trueup_schema::wire::{AttemptState, Report};

use super::claim::is_ours_to_confirm;
use super::talk::Talk;
use super::{Decision, FOLLOW, Step};
use crate::host::Wanted;

const SYSTEM: &str = "system";

/// Without a claim.
pub(super) fn orphan(t: &Talk<'_, '_>, wanted: &Wanted, report: &Report) -> Option<Decision> {
    let m = t.view.memory;
    let a = report.attempt.as_ref().filter(|_| m.is_at_an_attempt())?;
    let same = a
        .goals
        .iter()
        .any(|(name, digest)| name.as_str() == SYSTEM && *digest == wanted.digest);
    let ours = same && is_ours_to_confirm(t.view.manifest, a);
    if let (AttemptState::AwaitingConfirmation, true, Some(nonce)) = (a.state, ours, &a.nonce)
        && m.answered_at.is_some()
        && m.not_before.is_none_or(|n| n <= t.now)
    {
        let step = Step::Confirm {
            order: a.order,
            nonce: nonce.clone(),
            within_secs: a.deadline_in_secs,
        };
        let verdict = t.working(
            Phase::AwaitingConfirmation,
            "confirming an activation that an earlier database began",
        );
        return Some(Decision { step, verdict });
    }
    let next = m
        .not_before
        .or(m.tried_at.map(|tried| tried + FOLLOW))
        .unwrap_or(t.now);
    let step = if next <= t.now {
        Step::Observe
    } else {
        Step::Wait { until: next }
    };
    let verdict = t.working(
        Phase::Activating,
        "an activation that an earlier database began goes on there",
    );
    Some(Decision { step, verdict })
}
