//! The controller's keys, which hosts have them, and the steps of a rotation. Where keys lie, and how they sign, is known
//! to whoever stands behind [`Keys`].

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trueup_engine::ports::{Db, Txn};
use trueup_engine::record::HostRecord;
use trueup_schema::status::{Actor, Event, Reason, Severity, Subject};
use trueup_schema::{HostName, StorePath, Timestamp};

use super::{ApiError, Class, State, read};

/// Closures of one host that are looked at: what runs, is kept, boots, ran before and is to run.
const CLOSURES_MAX: usize = 8;
/// Hosts that a refusal names.
const NAMED: usize = 5;

/// Which keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Which {
    /// Signs intents.
    Intent,
    /// Signs store paths.
    Store,
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Intent => "intent",
            Self::Store => "store",
        })
    }
}

/// Public halves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeysNow {
    /// In use.
    pub current: String,
    /// Takes its place: a rotation is under way, and both sign.
    pub next: Option<String>,
    /// Its file is a person's (settings), who rotates it there.
    pub given: bool,
}

/// The keys themselves.
#[async_trait(?Send)]
pub trait Keys: Send + Sync {
    /// Public halves.
    fn now(&self, which: Which) -> KeysNow;
    /// Makes the next key; done twice it is done once.
    fn begin(&self, which: Which) -> Result<(), String>;
    /// The next key takes its place.
    fn finish(&self, which: Which) -> Result<(), String>;
    /// Names of the keys that signed each of these, for those that the hub has.
    async fn signers(&self, paths: &[StorePath]) -> BTreeMap<StorePath, Vec<String>>;
    /// Signs a closure with all keys.
    async fn sign(&self, path: &StorePath) -> Result<(), String>;
}

/// Whether a host has a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Has {
    /// The one in use, and no rotation is under way.
    Current,
    /// Of a rotation, both.
    Both,
    /// Of a rotation, the old one alone.
    Old,
    /// Of a rotation, the new one alone.
    New,
    /// Not the one in use.
    Neither,
    /// None at all: it takes the one that comes first.
    Nobody,
    /// It never answered, or its agent is too old to say.
    Unknown,
}

impl Has {
    /// Could the old key go, as far as this host is concerned?
    #[must_use]
    pub fn has_new(self) -> bool {
        matches!(self, Self::Both | Self::New | Self::Nobody)
    }
}

/// One host's.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostKeys {
    /// Whom.
    pub host: HostName,
    /// Whose intents it takes.
    pub intent: Has,
    /// Keys besides ours whose intents it takes.
    pub strangers: Vec<String>,
    /// Whose store paths its Nix takes.
    pub store: Has,
    /// During a rotation of the store key: closures that it runs, keeps or boots, and that lack the next key's signature in
    /// the hub's store. What the hub does not have is not among them: it can be copied from there no more in any case.
    pub unsigned: Vec<StorePath>,
}

/// `GET /v1/keys`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct KeysStatus {
    /// For intents.
    pub intent: KeysNow,
    /// For store paths.
    pub store: KeysNow,
    /// Every host.
    pub hosts: Vec<HostKeys>,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RotateStep {
    /// Make the next key; from now on both sign.
    Begin,
    /// Sign a host's closures with both.
    Sign,
    /// The next key takes its place.
    Finish,
}

/// `POST /v1/keys/rotate`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// Which.
    pub key: Which,
    /// What.
    pub step: RotateStep,
    /// Whose closures, of the step `sign`.
    #[serde(default)]
    pub host: Option<HostName>,
    /// Finish although hosts lack the next key.
    #[serde(default)]
    pub force: bool,
}

fn has(keys: &[String], now: &KeysNow) -> Has {
    let there = |key: &String| keys.contains(key);
    match (&now.next, there(&now.current)) {
        (None, true) => Has::Current,
        (None, false) => Has::Neither,
        (Some(next), true) if there(next) => Has::Both,
        (Some(_), true) => Has::Old,
        (Some(next), false) if there(next) => Has::New,
        (Some(_), false) => Has::Neither,
    }
}

fn closures(record: &HostRecord) -> Vec<StorePath> {
    let desired = record.status.desired_closure.iter();
    let found: BTreeSet<&StorePath> = record.memory.closures().chain(desired).collect();
    found.into_iter().take(CLOSURES_MAX).cloned().collect()
}

fn name(key: &str) -> &str {
    key.split(':').next().unwrap_or_default()
}

pub(super) async fn status<D: Db>(state: &State<D>) -> Result<KeysStatus, ApiError> {
    let (intent, store) = (state.keys.now(Which::Intent), state.keys.now(Which::Store));
    let records = read::records(state).await?;
    let wanted: BTreeSet<StorePath> = match &store.next {
        Some(_) => records.iter().flat_map(closures).collect(),
        None => BTreeSet::new(),
    };
    let wanted: Vec<StorePath> = wanted.into_iter().collect();
    let signers = state.keys.signers(&wanted).await;
    let lacks = |path: &StorePath| {
        let next = store.next.as_deref().map(name).unwrap_or_default();
        signers
            .get(path)
            .is_some_and(|s| !s.iter().any(|s| s == next))
    };
    let of = |record: &HostRecord| {
        let keys = record.memory.report.as_ref().and_then(|r| r.keys.as_ref());
        let obeyed: Vec<String> =
            keys.map_or_else(Vec::new, |k| [k.pinned.clone(), k.module.clone()].concat());
        let ours = |k: &&String| **k == intent.current || Some(*k) == intent.next.as_ref();
        HostKeys {
            host: record.manifest.name.clone(),
            intent: match keys {
                None => Has::Unknown,
                Some(_) if obeyed.is_empty() => Has::Nobody,
                Some(_) => has(&obeyed, &intent),
            },
            strangers: obeyed.iter().filter(|k| !ours(k)).cloned().collect(),
            store: keys
                .filter(|k| !k.store.is_empty())
                .map_or(Has::Unknown, |k| has(&k.store, &store)),
            unsigned: match store.next {
                Some(_) => closures(record).into_iter().filter(|p| lacks(p)).collect(),
                None => Vec::new(),
            },
        }
    };
    let hosts = records.iter().map(of).collect();
    Ok(KeysStatus {
        intent,
        store,
        hosts,
    })
}

