//! The verb `confirm`: is this connection really new? It only leaves a note; the activation's process commits.

use std::time::{Duration, Instant};

use trueup_core::agent::{Phase, State};
use trueup_schema::wire::{ConfirmBy, Order, Report};

use crate::activate::Confirmation;
use crate::changes::Changes;
use crate::files::{self, Layout};
use crate::{AgentError, activate, journal, report, session};

/// Who waits for the end is woken by the journal, and looks by itself so often.
const LOOK: Duration = Duration::from_millis(200);
/// The commit ends within this, or the caller asks again: settle time, profile, boot entry.
const WAIT: Duration = Duration::from_secs(600);

pub(crate) fn no(reason: &'static str, message: String) -> AgentError {
    AgentError::NotConfirmed { reason, message }
}

/// The attempt, if this is the nonce of its activation.
pub(crate) fn state(layout: &Layout, order: Order, nonce: &str) -> Result<State, AgentError> {
    let read =
        journal::read(layout, order)?.ok_or_else(|| AgentError::NoAttempt(order.to_string()))?;
    if read.state.nonce.as_deref() == Some(nonce) {
        return Ok(read.state);
    }
    let message = format!("this is not the nonce of {order}");
    Err(no("WrongNonce", message))
}

/// Notes a confirmation that came over a connection of its own.
pub(crate) fn take(
    layout: &Layout,
    order: Order,
    state: &State,
    nonce: &str,
) -> Result<(), AgentError> {
    let since = state.since.as_ref().map_or(u64::MAX, |m| m.at);
    let Some(own) = session::own() else {
        return Err(no(
            "NotFresh",
            "this is no SSH connection, so it proves nothing".to_owned(),
        ));
    };
    if !session::is_fresh(&own, state.accepted.session.as_ref(), since) {
        return Err(no(
            "NotFresh",
            "this SSH connection is older than the end of the activation: open a new one"
                .to_owned(),
        ));
    }
    let note = Confirmation {
        nonce: nonce.to_owned(),
        session: own,
    };
    Ok(files::note(&layout.attempt(order).join("confirm"), &note)?)
}

/// Checks, notes, waits for the end.
pub fn confirm(layout: &Layout, order: Order, nonce: &str) -> Result<Report, AgentError> {
    let state = state(layout, order, nonce)?;
    let committing = state.confirmed && state.phase != Phase::RollingBack;
    if state.phase == Phase::Awaiting {
        let confirm = activate::context(layout, order)?.intent.confirm;
        if confirm.by == ConfirmBy::Witness {
            let witness = confirm
                .witness
                .map_or(String::new(), |w| w.host.to_string());
            let message = format!("{order} is confirmed by its witness {witness} alone");
            return Err(no("NotWitness", message));
        }
        take(layout, order, &state, nonce)?;
    } else if !committing && state.phase != Phase::Ended {
        return Err(no(
            "NotAwaiting",
            format!("{order} is at {:?}", state.phase),
        ));
    }
    let begun = Instant::now();
    let changes = Changes::of(&layout.root.join("journal"));
    while begun.elapsed() < WAIT {
        let phase = journal::read(layout, order)?.map(|r| r.state.phase);
        // On the way back it is for the host alone; whoever asked must be free to come again.
        if matches!(phase, Some(Phase::Ended | Phase::RollingBack)) {
            break;
        }
        changes.wait(LOOK);
    }
    report::take_of_attempt(layout)
}
