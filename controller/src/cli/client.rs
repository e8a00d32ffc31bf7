//! A typed client of the API: one method for each question, one request, one connection. Every wait has a limit.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use trueup_schema::HostName;
use trueup_schema::status::Event;

use super::{CliError, Exit, runtime};
use crate::api::document::{
    Attempt, BuildStatus, BuilderStatus, Changes, Described, Host, LeftStatus, List, NudgeStatus,
    Object, PlannedHost, RevisionStatus, SourceStatus, Version,
};
use crate::api::keys::{KeysStatus, Rotate};
use crate::api::request::{
    Accept, Accepted, Adopt, Adopted, Leave, Leaving, Nudged, Reconcile, Resume, Resumed, Retried,
    Retry, Rollback, RolledBack, Suspend, Suspended,
};
use crate::api::{ErrorBody, LOG_MAX, WATCH_SECS};
use crate::settings::DEFAULT_SOCKET;

/// An answer: the whole fleet's hosts with their manifests, or a log.
const ANSWER_MAX: usize = 64 << 20;
/// Longer than a watch holds its answer back.
const LIMIT: Duration = Duration::from_secs(WATCH_SECS + 15);

const _: () = assert!(LOG_MAX < ANSWER_MAX as u64);

/// What may be watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watch {
    Hosts,
    Revisions,
    Builds,
    Builders,
    Events,
}

#[derive(Debug)]
pub(super) struct Client {
    socket: PathBuf,
    rt: tokio::runtime::Runtime,
}

