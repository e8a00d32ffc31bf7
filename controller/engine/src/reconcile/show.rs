//! What is shown of a host, and its record in the db. Events are written on transitions only, with the change.

use std::rc::Rc;

use trueup_core::conditions::{conditions, find};
use trueup_core::decide::{Decision, Step, system};
use trueup_core::host::Work;
use trueup_schema::HostName;
use trueup_schema::status::{ComponentStatus, ConditionType, Reason, Severity, Subject, Truth};

use super::own;
use crate::state::{HostCell, Shared, note, put};

/// Writes a decision into the host's status, in memory.
pub(super) fn show(sh: &Rc<Shared>, host: &HostName, decision: &Decision) {
    let now = sh.now();
    let mut woken = Vec::new();
    {
        let mut guard = sh.state.borrow_mut();
        let state = &mut *guard;
        let was_under_way = own::is_under_way(state, host);
        let Some(cell) = state.hosts.get_mut(host) else {
            return;
        };
        let was_ready = trueup_core::conditions::is_ready(&cell.record.status.conditions);
        let before = cell.record.status.clone();
        let after = conditions(
            &before.conditions,
            &decision.verdict,
            &cell.record.revision,
            now,
        );
        debug_assert_eq!(
            trueup_core::conditions::check(&before.conditions, &after),
            Ok(())
        );
        transitions(cell, &before.conditions, &after);
        cell.record.status.conditions = after;
        fill(cell, decision);
        let is_ready = trueup_core::conditions::is_ready(&cell.record.status.conditions);
        let rests = decision.verdict.reason == Reason::RolledBackByHand
            && matches!(decision.step, Step::Wait { .. });
        if decision.is_settled() || rests {
            // A person's word holds until it was followed, or until it is clear that it can't be.
            cell.record.memory.retry = false;
            cell.record.memory.correct = false;
            cell.record.memory.asked = None;
        }
        let mut same = before;
        same.next_at = cell.record.status.next_at;
        if same != cell.record.status {
            cell.dirty = true;
        }
        let settled = same.observed_revision != cell.record.status.observed_revision;
        if is_ready && (!was_ready || settled) {
            let depends = |c: &HostCell| c.record.manifest.depends_on.contains(host);
            woken.extend(
                state
                    .hosts
                    .iter()
                    .filter(|(_, c)| depends(c))
                    .map(|(n, _)| n.clone()),
            );
        }
        if was_under_way && !own::is_under_way(state, host) {
            woken.extend(own::own(state, &sh.settings));
        }
    }
    for name in woken {
        sh.wake(&name, false);
    }
}

fn fill(cell: &mut HostCell, decision: &Decision) {
    let m = &mut cell.record.memory;
    if decision.is_settled() && m.observed_revision.as_ref() != Some(&cell.record.revision) {
        m.observed_revision = Some(cell.record.revision.clone());
    }
    let ready = decision.verdict.state == trueup_core::conditions::State::Ready;
    if ready && m.applied_revision.as_ref() != Some(&cell.record.revision) {
        // Its goals run, confirmed: they are this revision's as well.
        m.applied_revision = Some(cell.record.revision.clone());
    }
    let s = &mut cell.record.status;
    s.phase = decision.verdict.phase;
    s.detail.clone_from(&decision.verdict.detail);
    s.outcome = m.ended.as_ref().map(|e| e.outcome);
    s.desired_revision = Some(cell.record.revision.clone());
    s.attempted_revision.clone_from(&m.attempted_revision);
    s.applied_revision.clone_from(&m.applied_revision);
    s.observed_revision.clone_from(&m.observed_revision);
    s.last_report_time = m.seen_at;
    s.next_at = match decision.step {
        Step::Wait { until } => Some(until),
        _ => None,
    };
    let wanted = match &cell.evaluation {
        Work::Done(w) => Some(w),
        _ => None,
    };
    s.desired_closure = wanted.map(|w| w.closure.clone());
    if let Some(report) = &m.report {
        s.running_closure.clone_from(&report.running.running);
        s.booted_closure.clone_from(&report.running.booted);
        s.boot_default_closure
            .clone_from(&report.running.boot_default);
        let component = system(report);
        s.components = component
            .map(|c| ComponentStatus {
                name: c.name.clone(),
                desired: wanted.map(|w| w.digest.clone()),
                observed: c.observed.clone(),
                outcome: c.last.as_ref().map(|(_, o)| *o),
            })
            .into_iter()
            .collect();
    }
}

/// Was it put right by trueup since it drifted?
fn corrected(cell: &HostCell, before: &[trueup_schema::status::Condition]) -> bool {
    let began = find(before, ConditionType::Drifted).map(|c| c.last_transition_time);
    let corrections = &cell.record.memory.corrections;
    began.is_some_and(|began| corrections.iter().any(|at| *at >= began))
}

