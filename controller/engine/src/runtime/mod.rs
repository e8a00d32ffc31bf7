//! The engine itself: loads what the db has, starts the tasks, and drives the queue of hosts.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::select;
use tokio::sync::{Notify, Semaphore, mpsc};
use trueup_core::host::{Problem, Work};
use trueup_core::rollback::Back;
use trueup_schema::status::{Reason, Severity, Subject};
use trueup_schema::{ErrorClass, HostName};

use crate::ports::{DbError, Mono};
use crate::record::ControllerRecord;
use crate::state::{Closure, HostCell, Ports, Shared, State, note, put};
use crate::{Settings, Wake, alert, leave, load, pipeline, reconcile};

/// Copies to caches at once: no host waits for one, so few are enough.
const MAX_PUSHES: usize = 4;

/// Why the engine stopped. It stops for nothing else.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The db could not be read at the start.
    #[error("reading the database at the start: {0}")]
    Load(DbError),
    /// Another controller leads, or the db is gone for good.
    #[error("writing the database: {0}")]
    Lead(DbError),
}

/// See [`Engine::run`].
#[derive(Debug, Clone, Copy)]
pub struct Engine;

impl Engine {
    /// Runs until the db takes the lead away. Dropping the future (and the tasks that it spawned through `Rt`) at any
    /// point is a crash, and safe: a new run goes on from the db and from what the hosts report.
    pub async fn run(
        ports: Ports,
        settings: Settings,
        wakes: mpsc::Receiver<Wake>,
    ) -> Result<(), EngineError> {
        let state = load(&ports).await.map_err(EngineError::Load)?;
        let sh = Rc::new(Shared {
            builds: Semaphore::new(settings.max_builds.max(1)),
            pushes: Semaphore::new(MAX_PUSHES),
            ports,
            settings,
            state: RefCell::new(state),
            kick: Notify::new(),
            source_kick: Notify::new(),
            eval_kick: Notify::new(),
            eval_cut: Notify::new(),
            alert_kick: Notify::new(),
            leave_kick: Notify::new(),
            events: Cell::new(0),
        });
        started(&sh).await.map_err(EngineError::Lead)?;
        pipeline::build::forget_unfinished(&sh).await;
        let rt = sh.ports.rt.clone();
        rt.spawn("source", Box::pin(pipeline::source::run(sh.clone())));
        rt.spawn("machines", Box::pin(pipeline::machines::run(sh.clone())));
        rt.spawn("evaluate", Box::pin(pipeline::evaluate::run(sh.clone())));
        rt.spawn("roots", Box::pin(pipeline::roots::run(sh.clone())));
        rt.spawn("alerts", Box::pin(alert::run(sh.clone())));
        rt.spawn("leave", Box::pin(leave::run(sh.clone())));
        rt.spawn("reports", Box::pin(reports(sh.clone())));
        rt.spawn("wakes", Box::pin(inputs(sh.clone(), wakes)));
        drive(&sh).await
    }
}

async fn load(ports: &Ports) -> Result<State, DbError> {
    let stored = load::stored(&*ports.db).await?;
    let mut state = State {
        claims: stored.claims,
        source: stored.source,
        outbox: stored.outbox,
        released: stored.released,
        sinks: alert::told_before(stored.sinks_told),
        alerts: stored.fleet.map(|f| f.alerts).unwrap_or_default(),
        ..State::default()
    };
    for record in stored.hosts {
        let mut cell = HostCell::stored(record);
        cell.dirty = false;
        state.hosts.insert(cell.record.manifest.name.clone(), cell);
    }
    for (name, r) in stored.evaluations {
        let Some(cell) = state.hosts.get_mut(&name) else {
            continue;
        };
        cell.eval_told = r.problem.map(|p| (r.revision.clone(), p.message));
        cell.evaluated = r.evaluated.map(|found| (r.revision, found));
    }
    for r in stored.builds {
        // What a builder said no to is not built again; all else is asked anew, which costs nothing if it is there.
        if let Some(f) = r.failure.filter(|f| f.class == ErrorClass::Desired) {
            let message = format!("{} failed: {}", f.drv, f.message);
            let problem = Problem {
                class: f.class,
                reason: Reason::BuildFailed,
                message,
                retry_at: None,
            };
            let mut closure = Closure::new(r.out);
            closure.work = Work::Failed(problem);
            state.closures.insert(r.drv, closure);
        }
    }
    take_inputs(&mut state, stored.inputs);
    Ok(state)
}

