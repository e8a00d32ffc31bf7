//! Which request is which: one table, from which requests are matched and the OpenAPI is made, and one flat match, each
//! arm one call. What is not in the table can't be asked.

use std::collections::BTreeMap;

use schemars::{Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::Value;
use trueup_engine::ports::Db;
use trueup_schema::HostName;
use trueup_schema::status::{Actor, Event};

use super::document::{
    Attempt, BuildStatus, BuilderStatus, Changes, Described, Host, LeftStatus, List, NudgeStatus,
    Object, PlannedHost, RevisionStatus, SourceStatus, Version,
};
use super::keys::{KeysStatus, Rotate};
use super::request::{
    Accept, Accepted, Adopt, Adopted, Leave, Leaving, Nudged, Reconcile, Resume, Resumed, Retried,
    Retry, Rollback, RolledBack, Suspend, Suspended,
};
use super::{ApiError, Class, State, byhand, keys, plan, read, write};

/// What goes back.
#[derive(Debug)]
pub(super) enum Answer {
    /// A document.
    Json(Value),
    /// A log.
    Text(String),
}

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Version,
    OpenApi,
    Hosts,
    Host,
    Describe,
    History,
    Left,
    Plan,
    Revisions,
    Builds,
    Builders,
    Events,
    Source,
    Nudge,
    Watch,
    BuildLog,
    Reconcile,
    Suspend,
    Resume,
    Adopt,
    Rollback,
    Leave,
    Accept,
    Retry,
    Keys,
    RotateKeys,
}

type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What is sent and what comes back.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// JSON of this type.
    Json(SchemaOf),
    /// Lines.
    Text,
    /// Nothing.
    None,
}

/// One row.
#[derive(Debug)]
pub(super) struct Route {
    pub op: Op,
    pub post: bool,
    /// With `{name}` for what varies.
    pub path: &'static str,
    pub summary: &'static str,
    /// Name, whether it must be there, what it says.
    pub query: &'static [(&'static str, bool, &'static str)],
    pub body: Shape,
    pub answer: Shape,
}

const fn get(op: Op, path: &'static str, summary: &'static str, answer: SchemaOf) -> Route {
    Route {
        op,
        post: false,
        path,
        summary,
        query: &[],
        body: Shape::None,
        answer: Shape::Json(answer),
    }
}

const fn post(
    op: Op,
    path: &'static str,
    summary: &'static str,
    body: SchemaOf,
    answer: SchemaOf,
) -> Route {
    Route {
        op,
        post: true,
        path,
        summary,
        query: &[],
        body: Shape::Json(body),
        answer: Shape::Json(answer),
    }
}

