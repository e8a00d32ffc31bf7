//! What the answer to an offer changes.

use trueup_schema::status::{Outcome, Reason, Severity};
use trueup_schema::wire::{OfferReply, Order};
use trueup_schema::{ErrorClass, Timestamp};

use super::{Effects, begun, note};
use crate::backoff;
use crate::host::{Claim, Ended, Memory, Problem};

/// As after so many failures, a witness that could not be asked is asked again.
const UNWITNESSED: u32 = 5;

/// The witness could not be asked, so nothing was offered: the claim is given back, and asked for again later.
pub fn unwitnessed(m: &mut Memory, message: String, now: Timestamp, seed: u64) -> Effects {
    m.not_before = Some(now + backoff::delay(UNWITNESSED, seed));
    m.last_error = Some(Problem {
        class: ErrorClass::Transient,
        reason: Reason::ProgressingWithRetry,
        message,
        retry_at: m.not_before,
    });
    Effects {
        release: true,
        ..Effects::default()
    }
}

/// What a reply to an offer changes. `release`: the claim is given back.
pub fn replied(
    m: &mut Memory,
    claim: &Claim,
    reply: &OfferReply,
    now: Timestamp,
    seed: u64,
) -> Effects {
    let mut out = Effects::default();
    m.misses = 0;
    m.not_before = None;
    m.tried_at = Some(now);
    match reply {
        OfferReply::Begun { .. } => {
            begun(m, claim, now, &mut out);
            m.answered_at = None; // what it was asked before does not tell of this
        }
        OfferReply::Need { paths } => {
            // Copying disturbs nobody: it is done without a claim, so that a slow one holds up no other host.
            m.needs = Some((claim.digest.clone(), paths.clone()));
            out.release = true;
        }
        OfferReply::Already { .. } => {
            m.attempted_revision = Some(claim.revision.clone());
            m.applied_revision = Some(claim.applies().clone());
            m.tries.remove(&claim.digest);
            m.ended = Some(Ended {
                order: claim.order,
                revision: claim.revision.clone(),
                digest: claim.digest.clone(),
                outcome: Outcome::Skipped,
                stage: None,
                message: "runs already".to_owned(),
                at: now,
                way: claim.way,
                boot_id: None,
            });
            out.release = true;
        }
        OfferReply::Busy { order } => {
            m.not_before = Some(now + backoff::delay(3, seed));
            m.last_error = Some(Problem {
                class: ErrorClass::Transient,
                reason: Reason::Progressing,
                message: format!("another attempt ({order}) runs there"),
                retry_at: m.not_before,
            });
            out.release = true;
        }
        OfferReply::Refused {
            reason,
            message,
            greatest,
        } => {
            out.release = true;
            refused(m, claim, reason, message, *greatest, now, seed, &mut out);
        }
    }
    out
}

#[allow(clippy::too_many_arguments)]
fn refused(
    m: &mut Memory,
    claim: &Claim,
    reason: &str,
    message: &str,
    greatest: Option<Order>,
    now: Timestamp,
    seed: u64,
    out: &mut Effects,
) {
    let text = format!("refused ({reason}): {message}");
    match reason {
        // Our database is older than the host: go above it, in a new term.
        "OrderTooLow" => {
            let floor = greatest.unwrap_or(claim.order);
            m.order = m.order.max(Order {
                term: floor.term + 1,
                serial: 0,
            });
            m.course = None;
        }
        "Expired" | "Held" => {
            m.not_before = Some(now + backoff::delay(4, seed));
        }
        "Quarantined" => {
            m.quarantined
                .insert(claim.digest.clone(), message.to_owned());
            out.notes
                .push(note(Severity::Error, Reason::Quarantined, text));
        }
        _ => {
            let why = if reason == "IdentityMismatch" {
                Reason::IdentityMismatch
            } else {
                Reason::Refused
            };
            let problem = Problem {
                class: ErrorClass::Host,
                reason: why,
                message: text.clone(),
                retry_at: None,
            };
            m.refused = Some((claim.digest.clone(), problem));
            out.notes.push(note(Severity::Error, why, text));
        }
    }
}