/// Events of what changed. What a note has told already is not told twice.
fn transitions(
    cell: &mut HostCell,
    before: &[trueup_schema::status::Condition],
    after: &[trueup_schema::status::Condition],
) {
    use ConditionType as C;
    let Some(now) = find(after, C::Ready) else {
        return;
    };
    let was = find(before, C::Ready);
    let changed = was.is_none_or(|w| (w.status, w.reason) != (now.status, now.reason));
    let told = matches!(
        now.reason,
        Reason::Progressing
            | Reason::ProgressingWithRetry
            | Reason::Quarantined
            | Reason::Unreachable
            | Reason::RebootRequired
            | Reason::Superseded
            | Reason::Drifted
            | Reason::EvaluationFailed
            | Reason::Held
            | Reason::HostReleased
            | Reason::Left
            | Reason::RollbackRefused
    );
    if before.is_empty() {
        cell.notes
            .push(note(Severity::Info, Reason::HostAdded, "is in the fleet"));
    }
    let drifted = (find(before, C::Drifted).is_some(), find(after, C::Drifted));
    match drifted {
        (false, Some(c)) => {
            cell.notes
                .push(note(Severity::Warning, Reason::Drifted, c.message.clone()))
        }
        // By us: told already.
        (true, None) if corrected(cell, before) => {}
        (true, None) => cell.notes.push(note(
            Severity::Info,
            Reason::DriftEnded,
            "is as it was confirmed",
        )),
        _ => {}
    }
    match (
        find(before, C::Suspended).is_some(),
        find(after, C::Suspended),
    ) {
        (false, Some(c)) => {
            cell.notes
                .push(note(Severity::Info, Reason::Suspended, c.message.clone()))
        }
        (true, None) => {
            cell.notes
                .push(note(Severity::Info, Reason::Resumed, "is reconciled again"))
        }
        _ => {}
    }
    match (find(before, C::Held).is_some(), find(after, C::Held)) {
        (false, Some(c)) => {
            cell.notes
                .push(note(Severity::Warning, Reason::Held, c.message.clone()))
        }
        (true, None) => cell.notes.push(note(
            Severity::Info,
            Reason::HoldEnded,
            "takes intents again",
        )),
        _ => {}
    }
    let told = told || (now.reason == Reason::Suspended);
    if changed && !told {
        let rests = matches!(now.reason, Reason::RolledBackByHand | Reason::ObservedOnly);
        let severity = match now.status {
            Truth::True | Truth::Unknown => Severity::Info,
            Truth::False if rests => Severity::Info,
            Truth::False => Severity::Error,
        };
        cell.notes
            .push(note(severity, now.reason, now.message.clone()));
    }
}

/// Writes the record with its events and the nudges that it handles, in one transaction, if anything changed.
pub(super) async fn save(sh: &Rc<Shared>, host: &HostName) {
    let (ops, events, handled, ready) = {
        let mut guard = sh.state.borrow_mut();
        let state = &mut *guard;
        let Some(cell) = state.hosts.get_mut(host) else {
            return;
        };
        let ready = trueup_core::conditions::is_ready(&cell.record.status.conditions)
            && cell.record.status.applied_revision.as_ref() == Some(&cell.record.revision);
        let tried = cell.record.memory.tried_at;
        let open = |n: &&crate::record::Nudge| {
            n.host.as_ref() == Some(host)
                && n.handled_at.is_none()
                && tried.is_some_and(|t| t >= n.requested_at)
        };
        let now = sh.now();
        let mut handled: Vec<crate::record::Nudge> =
            state.nudges.values().filter(open).cloned().collect();
        if !cell.dirty && cell.notes.is_empty() && handled.is_empty() {
            return;
        }
        let mut ops = Vec::new();
        let mut events = Vec::new();
        match put("hosts", host.as_str(), &cell.record) {
            Ok(op) => ops.push(op),
            Err(e) => tracing::error!(%host, error = %e, "a record was not written"),
        }
        let revision = Some(cell.record.revision.clone());
        for n in std::mem::take(&mut cell.notes) {
            events.push(sh.event(Subject::Host(host.clone()), &n, revision.clone()));
        }
        for nudge in &mut handled {
            nudge.handled_at = Some(now);
            ops.extend(put("nudges", &nudge.id, nudge));
            let told = note(
                Severity::Info,
                Reason::NudgeHandled,
                format!("asked by {}: looked at", nudge.by.name),
            );
            events.push(sh.event(Subject::Host(host.clone()), &told, revision.clone()));
        }
        cell.dirty = false;
        (ops, events, handled, ready)
    };
    sh.crash("host.before-commit").await;
    let ok = sh.commit(ops, events).await.is_ok();
    sh.crash("host.after-commit").await;
    if ok && ready {
        sh.mark("ready", host);
    }
    let mut state = sh.state.borrow_mut();
    if ok {
        for nudge in handled {
            state.taken.remove(&nudge.id);
            state.nudges.remove(&nudge.id);
        }
    } else if let Some(cell) = state.hosts.get_mut(host) {
        cell.dirty = true;
    }
}
