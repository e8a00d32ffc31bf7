//! Questions: lists, one host with all that explains it, watches, logs. Writes nothing.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use futures::StreamExt;
use serde::de::DeserializeOwned;
use trueup_engine::ports::{Db, DbRev, Entry};
use trueup_engine::record::{
    Adoption, BUILDERS, BUILDS, BuildRecord, BuilderRecord, EvaluationRecord, HOSTS, HostRecord,
    Left, Nudge, REVISIONS, RevisionRecord, SourceRecord, Suspension, decode, key,
};
use trueup_schema::HostName;
use trueup_schema::status::{Event, Subject};

use crate::edge::nix::find_logs;

use super::document::{
    BuildStatus, BuilderStatus, CatchingUp, Change, Changes, Described, Host, List, Metadata,
    NudgeStatus, Object, RevisionStatus, SourceStatus,
};
use super::{ApiError, CHANGES_MAX, Class, EVENTS_MAX, LOG_MAX, State, WATCH_SECS};

/// Events of one host in `describe`.
const DESCRIBE_EVENTS: usize = 20;
/// Prefixes that may be watched: what lists show, and nothing of the engine's own.
const WATCHABLE: &[&str] = &[HOSTS, REVISIONS, BUILDS, BUILDERS, "/events/", "/nudges/"];

pub(super) async fn one<D: Db, T: DeserializeOwned>(
    state: &State<D>,
    kind: &str,
    name: &str,
) -> Result<Option<(T, DbRev)>, ApiError> {
    let Some(entry) = state.db.get(&key(kind, name)?).await? else {
        return Ok(None);
    };
    Ok(Some((decode(&entry.key, &entry.value)?, entry.rev)))
}

async fn all<D: Db, T: DeserializeOwned>(
    state: &State<D>,
    prefix: &str,
) -> Result<(DbRev, Vec<T>), ApiError> {
    let (rev, entries) = state.db.list(prefix).await?;
    let read = |e: &Entry| decode(&e.key, &e.value);
    Ok((rev, entries.iter().map(read).collect::<Result<_, _>>()?))
}

pub(super) async fn records<D: Db>(state: &State<D>) -> Result<Vec<HostRecord>, ApiError> {
    Ok(all::<D, HostRecord>(state, HOSTS).await?.1)
}

/// A host in the envelope that its manifest has.
pub(super) fn host_object(record: &HostRecord) -> Result<Host, ApiError> {
    let bug = |e: serde_json::Error| ApiError::new(Class::Bug, format!("encoding a manifest: {e}"));
    let spec = serde_json::to_value(&record.manifest).map_err(bug)?;
    let mut spec = match spec {
        serde_json::Value::Object(fields) => fields,
        _ => serde_json::Map::new(),
    };
    spec.remove("name");
    let mut part = |name: &str| {
        spec.remove(name)
            .map_or_else(|| Ok(BTreeMap::new()), serde_json::from_value)
            .map_err(bug)
    };
    let metadata = Metadata {
        name: record.manifest.name.to_string(),
        labels: part("labels")?,
        annotations: part("annotations")?,
    };
    Ok(Host {
        metadata,
        spec: Some(spec),
        ..Object::new("Host", "", record.status.clone())
    })
}

pub(super) async fn hosts<D: Db>(state: &State<D>) -> Result<List<Host>, ApiError> {
    let (rev, records) = all::<D, HostRecord>(state, HOSTS).await?;
    let hosts = records.iter().map(host_object);
    Ok(List::new(rev.0, hosts.collect::<Result<_, _>>()?))
}

pub(super) async fn record<D: Db>(
    state: &State<D>,
    name: &HostName,
) -> Result<HostRecord, ApiError> {
    match one::<D, HostRecord>(state, "hosts", name.as_str()).await? {
        Some((record, _)) => Ok(record),
        None => Err(unknown(state, name).await),
    }
}

/// There is no such host: say which there are, nearest first.
async fn unknown<D: Db>(state: &State<D>, name: &HostName) -> ApiError {
    let error = ApiError::new(Class::NotFound, format!("no host `{name}` in the fleet"));
    if let Ok(Some(gone)) = super::byhand::released(state, name).await {
        let message = format!(
            "`{name}` is no longer in the fleet: the trunk has not had it since {}, and it was let be",
            gone.at
        );
        return ApiError::new(Class::NotFound, message).next(format!(
            "trueup events {name}; to have nothing of trueup on it: trueup leave host/{name}"
        ));
    }
    let Ok((_, entries)) = state.db.list(HOSTS).await else {
        return error;
    };
    let names: Vec<&str> = entries.iter().map(|e| e.key.name()).collect();
    match crate::settings::nearest(name.as_str(), &names) {
        Some(near) => error.next(format!("did you mean host/{near}?")),
        None if names.is_empty() => {
            error.next("no revision was accepted yet: trueup get revisions")
        }
        None => error.next("trueup get hosts"),
    }
}

pub(super) async fn host<D: Db>(state: &State<D>, name: &HostName) -> Result<Host, ApiError> {
    host_object(&record(state, name).await?)
}

