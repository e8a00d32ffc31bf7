//! Hosts that the trunk no longer has: let go without touching them, once nothing of ours runs there; remembered for a
//! while, so that one that comes again goes on; then forgotten, with their roots in the hub's store.

use std::rc::Rc;

use trueup_schema::kind::ResolvedHost;
use trueup_schema::status::{Reason, Severity, Subject};
use trueup_schema::{HostName, Revision};

use crate::ports::MAX_OPS;
use crate::record::{HostRecord, Released};
use crate::state::{HostCell, Shared, State, delete, note, put};

/// Operations that one host takes: its record, claim and evaluation go, one record comes.
const OPS: usize = 4;

/// Is this host no longer in the trunk, and nothing of ours begun there?
pub(crate) fn is_due(state: &State, host: &HostName) -> bool {
    let gone = |f: &Rc<trueup_schema::kind::FleetManifests>| !f.hosts.contains_key(host);
    state.fleet.as_ref().is_some_and(gone)
        && state.hosts.contains_key(host)
        && !state.claims.contains_key(host)
}

/// Lets go of all hosts that are due. One with an attempt is let go when that has ended, since it would go back without us.
pub(crate) async fn let_go(sh: &Rc<Shared>) {
    let gone: Vec<HostName> = {
        let state = sh.state.borrow();
        let due = state.hosts.keys().filter(|h| is_due(&state, h));
        due.cloned().collect()
    };
    let each = OPS + sh.state.borrow().alerts.len();
    for batch in gone.chunks((MAX_OPS / each).max(1)) {
        let (mut ops, mut events, mut released) = (Vec::new(), Vec::new(), Vec::new());
        for name in batch {
            let Some(mut record) = sh.state.borrow().hosts.get(name).map(|c| c.record.clone())
            else {
                continue;
            };
            // Added again, it goes to what the trunk wants then.
            record.memory.course = None;
            let revision = Some(record.revision.clone());
            let gone = Released {
                record,
                at: sh.now(),
            };
            for kind in ["hosts", "claims", "evaluations"] {
                ops.extend(delete(kind, name.as_str()));
            }
            ops.extend(put("released", name.as_str(), &gone));
            let days = sh.settings.released_roots.as_secs() / 86_400;
            let text = format!(
                "no longer in the trunk: it stays as it is, and nothing is done to it. Added again within {days} days it \
                 goes on; to have nothing of trueup on it: trueup leave host/{name}"
            );
            let told = note(Severity::Info, Reason::HostReleased, text);
            events.push(sh.event(Subject::Host(name.clone()), &told, revision));
            released.push((name.clone(), gone));
        }
        if sh.commit(ops, events).await.is_ok() {
            let mut state = sh.state.borrow_mut();
            for (name, gone) in released {
                state.hosts.remove(&name);
                state.claims.remove(&name);
                state.queue.remove(&name);
                state.inbox.remove(&name);
                state.released.insert(name, gone);
            }
        }
    }
}

/// A host that the trunk has: new, or one that was let go and goes on.
pub(crate) fn cell(known: Option<&Released>, manifest: &ResolvedHost, at: &Revision) -> HostCell {
    let Some(known) = known else {
        return HostCell::new(manifest.clone(), at.clone());
    };
    let mut cell = HostCell::stored(HostRecord {
        manifest: manifest.clone(),
        revision: at.clone(),
        ..known.record.clone()
    });
    let text = "is in the fleet again; goes on from what was known of it";
    cell.notes
        .push(note(Severity::Info, Reason::HostAdded, text));
    cell
}

/// Those that came again are no longer let go.
pub(crate) async fn forget_returned(sh: &Rc<Shared>) {
    let back: Vec<HostName> = {
        let state = sh.state.borrow();
        let there = state
            .released
            .keys()
            .filter(|h| state.hosts.contains_key(*h));
        there.cloned().collect()
    };
    forget(sh, &back, &["released"]).await;
}

/// Those that are gone for long enough are forgotten, and no root of theirs stays.
pub(crate) async fn forget_old(sh: &Rc<Shared>) {
    let now = sh.now();
    let old: Vec<HostName> = {
        let state = sh.state.borrow();
        let over = |r: &Released| r.at + sh.settings.released_roots <= now;
        let old = state.released.iter().filter(|(_, r)| over(r));
        old.map(|(h, _)| h.clone()).collect()
    };
    forget(sh, &old, &["released", "history"]).await;
}

async fn forget(sh: &Rc<Shared>, hosts: &[HostName], kinds: &[&str]) {
    for batch in hosts.chunks(MAX_OPS / 2) {
        let ops = batch
            .iter()
            .flat_map(|h| kinds.iter().flat_map(|k| delete(k, h.as_str())));
        if sh.commit(ops.collect(), Vec::new()).await.is_ok() {
            let mut state = sh.state.borrow_mut();
            state.released.retain(|h, _| !batch.contains(h));
        }
    }
}
