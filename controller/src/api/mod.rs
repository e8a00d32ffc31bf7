//! HTTP/1 on a Unix socket: what the command line, and later the dashboard, is a client of. Reads and writes the db,
//! wakes the engine, and decides nothing: a lost wake costs latency only.

mod actor;
mod byhand;
pub mod document;
mod document_byhand;
mod document_pipeline;
mod error;
pub mod keys;
mod openapi;
mod plan;
mod read;
pub mod request;
mod route;
mod server;
mod write;

use std::path::PathBuf;
use std::sync::Arc;

use trueup_engine::Wake;
use trueup_engine::ports::{Db, Fence};

pub use error::{ApiError, Class, ErrorBody};
pub use keys::{Keys, KeysNow, Which};
pub use openapi::openapi;
pub use server::{ServeError, Server, serve};

/// A request's body is a few names and a reason.
pub const BODY_MAX: usize = 64 * 1024;
/// Hosts that one request may name; more are asked for by `--all` or by none at all.
pub const NAMES_MAX: usize = 1000;
/// Connections at the same time. A `--watch` holds one.
pub const CONNECTIONS_MAX: usize = 128;
/// A watch that saw nothing answers after this long, so that a dead client is found.
pub const WATCH_SECS: u64 = 25;
/// Changes in one answer of a watch.
pub const CHANGES_MAX: usize = 500;
/// Events in one answer.
pub const EVENTS_MAX: usize = 1000;
/// A build's log in one answer; longer ones lose their beginning, and say so.
pub const LOG_MAX: u64 = 4 << 20;

/// What a request may use. One for each server; cheap to share on its thread.
pub struct State<D> {
    /// The database.
    pub db: D,
    /// The term that the db gave at start.
    pub fence: Fence,
    /// Tells the engine to look again.
    pub wake: Arc<dyn Fn(Wake) + Send + Sync>,
    /// Logs of builds: `<drv hash>.log`.
    pub logs_dir: PathBuf,
    /// The controller's keys.
    pub keys: Arc<dyn Keys>,
    /// The machine that the controller runs on.
    pub machine_id: Option<String>,
}

impl<D: Db> std::fmt::Debug for State<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("fence", &self.fence)
            .field("logs_dir", &self.logs_dir)
            .finish_non_exhaustive()
    }
}