pub(super) async fn describe<D: Db>(
    state: &State<D>,
    name: &HostName,
) -> Result<Described, ApiError> {
    let record = record(state, name).await?;
    let revision = match &record.status.desired_revision {
        Some(r) => one::<D, RevisionRecord>(state, "revisions", r.sha1())
            .await?
            .map(|(r, _)| r.into()),
        None => None,
    };
    let events = events_where(state, DESCRIBE_EVENTS, |e| {
        e.subject == Subject::Host(name.clone())
    })
    .await?;
    let host = host_object(&record)?;
    let catching_up = CatchingUp::of(&record);
    let at = name.as_str();
    let memory = record.memory;
    let report = memory.report;
    let seen = report.as_ref().map(|r| r.identity.clone());
    let (profile, loader) = report.as_ref().map_or((None, None), |r| {
        (r.running.profile.clone(), Some(r.running.loader.clone()))
    });
    let (attempt, hold, other_managers, warnings, watches) = report
        .map_or_else(Default::default, |r| {
            (r.attempt, r.hold, r.other_managers, r.warnings, r.watches)
        });
    let witness = match &record.manifest.activation.witness {
        Some(w) if record.manifest.activation.confirm == trueup_schema::kind::Confirm::Witness => {
            let there = one::<D, HostRecord>(state, "hosts", w.as_str()).await?;
            let report = there.and_then(|(r, _)| r.memory.report);
            report.and_then(|r| r.watches.into_iter().find(|seen| seen.host == *name))
        }
        _ => None,
    };
    Ok(Described {
        host,
        revision,
        quarantined: memory.quarantined,
        last_attempt: memory.ended.map(Into::into),
        attempt,
        last_error: memory.last_error.map(Into::into),
        unreachable_since: memory.unreachable_since,
        evaluation: one::<D, EvaluationRecord>(state, "evaluations", at)
            .await?
            .map(|(e, _)| e.into()),
        suspension: one::<D, Suspension>(state, "suspensions", at)
            .await?
            .map(|(s, _)| s.into()),
        adoption: one::<D, Adoption>(state, "adoptions", at)
            .await?
            .map(|(a, _)| a.into()),
        rollback: trueup_engine::ask::rollback_of(&state.db, name)
            .await?
            .map(Into::into),
        catching_up,
        left: one::<D, Left>(state, "left", at)
            .await?
            .map(|(l, _)| l.into()),
        seen,
        profile,
        loader,
        hold,
        witness,
        watches,
        other_managers,
        warnings,
        events,
    })
}

pub(super) async fn revisions<D: Db>(
    state: &State<D>,
) -> Result<List<Object<RevisionStatus>>, ApiError> {
    let (rev, mut records) = all::<D, RevisionRecord>(state, REVISIONS).await?;
    records.sort_by_key(|r| std::cmp::Reverse(r.seen_at));
    let items = records.into_iter().map(|r| {
        let name = r.revision.sha1().to_owned();
        Object::new("Revision", &name, r.into())
    });
    Ok(List::new(rev.0, items.collect()))
}

pub(super) async fn builds<D: Db>(state: &State<D>) -> Result<List<Object<BuildStatus>>, ApiError> {
    let (rev, mut records) = all::<D, BuildRecord>(state, BUILDS).await?;
    records.sort_by_key(|r| std::cmp::Reverse(r.started_at));
    let items = records.into_iter().map(|r| {
        let name = hash_of(r.drv.as_str()).to_owned();
        Object::new("Build", &name, r.into())
    });
    Ok(List::new(rev.0, items.collect()))
}

pub(super) async fn builders<D: Db>(
    state: &State<D>,
) -> Result<List<Object<BuilderStatus>>, ApiError> {
    let (rev, records) = all::<D, BuilderRecord>(state, BUILDERS).await?;
    let items = records.into_iter().map(|r| {
        let mut object = Object::new("Builder", &r.manifest.name, r.status.into());
        if let Ok(serde_json::Value::Object(mut spec)) = serde_json::to_value(&r.manifest) {
            spec.remove("name");
            object.spec = Some(spec);
        }
        object
    });
    Ok(List::new(rev.0, items.collect()))
}

/// The 32 characters that name a derivation.
pub(super) fn hash_of(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.split('-').next().unwrap_or_default()
}

pub(super) async fn source<D: Db>(state: &State<D>) -> Result<Object<SourceStatus>, ApiError> {
    let found = one::<D, SourceRecord>(state, "meta", "source").await?;
    let record = found.map(|(s, _)| s).unwrap_or_default();
    Ok(Object::new("Source", "source", record.into()))
}

pub(super) async fn nudge<D: Db>(
    state: &State<D>,
    id: &str,
) -> Result<Object<NudgeStatus>, ApiError> {
    match one::<D, Nudge>(state, "nudges", id).await? {
        Some((nudge, _)) => Ok(Object::new("Nudge", id, nudge.into())),
        None => Err(ApiError::new(Class::NotFound, format!("no nudge `{id}`"))),
    }
}

