//! While a claim is held: what the host says of its attempt decides, and an attempt that may run is never abandoned.

use trueup_schema::HostName;
use trueup_schema::kind::{Confirm, Delivery, ResolvedHost};
use trueup_schema::status::{Phase, Reason};
use trueup_schema::wire::{AttemptReport, AttemptState, ConfirmBy};

use super::reboot::{REBOOT_MAX, under_way};
use super::talk::{Talk, suspended, unreachable};
use super::{Decision, FOLLOW, MISSES, Step};
use crate::conditions::{State, Verdict};
use crate::host::{Claim, Work};

/// Who confirms is what the host was told with this attempt, whatever the trunk has said since.
pub(super) fn is_ours_to_confirm(manifest: &ResolvedHost, a: &AttemptReport) -> bool {
    match &a.confirm {
        Some(confirm) => confirm.by == ConfirmBy::Controller,
        None => manifest.activation.confirm == Confirm::Controller,
    }
}

fn witness(a: &AttemptReport) -> Option<&HostName> {
    Some(&a.confirm.as_ref()?.witness.as_ref()?.host)
}

/// A person says that this machine is no longer to be reckoned with, and it has been silent for longer than a reboot takes.
fn is_given_up(t: &Talk<'_, '_>) -> bool {
    let since = t.view.memory.unreachable_since;
    (t.view.released || t.view.left.is_some()) && since.is_some_and(|s| s + REBOOT_MAX <= t.now)
}

/// What is shown of a host that fell silent and may be changing. It keeps its place in the limits: while it is half way its
/// group has a machine less, and one that died of a revision is a reason to go no further.
fn silent(t: &Talk<'_, '_>, claim: &Claim) -> Verdict {
    let m = t.view.memory;
    let last = m.last_error.as_ref();
    let why = last.map_or("does not answer", |p| p.message.as_str());
    let why = format!(
        "{why}; it may be activating {}, so it counts as changing until it answers. If the machine is gone, take it out of \
         the trunk",
        claim.closure.short()
    );
    unreachable(t, &why)
}

/// While a claim is held: what the host says of it decides.
pub(super) fn with_claim(t: &Talk<'_, '_>) -> Option<Decision> {
    let claim = t.view.claim?;
    let m = t.view.memory;
    let attempt = m.report.as_ref().and_then(|r| r.attempt.as_ref());
    let release = |verdict| {
        let step = Step::Release;
        Some(Decision { step, verdict })
    };
    let heard = |verdict: Verdict| match m.misses >= MISSES {
        true => silent(t, claim),
        false => verdict,
    };
    let follow = |verdict: Verdict| {
        let tried = m.tried_at.unwrap_or(claim.granted_at);
        let next = m.not_before.unwrap_or(tried + FOLLOW);
        let step = if next <= t.now {
            Step::Observe
        } else {
            Step::Wait { until: next }
        };
        let verdict = heard(verdict);
        Some(Decision { step, verdict })
    };
    if is_given_up(t) {
        return release(silent(t, claim));
    }
    if let Some(a) = attempt.filter(|a| a.order == claim.order) {
        match a.state {
            AttemptState::Offered => {}
            AttemptState::Activating => {
                let message = format!("activating {}", claim.closure.short());
                return follow(t.working(Phase::Activating, message));
            }
            AttemptState::Rebooting => return Some(under_way(t, claim, a.boot.as_ref())),
            AttemptState::AwaitingConfirmation => {
                let message = match witness(a) {
                    Some(w) => {
                        format!("waits for the witness {w}, who confirms over a new connection")
                    }
                    None if is_ours_to_confirm(t.view.manifest, a) => {
                        "confirming over a new connection".to_owned()
                    }
                    None => "waits for who confirms it, which is not this controller".to_owned(),
                };
                let verdict = t.working(Phase::AwaitingConfirmation, message);
                if let (true, Some(nonce)) = (is_ours_to_confirm(t.view.manifest, a), &a.nonce)
                    && m.not_before.is_none_or(|n| n <= t.now)
                {
                    let (order, nonce) = (a.order, nonce.clone());
                    let within_secs = a.deadline_in_secs;
                    return Some(Decision {
                        step: Step::Confirm {
                            order,
                            nonce,
                            within_secs,
                        },
                        verdict: heard(verdict),
                    });
                }
                return follow(verdict);
            }
            AttemptState::Committing => {
                return follow(t.working(
                    Phase::AwaitingConfirmation,
                    "confirmed; the host sets its boot default",
                ));
            }
            AttemptState::RollingBack => {
                let message = a
                    .message
                    .clone()
                    .unwrap_or_else(|| "the host goes back".to_owned());
                return follow(t.say(
                    Phase::RollingBack,
                    State::Retrying,
                    Reason::Progressing,
                    message,
                ));
            }
            AttemptState::Ended => {
                return release(t.working(Phase::Activating, "the attempt ended"));
            }
        }
    }
    if m.ended.as_ref().is_some_and(|e| e.order == claim.order) {
        return release(t.working(
            Phase::Activating,
            "the attempt ended, and the host forgot it",
        ));
    }
    let greatest = m.report.as_ref().and_then(|r| r.greatest);
    let verdict = t.working(
        Phase::Activating,
        format!("offering {}", claim.closure.short()),
    );
    let offered = attempt.is_some_and(|a| a.order == claim.order);
    let begun = m.begun == Some(claim.order) || (!offered && greatest >= Some(claim.order));
    let secrets = t.view.secrets.map(|s| &s.digest);
    let other = if claim.secrets_alone {
        secrets != Some(&claim.digest)
    } else {
        let newer = claim.secrets.is_some() && secrets != claim.secrets.as_ref();
        newer || matches!(t.view.evaluation, Work::Done(w) if w.digest != claim.digest)
    };
    // A claim that was not begun gives way to its end, a newer goal and a suspension, but only when the host itself says
    // that it was not, and was asked: an offer whose answer was lost may have begun, and a late report not know of it.
    let expired = t.now >= claim.expires_at;
    let answered = |since| m.answered_at.is_some_and(|at| at >= since);
    let unwanted = other
        || suspended(t.view, t.now).is_some()
        || t.view.released
        || t.view.left.is_some()
        || t.view.manifest.delivery == Delivery::Observe;
    let gone = (expired && answered(claim.expires_at)) || (unwanted && answered(claim.granted_at));
    if greatest > Some(claim.order) || (gone && !begun) {
        return release(verdict);
    }
    if begun {
        return follow(verdict);
    }
    if m.not_before.is_some_and(|n| n > t.now) {
        return follow(silent(t, claim));
    }
    let step = if unwanted || expired || m.misses > 0 {
        Step::Observe
    } else {
        Step::Offer
    };
    Some(Decision { step, verdict })
}

#[cfg(test)]
#[path = "claim_tests.rs"]
mod tests;
