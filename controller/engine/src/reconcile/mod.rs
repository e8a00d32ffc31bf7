//! One host at a time: look at what is known, decide, do one step, record. Never evaluates or builds: it puts wants.

mod back;
mod course;
mod own;
mod show;
mod steps;

use std::rc::Rc;

use trueup_core::absorb;
use trueup_core::decide::{Decision, Step, decide};
use trueup_core::history::Word;
use trueup_core::host::{HostView, Nudge, WantedSecrets, Work};
use trueup_core::last;
use trueup_schema::{HostName, Timestamp};

use crate::release;
use crate::state::{Shared, State};

/// Steps that one visit takes at most; then others have their turn.
const MAX_STEPS: u32 = 32;

/// Works on a host until it has to wait; the answer says until when. `None`: there is no such host.
pub(crate) async fn visit(sh: &Rc<Shared>, host: &HostName) -> Option<Timestamp> {
    take_nudges(sh, host);
    for _ in 0..MAX_STEPS {
        if release::is_due(&sh.state.borrow(), host) {
            release::let_go(sh).await;
            return None;
        }
        take_inbox(sh, host);
        back::settle(sh, host).await;
        course::settle(sh, host);
        let decision = look(sh, host)?;
        show::show(sh, host, &decision);
        tracing::debug!(%host, step = ?decision.step, phase = %decision.verdict.phase, "decided");
        match decision.step {
            Step::Wait { until } => {
                show::save(sh, host).await;
                let more = sh.state.borrow().inbox.contains_key(host);
                if !more {
                    return Some(until);
                }
            }
            step => {
                // What a host waits for must not wait for our own records; they are written before each wait.
                if !matches!(
                    step,
                    Step::Offer | Step::Confirm { .. } | Step::Ask { .. } | Step::Release
                ) {
                    show::save(sh, host).await;
                }
                steps::run(sh, host, step).await;
            }
        }
    }
    show::save(sh, host).await;
    Some(sh.now() + std::time::Duration::from_secs(1))
}

/// Reports that came by themselves; late ones are dropped.
fn take_inbox(sh: &Rc<Shared>, host: &HostName) {
    let Some(report) = sh.state.borrow_mut().inbox.remove(host) else {
        return;
    };
    steps::absorb_report(sh, host, report, true);
}

fn open_nudge<'a>(state: &'a State, host: &HostName) -> Option<&'a Nudge> {
    let ours = |n: &&Nudge| n.host.as_ref() == Some(host) && n.handled_at.is_none();
    state
        .nudges
        .values()
        .filter(ours)
        .max_by_key(|n| n.requested_at)
}

/// A nudge ends back-off and undoes drift; with `retry` it also lifts the quarantine of what is wanted, and goes to the
/// newest goal at once. Without, what stands stands: a script that asks after each merge must not starve its host.
fn take_nudges(sh: &Rc<Shared>, host: &HostName) {
    let mut guard = sh.state.borrow_mut();
    let state = &mut *guard;
    let fresh: Vec<Nudge> = state
        .nudges
        .values()
        .filter(|n| {
            n.host.as_ref() == Some(host) && n.handled_at.is_none() && !state.taken.contains(&n.id)
        })
        .cloned()
        .collect();
    if fresh.is_empty() {
        return;
    }
    let Some(cell) = state.hosts.get_mut(host) else {
        return;
    };
    for nudge in fresh {
        let m = &mut cell.record.memory;
        m.not_before = None;
        m.refused = None;
        m.correct = true;
        m.asked = Some(Word {
            by: nudge.by.clone(),
            reason: nudge.reason.clone(),
        });
        if nudge.retry {
            m.retry = true;
            m.course = None;
            m.tries.clear();
            if matches!(cell.evaluation, Work::Failed(_)) {
                cell.evaluation = Work::None;
            }
            if let Work::Done(w) = &cell.evaluation
                && matches!(state.closures.get(&w.drv), Some(c) if matches!(c.work, Work::Failed(_)))
            {
                state.closures.remove(&w.drv);
            }
        }
        cell.dirty = true;
        state.taken.insert(nudge.id);
    }
    state.denied.remove(host);
}

fn look(sh: &Rc<Shared>, host: &HostName) -> Option<Decision> {
    let now = sh.now();
    let seed = sh.ports.rt.random();
    let mut state = sh.state.borrow_mut();
    expire(&mut state, host, now);
    if sh.plants("quarantine-forgotten") {
        forget_quarantine(&mut state, host);
    }
    with_view(&state, host, &sh.settings, |view| decide(view, now, seed))
}

