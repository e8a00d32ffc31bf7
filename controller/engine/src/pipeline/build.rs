//! Wants for closures: built once however many hosts want one, then signed. Whoever waits is woken.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use futures::StreamExt as _;
use trueup_core::backoff;
use trueup_core::host::{ClosureStage, Problem, Wanted, Work};
use trueup_schema::kind::ResolvedCache;
use trueup_schema::status::{Reason, Severity, Subject};
use trueup_schema::{ErrorClass, HostName, StorePath};

use crate::ports::{BuildFailure, BuildUpdate};
use crate::record::BuildRecord;
use crate::state::{Closure, Shared, note, put};

/// Progress is told at most this often.
const TELL: Duration = Duration::from_secs(1);
/// And written for people at most this often: each time is a write to the disk.
const RECORD: Duration = Duration::from_secs(5);

/// Copies of one closure to one cache that are tried; the next build brings the shared parts again.
const PUSH_TRIES: u32 = 4;

/// Puts a want. One build for all who want the same.
pub(crate) fn want(sh: &Rc<Shared>, host: &HostName, wanted: &Wanted) {
    let mut state = sh.state.borrow_mut();
    let fresh = !state.closures.contains_key(&wanted.drv);
    let closure = state
        .closures
        .entry(wanted.drv.clone())
        .or_insert_with(|| Closure::new(wanted.closure.clone()));
    closure.wanters.insert(host.clone());
    let due = fresh || matches!(closure.work, Work::None);
    if due {
        closure.work = Work::Running(None);
    }
    drop(state);
    if due {
        let (sh2, host, wanted) = (sh.clone(), host.clone(), wanted.clone());
        let task = async move { build(&sh2, &host, &wanted).await };
        sh.ports.rt.spawn("build", Box::pin(task));
    }
}

fn set(sh: &Rc<Shared>, wanted: &Wanted, change: impl FnOnce(&mut Closure)) {
    let mut wanters = BTreeSet::new();
    if let Some(c) = sh.state.borrow_mut().closures.get_mut(&wanted.drv) {
        change(c);
        wanters.clone_from(&c.wanters);
    }
    for host in wanters {
        sh.wake(&host, false);
    }
}

fn mark(sh: &Rc<Shared>, wanted: &Wanted, stage: &'static str) {
    let wanters = sh
        .state
        .borrow()
        .closures
        .get(&wanted.drv)
        .map(|c| c.wanters.clone());
    for host in wanters.unwrap_or_default() {
        sh.mark(stage, &host);
    }
}

/// At a start: what ran when the controller ended runs no more. It is built again where it is wanted.
pub(crate) async fn forget_unfinished(sh: &Rc<Shared>) {
    let Ok((_, entries)) = sh.ports.db.list(crate::record::BUILDS).await else {
        return;
    };
    let unfinished = entries.into_iter().filter(|e| {
        crate::record::decode::<BuildRecord>(&e.key, &e.value).is_ok_and(|r| r.ended_at.is_none())
    });
    let ops: Vec<_> = unfinished
        .map(|e| crate::ports::Op::Delete(e.key))
        .collect();
    for some in ops.chunks(crate::ports::MAX_OPS) {
        let _told = sh.commit(some.to_vec(), Vec::new()).await;
    }
}

/// Failures whose records are gone are gone: whoever waits asks again.
pub(crate) async fn forget_failures(sh: &Rc<Shared>) {
    let Ok((_, entries)) = sh.ports.db.list(crate::record::BUILDS).await else {
        return;
    };
    let kept: BTreeSet<String> = entries.iter().map(|e| e.key.name().to_owned()).collect();
    let mut forgot = false;
    sh.state.borrow_mut().closures.retain(|drv, closure| {
        let forget = matches!(closure.work, Work::Failed(_)) && !kept.contains(record_name(drv));
        forgot |= forget;
        !forget
    });
    // After a restart a failure is known from its record, which does not say who wants it: all look.
    if forgot {
        sh.wake_all();
    }
}

/// A build's record is kept under the hash of its derivation.
fn record_name(drv: &trueup_schema::DrvPath) -> &str {
    &drv.as_str()["/nix/store/".len()..][..32]
}

/// What a host's closure is rooted under in the hub's store, from its evaluation on.
pub(super) fn root_name(host: &HostName, closure: &StorePath) -> String {
    format!("{host}-{}", closure.hash())
}

