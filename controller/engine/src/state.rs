//! What the engine's tasks share: one thread's memory of what lies in the db, and what waits. No borrow of it is held
//! across an await.

use std::cell::{Cell as Flag, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use trueup_core::absorb::Note;
use trueup_core::host::{
    Adoption, Claim, ClosureStage, Left, Memory, Nudge, Suspension, Wanted, Work,
};
use trueup_core::queue::Queue;
use trueup_core::rollback::Back;
use trueup_schema::kind::{FleetManifests, ResolvedAlert, ResolvedHost};
use trueup_schema::status::{Actor, Event, HostStatus, Phase, Severity, Subject};
use trueup_schema::wire::Report;
use trueup_schema::{DrvPath, HostName, Revision, StorePath, Timestamp};

use crate::alert::{Sink, outgoing};
use crate::ports::{
    Alerts, Builder, Db, DbError, DbRev, Evaluated, Evaluator, Hosts, Op, Opened, Publisher, Rt,
    Signer, Source, Txn,
};
use crate::record::{self, HostRecord, SourceRecord};
use crate::{Crash, Settings};

/// Every effect that the engine has.
#[derive(Clone)]
#[allow(missing_docs)]
pub struct Ports {
    pub db: Rc<dyn Db>,
    pub source: Rc<dyn Source>,
    pub evaluator: Rc<dyn Evaluator>,
    pub builder: Rc<dyn Builder>,
    pub publisher: Rc<dyn Publisher>,
    pub hosts: Rc<dyn Hosts>,
    pub signer: Rc<dyn Signer>,
    pub alerts: Rc<dyn Alerts>,
    pub rt: Rc<dyn Rt>,
    pub crash: Rc<dyn Crash>,
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ports")
    }
}

/// One host in memory.
pub(crate) struct HostCell {
    pub record: HostRecord,
    pub evaluation: Work<Wanted>,
    /// What the last good evaluation found, and at which revision.
    pub evaluated: Option<(Revision, Evaluated)>,
    /// The failure that was told last: the same one at each retry is no news.
    pub eval_told: Option<(Revision, String)>,
    pub notes: Vec<Note>,
    pub dirty: bool,
    /// The host is being asked what it lacks of a closure that is being built.
    pub preparing: bool,
}

impl HostCell {
    pub fn new(manifest: ResolvedHost, revision: Revision) -> Self {
        let status = HostStatus {
            phase: Phase::Pending,
            detail: None,
            outcome: None,
            desired_revision: Some(revision.clone()),
            attempted_revision: None,
            applied_revision: None,
            observed_revision: None,
            desired_closure: None,
            running_closure: None,
            booted_closure: None,
            boot_default_closure: None,
            components: Vec::new(),
            conditions: Vec::new(),
            last_report_time: None,
            next_at: None,
        };
        let memory = Memory::default();
        Self::stored(HostRecord {
            manifest,
            revision,
            status,
            memory,
        })
    }
    pub fn stored(record: HostRecord) -> Self {
        Self {
            record,
            evaluation: Work::None,
            evaluated: None,
            eval_told: None,
            notes: Vec::new(),
            dirty: true,
            preparing: false,
        }
    }
}

/// A closure that someone waits for.
pub(crate) struct Closure {
    pub out: StorePath,
    pub work: Work<()>,
    pub stage: ClosureStage,
    pub wanters: BTreeSet<HostName>,
    pub told: Duration,
}

impl Closure {
    pub fn new(out: StorePath) -> Self {
        Self {
            out,
            work: Work::None,
            stage: ClosureStage::Building,
            wanters: BTreeSet::new(),
            told: Duration::ZERO,
        }
    }
}

impl State {
    /// Was it left for good, and is not a host of the trunk again since?
    pub fn has_left(&self, host: &HostName) -> bool {
        self.left.get(host).is_some_and(|l| l.managed)
    }
}

#[derive(Default)]
pub(crate) struct State {
    pub source: SourceRecord,
    pub fleet: Option<Rc<FleetManifests>>,
    pub opened: Option<Rc<Opened>>,
    pub hosts: BTreeMap<HostName, HostCell>,
    pub closures: BTreeMap<DrvPath, Closure>,
    pub claims: BTreeMap<HostName, Claim>,
    pub denied: BTreeMap<HostName, (String, Timestamp)>,
    pub suspensions: BTreeMap<HostName, Suspension>,
    pub adoptions: BTreeMap<HostName, Adoption>,
    /// Rollbacks by hand that hold, or did when they were read.
    pub rollbacks: BTreeMap<HostName, Back>,
    pub left: BTreeMap<HostName, Left>,
    /// Hosts that the trunk no longer has.
    pub released: BTreeMap<HostName, record::Released>,
    pub nudges: BTreeMap<String, Nudge>,
    pub taken: BTreeSet<String>,
    pub accept: Option<record::SourceAccept>,
    pub queue: Queue<HostName>,
    pub inbox: BTreeMap<HostName, Report>,
    pub alerts: BTreeMap<String, ResolvedAlert>,
    /// Messages that wait for their sink, by id.
    pub outbox: BTreeMap<String, record::Outgoing>,
    pub sinks: BTreeMap<String, Sink>,
    /// The outbox is full, and that was told.
    pub overflow: bool,
    pub eval_wants: BTreeSet<HostName>,
    /// The revision that is being evaluated.
    pub evaluating: Option<Revision>,
    /// The last evaluation was cut off by a newer revision: the present one runs to its end.
    pub cut_off: bool,
    /// What was evaluated to its end after a cancellation is delivered before a newer revision is taken, until then.
    pub delivering_until: Option<Duration>,
    pub fatal: Option<DbError>,
}