/// A planted bug.
fn forget_quarantine(state: &mut State, host: &HostName) {
    let Some(cell) = state.hosts.get_mut(host) else {
        return;
    };
    cell.record.memory.quarantined.clear();
    if let Some(report) = &mut cell.record.memory.report {
        for component in &mut report.components {
            component.quarantined.clear();
        }
    }
}

/// What is known of a host, as decisions and plans take it.
fn with_view<T>(
    state: &State,
    host: &HostName,
    settings: &crate::Settings,
    judge: impl FnOnce(&HostView<'_>) -> T,
) -> Option<T> {
    let fleet = state.fleet.clone()?;
    let cell = state.hosts.get(host)?;
    let drv = match &cell.evaluation {
        Work::Done(w) => Some(&w.drv),
        _ => None,
    };
    let (closure, closure_stage) = course::closure_of(state, host, drv);
    let heading = course::heading(state, host);
    let mut waits_for: std::collections::BTreeSet<HostName> = cell
        .record
        .manifest
        .depends_on
        .iter()
        .filter(|d| !state.hosts.get(*d).is_some_and(is_ready_now))
        .cloned()
        .collect();
    // A person who asks for it by name need not wait for the others.
    if last::is_own(&cell.record.memory, settings.machine_id.as_deref())
        && open_nudge(state, host).is_none()
    {
        waits_for.extend(own::before(state, host, settings));
    }
    if let Some(h) = heading
        .as_ref()
        .filter(|h| h.stands_against(&cell.evaluation))
    {
        course::let_pass(state, h.course.number, &mut waits_for);
    }
    let secrets = secrets_of(state, host).map(|goal| WantedSecrets {
        digest: goal.digest.clone(),
        empty: goal.digest == trueup_schema::wire::secrets_digest(&Default::default()),
    });
    let view = HostView {
        manifest: &cell.record.manifest,
        revision: &cell.record.revision,
        place: state.source.place,
        adopt: fleet.fleet.adopt,
        memory: &cell.record.memory,
        conditions: &cell.record.status.conditions,
        evaluation: &cell.evaluation,
        secrets: secrets.as_ref(),
        closure: &closure,
        closure_stage,
        heading: heading.as_ref(),
        claim: state.claims.get(host),
        denied: state.denied.get(host).map(|(why, _)| why.as_str()),
        suspension: state.suspensions.get(host),
        adoption: state.adoptions.get(host),
        nudge: open_nudge(state, host),
        rollback: state.rollbacks.get(host),
        // Of an older word, from before the trunk had this host (again).
        left: state.left.get(host).filter(|_| state.has_left(host)),
        released: !fleet.hosts.contains_key(host),
        waits_for: &waits_for,
        report_interval: settings.report_interval,
    };
    Some(judge(&view))
}

/// The goal `secrets` of a host at the revision that is open.
fn secrets_of<'a>(state: &'a State, host: &HostName) -> Option<&'a trueup_schema::wire::Goal> {
    state.opened.as_ref()?.secrets.get(host)
}

/// Ready at the revision that is desired now, not at an older one.
fn is_ready_now(cell: &crate::state::HostCell) -> bool {
    let status = &cell.record.status;
    trueup_core::conditions::is_ready(&status.conditions)
        && status.observed_revision.as_ref() == Some(&cell.record.revision)
}

/// Failures whose time has come are wanted anew; suspensions end.
fn expire(state: &mut State, host: &HostName, now: Timestamp) {
    let Some(cell) = state.hosts.get_mut(host) else {
        return;
    };
    let due = |p: &trueup_core::host::Problem| p.retry_at.is_some_and(|r| r <= now);
    if matches!(&cell.evaluation, Work::Failed(p) if due(p)) {
        cell.evaluation = Work::None;
    }
    if let Work::Done(w) = &cell.evaluation
        && matches!(state.closures.get(&w.drv), Some(c) if matches!(&c.work, Work::Failed(p) if due(p)))
    {
        state.closures.remove(&w.drv);
    }
    let hour = std::time::Duration::from_secs(3600);
    cell.record.memory.corrections.retain(|c| *c + hour > now);
}

pub(crate) use absorb::is_stale;
pub(crate) use steps::{ask_again, target_of};
