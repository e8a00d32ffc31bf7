//! What people do by hand to one host: take it back, look at what was tried, leave it for good. Each word is on the disk
//! with its event before it is acknowledged; the engine does the rest.

use trueup_engine::Wake;
use trueup_engine::ask::{self, AskError};
use trueup_engine::ports::{Db, Guard, Op, Txn};
use trueup_engine::record::{HostRecord, Left, Released, encode, key};
use trueup_schema::status::{Actor, Event, Reason, Subject};
use trueup_schema::{HostName, Timestamp};

use super::document::{Attempt, LeftStatus, List, Object};
use super::request::{Leave, Leaving, Rollback, RolledBack};
use super::write::{bounded, event, nudge_id, refuse_suspended};
use super::{ApiError, Class, State, read};

/// Why a rollback is not to be had, with what to do instead.
fn refused(e: AskError) -> ApiError {
    let message = e.to_string();
    let next = match &e {
        AskError::NotAdopted(host) | AskError::Left(host) => format!("trueup adopt host/{host}"),
        AskError::ObservedOnly(_) => "change spec.delivery in the fleet's repository".to_owned(),
        AskError::NotReported(host) => format!("trueup describe host/{host}"),
        AskError::Nowhere { host, .. } => {
            format!("trueup history host/{host} shows what ran; or `git revert` on the trunk")
        }
        AskError::AmbiguousRevision(_) => "give more digits of its id".to_owned(),
        AskError::Wanted { host, .. } => {
            format!("trueup reconcile --host {host} --retry, which also ends an earlier rollback")
        }
        AskError::Quarantined { host, .. } => {
            format!("choose another: trueup history host/{host}")
        }
        AskError::Db(_) => String::new(),
    };
    match e {
        AskError::Db(e) => e.into(),
        AskError::AmbiguousRevision(_) => ApiError::new(Class::Usage, message).next(next),
        _ => ApiError::new(Class::Refused, message).next(next),
    }
}

fn because(reason: &str) -> String {
    match reason.is_empty() {
        true => String::new(),
        false => format!(": {reason}"),
    }
}

pub(super) async fn rollback<D: Db>(
    state: &State<D>,
    actor: &Actor,
    asked: Rollback,
) -> Result<RolledBack, ApiError> {
    bounded(&asked.reason)?;
    let record = read::record(state, &asked.host).await?;
    let now = Timestamp::now();
    let suspension = read::one::<D, _>(state, "suspensions", asked.host.as_str()).await?;
    refuse_suspended(&record, suspension.as_ref().map(|(s, _)| s), now)?;
    let word = ask::Word {
        id: nudge_id(now),
        to: asked.to.filter(|t| !t.is_empty()),
        by: actor.clone(),
        reason: asked.reason,
        at: now,
    };
    let request = ask::rollback(&state.db, &record, word)
        .await
        .map_err(refused)?;
    let r = request.rollback;
    let of = r
        .revision
        .as_ref()
        .map_or_else(String::new, |v| format!(" of {}", v.short()));
    let message = format!(
        "{} takes it back to {}{of}{}",
        actor.name,
        r.to.short(),
        because(&r.reason)
    );
    let subject = Subject::Host(asked.host.clone());
    let told = Event {
        revision: r.revision.clone(),
        ..event(actor, now, Reason::RollbackRequested, subject, message)
    };
    state
        .db
        .commit(Txn {
            fence: state.fence,
            when: request.when,
            then: request.then,
            events: vec![told],
        })
        .await?;
    (state.wake)(Wake::Key(asked.host));
    Ok(RolledBack { rollback: r.into() })
}

/// The part of `reconcile --retry` that ends a rollback, for the nudge's own transaction.
pub(super) async fn lift<D: Db>(
    state: &State<D>,
    actor: &Actor,
    host: &HostName,
    now: Timestamp,
) -> Result<Option<(Op, Event)>, ApiError> {
    let lifted = ask::lift(&state.db, host, actor, now).await?;
    Ok(lifted.map(|(r, op)| {
        let message = format!(
            "{} has it follow the trunk again; {} had taken it back{}",
            actor.name,
            r.by.name,
            because(&r.reason)
        );
        let subject = Subject::Host(host.clone());
        let told = event(actor, now, Reason::RollbackEnded, subject, message);
        (op, told)
    }))
}

