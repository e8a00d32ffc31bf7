//! The trunk: fetch, judge, accept. Several merges collapse into the newest; a bad one stops that revision only.

use std::rc::Rc;

use futures::StreamExt as _;
use trueup_core::backoff;
use trueup_core::conditions::find;
use trueup_core::host::{Problem, Work};
use trueup_schema::status::{ConditionType, Reason, Severity, Subject, Truth};
use trueup_schema::{ErrorClass, Revision};

use crate::ports::{DbError, Head, Op, Opened, SourceError};
use crate::record::{FleetRecord, RevisionRecord};
use crate::release;
use crate::state::{HostCell, Shared, delete, note, put};

/// Runs for ever.
pub(crate) async fn run(sh: Rc<Shared>) {
    let mut wakes = sh.ports.source.wakes().fuse();
    let mut failures = 0;
    loop {
        let ok = round(&sh).await;
        failures = if ok { 0 } else { failures + 1 };
        handle_nudges(&sh).await;
        let seed = sh.ports.rt.random();
        let delay = if ok {
            backoff::jitter(sh.settings.poll_interval, seed)
        } else {
            backoff::delay(failures, seed).min(sh.settings.poll_interval)
        };
        let sleep = sh.ports.rt.sleep_until(sh.ports.rt.mono() + delay);
        let kicked = Box::pin(sh.source_kick.notified());
        let any = futures::future::select(sleep, kicked);
        let woken = async {
            // A source that never wakes must not end the wait.
            if wakes.next().await.is_none() {
                futures::future::pending::<()>().await;
            }
        };
        futures::future::select(any, Box::pin(woken)).await;
    }
}

/// Nudges without a host are handled by a fetch.
async fn handle_nudges(sh: &Rc<Shared>) {
    let now = sh.now();
    let open: Vec<_> = {
        let mut state = sh.state.borrow_mut();
        let of_source =
            |n: &&mut trueup_core::host::Nudge| n.host.is_none() && n.handled_at.is_none();
        state
            .nudges
            .values_mut()
            .filter(of_source)
            .map(|n| {
                n.handled_at = Some(now);
                n.clone()
            })
            .collect()
    };
    for nudge in open {
        let told = note(Severity::Info, Reason::NudgeHandled, "fetched the trunk");
        let event = sh.event(Subject::Controller("source".to_owned()), &told, None);
        if let Ok(op) = put("nudges", &nudge.id, &nudge) {
            let _told = sh.commit(vec![op], vec![event]).await;
        }
    }
}

async fn round(sh: &Rc<Shared>) -> bool {
    let accepted = sh.state.borrow().source.accepted.clone();
    let woken = sh.now();
    let head = match sh.ports.source.fetch(accepted.as_ref()).await {
        Ok(head) => head,
        Err(e) => {
            failed(sh, None, &e, Reason::SourceFetchFailed).await;
            reopen(sh, accepted).await;
            return false;
        }
    };
    let before = sh.state.borrow().source.clone();
    if before.accepted.as_ref() == Some(&head.revision) && sh.state.borrow().opened.is_some() {
        recovered(sh, &head.revision).await;
        return true;
    }
    // A bad revision is not read again until the trunk moves.
    let known_bad = before.head.as_ref() == Some(&head.revision)
        && before.problem.as_ref().is_some_and(|p| {
            p.class == ErrorClass::Desired && p.reason == Reason::RevisionRejected
        });
    if known_bad && sh.state.borrow().opened.is_some() {
        return true;
    }
    let meant = sh
        .state
        .borrow()
        .accept
        .as_ref()
        .is_some_and(|a| a.sha1 == head.revision.sha1());
    if !head.follows && accepted.is_some() && !meant && accepted.as_ref() != Some(&head.revision) {
        let why = format!(
            "{} is no descendant of {}: history was rewritten. If that is meant: `trueup source accept {}`",
            head.revision.short(),
            accepted.as_ref().map_or_else(String::new, Revision::short),
            head.revision.sha1()
        );
        stall(
            sh,
            &head.revision,
            Reason::HistoryRewritten,
            ErrorClass::Desired,
            why,
            Vec::new(),
        )
        .await;
        return reopen(sh, accepted).await;
    }
    {
        let state = sh.state.borrow();
        // One evaluation was cut off already: this one runs to its end, so that commits cannot starve the fleet.
        if state.evaluating.is_some() && state.cut_off {
            return true;
        }
    }
    if delivers(sh) {
        return true;
    }
    // Told of now, since a wake that finds nothing new is no stage of anything.
    tracing::debug!(target: "stage", stage = "woken", at = %woken, revision = head.revision.sha1());
    sh.mark_trunk("fetched", &head.revision);
    match sh.ports.source.open(&head.revision).await {
        Ok(opened) => {
            sh.mark_trunk("opened", &head.revision);
            accept(sh, &head, opened).await.is_ok()
        }
        Err(e) => {
            let reason = if e.class() == ErrorClass::Desired {
                Reason::RevisionRejected
            } else {
                Reason::SourceFetchFailed
            };
            let desired = e.class() == ErrorClass::Desired;
            failed(sh, Some(&head), &e, reason).await;
            reopen(sh, accepted).await && desired
        }
    }
}

