//! Wants for evaluations, merged over hosts. What was found before a cancellation is kept.

use std::rc::Rc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::{Either, join_all, select};
use trueup_core::backoff;
use trueup_core::host::{Problem, Wanted, Work};
use trueup_schema::kind::{ResolvedHost, Target};
use trueup_schema::status::{Reason, Severity, Subject};
use trueup_schema::wire::system_digest;
use trueup_schema::{ErrorClass, HostName, Revision};

use crate::ports::{EvalFailure, EvalWant, Evaluated, Tree};
use crate::record::EvaluationRecord;
use crate::state::{Shared, note, put};

/// A stream of commits is held back for so long, at most, so that what was evaluated in its midst reaches the hosts.
const DELIVERED_WITHIN: Duration = Duration::from_secs(900);

/// Results that are there at the same moment.
const TOGETHER: usize = 64;

/// What a host is to be, by what its evaluation found.
pub(crate) fn wanted(e: &Evaluated, manifest: &ResolvedHost) -> Wanted {
    Wanted {
        drv: e.drv.clone(),
        closure: e.out.clone(),
        digest: system_digest(&e.out, manifest.specialisation.as_deref()),
    }
}

/// Runs for ever.
pub(crate) async fn run(sh: Rc<Shared>) {
    loop {
        let Some((tree, wants, revision)) = next(&sh) else {
            sh.eval_kick.notified().await;
            continue;
        };
        sh.crash("evaluate.start").await;
        let cut = evaluate(&sh, &tree, wants, &revision).await;
        let mut state = sh.state.borrow_mut();
        state.evaluating = None;
        if !cut {
            let held_back = state.cut_off;
            state.cut_off = false;
            if held_back {
                state.delivering_until = Some(sh.ports.rt.mono().0 + DELIVERED_WITHIN);
                sh.source_kick.notify_one();
            }
        }
    }
}

/// Takes all wants that wait, for the revision that is open.
fn next(sh: &Rc<Shared>) -> Option<(Tree, Vec<EvalWant>, Revision)> {
    let mut state = sh.state.borrow_mut();
    let opened = state
        .opened
        .clone()
        .filter(|_| !state.eval_wants.is_empty())?;
    let names = std::mem::take(&mut state.eval_wants);
    let want = |name: &HostName| {
        let (attribute, file) = match &opened.fleet.hosts.get(name)?.target {
            Target::Flake { attribute } => (attribute.clone(), None),
            Target::File { file, attr } => (attr.clone(), Some(file.clone())),
        };
        let host = name.clone();
        Some(EvalWant {
            host,
            attribute,
            file,
        })
    };
    let wants: Vec<EvalWant> = names.iter().filter_map(want).collect();
    let revision = opened.tree.revision.clone();
    state.evaluating = Some(revision.clone());
    Some((opened.tree.clone(), wants, revision))
}

/// True if a newer revision cut it off.
async fn evaluate(sh: &Rc<Shared>, tree: &Tree, wants: Vec<EvalWant>, revision: &Revision) -> bool {
    // What is found together is written down together, and its builds are wanted together.
    let mut results = sh
        .ports
        .evaluator
        .evaluate(tree, wants)
        .ready_chunks(TOGETHER);
    loop {
        let cut = Box::pin(sh.eval_cut.notified());
        match select(results.next(), cut).await {
            Either::Left((Some(some), _)) => {
                let all = some.into_iter();
                join_all(all.map(|(host, result)| found(sh, host, result, revision))).await;
            }
            Either::Left((None, _)) => return false,
            Either::Right(_) => {
                let newest = sh.state.borrow().source.accepted.clone();
                if newest.as_ref() != Some(revision) {
                    return true;
                }
            }
        }
    }
}

async fn found(
    sh: &Rc<Shared>,
    host: HostName,
    result: Result<Evaluated, EvalFailure>,
    revision: &Revision,
) {
    if let Ok(e) = &result {
        let root = super::build::root_name(&host, &e.out);
        sh.ports.builder.root(&e.drv, &e.out, &root).await;
    }
    let now = sh.now();
    let mut record = EvaluationRecord {
        revision: revision.clone(),
        at: now,
        evaluated: None,
        problem: None,
        trace: String::new(),
    };
    let mut events = Vec::new();
    {
        let mut state = sh.state.borrow_mut();
        let Some(cell) = state.hosts.get_mut(&host) else {
            return;
        };
        let current = cell.record.revision == *revision;
        match result {
            Ok(e) => {
                if current {
                    cell.evaluation = Work::Done(wanted(&e, &cell.record.manifest));
                }
                record.evaluated = Some(e.clone());
                cell.eval_told = None;
                cell.evaluated = Some((revision.clone(), e));
            }
            Err(f) => {
                let retry = f.class == ErrorClass::Transient;
                let delay = backoff::delay(6, sh.ports.rt.random());
                let problem = Problem {
                    class: f.class,
                    reason: Reason::EvaluationFailed,
                    message: f.message,
                    retry_at: retry.then(|| now + delay),
                };
                let told = note(
                    Severity::Error,
                    Reason::EvaluationFailed,
                    problem.message.clone(),
                );
                let news = Some((revision.clone(), problem.message.clone()));
                if cell.eval_told != news {
                    let subject = Subject::Host(host.clone());
                    events.push(sh.event(subject, &told, Some(revision.clone())));
                    cell.eval_told = news;
                }
                record.problem = Some(problem.clone());
                record.trace = f.trace;
                if current {
                    cell.evaluation = Work::Failed(problem);
                }
            }
        }
        cell.dirty = true;
    }
    sh.mark("evaluated", &host);
    sh.wake(&host, false);
    let ops = put("evaluations", host.as_str(), &record)
        .into_iter()
        .collect();
    let _told = sh.commit(ops, events).await;
    sh.crash("evaluate.after-commit").await;
}
