//! Listens on the socket, on a thread of its own, and hands each request with its actor to `route`.
//! Knows bounds and connections, and nothing of what is asked.

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::LocalSet;
use trueup_engine::ports::Db;
use trueup_schema::status::Actor;

use super::{ApiError, BODY_MAX, CONNECTIONS_MAX, Class, State, actor, route};

/// Time for a request's head and for its body, each.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// Requests under way get this long when the controller ends.
const DRAIN: Duration = Duration::from_secs(2);

/// Why nobody listens.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket could not be made.
    #[error("listening on {}: {source}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody listens there already.
    #[error("another controller listens on {}", path.display())]
    Taken {
        /// Where.
        path: PathBuf,
    },
    /// No thread.
    #[error("starting the API's thread: {0}")]
    Thread(std::io::Error),
}

/// A server that runs. Dropping it without [`Server::stop`] leaves it running.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Server {
    /// Takes no more requests, lets those under way end, removes the socket.
    pub fn stop(self) {
        // The thread may have ended by itself; then nobody hears this, and the join returns at once.
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("the API's thread ended by a panic");
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens on `path`. Whoever may open the socket is an operator: its mode is 0660, and its folder's owner decides.
pub fn serve<D: Db + Send + 'static>(path: &Path, state: State<D>) -> Result<Server, ServeError> {
    let listener = bind(path)?;
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("api".to_owned())
        .spawn(move || {
            match tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
            {
                Ok(rt) => LocalSet::new().block_on(&rt, accept(listener, Rc::new(state), stopped)),
                Err(error) => tracing::error!(%error, "the API has no runtime"),
            }
        })
        .map_err(ServeError::Thread)?;
    Ok(Server {
        path: path.to_owned(),
        stop,
        thread,
    })
}

/// A socket that nobody answers on is what a killed controller left: the db's lock says that we are the only one.
fn bind(path: &Path) -> Result<std::os::unix::net::UnixListener, ServeError> {
    let fail = |source| ServeError::Listen {
        path: path.to_owned(),
        source,
    };
    if let Some(folder) = path.parent().filter(|f| !f.exists()) {
        std::fs::create_dir_all(folder).map_err(fail)?;
        // On a host of the fleet its secrets are in the same folder, for whoever they are for; the socket has its own mode.
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).map_err(fail)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ServeError::Taken {
            path: path.to_owned(),
        });
    }
    match std::fs::symlink_metadata(path) {
        Ok(meta) if std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()) => {
            std::fs::remove_file(path).map_err(fail)?;
        }
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path).map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    Ok(listener)
}

async fn accept<D: Db + 'static>(
    listener: std::os::unix::net::UnixListener,
    state: Rc<State<D>>,
    mut stopped: oneshot::Receiver<()>,
) {
    let listener = match UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the API can't listen"),
    };
    let room = std::sync::Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = tokio::select! {
            _ = &mut stopped => break,
            got = listener.accept() => match got {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors: without a pause this would be a busy loop.
                    tracing::warn!(%error, "a connection to the API was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let state = Rc::clone(&state);
        // Over the bound: closed at once, which a client reads as "try again".
        let Ok(permit) = std::sync::Arc::clone(&room).try_acquire_owned() else {
            continue;
        };
        tokio::task::spawn_local(async move {
            connection(stream, state).await;
            drop(permit);
        });
    }
    let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(DRAIN, room.acquire_many(all)).await;
}

async fn connection<D: Db + 'static>(stream: UnixStream, state: Rc<State<D>>) {
    let actor = match stream.peer_cred() {
        Ok(cred) => actor::of_uid(cred.uid()),
        Err(error) => return tracing::warn!(%error, "a connection without credentials was closed"),
    };
    let service = hyper::service::service_fn(move |request| {
        let (state, actor) = (Rc::clone(&state), actor.clone());
        async move { Ok::<_, Infallible>(answer(request, &state, &actor).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_LIMIT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the API ended early");
    }
}

async fn answer<D: Db>(
    request: Request<Incoming>,
    state: &State<D>,
    actor: &Actor,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = match tokio::time::timeout(READ_LIMIT, Limited::new(body, BODY_MAX).collect()).await
    {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => {
            return refuse(&ApiError::new(
                Class::Usage,
                format!("the body is longer than {BODY_MAX} bytes"),
            ));
        }
        Err(_) => {
            return refuse(&ApiError::new(
                Class::Usage,
                "the body did not come in time",
            ));
        }
    };
    let query = head.uri.query().unwrap_or_default();
    match route::handle(state, actor, &head.method, head.uri.path(), query, &body).await {
        Ok(route::Answer::Json(value)) => json(StatusCode::OK, &value),
        Ok(route::Answer::Text(text)) => {
            with(StatusCode::OK, "text/plain; charset=utf-8", text.into())
        }
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &ApiError) -> Response<Full<Bytes>> {
    json(error.status(), &serde_json::json!({ "error": error }))
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response<Full<Bytes>> {
    with(status, "application/json", value.to_string().into())
}

fn with(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static(kind),
    );
    response
}
