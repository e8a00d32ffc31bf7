//! A client of the API: one request, one connection. Every wait has a limit.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::{CliError, Exit};
use crate::api::{ApiError, LOG_MAX, WATCH_SECS};
use crate::settings::DEFAULT_SOCKET;

/// An answer: the whole fleet's hosts with their manifests, or a log.
const ANSWER_MAX: usize = 64 << 20;
/// Longer than a watch holds its answer back.
const LIMIT: Duration = Duration::from_secs(WATCH_SECS + 15);

const _: () = assert!(LOG_MAX < ANSWER_MAX as u64);

#[derive(Debug)]
pub(super) struct Client {
    socket: PathBuf,
    rt: tokio::runtime::Runtime,
}

impl Client {
    /// The socket that was asked for, or the first of the usual places that is there.
    pub fn new(asked: Option<&Path>) -> Result<Self, CliError> {
        let rt = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| CliError::failed(format!("starting: {e}")))?;
        Ok(Self {
            socket: socket(asked),
            rt,
        })
    }

    pub fn get(&self, path: &str) -> Result<Value, CliError> {
        json(&self.call(Method::GET, path, None)?)
    }

    pub fn text(&self, path: &str) -> Result<String, CliError> {
        Ok(String::from_utf8_lossy(&self.call(Method::GET, path, None)?).into_owned())
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        json(&self.call(Method::POST, path, Some(body))?)
    }

    fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Bytes, CliError> {
        let whole = async { tokio::time::timeout(LIMIT, self.exchange(method, path, body)).await };
        self.rt
            .block_on(whole)
            .unwrap_or_else(|_| Err(self.lost("it did not answer in time")))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Bytes, CliError> {
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
            .body(Full::new(
                body.map(|b| Bytes::from(b.to_string())).unwrap_or_default(),
            ))
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
        let error = serde_json::from_slice::<Value>(&bytes)
            .ok()
            .and_then(|mut v| serde_json::from_value::<ApiError>(v.get_mut("error")?.take()).ok());
        Err(error.map_or_else(
            || self.lost(&format!("it answered {status}")),
            CliError::from,
        ))
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

fn json(bytes: &[u8]) -> Result<Value, CliError> {
    serde_json::from_slice(bytes)
        .map_err(|e| CliError::failed(format!("the controller's answer was not understood: {e}")))
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