/// Are hosts still on their way to what was evaluated while newer commits came? Without this the host that is evaluated
/// last would be given a new goal before it got any.
fn delivers(sh: &Rc<Shared>) -> bool {
    let mut state = sh.state.borrow_mut();
    let now = sh.ports.rt.mono().0;
    let under_way = |c: &HostCell| {
        let ready = find(&c.record.status.conditions, ConditionType::Ready);
        matches!(c.evaluation, Work::Done(_)) && ready.is_none_or(|r| r.status == Truth::Unknown)
    };
    let until = state.delivering_until;
    let waits = until.is_some_and(|u| now < u) && state.hosts.values().any(under_way);
    if !waits {
        state.delivering_until = None;
    }
    waits
}

/// After a start with a bad head: the last good revision is what the fleet is to be.
async fn reopen(sh: &Rc<Shared>, accepted: Option<Revision>) -> bool {
    let Some(revision) = accepted.filter(|_| sh.state.borrow().opened.is_none()) else {
        return true;
    };
    match sh.ports.source.open(&revision).await {
        Ok(opened) => {
            take_over(sh, opened);
            true
        }
        Err(e) => {
            tracing::error!(error = %e, "the accepted revision could not be read");
            false
        }
    }
}

async fn failed(sh: &Rc<Shared>, head: Option<&Head>, e: &SourceError, reason: Reason) {
    let problems = match e {
        SourceError::BadManifests { problems, .. } => problems.clone(),
        other => vec![other.to_string()],
    };
    let at = head.map(|h| h.revision.clone());
    let old = sh.state.borrow().source.head.clone();
    if let Some(revision) = at.or(old) {
        stall(sh, &revision, reason, e.class(), e.to_string(), problems).await;
        return;
    }
    let problem = Problem {
        class: e.class(),
        reason,
        message: e.to_string(),
        retry_at: None,
    };
    write_source(sh, None, problem, Vec::new()).await;
}

async fn stall(
    sh: &Rc<Shared>,
    revision: &Revision,
    reason: Reason,
    class: ErrorClass,
    message: String,
    problems: Vec<String>,
) {
    let problem = Problem {
        class,
        reason,
        message,
        retry_at: None,
    };
    let mut ops = Vec::new();
    if class == ErrorClass::Desired {
        let record = RevisionRecord {
            revision: revision.clone(),
            author: String::new(),
            subject: String::new(),
            committed_at: sh.now(),
            seen_at: sh.now(),
            accepted: false,
            problems,
        };
        ops.extend(put("revisions", revision.sha1(), &record));
    }
    write_source(sh, Some(revision), problem, ops).await;
}

async fn write_source(
    sh: &Rc<Shared>,
    head: Option<&Revision>,
    problem: Problem,
    mut ops: Vec<Op>,
) {
    let mut source = sh.state.borrow().source.clone();
    if source.problem.as_ref() == Some(&problem)
        && head.is_none_or(|h| source.head.as_ref() == Some(h))
    {
        return;
    }
    let severity = if problem.class == ErrorClass::Desired {
        Severity::Error
    } else {
        Severity::Warning
    };
    let told = note(severity, problem.reason, problem.message.clone());
    let event = sh.event(
        Subject::Controller("source".to_owned()),
        &told,
        head.cloned(),
    );
    source.head = head.cloned().or(source.head);
    source.problem = Some(problem);
    ops.extend(put("meta", "source", &source));
    if sh.commit(ops, vec![event]).await.is_ok() {
        sh.state.borrow_mut().source = source;
    }
}

async fn recovered(sh: &Rc<Shared>, head: &Revision) {
    let mut source = sh.state.borrow().source.clone();
    if source.problem.is_none() {
        return;
    }
    source.problem = None;
    source.head = Some(head.clone());
    let told = note(
        Severity::Info,
        Reason::SourceRecovered,
        "the trunk can be read again",
    );
    let event = sh.event(
        Subject::Controller("source".to_owned()),
        &told,
        Some(head.clone()),
    );
    let ops = put("meta", "source", &source).into_iter().collect();
    if sh.commit(ops, vec![event]).await.is_ok() {
        sh.state.borrow_mut().source = source;
    }
}

