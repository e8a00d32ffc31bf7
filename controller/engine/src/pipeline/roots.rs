//! What the garbage collector must leave in the hub's store: of each host what runs, what ran before, what would boot and
//! what is newest, what it is on its way to, and each want in flight. Reconciled as a whole at the start and then at an interval; an
//! evaluation makes the root of what it found, and a build its own again before it begins.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use trueup_core::host::Work;
use trueup_schema::StorePath;

use crate::release;
use crate::state::{Shared, State};

/// Until each host was tried once, since a db that was lost does not know what runs.
const FIRST: Duration = Duration::from_secs(60);
/// A root that stays too long costs disk, and no more.
const EVERY: Duration = Duration::from_secs(3600);

/// Runs for ever.
pub(crate) async fn run(sh: Rc<Shared>) {
    let mut before = None;
    loop {
        let wait = if before.is_some() { EVERY } else { FIRST };
        sh.ports.rt.sleep_until(sh.ports.rt.mono() + wait).await;
        release::forget_old(&sh).await;
        let Some(keep) = kept(&sh.state.borrow()) else {
            continue;
        };
        // Made and used without a pause between: a build that begins later makes its root after this.
        if before.as_ref() != Some(&keep) {
            let paths: Vec<StorePath> = keep.iter().cloned().collect();
            sh.ports.builder.keep_roots(&paths).await;
            before = Some(keep);
        }
    }
}

/// `None`: not known yet.
fn kept(state: &State) -> Option<BTreeSet<StorePath>> {
    state.opened.as_ref()?;
    let mut keep = BTreeSet::new();
    for cell in state.hosts.values() {
        let m = &cell.record.memory;
        m.tried_at?;
        keep.extend(m.closures().cloned());
        keep.extend(m.course.as_ref().map(|c| c.closure.clone()));
        keep.extend(cell.evaluated.as_ref().map(|(_, e)| e.out.clone()));
        if let Work::Done(w) = &cell.evaluation {
            keep.insert(w.closure.clone());
        }
    }
    for gone in state.released.values() {
        keep.extend(gone.record.memory.closures().cloned());
    }
    keep.extend(state.rollbacks.values().map(|b| b.rollback.to.clone()));
    keep.extend(state.claims.values().map(|c| c.closure.clone()));
    let busy = state
        .closures
        .values()
        .filter(|c| matches!(c.work, Work::Running(_)));
    keep.extend(busy.map(|c| c.out.clone()));
    Some(keep)
}