pub(super) async fn history<D: Db>(
    state: &State<D>,
    host: &HostName,
) -> Result<List<Object<Attempt>>, ApiError> {
    let rev = state.db.list("/meta/").await?.0;
    let all = ask::history(&state.db, host).await?;
    if all.is_empty() {
        // For the answer that names the nearest; of a host that is let go, what is known is shown.
        if released(state, host).await?.is_none() {
            read::record(state, host).await?;
        }
    }
    let newest_first = all.into_iter().rev();
    let items = newest_first.map(|a| {
        let name = a.order.to_string();
        Object::new("Attempt", &name, a.into())
    });
    Ok(List::new(rev.0, items.collect()))
}

pub(super) async fn released<D: Db>(
    state: &State<D>,
    host: &HostName,
) -> Result<Option<Released>, ApiError> {
    let found = read::one::<D, Released>(state, "released", host.as_str()).await?;
    Ok(found.map(|(r, _)| r))
}

pub(super) async fn leave<D: Db>(
    state: &State<D>,
    actor: &Actor,
    asked: Leave,
) -> Result<Leaving, ApiError> {
    bounded(&asked.reason)?;
    let name = asked.host.as_str();
    let before = read::one::<D, Left>(state, "left", name).await?;
    let managed = read::one::<D, HostRecord>(state, "hosts", name)
        .await?
        .is_some();
    if let Some((left, _)) = &before
        && left.managed == managed
    {
        // Asked again: the same answer, and the same work.
        return Ok(Leaving {
            left: left.clone().into(),
        });
    }
    if managed && !asked.still_managed {
        let message =
            format!("{name} is in the trunk's manifests, so trueup would take it over again");
        return Err(ApiError::new(Class::Refused, message).next(format!(
            "remove it from the fleet's repository first; or: trueup leave host/{name} --still-managed"
        )));
    }
    if !managed && released(state, &asked.host).await?.is_none() {
        // It was forgotten, or never was: the answer names the nearest, and what can be done on the host itself.
        let unknown = read::record(state, &asked.host).await.err();
        let message = unknown.map_or_else(String::new, |e| e.message);
        return Err(ApiError::new(Class::NotFound, message).next(
            "trueup forgets a host some time after the trunk did; on the host itself: trueup-agent leave",
        ));
    }
    let now = Timestamp::now();
    let left = Left {
        host: asked.host.clone(),
        managed,
        by: actor.clone(),
        reason: asked.reason.clone(),
        at: now,
        done_at: None,
        told: Vec::new(),
        problem: None,
    };
    let at = key("left", name)?;
    let guard = before.map_or_else(
        || Guard::Absent(at.clone()),
        |(_, rev)| Guard::At(at.clone(), rev),
    );
    let message = format!(
        "{} has trueup leave it{}",
        actor.name,
        because(&asked.reason)
    );
    let subject = Subject::Host(asked.host.clone());
    let txn = Txn {
        fence: state.fence,
        when: vec![guard],
        then: vec![Op::Put(at, encode(&left)?)],
        events: vec![event(actor, now, Reason::LeaveRequested, subject, message)],
    };
    state.db.commit(txn).await?;
    (state.wake)(Wake::Key(asked.host));
    Ok(Leaving { left: left.into() })
}

/// A host that was left is not asked for anything, so a request would never be handled.
pub(super) async fn refuse_left<D: Db>(state: &State<D>, host: &HostName) -> Result<(), ApiError> {
    let left = read::one::<D, Left>(state, "left", host.as_str()).await?;
    match left.filter(|(l, _)| l.managed) {
        Some(_) => Err(refused(AskError::Left(host.clone()))),
        None => Ok(()),
    }
}

pub(super) async fn left<D: Db>(
    state: &State<D>,
    host: &HostName,
) -> Result<Object<LeftStatus>, ApiError> {
    match read::one::<D, Left>(state, "left", host.as_str()).await? {
        Some((left, _)) => Ok(Object::new("Left", host.as_str(), left.into())),
        None => Err(
            ApiError::new(Class::NotFound, format!("{host} was not left"))
                .next(format!("trueup leave host/{host}")),
        ),
    }
}
