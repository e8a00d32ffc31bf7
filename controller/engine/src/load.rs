//! What lies in the db, read as a whole: by the engine at its start, and by whoever draws a plan from the db alone.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use trueup_schema::HostName;

use crate::ports::{Db, DbError};
use crate::record::{
    self, Adoption, BuildRecord, Claim, EvaluationRecord, FleetRecord, HostRecord, Left, Nudge,
    Outgoing, Released, Rollback, SourceAccept, SourceRecord, Suspension,
};

/// All that the engine wrote.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub hosts: Vec<HostRecord>,
    pub evaluations: BTreeMap<HostName, EvaluationRecord>,
    pub builds: Vec<BuildRecord>,
    pub claims: BTreeMap<HostName, Claim>,
    pub source: SourceRecord,
    pub fleet: Option<FleetRecord>,
    pub outbox: BTreeMap<String, Outgoing>,
    pub released: BTreeMap<HostName, Released>,
    pub sinks_told: Vec<String>,
    pub inputs: Inputs,
}

/// What people wrote through the API.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    pub nudges: BTreeMap<String, Nudge>,
    pub suspensions: BTreeMap<HostName, Suspension>,
    pub adoptions: BTreeMap<HostName, Adoption>,
    pub rollbacks: BTreeMap<HostName, Rollback>,
    pub left: BTreeMap<HostName, Left>,
    pub accept: Option<SourceAccept>,
}

async fn all<T: DeserializeOwned>(db: &dyn Db, prefix: &str) -> Result<Vec<(String, T)>, DbError> {
    let entries = db.list(prefix).await?.1;
    let read =
        |e: crate::ports::Entry| Ok((e.key.name().to_owned(), record::decode(&e.key, &e.value)?));
    entries.into_iter().map(read).collect()
}

async fn one<T: DeserializeOwned>(db: &dyn Db, name: &str) -> Result<Option<T>, DbError> {
    match db.get(&record::key("meta", name)?).await? {
        Some(e) => Ok(Some(record::decode(&e.key, &e.value)?)),
        None => Ok(None),
    }
}

/// Everything.
pub(crate) async fn stored(db: &dyn Db) -> Result<Stored, DbError> {
    let evaluations = all::<EvaluationRecord>(db, record::EVALUATIONS).await?;
    let of_host = |(name, r): (String, EvaluationRecord)| Some((name.parse().ok()?, r));
    let values = |(_, r)| r;
    Ok(Stored {
        hosts: all(db, record::HOSTS)
            .await?
            .into_iter()
            .map(values)
            .collect(),
        evaluations: evaluations.into_iter().filter_map(of_host).collect(),
        builds: all(db, record::BUILDS)
            .await?
            .into_iter()
            .map(|(_, b)| b)
            .collect(),
        claims: all::<Claim>(db, record::CLAIMS)
            .await?
            .into_iter()
            .map(|(_, c)| (c.host.clone(), c))
            .collect(),
        source: one(db, "source").await?.unwrap_or_default(),
        fleet: one(db, "fleet").await?,
        outbox: all(db, record::OUTBOX).await?.into_iter().collect(),
        sinks_told: all::<record::SinkTold>(db, record::SINKS)
            .await?
            .into_iter()
            .map(|(alert, _)| alert)
            .collect(),
        released: all::<Released>(db, record::RELEASED)
            .await?
            .into_iter()
            .map(|(_, r)| (r.record.manifest.name.clone(), r))
            .collect(),
        inputs: inputs(db).await?,
    })
}

/// What people wrote. Read as a whole each time: it is little, and nothing can be missed.
pub(crate) async fn inputs(db: &dyn Db) -> Result<Inputs, DbError> {
    let nudges = all::<Nudge>(db, record::NUDGES).await?;
    let suspensions = all::<Suspension>(db, record::SUSPENSIONS).await?;
    let adoptions = all::<Adoption>(db, record::ADOPTIONS).await?;
    let left = all::<Left>(db, record::LEFT).await?;
    let mut rollbacks = BTreeMap::new();
    let mut asked = all::<Rollback>(db, record::ROLLBACKS).await?;
    asked.sort_by_key(|(_, r)| r.at);
    // The newest word counts.
    for (_, r) in asked {
        rollbacks.insert(r.host.clone(), r);
    }
    rollbacks.retain(|_, r| r.over.is_none());
    Ok(Inputs {
        nudges: nudges
            .into_iter()
            .map(|(_, n)| (n.id.clone(), n))
            .filter(|(_, n)| n.handled_at.is_none())
            .collect(),
        suspensions: suspensions
            .into_iter()
            .map(|(_, s)| (s.host.clone(), s))
            .collect(),
        adoptions: adoptions
            .into_iter()
            .map(|(_, a)| (a.host.clone(), a))
            .collect(),
        rollbacks,
        left: left.into_iter().map(|(_, l)| (l.host.clone(), l)).collect(),
        accept: one(db, "accept").await?,
    })
}