/// Makes a revision what the fleet is to be. The commit comes first; hosts are woken after it.
async fn accept(sh: &Rc<Shared>, head: &Head, opened: Opened) -> Result<(), DbError> {
    let before = sh.state.borrow().source.clone();
    let known = before.accepted.as_ref() == Some(&head.revision);
    let rewritten = before.accepted.is_some() && !head.follows;
    let source = crate::record::SourceRecord {
        place: match known {
            true => before.place,
            false => before.place.next(rewritten),
        },
        accepted: Some(head.revision.clone()),
        accepted_at: Some(sh.now()),
        head: Some(head.revision.clone()),
        problem: None,
    };
    let record = RevisionRecord {
        revision: head.revision.clone(),
        author: head.author.clone(),
        subject: head.subject.clone(),
        committed_at: head.at,
        seen_at: sh.now(),
        accepted: true,
        problems: Vec::new(),
    };
    let fleet = FleetRecord {
        fleet: opened.fleet.fleet.clone(),
        alerts: opened.fleet.alerts.clone(),
    };
    let told = note(
        Severity::Info,
        Reason::RevisionAccepted,
        format!("{} ({})", head.subject, head.author),
    );
    if !known {
        let event = sh.event(
            Subject::Revision(head.revision.clone()),
            &told,
            Some(head.revision.clone()),
        );
        let ops = vec![
            put("meta", "source", &source)?,
            put("meta", "fleet", &fleet)?,
            put("revisions", head.revision.sha1(), &record)?,
            delete("meta", "accept")?,
        ];
        sh.crash("accept.before-commit").await;
        sh.commit(ops, vec![event]).await?;
        sh.crash("accept.after-commit").await;
    }
    {
        let mut state = sh.state.borrow_mut();
        state.source = source;
        state.accept = None;
    }
    let old = sh
        .state
        .borrow()
        .opened
        .as_ref()
        .map(|o| o.tree.revision.clone());
    take_over(sh, opened);
    sh.mark_trunk("accepted", &head.revision);
    release::let_go(sh).await;
    release::forget_returned(sh).await;
    if let Some(old) = old.filter(|o| *o != head.revision) {
        sh.ports.source.forget(&old).await;
    }
    Ok(())
}

/// Manifests become the hosts' desired state; what an evaluation still proves is kept.
fn take_over(sh: &Rc<Shared>, opened: Opened) {
    let opened = Rc::new(opened);
    let revision = opened.tree.revision.clone();
    let mut guard = sh.state.borrow_mut();
    let state = &mut *guard;
    if state.evaluating.is_some() {
        state.cut_off = true;
        sh.eval_cut.notify_one();
    }
    state.eval_wants.clear();
    // Only encrypted files differ: what was found at the revision before is what would be found at this one.
    let same = state.opened.as_ref().and_then(|before| {
        let same = before.same_closures.is_some() && before.same_closures == opened.same_closures;
        same.then(|| before.tree.revision.clone())
    });
    for (name, manifest) in &opened.fleet.hosts {
        let known = state.released.get(name);
        let cell = state
            .hosts
            .entry(name.clone())
            .or_insert_with(|| release::cell(known, manifest, &revision));
        let same_target = cell.record.manifest.target == manifest.target;
        cell.record.manifest = manifest.clone();
        cell.record.revision = revision.clone();
        cell.dirty = true;
        let valid = cell
            .evaluated
            .as_ref()
            .filter(|_| same_target)
            .is_some_and(|(at, e)| {
                *at == revision
                    || same.as_ref() == Some(at)
                    || sh.ports.evaluator.still_valid(e, &opened.tree)
                        == crate::ports::Validity::Valid
            });
        if valid && let Some((at, e)) = &mut cell.evaluated {
            *at = revision.clone();
            cell.evaluation = Work::Done(super::evaluate::wanted(e, manifest));
        } else {
            cell.evaluation = Work::Running(None);
            state.eval_wants.insert(name.clone());
        }
    }
    state.alerts.clone_from(&opened.fleet.alerts);
    state.fleet = Some(Rc::new(opened.fleet.clone()));
    let machines = opened.fleet.builders.values().cloned().collect();
    sh.ports.builder.use_machines(machines);
    state.opened = Some(opened);
    state.denied.clear();
    drop(guard);
    sh.eval_kick.notify_one();
    sh.alert_kick.notify_one();
    sh.wake_all();
}
