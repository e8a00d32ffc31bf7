//! As the host that a witness confirms: where does the attempt stand, and did that witness, by its key, see it wait? What
//! comes over a witness's login is these two questions and nothing else.

use std::time::{Duration, Instant};

use trueup_core::agent::Phase;
use trueup_schema::wire::{AttemptState, Challenge, ConfirmBy, Order};

use crate::changes::Changes;
use crate::confirm::{self, no};
use crate::files::Layout;
use crate::{AgentError, activate, journal, report};

/// A witness that asks is kept for so long while nothing is to be confirmed, so that it need not log in every second.
const KEPT: Duration = Duration::from_secs(10);
/// Woken by the journal, it looks by itself so often.
const LOOK: Duration = Duration::from_millis(500);

/// The verb `challenge`.
pub fn challenge(layout: &Layout, order: Order) -> Result<Challenge, AgentError> {
    let begun = Instant::now();
    let changes = Changes::of(&layout.root.join("journal"));
    loop {
        let now = look(layout, order)?;
        let waits = matches!(
            now.state,
            None | Some(AttemptState::Offered | AttemptState::Activating | AttemptState::Rebooting)
        );
        if !waits || now.over || begun.elapsed() >= KEPT {
            return Ok(now);
        }
        changes.wait(LOOK);
    }
}

fn look(layout: &Layout, order: Order) -> Result<Challenge, AgentError> {
    let over = journal::orders(layout).last().is_some_and(|l| *l > order);
    let Some(state) = journal::read(layout, order)?.map(|r| r.state) else {
        return Ok(Challenge {
            state: None,
            nonce: None,
            over,
        });
    };
    let awaits = state.phase == Phase::Awaiting;
    Ok(Challenge {
        state: Some(report::state_of(state.phase)),
        nonce: state.nonce.filter(|_| awaits),
        over,
    })
}

/// The verb `testify`: a confirmation by the witness that the intent names, signed with its key.
pub fn testify(
    layout: &Layout,
    order: Order,
    nonce: &str,
    signature: &str,
) -> Result<(), AgentError> {
    let state = confirm::state(layout, order, nonce)?;
    let intent = activate::context(layout, order)?.intent;
    let named = intent.confirm.witness.as_ref();
    let Some(witness) = named.filter(|_| intent.confirm.by == ConfirmBy::Witness) else {
        return Err(no("NotWitness", format!("{order} has no witness")));
    };
    if !witness.saw(&intent.host, order, nonce, signature) {
        let message = format!(
            "not signed by the host key of {}, which alone confirms {order}",
            witness.host
        );
        return Err(no("NotWitness", message));
    }
    match state.phase {
        Phase::Awaiting => confirm::take(layout, order, &state, nonce),
        phase => Err(no("NotAwaiting", format!("{order} is at {phase:?}"))),
    }
}
