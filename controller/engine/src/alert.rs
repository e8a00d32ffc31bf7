//! Alerts: an event that an `Alert` matches becomes a message in the outbox, in the event's own transaction; from there it
//! is delivered at least once, also after a crash. One message at a time for each sink, so that a dead one holds up no other.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::future::select;
use serde_json::json;
use trueup_core::alert::{facts, matches};
use trueup_core::backoff;
use trueup_schema::kind::ResolvedAlert;
use trueup_schema::status::{Event, Reason, Severity, Subject};
use trueup_schema::{ErrorClass, Timestamp};

use crate::ports::{AlertError, MAX_CHANGES, MAX_OPS, Mono};
use crate::record::{Outgoing, SinkTold};
use crate::state::{Shared, State, delete, note, put};

/// Messages that wait, at most: a sink that is gone for good must not fill the db. What comes later is in the events only.
pub(crate) const OUTBOX_MAX: usize = 1000;
/// A message that was not delivered for so long is of no use any more.
const KEEP: Duration = Duration::from_secs(24 * 3600);
/// A sink that says no to the same message so often says it always.
const REFUSED_MAX: u32 = 3;
/// Failures in a row after which it is an event that a sink does not take alerts.
const TELL_AFTER: u32 = 3;

/// How it goes with one sink.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    busy: bool,
    failures: u32,
    refused: u32,
    due: Duration,
    /// That it does not take alerts is an event already; kept over a restart.
    told: bool,
}

/// Sinks that did not take alerts when the controller ended: that is no news until one takes an alert again.
pub(crate) fn told_before(alerts: Vec<String>) -> BTreeMap<String, Sink> {
    let known = |alert| {
        let told = true;
        let sink = Sink {
            told,
            ..Sink::default()
        };
        (alert, sink)
    };
    alerts.into_iter().map(known).collect()
}

/// The messages that follow from these events, and an event of its own if some found no place.
pub(crate) fn outgoing(sh: &Shared, ops: usize, events: &mut Vec<Event>) -> Vec<Outgoing> {
    let mut state = sh.state.borrow_mut();
    let mut out = Vec::new();
    let mut lost = 0_usize;
    for event in events.iter() {
        let labels = match &event.subject {
            Subject::Host(h) => state.hosts.get(h).map(|c| &c.record.manifest.labels),
            _ => None,
        };
        for alert in state.alerts.values().filter(|a| matches(a, event, labels)) {
            let changes = ops + out.len();
            if state.outbox.len() + out.len() >= OUTBOX_MAX
                || changes >= MAX_OPS
                || changes + events.len() + 1 >= MAX_CHANGES
            {
                lost += 1;
                continue;
            }
            // Sorted as they happened; the rest makes it unique over restarts.
            let at = u64::try_from(event.at.as_microsecond()).unwrap_or(0);
            let id = format!("{at:016x}-{:03}-{:016x}", out.len(), sh.ports.rt.random());
            out.push(Outgoing {
                id,
                alert: alert.name.clone(),
                event: event.clone(),
            });
        }
    }
    let overflow = lost > 0;
    if overflow && !state.overflow {
        let text = format!("{OUTBOX_MAX} alerts wait already: later ones are only in the events");
        let told = note(Severity::Error, Reason::AlertFailed, text);
        events.push(sh.event(Subject::Controller("alerts".to_owned()), &told, None));
    }
    state.overflow = overflow && state.outbox.len() + out.len() >= OUTBOX_MAX;
    out
}

/// Runs for ever.
pub(crate) async fn run(sh: Rc<Shared>) {
    loop {
        let now = sh.ports.rt.mono().0;
        let (due, next) = pick(&mut sh.state.borrow_mut(), now);
        for message in due {
            let task = deliver(sh.clone(), message);
            sh.ports.rt.spawn("alert", Box::pin(task));
        }
        let kicked = Box::pin(sh.alert_kick.notified());
        match next {
            Some(at) => drop(select(sh.ports.rt.sleep_until(Mono(at)), kicked).await),
            None => kicked.await,
        }
    }
}

/// The oldest message of each sink that is free, and when the next sink is to be tried again.
fn pick(state: &mut State, now: Duration) -> (Vec<Outgoing>, Option<Duration>) {
    // Until the manifests are read it is not known where anything goes.
    if state.fleet.is_none() {
        return (Vec::new(), None);
    }
    let mut oldest: BTreeMap<&str, &Outgoing> = BTreeMap::new();
    for message in state.outbox.values() {
        oldest.entry(&message.alert).or_insert(message);
    }
    let (mut due, mut next) = (Vec::new(), None::<Duration>);
    for (name, message) in oldest {
        let sink = state.sinks.entry(name.to_owned()).or_default();
        if sink.busy {
            continue;
        }
        if sink.due > now {
            next = Some(next.map_or(sink.due, |n| n.min(sink.due)));
            continue;
        }
        sink.busy = true;
        due.push(message.clone());
    }
    (due, next)
}