pub(super) async fn rotate<D: Db>(
    state: &State<D>,
    actor: &Actor,
    asked: Rotate,
) -> Result<KeysStatus, ApiError> {
    let (which, now) = (asked.key, state.keys.now(asked.key));
    if now.given {
        let (file, next) = match which {
            Which::Intent => ("intentKeyFile", "nextIntentKeyFile"),
            Which::Store => ("keyFile", "nextKeyFile"),
        };
        return Err(ApiError::new(
            Class::Refused,
            format!("the {which} key is the file that signing.{file} in the settings names: it is rotated there"),
        )
        .next(format!(
            "make the next key, name it as signing.{next}, start the controller anew; when `trueup keys status` says that every host \
             has it, name it as signing.{file}"
        )));
    }
    let failed =
        |why: String| ApiError::new(Class::Refused, format!("rotating the {which} key: {why}"));
    match asked.step {
        RotateStep::Begin => {
            state.keys.begin(which).map_err(failed)?;
            if now.next.is_none() {
                let next = state.keys.now(which).next.unwrap_or_default();
                let text = format!(
                    "the {which} key {} is to be followed by {next}: both sign from now on",
                    now.current
                );
                tell(state, actor, text).await?;
                // Each host is told with its next report; looked at now, that is at once.
                for record in read::records(state).await? {
                    (state.wake)(trueup_engine::Wake::Key(record.manifest.name));
                }
            }
        }
        RotateStep::Sign => {
            for record in read::records(state).await? {
                if asked
                    .host
                    .as_ref()
                    .is_some_and(|h| *h != record.manifest.name)
                {
                    continue;
                }
                let paths = closures(&record);
                let there = state.keys.signers(&paths).await;
                for path in there.keys() {
                    state.keys.sign(path).await.map_err(failed)?;
                }
            }
        }
        RotateStep::Finish => finish(state, actor, which, &now, asked.force).await?,
    }
    status(state).await
}

async fn finish<D: Db>(
    state: &State<D>,
    actor: &Actor,
    which: Which,
    now: &KeysNow,
    force: bool,
) -> Result<(), ApiError> {
    let Some(next) = &now.next else {
        return Err(ApiError::new(
            Class::Refused,
            format!("no rotation of the {which} key is under way"),
        )
        .next(format!("trueup keys rotate {which}")));
    };
    let hosts = status(state).await?.hosts;
    let lacking: Vec<&str> = hosts
        .iter()
        .filter(|h| match which {
            Which::Intent => !h.intent.has_new(),
            Which::Store => !h.store.has_new() || !h.unsigned.is_empty(),
        })
        .map(|h| h.host.as_str())
        .collect();
    if !lacking.is_empty() && !force {
        let more = lacking.len().saturating_sub(NAMED);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let named = lacking
            .iter()
            .take(NAMED)
            .copied()
            .collect::<Vec<_>>()
            .join(", ");
        return Err(ApiError::new(
            Class::Refused,
            format!("{named}{more} would be left behind: without the old key they take nothing from here"),
        )
        .next("trueup keys status; --force leaves them behind all the same"));
    }
    state
        .keys
        .finish(which)
        .map_err(|why| ApiError::new(Class::Refused, format!("rotating the {which} key: {why}")))?;
    let left = match lacking.len() {
        0 => String::new(),
        n => format!("; {n} hosts were left behind"),
    };
    tell(
        state,
        actor,
        format!(
            "the {which} key is {next} from now on; {} signs no more{left}",
            now.current
        ),
    )
    .await
}

async fn tell<D: Db>(state: &State<D>, actor: &Actor, message: String) -> Result<(), ApiError> {
    let event = Event {
        id: String::new(),
        at: Timestamp::now(),
        severity: Severity::Warning,
        reason: Reason::KeysRotated,
        subject: Subject::Controller("keys".to_owned()),
        revision: None,
        goal: None,
        message,
        fields: BTreeMap::default(),
        cause: None,
        by: actor.clone(),
    };
    state
        .db
        .commit(Txn {
            fence: state.fence,
            when: Vec::new(),
            then: Vec::new(),
            events: vec![event],
        })
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_has_is_told_by_both_keys_of_a_rotation() {
        let now = |next: Option<&str>| KeysNow {
            current: "old".to_owned(),
            next: next.map(str::to_owned),
            given: false,
        };
        let keys = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        for (there, next, expected) in [
            (&["old"][..], None, Has::Current),
            (&["x"], None, Has::Neither),
            (&["old", "new"], Some("new"), Has::Both),
            (&["old"], Some("new"), Has::Old),
            (&["new"], Some("new"), Has::New),
            (&[], Some("new"), Has::Neither),
        ] {
            assert_eq!(
                has(&keys(there), &now(next)),
                expected,
                "{there:?} {next:?}"
            );
        }
    }
}