impl Client {
    pub fn version(&self) -> Result<Version, CliError> {
        self.get("/v1/version")
    }
    pub fn hosts(&self) -> Result<List<Host>, CliError> {
        self.get("/v1/hosts")
    }
    pub fn host(&self, name: &HostName) -> Result<Host, CliError> {
        self.get(&format!("/v1/hosts/{name}"))
    }
    pub fn describe(&self, name: &HostName) -> Result<Described, CliError> {
        self.get(&format!("/v1/hosts/{name}/describe"))
    }
    pub fn plan(&self) -> Result<List<PlannedHost>, CliError> {
        self.get("/v1/plan")
    }
    pub fn revisions(&self) -> Result<List<Object<RevisionStatus>>, CliError> {
        self.get("/v1/revisions")
    }
    pub fn builds(&self) -> Result<List<Object<BuildStatus>>, CliError> {
        self.get("/v1/builds")
    }
    pub fn builders(&self) -> Result<List<Object<BuilderStatus>>, CliError> {
        self.get("/v1/builders")
    }
    pub fn retry(&self, asked: &Retry) -> Result<Retried, CliError> {
        self.post("/v1/builds/retry", asked)
    }
    /// `kind` is letters only.
    pub fn events(
        &self,
        limit: u32,
        host: Option<&HostName>,
        kind: Option<&str>,
    ) -> Result<List<Object<Event>>, CliError> {
        let mut path = format!("/v1/events?limit={limit}");
        if let Some(host) = host {
            path.push_str(&format!("&host={host}"));
        }
        if let Some(kind) = kind {
            path.push_str(&format!("&kind={kind}"));
        }
        self.get(&path)
    }
    pub fn source(&self) -> Result<Object<SourceStatus>, CliError> {
        self.get("/v1/source")
    }
    pub fn nudge(&self, id: &str) -> Result<Object<NudgeStatus>, CliError> {
        self.get(&format!("/v1/nudges/{id}"))
    }
    /// Returns at the first change after `from`, or after [`WATCH_SECS`] without one. History that is gone is a change:
    /// the caller lists again in each case.
    pub fn wait(&self, what: Watch, from: u64) -> Result<(), CliError> {
        let prefix = match what {
            Watch::Hosts => "hosts",
            Watch::Revisions => "revisions",
            Watch::Builds => "builds",
            Watch::Builders => "builders",
            Watch::Events => "events",
        };
        match self.get::<Changes>(&format!("/v1/watch?prefix=%2F{prefix}%2F&from={from}")) {
            Err(e) if e.exit != Exit::Failed => Err(e),
            Ok(_) | Err(_) => Ok(()),
        }
    }
    /// `name` is of the alphabet of store paths.
    pub fn build_log(&self, name: &str) -> Result<String, CliError> {
        let bytes = self.call(Method::GET, &format!("/v1/logs/build/{name}"), Bytes::new())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
    pub fn reconcile(&self, asked: &Reconcile) -> Result<Nudged, CliError> {
        self.post("/v1/reconcile", asked)
    }
    pub fn suspend(&self, asked: &Suspend) -> Result<Suspended, CliError> {
        self.post("/v1/suspend", asked)
    }
    pub fn resume(&self, asked: &Resume) -> Result<Resumed, CliError> {
        self.post("/v1/resume", asked)
    }
    pub fn adopt(&self, asked: &Adopt) -> Result<Adopted, CliError> {
        self.post("/v1/adopt", asked)
    }
    pub fn history(&self, name: &HostName) -> Result<List<Object<Attempt>>, CliError> {
        self.get(&format!("/v1/hosts/{name}/history"))
    }
    pub fn rollback(&self, asked: &Rollback) -> Result<RolledBack, CliError> {
        self.post("/v1/rollback", asked)
    }
    pub fn leave(&self, asked: &Leave) -> Result<Leaving, CliError> {
        self.post("/v1/leave", asked)
    }
    pub fn left(&self, name: &HostName) -> Result<Object<LeftStatus>, CliError> {
        self.get(&format!("/v1/left/{name}"))
    }
    pub fn keys(&self) -> Result<KeysStatus, CliError> {
        self.get("/v1/keys")
    }
    pub fn rotate_keys(&self, asked: &Rotate) -> Result<KeysStatus, CliError> {
        self.post("/v1/keys/rotate", asked)
    }
    pub fn accept(&self, asked: &Accept) -> Result<Accepted, CliError> {
        self.post("/v1/source/accept", asked)
    }

    /// The socket that was asked for, or the first of the usual places that is there.
    pub fn new(asked: Option<&Path>) -> Result<Self, CliError> {
        let rt = runtime()?;
        Ok(Self {
            socket: socket(asked),
            rt,
        })
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        understood(&self.call(Method::GET, path, Bytes::new())?)
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, CliError> {
        let body = serde_json::to_vec(body)
            .map_err(|e| CliError::failed(format!("encoding a request: {e}")))?;
        understood(&self.call(Method::POST, path, body.into())?)
    }

    fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, CliError> {
        let whole = async { tokio::time::timeout(LIMIT, self.exchange(method, path, body)).await };
        self.rt
            .block_on(whole)
            .unwrap_or_else(|_| Err(self.lost("it did not answer in time")))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, CliError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|e| self.absent(&e))?;
        let lost = |e: hyper::Error| self.lost(&e.to_string());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(lost)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "trueup")
            // One request, one connection: else both sides would wait for a next one.
            .header("connection", "close")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|e| CliError::usage(format!("{path}: {e}")))?;
        let ask = async {
            let response = sender.send_request(request).await.map_err(lost)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_MAX)
                .collect()
                .await;
            Ok::<_, CliError>((
                status,
                body.map_err(|e| self.lost(&e.to_string()))?.to_bytes(),
            ))
        };
        let driven = async { connection.await.map_err(lost) };
        let (answer, _) = futures::future::join(ask, driven).await;
        let (status, bytes) = answer?;
        if status.is_success() {
            return Ok(bytes);
        }
        Err(match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => body.error.into(),
            Err(_) => self.lost(&format!("it answered {status}")),
        })
    }

    fn absent(&self, e: &std::io::Error) -> CliError {
        let at = self.socket.display();
        let error = CliError::new(
            Exit::NoController,
            format!("no controller answers on {at}: {e}"),
        );
        match e.kind() {
            std::io::ErrorKind::PermissionDenied => {
                error.next(format!("ask as root, or join the group that owns {at}"))
            }
            _ => error.next(
                "is `trueup run` running? --socket PATH or TRUEUP_SOCKET says where it listens",
            ),
        }
    }

    fn lost(&self, why: &str) -> CliError {
        let message = format!(
            "the controller on {} broke off: {why}",
            self.socket.display()
        );
        CliError::new(Exit::NoController, message).next("look at its log: journalctl -u trueup")
    }
}

fn understood<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CliError> {
    serde_json::from_slice(bytes).map_err(|e| {
        CliError::failed(format!("the controller's answer was not understood: {e}"))
            .next("are both of one version? trueup --version, and the controller's log")
    })
}

/// `--socket` or `TRUEUP_SOCKET`, else the system's, else the user's.
pub(super) fn socket(asked: Option<&Path>) -> PathBuf {
    if let Some(asked) = asked {
        return asked.to_owned();
    }
    let system = PathBuf::from(DEFAULT_SOCKET);
    let user = std::env::var_os("XDG_RUNTIME_DIR")
        .map(|dir| Path::new(&dir).join("trueup").join("api.sock"));
    match user {
        Some(user) if !system.exists() && user.exists() => user,
        _ => system,
    }
}