fn take_inputs(state: &mut State, inputs: load::Inputs) {
    state.nudges = inputs.nudges;
    state.suspensions = inputs.suspensions;
    state.adoptions = inputs.adoptions;
    state.left = inputs.left;
    let mut known = std::mem::take(&mut state.rollbacks);
    for (host, rollback) in inputs.rollbacks {
        // What was found out about its closure stays.
        let same = known.remove(&host);
        let back = same.filter(|b| b.rollback.id == rollback.id);
        if let Some(back) = back.or_else(|| Back::new(rollback)) {
            state.rollbacks.insert(host, back);
        }
    }
    state.accept = inputs.accept;
}

async fn started(sh: &Rc<Shared>) -> Result<(), DbError> {
    let record = ControllerRecord {
        started_at: sh.now(),
        version: sh.settings.version.clone(),
    };
    let told = note(
        Severity::Info,
        Reason::ControllerStarted,
        format!("trueup {}", sh.settings.version),
    );
    let event = sh.event(Subject::Controller("trueup".to_owned()), &told, None);
    let mut events = vec![event];
    if let Some(told) = &sh.settings.told_at_start {
        let told = note(Severity::Warning, Reason::ControllerStarted, told);
        events.push(sh.event(Subject::Controller("trueup".to_owned()), &told, None));
    }
    sh.commit(vec![put("meta", "controller", &record)?], events)
        .await?;
    Ok(())
}

async fn reports(sh: Rc<Shared>) {
    let mut stream = sh.ports.hosts.reports();
    while let Some((host, report)) = stream.next().await {
        let mut state = sh.state.borrow_mut();
        if !state.hosts.contains_key(&host) {
            continue;
        }
        // The whole state each time, so the newest is enough: the inbox is bounded by the fleet.
        let older = state
            .inbox
            .get(&host)
            .is_some_and(|r| r.identity == report.identity && r.sequence > report.sequence);
        if !older {
            state.inbox.insert(host.clone(), report);
        }
        drop(state);
        sh.wake(&host, true);
    }
}

async fn inputs(sh: Rc<Shared>, mut wakes: mpsc::Receiver<Wake>) {
    while let Some(wake) = wakes.recv().await {
        let fresh = match load::inputs(&*sh.ports.db).await {
            Ok(fresh) => fresh,
            Err(e) => {
                tracing::error!(error = %e, "what people asked for could not be read");
                continue;
            }
        };
        {
            let mut state = sh.state.borrow_mut();
            // A nudge that is being handled by a running visit is open in the db until that visit commits.
            take_inputs(&mut state, fresh);
            let open: std::collections::BTreeSet<String> = state.nudges.keys().cloned().collect();
            state.taken.retain(|id| open.contains(id));
        }
        match wake {
            Wake::Key(host) => {
                sh.wake(&host, true);
                if sh.state.borrow().has_left(&host) {
                    reconcile::ask_again(&sh);
                }
            }
            Wake::Builds => pipeline::build::forget_failures(&sh).await,
            Wake::Source => {}
            Wake::All => sh.wake_all(),
        }
        sh.source_kick.notify_one();
        sh.leave_kick.notify_one();
    }
}

/// Drives the queue: due hosts get a worker each, one at most per host.
async fn drive(sh: &Rc<Shared>) -> Result<(), EngineError> {
    loop {
        loop {
            let now = sh.ports.rt.mono().0;
            let host = {
                let mut state = sh.state.borrow_mut();
                if let Some(e) = state.fatal.take() {
                    return Err(EngineError::Lead(e));
                }
                if state.queue.running() >= sh.settings.max_workers.max(1) {
                    break;
                }
                let Some(host) = state.queue.take(now) else {
                    break;
                };
                host
            };
            let task = work(sh.clone(), host.clone());
            sh.ports.rt.spawn(&format!("host/{host}"), Box::pin(task));
        }
        let (next, full) = {
            let state = sh.state.borrow();
            (
                state.queue.next_due(),
                state.queue.running() >= sh.settings.max_workers.max(1),
            )
        };
        let kicked = Box::pin(sh.kick.notified());
        match next.filter(|_| !full) {
            Some(at) => {
                select(sh.ports.rt.sleep_until(Mono(at)), kicked).await;
            }
            None => kicked.await,
        }
    }
}

async fn work(sh: Rc<Shared>, host: HostName) {
    let until = reconcile::visit(&sh, &host).await;
    let mono = sh.ports.rt.mono().0;
    let again = until.map(|until| {
        let wait = until.duration_since(sh.now());
        // A microsecond more, so that rounding never wakes it just before its time.
        mono + Duration::try_from(wait).unwrap_or(Duration::ZERO) + Duration::from_micros(1)
    });
    sh.state.borrow_mut().queue.done(&host, again);
    sh.kick.notify_one();
}
