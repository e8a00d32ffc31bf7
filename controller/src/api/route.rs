//! Which request is which: one flat match, each arm one call.

use std::collections::BTreeMap;

use hyper::Method;
use serde_json::Value;
use trueup_engine::ports::Db;
use trueup_schema::HostName;
use trueup_schema::status::Actor;

use super::{ApiError, Class, State, read, write};

/// What goes back.
#[derive(Debug)]
pub enum Answer {
    /// A document.
    Json(Value),
    /// A log.
    Text(String),
}

/// Answers one request.
pub async fn handle<D: Db>(
    state: &State<D>,
    actor: &Actor,
    method: &Method,
    path: &str,
    query: &str,
    body: &[u8],
) -> Result<Answer, ApiError> {
    let query = parameters(query)?;
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let get = method == Method::GET;
    let post = method == Method::POST;
    let found = match parts.as_slice() {
        ["v1", "version"] if get => {
            Ok(serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "actor": actor }))
        }
        ["v1", "hosts"] if get => read::hosts(state).await,
        ["v1", "hosts", name] if get => read::host(state, &host(name)?).await,
        ["v1", "hosts", name, "describe"] if get => read::describe(state, &host(name)?).await,
        ["v1", "revisions"] if get => read::revisions(state).await,
        ["v1", "builds"] if get => read::builds(state).await,
        ["v1", "events"] if get => read::events(state, &query).await,
        ["v1", "source"] if get => read::source(state).await,
        ["v1", "nudges", id] if get => read::nudge(state, id).await,
        ["v1", "watch"] if get => read::watch(state, &query).await,
        ["v1", "logs", "build", drv] if get => {
            return read::build_log(state, drv).map(Answer::Text);
        }
        ["v1", "reconcile"] if post => write::reconcile(state, actor, parse(body)?).await,
        ["v1", "suspend"] if post => write::suspend(state, actor, parse(body)?).await,
        ["v1", "resume"] if post => write::resume(state, actor, parse(body)?).await,
        ["v1", "adopt"] if post => write::adopt(state, actor, parse(body)?).await,
        ["v1", "source", "accept"] if post => write::accept(state, actor, parse(body)?).await,
        _ => Err(ApiError::new(
            Class::NotFound,
            format!("{method} {path} is not part of the API"),
        )),
    };
    found.map(Answer::Json)
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
