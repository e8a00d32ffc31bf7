//! People's requests: each is one transaction with its event, on the disk before it is acknowledged; then the engine is
//! woken. Nothing is done to a host here.

use std::sync::atomic::{AtomicU32, Ordering};

use trueup_engine::Wake;
use trueup_engine::ports::{Db, Guard, Op, Txn};
use trueup_engine::record::{
    Adoption, BUILDS, BuildRecord, HOSTS, HostRecord, Nudge, SourceAccept, Suspension, decode,
    encode, key,
};
use trueup_schema::status::{Actor, Event, Reason, Severity, Subject};
use trueup_schema::{HostName, Timestamp};

use super::request::{
    Accept, Accepted, Adopt, Adopted, NudgeId, Nudged, Reconcile, Resume, Resumed, Retried, Retry,
    Suspend, Suspended,
};
use super::{ApiError, Class, NAMES_MAX, State, byhand, read};

/// A reason is a sentence.
const REASON_MAX: usize = 500;
/// Hosts of one transaction: each takes at most two operations, a guard and two events, and the db allows a hundred of the
/// first two together.
const HOSTS_A_TXN: usize = 25;
/// Failures that are forgotten in one commit: each has an event, and an event its messages to alerts.
const RETRIES_A_TXN: usize = 10;

pub(super) fn event(
    actor: &Actor,
    at: Timestamp,
    reason: Reason,
    subject: Subject,
    message: String,
) -> Event {
    Event {
        id: String::new(),
        at,
        severity: Severity::Info,
        reason,
        subject,
        revision: None,
        goal: None,
        message,
        fields: std::collections::BTreeMap::default(),
        cause: None,
        by: actor.clone(),
    }
}

pub(super) fn bounded(reason: &str) -> Result<(), ApiError> {
    if reason.chars().count() > REASON_MAX {
        return Err(ApiError::new(
            Class::Usage,
            format!("a reason has at most {REASON_MAX} characters"),
        ));
    }
    Ok(())
}

