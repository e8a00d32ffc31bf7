//! Sessions that said what a host lacks and stay for its offer: a delivery needs one session less, and what it takes of
//! both ends is taken while the hub still builds. Whoever finds none opens another; none is kept for long.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::time::Duration;

use trueup_engine::ports::Target;
use trueup_schema::HostName;

use crate::edge::exec::{self, Running};

/// A session waits so long for its offer. A build may take hours.
const KEPT: Duration = Duration::from_secs(90);
/// So many wait at once: each is a process here and two on its host.
const MOST: usize = 64;

#[derive(Debug)]
struct Session {
    number: u64,
    target: Target,
    running: Running,
}

/// By host.
#[derive(Debug, Default)]
pub(super) struct Standing {
    all: RefCell<BTreeMap<HostName, Session>>,
    last: Cell<u64>,
    /// Hosts whose own agent, behind a forced command, is too old to stay.
    old: RefCell<BTreeSet<HostName>>,
}

impl Standing {
    /// May this host's session be kept?
    pub(super) fn has_room(&self, host: &HostName) -> bool {
        self.all.borrow().len() < MOST && !self.old.borrow().contains(host)
    }

    /// Its agent knows only how to answer.
    pub(super) fn is_old(&self, host: &HostName) {
        self.old.borrow_mut().insert(host.clone());
    }

    /// Keeps it for a while.
    pub(super) fn keep(self: &Rc<Self>, target: &Target, running: Running) {
        let number = self.last.get() + 1;
        self.last.set(number);
        let session = Session {
            number,
            target: target.clone(),
            running,
        };
        let host = target.host.clone();
        self.all.borrow_mut().insert(host.clone(), session);
        let standing: Weak<Self> = Rc::downgrade(self);
        exec::beside(async move {
            exec::wait(KEPT).await;
            let Some(standing) = standing.upgrade() else {
                return;
            };
            let mut all = standing.all.borrow_mut();
            if all.get(&host).is_some_and(|s| s.number == number) {
                all.remove(&host);
            }
        });
    }

    /// The one that stands, if it leads where this target is.
    pub(super) fn take(&self, target: &Target) -> Option<Running> {
        let session = self.all.borrow_mut().remove(&target.host)?;
        (session.target == *target).then_some(session.running)
    }
}