fn of<T: schemars::JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// All of the API.
pub(super) const ROUTES: &[Route] = &[
    get(
        Op::Version,
        "/v1/version",
        "The controller's version, and who asks",
        of::<Version>,
    ),
    get(
        Op::OpenApi,
        "/v1/openapi.json",
        "This document",
        of::<Value>,
    ),
    get(Op::Hosts, "/v1/hosts", "All hosts", of::<List<Host>>),
    get(Op::Host, "/v1/hosts/{name}", "One host", of::<Host>),
    get(
        Op::Describe,
        "/v1/hosts/{name}/describe",
        "One host with all that explains it",
        of::<Described>,
    ),
    get(
        Op::History,
        "/v1/hosts/{name}/history",
        "What was tried on a host, newest first",
        of::<List<Object<Attempt>>>,
    ),
    get(
        Op::Left,
        "/v1/left/{name}",
        "A host that trueup leaves, or has left: `doneAt` is set when it has",
        of::<Object<LeftStatus>>,
    ),
    get(
        Op::Plan,
        "/v1/plan",
        "What is left to do for each host, and what is done about it now: decided as the controller decides",
        of::<List<PlannedHost>>,
    ),
    get(
        Op::Revisions,
        "/v1/revisions",
        "Commits of the trunk that were seen, newest first",
        of::<List<Object<RevisionStatus>>>,
    ),
    get(
        Op::Builds,
        "/v1/builds",
        "Builds that run or ran, newest first",
        of::<List<Object<BuildStatus>>>,
    ),
    get(
        Op::Builders,
        "/v1/builders",
        "Machines that build, and whether they answer",
        of::<List<Object<BuilderStatus>>>,
    ),
    Route {
        query: &[
            (
                "limit",
                false,
                "how many of the newest, at most 1000 [default: 100]",
            ),
            ("host", false, "only of this host"),
            ("kind", false, "only those whose reason begins so"),
        ],
        ..get(
            Op::Events,
            "/v1/events",
            "What happened, oldest first",
            of::<List<Object<Event>>>,
        )
    },
    get(
        Op::Source,
        "/v1/source",
        "The trunk, as the controller sees it",
        of::<Object<SourceStatus>>,
    ),
    get(
        Op::Nudge,
        "/v1/nudges/{id}",
        "A request to reconcile: `handledAt` is set when it was",
        of::<Object<NudgeStatus>>,
    ),
    Route {
        query: &[
            (
                "prefix",
                true,
                "/hosts/, /revisions/, /builds/, /builders/, /events/ or /nudges/",
            ),
            (
                "from",
                true,
                "a revision of the db, as lists have it in metadata.dbRevision",
            ),
        ],
        ..get(
            Op::Watch,
            "/v1/watch",
            "Keys that changed after a revision of the db; waits for the first, at most 25 s. 410: list again",
            of::<Changes>,
        )
    },
    Route {
        answer: Shape::Text,
        ..get(
            Op::BuildLog,
            "/v1/logs/build/{drv}",
            "What a build said; a derivation by its name or the 32 characters before it",
            of::<Value>,
        )
    },
    post(
        Op::Reconcile,
        "/v1/reconcile",
        "Look now. On the disk before it is acknowledged",
        of::<Reconcile>,
        of::<Nudged>,
    ),
    post(
        Op::Suspend,
        "/v1/suspend",
        "Leave a host alone; it is observed all the same",
        of::<Suspend>,
        of::<Suspended>,
    ),
    post(
        Op::Resume,
        "/v1/resume",
        "End a suspension that was made here; one in Git stays",
        of::<Resume>,
        of::<Resumed>,
    ),
    post(
        Op::Adopt,
        "/v1/adopt",
        "Take hosts over",
        of::<Adopt>,
        of::<Adopted>,
    ),
    post(
        Op::Rollback,
        "/v1/rollback",
        "Take a host back; what it ran is not deployed again until the trunk changes it",
        of::<Rollback>,
        of::<RolledBack>,
    ),
    post(
        Op::Leave,
        "/v1/leave",
        "Leave a host for good: nothing of trueup stays on it, and what runs stays as it is",
        of::<Leave>,
        of::<Leaving>,
    ),
    post(
        Op::Accept,
        "/v1/source/accept",
        "Accept a commit although it does not follow the last accepted one",
        of::<Accept>,
        of::<Accepted>,
    ),
    post(
        Op::Retry,
        "/v1/builds/retry",
        "Build again what failed",
        of::<Retry>,
        of::<Retried>,
    ),
    get(
        Op::Keys,
        "/v1/keys",
        "The controller's keys, and which hosts have them",
        of::<KeysStatus>,
    ),
    post(
        Op::RotateKeys,
        "/v1/keys/rotate",
        "A step of a rotation: begin, sign, finish",
        of::<Rotate>,
        of::<KeysStatus>,
    ),
];

/// The row, and what stands where the path varies.
fn find(post: bool, path: &str) -> Option<(Op, &str)> {
    let parts = || path.split('/').filter(|p| !p.is_empty());
    ROUTES.iter().filter(|r| r.post == post).find_map(|route| {
        let (mut varies, mut given) = ("", parts());
        for want in route.path.split('/').filter(|p| !p.is_empty()) {
            let part = given.next()?;
            if want.starts_with('{') {
                varies = part;
            } else if want != part {
                return None;
            }
        }
        given.next().is_none().then_some((route.op, varies))
    })
}

