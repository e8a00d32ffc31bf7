//! While a claim is held: what the host says of its attempt decides, and an attempt that may run is never abandoned.

use trueup_schema::HostName;
use trueup_schema::kind::{Confirm, Delivery, ResolvedHost};
use trueup_schema::status::{Phase, Reason};
use trueup_schema::wire::{AttemptReport, AttemptState, ConfirmBy};

use super::reboot::under_way;
use super::talk::{Talk, suspended, unreachable};
use super::{Decision, FOLLOW, Step};
use crate::conditions::{State, Verdict};
use crate::host::Work;

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

/// While a claim is held: what the host says of it decides.
pub(super) fn with_claim(t: &Talk<'_, '_>) -> Option<Decision> {
    let claim = t.view.claim?;
    let m = t.view.memory;
    let attempt = m.report.as_ref().and_then(|r| r.attempt.as_ref());
    let follow = |verdict: Verdict| {
        let tried = m.tried_at.unwrap_or(claim.granted_at);
        let next = m.not_before.unwrap_or(tried + FOLLOW);
        let step = if next <= t.now {
            Step::Observe
        } else {
            Step::Wait { until: next }
        };
        Some(Decision { step, verdict })
    };
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
                        verdict,
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
                return Some(Decision {
                    step: Step::Release,
                    verdict: t.working(Phase::Activating, "the attempt ended"),
                });
            }
        }
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
    let gone = greatest > Some(claim.order) || (!begun && t.now >= claim.expires_at);
    // A claim that was not begun gives way to a newer goal and to a suspension, but only when the host itself says
    // that it was not, and was asked: an offer whose answer was lost may have begun, and a late report not know of it.
    let known = m.answered_at.is_some_and(|s| s >= claim.granted_at);
    let unwanted = other
        || suspended(t.view, t.now).is_some()
        || t.view.released
        || t.view.left.is_some()
        || t.view.manifest.delivery == Delivery::Observe;
    if gone || (unwanted && !begun && known) {
        return Some(Decision {
            step: Step::Release,
            verdict,
        });
    }
    if begun {
        return follow(verdict);
    }
    if m.not_before.is_some_and(|n| n > t.now) {
        return follow(unreachable(
            t,
            m.last_error
                .as_ref()
                .map_or("does not answer", |p| p.message.as_str()),
        ));
    }
    let step = if unwanted || m.misses > 0 {
        Step::Observe
    } else {
        Step::Offer
    };
    Some(Decision { step, verdict })
}