/// The newest `limit` events that `wanted` accepts, oldest first.
async fn events_where<D: Db>(
    state: &State<D>,
    limit: usize,
    wanted: impl Fn(&Event) -> bool,
) -> Result<Vec<Event>, ApiError> {
    let (_, entries) = state.db.list("/events/").await?;
    let mut found = Vec::new();
    for entry in entries.iter().rev() {
        let event: Event = decode(&entry.key, &entry.value)?;
        if wanted(&event) {
            found.push(event);
        }
        if found.len() >= limit {
            break;
        }
    }
    found.reverse();
    Ok(found)
}

pub(super) async fn events<D: Db>(
    state: &State<D>,
    query: &BTreeMap<String, String>,
) -> Result<List<Object<Event>>, ApiError> {
    let limit = query.get("limit").map_or(Ok(100), |t| t.parse::<usize>());
    let limit = limit
        .map_err(|_| ApiError::new(Class::Usage, "`limit` is not a number"))?
        .min(EVENTS_MAX);
    let kind = query.get("kind").map(|k| k.to_lowercase());
    let host = query.get("host");
    // Before the list, so that a watch from here sees every event at least once.
    let (rev, _) = state.db.list("/meta/").await?;
    let found = events_where(state, limit, |e| {
        let of_kind = kind
            .as_ref()
            .is_none_or(|k| e.reason.to_string().to_lowercase().starts_with(k));
        let of_host =
            host.is_none_or(|h| matches!(&e.subject, Subject::Host(n) if n.as_str() == h));
        of_kind && of_host
    })
    .await?;
    let items = found.into_iter().map(|e| {
        let name = e.id.clone();
        Object::new("Event", &name, e)
    });
    Ok(List::new(rev.0, items.collect()))
}

/// Changes after `from`; waits up to [`WATCH_SECS`] for the first.
pub(super) async fn watch<D: Db>(
    state: &State<D>,
    query: &BTreeMap<String, String>,
) -> Result<Changes, ApiError> {
    let prefix = query.get("prefix").map_or("", String::as_str);
    if !WATCHABLE.contains(&prefix) {
        return Err(ApiError::new(
            Class::Usage,
            format!("`prefix` is one of {}", WATCHABLE.join(" ")),
        ));
    }
    let from = query.get("from").and_then(|f| f.parse::<u64>().ok());
    let from =
        from.ok_or_else(|| ApiError::new(Class::Usage, "`from` is the number of a db revision"))?;
    let mut stream = state.db.watch(prefix, DbRev(from));
    let (mut reached, mut changes) = (from, Vec::new());
    let mut patience = Duration::from_secs(WATCH_SECS);
    while changes.len() < CHANGES_MAX {
        let Ok(Some(change)) = tokio::time::timeout(patience, stream.next()).await else {
            break;
        };
        let change = change?;
        reached = reached.max(change.rev.0);
        changes.push(Change {
            key: change.key.as_str().to_owned(),
            deleted: change.value.is_none(),
        });
        // What is there already belongs to the same answer; all changes of one commit come together.
        patience = Duration::from_millis(20);
    }
    Ok(Changes {
        db_revision: reached,
        changes,
    })
}

/// Letters of a derivation's hash that are enough to ask for it.
const HASH_MIN: usize = 4;

/// The log of one derivation, named by its path, by the path's last part or by the beginning of its hash.
pub(super) async fn build_log<D: Db>(state: &State<D>, drv: &str) -> Result<String, ApiError> {
    let fail = |class, why: String| ApiError::new(class, why).next("trueup get builds");
    let name = drv.rsplit('/').next().unwrap_or_default();
    let hash: String = name
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect();
    if !(HASH_MIN..=32).contains(&hash.len()) {
        return Err(fail(Class::Usage, format!("`{drv}` is not a derivation")));
    }
    let missing = |e: std::io::Error| fail(Class::NotFound, format!("no log of {name}: {e}"));
    let found = match find_logs(&state.logs_dir, &hash) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        found => found.map_err(missing)?,
    };
    let path = match &found[..] {
        [path] => path,
        [] => {
            let (_, records) = all::<D, BuildRecord>(state, BUILDS).await?;
            let known = records
                .iter()
                .any(|r| hash_of(r.drv.as_str()).starts_with(&hash));
            return Err(fail(
                Class::NotFound,
                match known {
                    true => format!("{name} printed nothing, or was there already"),
                    false => format!("no build of {name} is known"),
                },
            ));
        }
        several => {
            let why = format!(
                "{} logs begin with `{hash}`: give more of it",
                several.len()
            );
            return Err(fail(Class::Usage, why));
        }
    };
    let mut file = std::fs::File::open(path).map_err(missing)?;
    let len = file.metadata().map_err(missing)?.len();
    let skipped = len.saturating_sub(LOG_MAX);
    file.seek(SeekFrom::Start(skipped)).map_err(missing)?;
    let mut bytes = Vec::new();
    file.take(LOG_MAX)
        .read_to_end(&mut bytes)
        .map_err(missing)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(if skipped == 0 {
        text.into_owned()
    } else {
        format!("[{skipped} bytes before this are left out]\n{text}")
    })
}
