//! What a person's request for a rollback comes to, by what lies in the db: a record to be written, or why not. Writes
//! nothing: whoever asks commits it, with the event that tells of it.

use std::collections::BTreeSet;

use trueup_core::history::Attempt;
use trueup_core::rollback::{Asked, How, Nowhere, Over, Rollback, choose};
use trueup_schema::kind::Delivery;
use trueup_schema::status::Actor;
use trueup_schema::wire::system_digest;
use trueup_schema::{Digest, HostName, Revision, StorePath, Timestamp};

use crate::ports::{Db, DbError, Guard, Op};
use crate::record::{
    Adoption, Claim, HostRecord, Left, REVISIONS, ROLLBACKS, RevisionRecord, decode, encode, key,
};
use trueup_core::decide::system as system_of;

/// What a person says.
#[derive(Debug, Clone)]
pub struct Word {
    /// Of the new record; unique.
    pub id: String,
    /// Where to: a closure or a revision; `None`: what was confirmed before.
    pub to: Option<String>,
    /// Who.
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// What is to be committed.
#[derive(Debug, Clone)]
pub struct Request {
    /// As it is written.
    pub rollback: Rollback,
    /// What must hold.
    pub when: Vec<Guard>,
    /// What is written: earlier words about this host go.
    pub then: Vec<Op>,
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It is not ours.
    #[error("{0} is not adopted")]
    NotAdopted(HostName),
    /// It was left.
    #[error("{0} was left: trueup does not touch it")]
    Left(HostName),
    /// It is not changed by us.
    #[error("{0} is observed only (spec.delivery)")]
    ObservedOnly(HostName),
    /// It never answered.
    #[error("{0} has not reported yet: nobody knows what runs there")]
    NotReported(HostName),
    /// There is nowhere to go.
    #[error("{host}: {why}")]
    Nowhere {
        /// Whom.
        host: HostName,
        /// Why.
        why: Nowhere,
    },
    /// More than one commit begins so.
    #[error("`{0}` could be more than one revision")]
    AmbiguousRevision(String),
    /// The trunk wants it anyway.
    #[error("{} is what the trunk wants of {host}", closure.short())]
    Wanted {
        /// Whom.
        host: HostName,
        /// What.
        closure: StorePath,
    },
    /// It hurt the host.
    #[error("{} hurt {host} before: {why}", closure.short())]
    Quarantined {
        /// Whom.
        host: HostName,
        /// What.
        closure: StorePath,
        /// How.
        why: String,
    },
    /// Reading or encoding.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Where it goes, before it is a record.
struct Target {
    closure: StorePath,
    specialisation: Option<String>,
    revision: Option<Revision>,
}

/// Works out a rollback of this host.
pub async fn rollback(db: &dyn Db, host: &HostRecord, word: Word) -> Result<Request, AskError> {
    let name = &host.manifest.name;
    may(db, host).await?;
    let report = host
        .memory
        .report
        .as_ref()
        .ok_or_else(|| AskError::NotReported(name.clone()))?;
    let earlier = rollbacks(db, name).await?;
    let active = earlier.iter().map(|(_, r)| r).find(|r| r.over.is_none());
    let confirmed = system_of(report).and_then(|c| c.confirmed.clone());
    let claim: Option<Claim> = one(db, "claims", name).await?;
    // What is being activated counts as what runs: a person who stops it wants what ran before.
    let under_way = claim.filter(|c| !c.secrets_alone).map(|c| c.digest);
    let current: BTreeSet<Digest> = under_way
        .clone()
        .or(confirmed.clone())
        .into_iter()
        .collect();
    let passed = active.map(|r| r.held.clone()).unwrap_or_default();
    let target = find(db, host, word.to.as_deref(), &current, &passed).await?;
    let digest = system_digest(&target.closure, target.specialisation.as_deref());
    let policy = host.manifest.specialisation.as_deref();
    let desired = host.status.desired_closure.as_ref();
    let desired = desired.map(|c| system_digest(c, policy));
    if desired.as_ref() == Some(&digest) {
        return Err(AskError::Wanted {
            host: name.clone(),
            closure: target.closure,
        });
    }
    if let Some(why) = host.memory.quarantined.get(&digest) {
        return Err(AskError::Quarantined {
            host: name.clone(),
            closure: target.closure,
            why: why.clone(),
        });
    }
    let mut held = passed;
    held.extend(current);
    held.extend(confirmed);
    held.extend(desired);
    held.remove(&digest);
    let rollback = Rollback {
        id: word.id,
        host: name.clone(),
        to: target.closure,
        specialisation: target.specialisation,
        digest,
        revision: target.revision,
        held,
        from: report.running.running.clone(),
        by: word.by,
        reason: word.reason,
        at: word.at,
        over: None,
    };
    let at = key("rollbacks", &rollback.id)?;
    let mut then: Vec<Op> = earlier.into_iter().map(|(k, _)| Op::Delete(k)).collect();
    then.push(Op::Put(at.clone(), encode(&rollback)?));
    Ok(Request {
        rollback,
        when: vec![Guard::Absent(at)],
        then,
    })
}

/// Ends the rollback of a host, if one holds: `reconcile --retry`.
pub async fn lift(
    db: &dyn Db,
    host: &HostName,
    by: &Actor,
    at: Timestamp,
) -> Result<Option<(Rollback, Op)>, DbError> {
    let open = rollbacks(db, host).await?;
    let Some((k, mut rollback)) = open.into_iter().find(|(_, r)| r.over.is_none()) else {
        return Ok(None);
    };
    rollback.over = Some(Over {
        at,
        how: How::Lifted,
        message: format!("{} had it follow the trunk again", by.name),
    });
    let op = Op::Put(k, encode(&rollback)?);
    Ok(Some((rollback, op)))
}

async fn may(db: &dyn Db, host: &HostRecord) -> Result<(), AskError> {
    let name = &host.manifest.name;
    if one::<Left>(db, "left", name)
        .await?
        .is_some_and(|l| l.managed)
    {
        return Err(AskError::Left(name.clone()));
    }
    if host.manifest.delivery == Delivery::Observe {
        return Err(AskError::ObservedOnly(name.clone()));
    }
    match one::<Adoption>(db, "adoptions", name).await? {
        Some(_) => Ok(()),
        None => Err(AskError::NotAdopted(name.clone())),
    }
}

async fn one<T: serde::de::DeserializeOwned>(
    db: &dyn Db,
    kind: &str,
    host: &HostName,
) -> Result<Option<T>, DbError> {
    match db.get(&key(kind, host.as_str())?).await? {
        Some(e) => Ok(Some(decode(&e.key, &e.value)?)),
        None => Ok(None),
    }
}

/// A host's attempts, oldest first.
pub async fn history(db: &dyn Db, host: &HostName) -> Result<Vec<Attempt>, DbError> {
    Ok(one(db, "history", host).await?.unwrap_or_default())
}

async fn rollbacks(
    db: &dyn Db,
    host: &HostName,
) -> Result<Vec<(crate::ports::Key, Rollback)>, DbError> {
    let mut found = Vec::new();
    for e in db.list(ROLLBACKS).await?.1 {
        let r: Rollback = decode(&e.key, &e.value)?;
        if r.host == *host {
            found.push((e.key, r));
        }
    }
    found.sort_by_key(|(_, r)| std::cmp::Reverse(r.at));
    Ok(found)
}

/// The newest word about a host, whether it still holds or not.
pub async fn rollback_of(db: &dyn Db, host: &HostName) -> Result<Option<Rollback>, DbError> {
    Ok(rollbacks(db, host)
        .await?
        .into_iter()
        .next()
        .map(|(_, r)| r))
}

async fn find(
    db: &dyn Db,
    host: &HostRecord,
    to: Option<&str>,
    current: &BTreeSet<Digest>,
    passed: &BTreeSet<Digest>,
) -> Result<Target, AskError> {
    let name = &host.manifest.name;
    let all = history(db, name).await?;
    let nowhere = |why| AskError::Nowhere {
        host: name.clone(),
        why,
    };
    let Some(to) = to else {
        return match choose(&all, &Asked::Before, current, passed) {
            Ok(a) => Ok(target(a)),
            Err(why) => before_trueup(host, current, passed).ok_or_else(|| nowhere(why)),
        };
    };
    if let Some((sha1, older)) = revision(db, &all, to).await? {
        let asked = Asked::Revision {
            sha1: &sha1,
            older: &older,
        };
        return choose(&all, &asked, current, passed)
            .map(target)
            .map_err(nowhere);
    }
    match choose(&all, &Asked::Closure(to), current, passed) {
        Ok(a) => Ok(target(a)),
        // A whole path is what a person means, whoever brought it to the host.
        Err(Nowhere::Unknown(_)) if to.parse::<StorePath>().is_ok() => Ok(Target {
            closure: to
                .parse()
                .map_err(|_| nowhere(Nowhere::Unknown(to.to_owned())))?,
            specialisation: host.manifest.specialisation.clone(),
            revision: None,
        }),
        Err(why) => Err(nowhere(why)),
    }
}

fn target(a: &Attempt) -> Target {
    Target {
        closure: a.closure.clone(),
        specialisation: a.specialisation.clone(),
        revision: Some(a.revision.clone()),
    }
}

/// What ran before the first attempt: trueup never confirmed it, and it is what there is.
fn before_trueup(
    host: &HostRecord,
    current: &BTreeSet<Digest>,
    passed: &BTreeSet<Digest>,
) -> Option<Target> {
    let closure = host.memory.ran_before.clone()?;
    let digest = system_digest(&closure, None);
    (!current.contains(&digest) && !passed.contains(&digest)).then_some(Target {
        closure,
        specialisation: None,
        revision: None,
    })
}

/// Is a commit meant? Then its id, and those that were seen no later than it, newest first.
async fn revision(
    db: &dyn Db,
    history: &[Attempt],
    to: &str,
) -> Result<Option<(String, Vec<Revision>)>, AskError> {
    let sha1 = to.rsplit_once("@sha1:").map_or(to, |(_, s)| s);
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if !(4..=40).contains(&sha1.len()) || !sha1.bytes().all(hex) {
        return Ok(None);
    }
    let mut seen = Vec::new();
    for e in db.list(REVISIONS).await?.1 {
        let r: RevisionRecord = decode(&e.key, &e.value)?;
        if r.accepted {
            seen.push((r.seen_at, r.revision));
        }
    }
    seen.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    let meant = |r: &Revision| r.sha1().starts_with(sha1);
    let named: BTreeSet<&Revision> = seen
        .iter()
        .map(|(_, r)| r)
        .chain(history.iter().map(|a| &a.revision))
        .filter(|r| meant(r))
        .collect();
    match named.len() {
        0 => Ok(None),
        1 => {
            let from = seen.iter().position(|(_, r)| meant(r));
            let older = match from {
                Some(from) => seen[from..].iter().map(|(_, r)| r.clone()).collect(),
                None => named.into_iter().cloned().collect(),
            };
            Ok(Some((sha1.to_owned(), older)))
        }
        _ => Err(AskError::AmbiguousRevision(sha1.to_owned())),
    }
}