/// Unique by time and a counter; the guard `Absent` makes sure.
pub(super) fn nudge_id(at: Timestamp) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{}-{}",
        at.as_microsecond(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

/// A suspended host is not reconciled: say who suspended it, and why.
pub(super) fn refuse_suspended(
    record: &HostRecord,
    by_command: Option<&Suspension>,
    now: Timestamp,
) -> Result<(), ApiError> {
    let name = &record.manifest.name;
    if let Some(s) = by_command.filter(|s| s.until.is_none_or(|until| until > now)) {
        let until = s.until.map_or_else(String::new, |u| format!(", until {u}"));
        let message = format!(
            "{name} is suspended by {} since {}{until}: {}",
            s.by.name, s.at, s.reason
        );
        return Err(
            ApiError::new(Class::Refused, message).next(format!("trueup resume host/{name}"))
        );
    }
    if record.manifest.suspend {
        let message = format!("{name} is suspended by its manifest (`suspend: true`)");
        return Err(
            ApiError::new(Class::Refused, message).next("change it in the fleet's repository")
        );
    }
    Ok(())
}

pub(super) async fn reconcile<D: Db>(
    state: &State<D>,
    actor: &Actor,
    asked: Reconcile,
) -> Result<Nudged, ApiError> {
    bounded(&asked.reason)?;
    if asked.hosts.len() > NAMES_MAX {
        return Err(ApiError::new(
            Class::Usage,
            format!("at most {NAMES_MAX} hosts in one request"),
        ));
    }
    let now = Timestamp::now();
    for host in &asked.hosts {
        let record = read::record(state, host).await?;
        let suspension = read::one::<D, Suspension>(state, "suspensions", host.as_str()).await?;
        refuse_suspended(&record, suspension.as_ref().map(|(s, _)| s), now)?;
        byhand::refuse_left(state, host).await?;
    }
    let mut targets: Vec<Option<HostName>> = asked.hosts.into_iter().map(Some).collect();
    targets.sort();
    targets.dedup();
    if targets.is_empty() {
        targets.push(None);
    }
    let mut nudges = Vec::new();
    for batch in targets.chunks(HOSTS_A_TXN) {
        let mut txn = Txn {
            fence: state.fence,
            ..Txn::default()
        };
        for host in batch {
            let nudge = Nudge {
                id: nudge_id(now),
                host: host.clone(),
                retry: asked.retry,
                requested_at: now,
                by: actor.clone(),
                reason: asked.reason.clone(),
                handled_at: None,
            };
            let at = key("nudges", &nudge.id)?;
            txn.when.push(Guard::Absent(at.clone()));
            txn.then.push(Op::Put(at, encode(&nudge)?));
            if let Some(name) = host.as_ref().filter(|_| asked.retry)
                && let Some((op, told)) = byhand::lift(state, actor, name, now).await?
            {
                txn.then.push(op);
                txn.events.push(told);
            }
            let subject = match host {
                Some(name) => Subject::Host(name.clone()),
                None => Subject::Controller("source".to_owned()),
            };
            let why = if asked.reason.is_empty() {
                String::new()
            } else {
                format!(": {}", asked.reason)
            };
            let retry = if asked.retry {
                ", quarantine lifted"
            } else {
                ""
            };
            let message = format!("{} asked to reconcile now{retry}{why}", actor.name);
            txn.events
                .push(event(actor, now, Reason::NudgeRequested, subject, message));
            nudges.push(NudgeId {
                id: nudge.id,
                host: host.clone(),
            });
        }
        state.db.commit(txn).await?;
    }
    for target in targets {
        (state.wake)(target.map_or(Wake::All, Wake::Key));
    }
    Ok(Nudged { nudges })
}

pub(super) async fn suspend<D: Db>(
    state: &State<D>,
    actor: &Actor,
    asked: Suspend,
) -> Result<Suspended, ApiError> {
    bounded(&asked.reason)?;
    if asked.reason.trim().is_empty() {
        return Err(
            ApiError::new(Class::Usage, "a suspension needs a reason").next("add --reason \"…\"")
        );
    }
    read::record(state, &asked.host).await?;
    let now = Timestamp::now();
    let until = asked.lasts.and_then(|d| {
        now.checked_add(std::time::Duration::from_secs(d.as_secs()))
            .ok()
    });
    let suspension = Suspension {
        host: asked.host.clone(),
        by: actor.clone(),
        reason: asked.reason.clone(),
        at: now,
        until,
    };
    let ends = until.map_or_else(|| "until resumed".to_owned(), |u| format!("until {u}"));
    let message = format!("{} suspended it {ends}: {}", actor.name, asked.reason);
    let txn = Txn {
        fence: state.fence,
        when: Vec::new(),
        then: vec![Op::Put(
            key("suspensions", asked.host.as_str())?,
            encode(&suspension)?,
        )],
        events: vec![event(
            actor,
            now,
            Reason::Suspended,
            Subject::Host(asked.host.clone()),
            message,
        )],
    };
    state.db.commit(txn).await?;
    (state.wake)(Wake::Key(asked.host));
    Ok(Suspended {
        suspension: suspension.into(),
    })
}

pub(super) async fn resume<D: Db>(
    state: &State<D>,
    actor: &Actor,
    asked: Resume,
) -> Result<Resumed, ApiError> {
    let record = read::record(state, &asked.host).await?;
    let found = read::one::<D, Suspension>(state, "suspensions", asked.host.as_str()).await?;
    let by_git = record.manifest.suspend;
    let Some((suspension, rev)) = found else {
        return Ok(Resumed {
            resumed: false,
            suspended_by_git: by_git,
        });
    };
    let at = key("suspensions", asked.host.as_str())?;
    let message = format!(
        "{} resumed it; {} had suspended it: {}",
        actor.name, suspension.by.name, suspension.reason
    );
    let txn = Txn {
        fence: state.fence,
        when: vec![Guard::At(at.clone(), rev)],
        then: vec![Op::Delete(at)],
        events: vec![event(
            actor,
            Timestamp::now(),
            Reason::Resumed,
            Subject::Host(asked.host.clone()),
            message,
        )],
    };
    state.db.commit(txn).await?;
    (state.wake)(Wake::Key(asked.host));
    Ok(Resumed {
        resumed: true,
        suspended_by_git: by_git,
    })
}

pub(super) async fn adopt<D: Db>(
    state: &State<D>,
    actor: &Actor,
    asked: Adopt,
) -> Result<Adopted, ApiError> {
    let hosts = if asked.all {
        let (_, entries) = state.db.list(HOSTS).await?;
        let read = |e| -> Result<HostName, ApiError> {
            let e: &trueup_engine::ports::Entry = e;
            Ok(decode::<HostRecord>(&e.key, &e.value)?.manifest.name)
        };
        entries.iter().map(read).collect::<Result<Vec<_>, _>>()?
    } else {
        asked.hosts
    };
    if !asked.all && hosts.is_empty() {
        return Err(ApiError::new(Class::Usage, "no host is named")
            .next("trueup adopt host/NAME, or --all"));
    }
    let now = Timestamp::now();
    let (mut adopted, mut already) = (Vec::new(), Vec::new());
    for host in hosts {
        let record = read::record(state, &host).await?;
        let left = key("left", host.as_str())?;
        let was_left = state.db.get(&left).await?.is_some();
        let before = read::one::<D, Adoption>(state, "adoptions", host.as_str()).await?;
        if !was_left
            && let Some((before, _)) = &before
            && (asked.all || !is_another_machine(before, &record))
        {
            already.push(host);
            continue;
        }
        let adoption = Adoption {
            host: host.clone(),
            identity: None,
            by: actor.clone(),
            at: now,
        };
        let at = key("adoptions", host.as_str())?;
        let txn = Txn {
            fence: state.fence,
            when: vec![match &before {
                Some((_, rev)) => Guard::At(at.clone(), *rev),
                None => Guard::Absent(at.clone()),
            }],
            // Adopted, it is no longer left.
            then: vec![Op::Put(at, encode(&adoption)?), Op::Delete(left)],
            events: vec![event(
                actor,
                now,
                Reason::HostAdopted,
                Subject::Host(host.clone()),
                format!(
                    "{} adopted it; the machine that reports next is it from now on",
                    actor.name
                ),
            )],
        };
        state.db.commit(txn).await?;
        (state.wake)(Wake::Key(host.clone()));
        adopted.push(host);
    }
    Ok(Adopted { adopted, already })
}

/// Adopted by name once more, a host whose machine is another one than the adopted: that is meant.
fn is_another_machine(before: &Adoption, record: &HostRecord) -> bool {
    let (Some(pinned), Some(report)) = (&before.identity, &record.memory.report) else {
        return false;
    };
    let keys = &report.identity.host_keys;
    let same_keys =
        pinned.host_keys.is_empty() || pinned.host_keys.iter().any(|k| keys.contains(k));
    pinned.machine_id != report.identity.machine_id || !same_keys
}

pub(super) async fn accept<D: Db>(
    state: &State<D>,
    actor: &Actor,
    asked: Accept,
) -> Result<Accepted, ApiError> {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if asked.sha1.len() != 40 || !asked.sha1.bytes().all(hex) {
        let message = format!("`{}` is not a whole commit id (40 hex digits)", asked.sha1);
        return Err(ApiError::new(Class::Usage, message).next("git rev-parse BRANCH"));
    }
    let word = SourceAccept {
        sha1: asked.sha1,
        by: actor.clone(),
        at: Timestamp::now(),
    };
    let put = Op::Put(key("meta", "accept")?, encode(&word)?);
    state
        .db
        .commit(Txn {
            fence: state.fence,
            when: Vec::new(),
            then: vec![put],
            events: Vec::new(),
        })
        .await?;
    (state.wake)(Wake::Source);
    Ok(Accepted {
        sha1: word.sha1,
        by: word.by,
        at: word.at,
    })
}

/// Forgets failures: what is wanted of them is built again.
pub(super) async fn retry<D: Db>(
    state: &State<D>,
    actor: &Actor,
    asked: Retry,
) -> Result<Retried, ApiError> {
    if asked.builds.len() > NAMES_MAX {
        return Err(ApiError::new(Class::Usage, "too many builds at once").next("--all"));
    }
    let (_, entries) = state.db.list(BUILDS).await?;
    let mut failed = Vec::new();
    for e in &entries {
        let record: BuildRecord = decode(&e.key, &e.value)?;
        if let Some(failure) = record.failure {
            failed.push((e, record.drv, failure.drv));
        }
    }
    if !asked.all {
        let hashes: Vec<&str> = asked.builds.iter().map(|b| read::hash_of(b)).collect();
        // By what a host wanted, or by what it needs and failed.
        let is = |hash: &str, drv: &str| read::hash_of(drv) == hash;
        let known = |hash: &&str| {
            failed
                .iter()
                .any(|(_, d, f)| is(hash, d.as_str()) || is(hash, f))
        };
        if let Some(unknown) = hashes.iter().position(|hash| !known(hash)) {
            let message = format!("`{}` is no build that failed", asked.builds[unknown]);
            return Err(ApiError::new(Class::NotFound, message).next("trueup get builds"));
        }
        failed.retain(|(_, d, f)| hashes.iter().any(|h| is(h, d.as_str()) || is(h, f)));
    }
    for some in failed.chunks(RETRIES_A_TXN) {
        let told = |drv: &trueup_schema::DrvPath| {
            let message = format!("{} wants it built again", actor.name);
            let subject = Subject::Build(drv.to_string());
            event(
                actor,
                Timestamp::now(),
                Reason::NudgeRequested,
                subject,
                message,
            )
        };
        let txn = Txn {
            fence: state.fence,
            when: some
                .iter()
                .map(|(e, ..)| Guard::At(e.key.clone(), e.rev))
                .collect(),
            then: some
                .iter()
                .map(|(e, ..)| Op::Delete(e.key.clone()))
                .collect(),
            events: some.iter().map(|(_, drv, _)| told(drv)).collect(),
        };
        state.db.commit(txn).await?;
    }
    (state.wake)(Wake::Builds);
    Ok(Retried {
        retried: failed.iter().map(|(_, drv, _)| drv.to_string()).collect(),
    })
}
