//! Leaving a host for good, as a person asked: its agent takes away what is trueup's there. Tried until it is done or
//! somebody adopts the host again; it touches no host that has an attempt.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::future::select;
use trueup_core::backoff;
use trueup_core::host::Left;
use trueup_schema::HostName;
use trueup_schema::status::{Reason, Severity, Subject};
use trueup_schema::wire::Farewell;

use crate::ports::{Mono, Target, TransportError};
use crate::reconcile::target_of;
use crate::state::{Shared, State, delete, note, put};

/// An attempt is waited for so long at a time.
const BUSY: Duration = Duration::from_secs(5);

/// Runs for ever.
pub(crate) async fn run(sh: Rc<Shared>) {
    let mut tried: BTreeMap<HostName, (u32, Duration)> = BTreeMap::new();
    loop {
        let now = sh.ports.rt.mono().0;
        let open: Vec<Left> = {
            let state = sh.state.borrow();
            let open = state.left.values().filter(|l| l.done_at.is_none());
            open.cloned().collect()
        };
        tried.retain(|h, _| open.iter().any(|l| l.host == *h));
        let mut next: Option<Duration> = None;
        for left in open {
            let (failures, due) = tried.get(&left.host).copied().unwrap_or_default();
            let due = if due > now {
                due
            } else {
                match one(&sh, &left).await {
                    Tried::Done => continue,
                    Tried::Busy => now + BUSY,
                    Tried::Failed => {
                        let again = backoff::delay(failures + 3, sh.ports.rt.random());
                        sh.ports.rt.mono().0 + again
                    }
                }
            };
            tried.insert(left.host, (failures + 1, due));
            next = Some(next.map_or(due, |n| n.min(due)));
        }
        let kicked = Box::pin(sh.leave_kick.notified());
        match next {
            Some(at) => drop(select(sh.ports.rt.sleep_until(Mono(at)), kicked).await),
            None => kicked.await,
        }
    }
}

enum Tried {
    Done,
    Busy,
    Failed,
}

/// Safe to repeat: the agent's verb is, and a host that has nothing of ours says so.
async fn one(sh: &Rc<Shared>, left: &Left) -> Tried {
    let Some(target) = target(&sh.state.borrow(), left) else {
        return Tried::Busy;
    };
    let result = sh.ports.hosts.leave(&target).await;
    // Somebody may have adopted it meanwhile: then it is no longer left.
    if !sh.state.borrow().left.contains_key(&left.host) {
        return Tried::Done;
    }
    record(sh, left, result).await
}

/// By its manifest, or the last that it had; none while an attempt runs there.
fn target(state: &State, left: &Left) -> Option<Target> {
    let host = &left.host;
    if state.claims.contains_key(host) {
        return None;
    }
    let there = state.hosts.get(host).map(|c| &c.record);
    let record = there.or_else(|| state.released.get(host).map(|r| &r.record))?;
    let adopted = state.adoptions.get(host).and_then(|a| a.identity.as_ref());
    let seen = record.memory.report.as_ref().map(|r| &r.identity);
    Some(target_of(&record.manifest, adopted.or(seen)))
}

async fn record(sh: &Rc<Shared>, left: &Left, result: Result<Farewell, TransportError>) -> Tried {
    let mut left = left.clone();
    let host = left.host.clone();
    let mut ops = Vec::new();
    let told = match &result {
        Ok(farewell) => {
            left.done_at = Some(sh.now());
            left.problem = None;
            left.told = farewell.lines();
            ops.extend(delete("adoptions", host.as_str()));
            if !left.managed {
                for kind in ["released", "history"] {
                    ops.extend(delete(kind, host.as_str()));
                }
            }
            let text = match left.told.is_empty() {
                true => "nothing of trueup was on it".to_owned(),
                false => left.told.join("; "),
            };
            note(Severity::Info, Reason::Left, text)
        }
        Err(e) => {
            if left.problem.as_ref() == Some(&e.message) {
                return Tried::Failed;
            }
            left.problem = Some(e.message.clone());
            note(Severity::Warning, Reason::LeaveFailed, e.message.clone())
        }
    };
    let event = sh.event(Subject::Host(host.clone()), &told, None);
    ops.extend(put("left", host.as_str(), &left));
    let ok = sh.commit(ops, vec![event]).await.is_ok();
    if !ok {
        return Tried::Failed;
    }
    {
        let mut state = sh.state.borrow_mut();
        if result.is_ok() {
            state.adoptions.remove(&host);
            if !left.managed {
                state.released.remove(&host);
            }
        }
        state.left.insert(host.clone(), left);
    }
    sh.wake(&host, false);
    match result {
        Ok(_) => Tried::Done,
        Err(_) => Tried::Failed,
    }
}
