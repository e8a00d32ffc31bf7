//! What a host is on its way to, where the engine has a part in it: remembered before each decision, in the record that is
//! written with the decision. The rule is core's.

use std::collections::BTreeSet;
use std::rc::Rc;

use trueup_core::admit;
use trueup_core::course::{Heading, is_past};
use trueup_core::decide;
use trueup_core::host::{ClosureStage, HostView, Wanted, Work};
use trueup_core::rollback::effective;
use trueup_schema::{DrvPath, HostName};

use super::{own, with_view};
use crate::Settings;
use crate::state::{HostCell, Shared, State};

/// Shown while a closure is there and the host was not heard yet.
const ASKING: &str = "asking the host what it lacks";

/// Remembers what the host is on its way to from now on. Whoever waits for it may go on once it got far enough.
pub(super) fn settle(sh: &Rc<Shared>, host: &HostName) {
    let now = sh.now();
    let mut woken = Vec::new();
    {
        let mut guard = sh.state.borrow_mut();
        let state = &mut *guard;
        let judge = |v: &HostView<'_>| (decide::course(v, now), decide::reached(v));
        let Some((mut course, reached)) = with_view(state, host, &sh.settings, judge) else {
            return;
        };
        if sh.plants("never-stands")
            && let Some(course) = &mut course
        {
            course.passed = None;
        }
        let Some(cell) = state.hosts.get_mut(host) else {
            return;
        };
        let m = &mut cell.record.memory;
        let further = reached > m.reached;
        if (&m.course, m.reached) != (&course, reached) {
            m.course = course;
            m.reached = reached;
            cell.dirty = true;
        }
        if further {
            let waits = |c: &HostCell| {
                let standing = c.record.memory.course.as_ref().is_some_and(|c| c.stands());
                standing && c.record.manifest.depends_on.contains(host)
            };
            let waiting = state.hosts.iter().filter(|(_, c)| waits(c));
            woken.extend(waiting.map(|(n, _)| n.clone()));
            woken.extend(own::own(state, &sh.settings).filter(|own| own != host));
        }
    }
    for name in woken {
        sh.wake(&name, false);
    }
}

/// What is really wanted of a host now, if that is known.
pub(super) fn goal(state: &State, host: &HostName, settings: &Settings) -> Option<Wanted> {
    let goal = |v: &HostView<'_>| match effective(v).evaluation {
        Work::Done(w) => Some(w.clone()),
        _ => None,
    };
    with_view(state, host, settings, goal).flatten()
}

/// A goal that stands gives way when its revision goes no further: the fix is what the fleet waits for.
pub(super) fn give_way(state: &mut State, host: &HostName, failed: &admit::Failures) -> bool {
    let Some(fleet) = state.fleet.clone() else {
        return false;
    };
    let Some(cell) = state.hosts.get_mut(host) else {
        return false;
    };
    let m = &mut cell.record.memory;
    let standing = m.course.as_ref().filter(|c| c.stands());
    let stopped = standing.is_some_and(|c| {
        c.revision != cell.record.revision
            && admit::is_stopped(&fleet.fleet.rollout, failed, &c.revision, host)
    });
    if stopped {
        m.course = None;
        cell.dirty = true;
    }
    stopped
}

/// How far a closure is, for this host.
pub(super) fn closure_of(
    state: &State,
    host: &HostName,
    drv: Option<&DrvPath>,
) -> (Work<()>, ClosureStage) {
    let Some(closure) = drv.and_then(|drv| state.closures.get(drv)) else {
        return (Work::None, ClosureStage::Building);
    };
    let preparing = state.hosts.get(host).is_some_and(|c| c.preparing);
    let work = match &closure.work {
        // Another host's so far: who does not say that it waits too is woken by nobody.
        Work::Running(_) if !closure.wanters.contains(host) => Work::None,
        // Soon it is known what to copy: no claim is held until then.
        Work::Done(()) if preparing => Work::Running(Some(ASKING.to_owned())),
        work => work.clone(),
    };
    (work, closure.stage)
}

/// What the host is on its way to, with how far that is.
pub(super) fn heading(state: &State, host: &HostName) -> Option<Heading> {
    let course = state.hosts.get(host)?.record.memory.course.clone()?;
    let (closure, stage) = closure_of(state, host, Some(&course.drv));
    Some(Heading::new(course, closure, stage))
}

/// Those that a host which stands by an older revision need not wait for: they got that far, and nothing is done to them.
pub(super) fn let_pass(state: &State, number: u64, waits_for: &mut BTreeSet<HostName>) {
    waits_for.retain(|name| {
        let claimed = state.claims.contains_key(name);
        let cell = state.hosts.get(name);
        !cell.is_some_and(|c| is_past(&c.record.memory, claimed, number))
    });
}