async fn build(sh: &Rc<Shared>, host: &HostName, wanted: &Wanted) {
    let Ok(permit) = sh.builds.acquire().await else {
        return;
    };
    sh.crash("build.start").await;
    let mut record = BuildRecord {
        drv: wanted.drv.clone(),
        out: wanted.closure.clone(),
        host: host.clone(),
        started_at: sh.now(),
        ended_at: None,
        failure: None,
        published: false,
        progress: None,
    };
    let mut recorded = None;
    // Always through the builder, which also makes the root; for a valid path it ends at once.
    let root = root_name(host, &wanted.closure);
    let mut updates = sh.ports.builder.build(&wanted.drv, &wanted.closure, &root);
    let mut end = None;
    while let Some(update) = updates.next().await {
        match update {
            BuildUpdate::Progress(p) => {
                let now = sh.ports.rt.mono().0;
                // What is there already is not built, and nobody needs to see that.
                let news = recorded.is_none_or(|at| now.saturating_sub(at) >= RECORD);
                if news && !p.current.is_empty() {
                    recorded = Some(now);
                    record.progress = Some(p.clone());
                    let ops = put("builds", record_name(&wanted.drv), &record);
                    let _told = sh.commit(ops.into_iter().collect(), Vec::new()).await;
                }
                let told = sh
                    .state
                    .borrow()
                    .closures
                    .get(&wanted.drv)
                    .map_or(now, |c| c.told);
                if now.saturating_sub(told) >= TELL {
                    set(sh, wanted, |c| {
                        c.told = now;
                        c.work = Work::Running(Some(format!("{}/{}", p.done, p.expected)));
                    });
                }
            }
            BuildUpdate::Done(result) => end = Some(result),
        }
    }
    sh.crash("build.end").await;
    let end = end.unwrap_or_else(|| {
        Err(BuildFailure {
            class: ErrorClass::Transient,
            drv: wanted.drv.to_string(),
            message: "the builder ended without a result".to_owned(),
            log_tail: Vec::new(),
        })
    });
    record.ended_at = Some(sh.now());
    record.progress = None;
    let problem = match end {
        Err(f) => {
            let message = format!("{} failed: {}", f.drv, f.message);
            record.failure = Some(f.clone());
            Some((f.class, Reason::BuildFailed, message))
        }
        Ok(_) => {
            mark(sh, wanted, "built");
            set(sh, wanted, |c| c.stage = ClosureStage::Publishing);
            let signed = sh.ports.publisher.sign(&wanted.closure).await;
            record.published = signed.is_ok();
            signed
                .err()
                .map(|e| (ErrorClass::Transient, Reason::PublishFailed, e.to_string()))
        }
    };
    sh.crash("publish.end").await;
    let built = finish(sh, wanted, record, problem).await;
    // Others may build while this one travels to the caches.
    drop(permit);
    if built && sh.settings.push_caches {
        push(sh, wanted).await;
    }
}

/// True if it can be delivered.
async fn finish(
    sh: &Rc<Shared>,
    wanted: &Wanted,
    record: BuildRecord,
    problem: Option<(ErrorClass, Reason, String)>,
) -> bool {
    let subject = Subject::Build(wanted.drv.to_string());
    let work = match problem {
        None => Work::Done(()),
        Some((class, reason, message)) => {
            let delay = backoff::delay(6, sh.ports.rt.random());
            let retry_at = (class == ErrorClass::Transient).then(|| sh.now() + delay);
            Work::Failed(Problem {
                class,
                reason,
                message,
                retry_at,
            })
        }
    };
    let told = match &work {
        Work::Failed(p) => note(Severity::Error, p.reason, p.message.clone()),
        _ => note(
            Severity::Info,
            Reason::BuildFinished,
            wanted.closure.short(),
        ),
    };
    let ok = matches!(work, Work::Done(()));
    if ok {
        mark(sh, wanted, "signed");
    }
    // Hosts go on at once; the record is for people, and for not building again what failed.
    set(sh, wanted, |c| {
        c.work = work;
        c.stage = ClosureStage::Building;
    });
    let event = sh.event(subject, &told, None);
    let ops = put("builds", record_name(&wanted.drv), &record)
        .into_iter()
        .collect();
    let _told = sh.commit(ops, vec![event]).await;
    ok
}

/// No host waits for a cache: one that does not take it is tried a few times, then told of, and that is all.
async fn push(sh: &Rc<Shared>, wanted: &Wanted) {
    let caches: Vec<ResolvedCache> = sh.state.borrow().fleet.as_ref().map_or_else(Vec::new, |f| {
        f.caches.values().filter(|c| c.push).cloned().collect()
    });
    // All at once: a cache that is away holds up no other.
    let copies = caches.iter().map(|cache| push_to(sh, wanted, cache));
    futures::future::join_all(copies).await;
}

async fn push_to(sh: &Rc<Shared>, wanted: &Wanted, cache: &ResolvedCache) {
    let mut result = Ok(());
    for failures in 0..PUSH_TRIES {
        if failures > 0 {
            let pause = backoff::delay(failures, sh.ports.rt.random());
            sh.ports.rt.sleep_until(sh.ports.rt.mono() + pause).await;
        }
        let Ok(_permit) = sh.pushes.acquire().await else {
            return;
        };
        result = sh.ports.publisher.push(&wanted.closure, cache).await;
        if result.is_ok() {
            return;
        }
    }
    if let Err(e) = result {
        let told = note(Severity::Warning, Reason::PublishFailed, e.to_string());
        let event = sh.event(Subject::Build(wanted.drv.to_string()), &told, None);
        let _told = sh.commit(Vec::new(), vec![event]).await;
    }
}