/// Answers one request.
pub(super) async fn handle<D: Db>(
    state: &State<D>,
    actor: &Actor,
    method: &hyper::Method,
    path: &str,
    query: &str,
    body: &[u8],
) -> Result<Answer, ApiError> {
    let query = parameters(query)?;
    let found = match *method {
        hyper::Method::GET => find(false, path),
        hyper::Method::POST => find(true, path),
        _ => None,
    };
    let Some((op, varies)) = found else {
        let message = format!("{method} {path} is not part of the API");
        return Err(ApiError::new(Class::NotFound, message).next("GET /v1/openapi.json"));
    };
    match op {
        Op::Version => json(&Version {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            actor: actor.clone(),
        }),
        Op::OpenApi => json(&super::openapi()),
        Op::Hosts => json(&read::hosts(state).await?),
        Op::Host => json(&read::host(state, &host(varies)?).await?),
        Op::Describe => json(&read::describe(state, &host(varies)?).await?),
        Op::Plan => json(&plan::plan(state).await?),
        Op::Revisions => json(&read::revisions(state).await?),
        Op::Builds => json(&read::builds(state).await?),
        Op::Builders => json(&read::builders(state).await?),
        Op::Events => json(&read::events(state, &query).await?),
        Op::Source => json(&read::source(state).await?),
        Op::Nudge => json(&read::nudge(state, varies).await?),
        Op::Watch => json(&read::watch(state, &query).await?),
        Op::BuildLog => read::build_log(state, varies).await.map(Answer::Text),
        Op::Reconcile => json(&write::reconcile(state, actor, parse(body)?).await?),
        Op::Suspend => json(&write::suspend(state, actor, parse(body)?).await?),
        Op::Resume => json(&write::resume(state, actor, parse(body)?).await?),
        Op::History => json(&byhand::history(state, &host(varies)?).await?),
        Op::Left => json(&byhand::left(state, &host(varies)?).await?),
        Op::Rollback => json(&byhand::rollback(state, actor, parse(body)?).await?),
        Op::Leave => json(&byhand::leave(state, actor, parse(body)?).await?),
        Op::Adopt => json(&write::adopt(state, actor, parse(body)?).await?),
        Op::Accept => json(&write::accept(state, actor, parse(body)?).await?),
        Op::Retry => json(&write::retry(state, actor, parse(body)?).await?),
        Op::Keys => json(&keys::status(state).await?),
        Op::RotateKeys => json(&keys::rotate(state, actor, parse(body)?).await?),
    }
}

fn json<T: Serialize>(value: &T) -> Result<Answer, ApiError> {
    serde_json::to_value(value)
        .map(Answer::Json)
        .map_err(|e| ApiError::new(Class::Bug, format!("encoding an answer: {e}")))
}

fn host(name: &str) -> Result<HostName, ApiError> {
    name.parse()
        .map_err(|e| ApiError::new(Class::Usage, format!("{e}")))
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|e| ApiError::new(Class::Usage, format!("the request's body: {e}")))
}

/// `a=b&c=d` with percent signs decoded.
fn parameters(query: &str) -> Result<BTreeMap<String, String>, ApiError> {
    let mut found = BTreeMap::new();
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value).ok_or_else(|| {
            ApiError::new(
                Class::Usage,
                format!("the parameter `{key}` is not well-formed"),
            )
        })?;
        found.insert(key.to_owned(), value);
    }
    Ok(found)
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_broken_ones_refused() {
        let got = parameters("prefix=%2Fhosts%2F&from=3").unwrap();
        assert_eq!(got["prefix"], "/hosts/");
        assert_eq!(got["from"], "3");
        for bad in ["a=%", "a=%2", "a=%zz", "a=%ff"] {
            assert!(parameters(bad).is_err(), "{bad}");
        }
    }
}