async fn deliver(sh: Rc<Shared>, message: Outgoing) {
    let sink = sh.state.borrow().alerts.get(&message.alert).cloned();
    let sent = match &sink {
        // The alert is no longer in the manifests, or is suspended: nobody wants to be told.
        None => Ok(()),
        Some(s) if s.suspend => Ok(()),
        Some(s) => {
            sh.ports
                .alerts
                .send(s, &message.id, body(&sh, s, &message))
                .await
        }
    };
    sh.crash("alert.sent").await;
    settle(&sh, &message, sent).await;
    sh.crash("alert.after-commit").await;
    if let Some(s) = sh.state.borrow_mut().sinks.get_mut(&message.alert) {
        s.busy = false;
    }
    sh.alert_kick.notify_one();
}

/// What becomes of a message: gone from the outbox, or tried again.
async fn settle(sh: &Rc<Shared>, message: &Outgoing, sent: Result<(), AlertError>) {
    let (mono, now) = (sh.ports.rt.mono().0, sh.now());
    let (mut events, mut ops) = (Vec::new(), Vec::new());
    let done = {
        let mut state = sh.state.borrow_mut();
        let sink = state.sinks.entry(message.alert.clone()).or_default();
        match &sent {
            Ok(()) => {
                sink.failures = 0;
                sink.refused = 0;
                if std::mem::take(&mut sink.told) {
                    ops.extend(delete("sinks", &message.alert));
                }
                true
            }
            Err(e) => {
                sink.failures += 1;
                sink.refused += u32::from(e.class != ErrorClass::Transient);
                sink.due = mono + backoff::delay(sink.failures, sh.ports.rt.random());
                let given_up = sink.refused >= REFUSED_MAX || is_old(message, now);
                let tell = sink.failures >= TELL_AFTER && !sink.told;
                if given_up {
                    sink.refused = 0;
                    sink.due = mono;
                }
                if tell {
                    sink.told = true;
                    ops.extend(put("sinks", &message.alert, &SinkTold { at: now }));
                }
                if given_up || tell {
                    events.push(failed(sh, message, e, given_up));
                }
                given_up
            }
        }
    };
    if done {
        ops.extend(delete("outbox", &message.id));
    }
    if ops.is_empty() && events.is_empty() {
        return;
    }
    let committed = sh.commit(ops, events).await.is_ok();
    let mut state = sh.state.borrow_mut();
    if done && committed {
        state.outbox.remove(&message.id);
    } else if let Some(sink) = state.sinks.get_mut(&message.alert) {
        // A db that does not take it: sent again later, which at least once allows.
        sink.due = sink.due.max(mono + backoff::BASE);
    }
}

fn is_old(message: &Outgoing, now: Timestamp) -> bool {
    message.event.at + KEEP < now
}

fn failed(sh: &Rc<Shared>, message: &Outgoing, e: &AlertError, given_up: bool) -> Event {
    let (severity, then) = if given_up {
        (Severity::Error, "not sent again")
    } else {
        (Severity::Warning, "tried again for a day")
    };
    let text = format!(
        "Alert `{}`: {e}; {} of {} is {then}",
        message.alert,
        message.event.reason,
        facts(&message.event).subject
    );
    let told = note(severity, Reason::AlertFailed, text);
    sh.event(Subject::Controller("alerts".to_owned()), &told, None)
}

/// What a sink gets. `text` alone is what chats show; the rest is for machines.
fn body(sh: &Rc<Shared>, sink: &ResolvedAlert, message: &Outgoing) -> Vec<u8> {
    let e = &message.event;
    let f = facts(e);
    let host = match &e.subject {
        Subject::Host(h) => Some(h.as_str()),
        _ => None,
    };
    let fleet = sh
        .state
        .borrow()
        .fleet
        .as_ref()
        .map(|f| f.fleet.name.clone());
    json!({
        "text": f.text(),
        "fleet": fleet,
        "alert": sink.name,
        "delivery": message.id,
        "at": e.at,
        "severity": e.severity,
        "reason": e.reason,
        "subject": f.subject,
        "host": host,
        "revision": e.revision,
        "what": f.what,
        "why": f.why,
        "did": f.did,
        "next": f.next,
    })
    .to_string()
    .into_bytes()
}