/// Shared by all tasks of one engine.
pub(crate) struct Shared {
    pub ports: Ports,
    pub settings: Settings,
    pub state: RefCell<State>,
    /// The queue changed.
    pub kick: Notify,
    /// Fetch now.
    pub source_kick: Notify,
    /// There are wants for the evaluator.
    pub eval_kick: Notify,
    /// A newer revision was accepted: stop evaluating the old one.
    pub eval_cut: Notify,
    /// There are messages in the outbox.
    pub alert_kick: Notify,
    /// A host is to be left.
    pub leave_kick: Notify,
    pub builds: tokio::sync::Semaphore,
    pub pushes: tokio::sync::Semaphore,
    pub events: Flag<u64>,
}

impl Shared {
    pub fn now(&self) -> Timestamp {
        self.ports.rt.now()
    }
    pub async fn crash(&self, point: &'static str) {
        debug_assert!(
            crate::CRASH_POINTS.contains(&point),
            "{point} is not listed"
        );
        self.ports.crash.at(point).await;
    }
    /// Tells the log that a stage of a host's way ended now (`TRUEUP_LOG=stage=debug`): what benchmarks add up.
    pub fn mark(&self, stage: &'static str, host: &HostName) {
        if let Some(cell) = self.state.borrow().hosts.get(host) {
            tracing::debug!(target: "stage", stage, %host, revision = cell.record.revision.sha1());
        }
    }
    /// The same, of what is no host's alone.
    pub fn mark_trunk(&self, stage: &'static str, revision: &Revision) {
        tracing::debug!(target: "stage", stage, revision = revision.sha1());
    }
    /// Is one of the bugs planted that a test looks for?
    pub fn plants(&self, bug: &'static str) -> bool {
        debug_assert!(crate::PLANTED.contains(&bug), "{bug} is not listed");
        self.ports.crash.plants(bug)
    }
    /// Puts a host into the queue, due now.
    pub fn wake(&self, host: &HostName, first: bool) {
        let at = self.ports.rt.mono().0;
        let mut state = self.state.borrow_mut();
        if state.hosts.contains_key(host) {
            state.queue.add(host.clone(), at, first);
        }
        drop(state);
        self.kick.notify_one();
    }
    pub fn wake_all(&self) {
        let names: Vec<HostName> = self.state.borrow().hosts.keys().cloned().collect();
        for name in names {
            self.wake(&name, false);
        }
    }
    /// Commits, with the messages to sinks that follow from the events. A fence that is lost ends the engine; other
    /// failures are told and left to the next try.
    pub async fn commit(
        &self,
        mut then: Vec<Op>,
        mut events: Vec<Event>,
    ) -> Result<DbRev, DbError> {
        let fence = self.settings.fence;
        let messages = outgoing(self, then.len(), &mut events);
        let planted = self.plants("alert-apart");
        for message in messages.iter().filter(|_| !planted) {
            then.push(put("outbox", &message.id, message)?);
        }
        let txn = Txn {
            fence,
            when: Vec::new(),
            then,
            events,
        };
        let result = self.ports.db.commit(txn).await;
        if result.is_ok() && !messages.is_empty() {
            let waiting = messages.into_iter().map(|m| (m.id.clone(), m));
            self.state.borrow_mut().outbox.extend(waiting);
            self.alert_kick.notify_one();
        }
        if let Err(e) = &result {
            tracing::error!(error = %e, "the db did not take a commit");
            if matches!(e, DbError::Fenced { .. }) {
                self.state.borrow_mut().fatal = Some(e.clone());
                self.kick.notify_one();
            }
        }
        result
    }
    pub fn event(&self, subject: Subject, note: &Note, revision: Option<Revision>) -> Event {
        self.events.set(self.events.get() + 1);
        Event {
            id: String::new(),
            at: self.now(),
            severity: note.severity,
            reason: note.reason,
            subject,
            revision,
            goal: None,
            message: note.message.clone(),
            fields: BTreeMap::new(),
            cause: None,
            by: Actor::controller(),
        }
    }
}

pub(crate) fn note(
    severity: Severity,
    reason: trueup_schema::status::Reason,
    message: impl Into<String>,
) -> Note {
    Note {
        severity,
        reason,
        message: message.into(),
    }
}

pub(crate) fn put<T: serde::Serialize>(kind: &str, name: &str, value: &T) -> Result<Op, DbError> {
    Ok(Op::Put(record::key(kind, name)?, record::encode(value)?))
}

pub(crate) fn delete(kind: &str, name: &str) -> Result<Op, DbError> {
    Ok(Op::Delete(record::key(kind, name)?))
}
