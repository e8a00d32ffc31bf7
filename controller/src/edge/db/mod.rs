//! The `Db` port on SQLite: one writer thread that owns the file, and handles that talk to it. No SQL leaves this room.
//!
//! A handle is `Send` and cheap to clone: the engine uses it through the port, threads of the API through the methods
//! of the same names on the handle itself.

mod layout;
mod offline;
mod store;
mod thread;
mod value;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use futures::stream::{BoxStream, LocalBoxStream, StreamExt as _};
use tokio::sync::{mpsc, oneshot, watch};
use trueup_engine::ports::{Change, Db, DbError, DbRev, Entry, Fence, Key, Txn};

pub use offline::{Checked, backup, check, export};

use thread::Command;

/// The database's file below its folder.
pub const FILE: &str = "trueup.sqlite";
/// Held for as long as a controller has the database open.
pub const LOCK: &str = "lock";
/// Commands that wait for the thread; then callers wait.
const QUEUE: usize = 1024;

/// Why the database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder can't be made or read.
    #[error("{path}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another controller has it.
    #[error(
        "another controller (process {holder}) has {path} open: stop it first, or give this one another stateDir"
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Its process id, as it wrote it.
        holder: String,
    },
    /// Written by a newer trueup, damaged, or not a database.
    #[error("{path}: {source}")]
    Db {
        /// Which.
        path: PathBuf,
        /// Why.
        source: DbError,
    },
}

/// A handle to the open database.
#[derive(Debug, Clone)]
pub struct SqliteDb {
    commands: mpsc::Sender<Command>,
    newest: watch::Receiver<DbRev>,
    term: Fence,
    told: Option<String>,
}

impl SqliteDb {
    /// Opens or makes the database in `folder`, refuses a second controller by name, checks every value, and begins
    /// a new term.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        Self::open_as(folder, layout::LAYOUT)
    }

    /// The same, as the release whose tables have this layout: for tests of upgrades and downgrades.
    pub fn open_as(folder: &Path, layout: i64) -> Result<Self, OpenError> {
        let io = |source| OpenError::Folder {
            path: folder.to_owned(),
            source,
        };
        std::fs::create_dir_all(folder).map_err(io)?;
        let lock = take_lock(&folder.join(LOCK))?;
        let path = folder.join(FILE);
        let at = |source| OpenError::Db {
            path: path.clone(),
            source,
        };
        let store = store::Store::open(&path, layout).map_err(at)?;
        store.check().map_err(at)?;
        let term = store.begin_term().map_err(at)?;
        let told = store.told.clone();
        let (announce, newest) = watch::channel(store.rev().map_err(at)?);
        let (commands, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("db".to_owned())
            .spawn(move || {
                thread::serve(store, queue, &announce);
                drop(lock);
            })
            .map_err(io)?;
        Ok(Self {
            commands,
            newest,
            term,
            told,
        })
    }

    /// Why this is not the database of the last run, if it is not: a newer trueup had changed that, and a backup from
    /// before was taken.
    #[must_use]
    pub fn told(&self) -> Option<&str> {
        self.told.as_deref()
    }

    /// Our term: what transactions of this controller carry as fence.
    #[must_use]
    pub fn term(&self) -> Fence {
        self.term
    }

    /// The newest revision.
    #[must_use]
    pub fn newest(&self) -> DbRev {
        *self.newest.borrow()
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, DbError>>) -> Command,
    ) -> Result<T, DbError> {
        let (reply, answer) = oneshot::channel();
        let gone = || DbError::Storage {
            attempt: "asking the database's thread",
            why: "it has ended".to_owned(),
        };
        self.commands
            .send(command(reply))
            .await
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// One entry.
    pub async fn get(&self, key: &Key) -> Result<Option<Entry>, DbError> {
        let key = key.clone();
        self.ask(|reply| Command::Get { key, reply }).await
    }

    /// All entries below a prefix, at one revision.
    pub async fn list(&self, prefix: &str) -> Result<(DbRev, Vec<Entry>), DbError> {
        let prefix = prefix.to_owned();
        self.ask(|reply| Command::List { prefix, reply }).await
    }

    /// All or nothing; on the disk when it returns.
    pub async fn commit(&self, txn: Txn) -> Result<DbRev, DbError> {
        self.ask(|reply| Command::Commit { txn, reply }).await
    }

    /// After a loss of the database: begins a term above `seen`, the greatest that any host reports. Handles made
    /// before, this one included, are fenced: use the one that is returned.
    pub async fn raise_term(&self, seen: u64) -> Result<Self, DbError> {
        let term = self
            .ask(|reply| Command::RaiseTerm { above: seen, reply })
            .await?;
        Ok(Self {
            term,
            ..self.clone()
        })
    }

    /// Forgets history up to `through`, so that watches from before it must list again. Done by itself now and then.
    pub async fn compact(&self, through: DbRev) -> Result<(), DbError> {
        self.ask(|reply| Command::Compact { through, reply }).await
    }

    /// A whole copy into a new file, while work goes on.
    pub async fn backup(&self, to: &Path) -> Result<(), DbError> {
        let to = to.to_owned();
        self.ask(|reply| Command::Backup { to, reply }).await
    }

    /// Changes below a prefix after `from`, each once, in order. It pulls pages from the database's own history, so
    /// a slow reader costs no memory: at worst it is told `Compacted`.
    pub fn watch(&self, prefix: &str, from: DbRev) -> BoxStream<'static, Result<Change, DbError>> {
        let state = (self.clone(), prefix.to_owned(), from);
        futures::stream::unfold(Some(state), |state| async {
            let (mut db, prefix, from) = state?;
            loop {
                let newest = *db.newest.borrow_and_update();
                let below = prefix.clone();
                let page = db
                    .ask(|reply| Command::Since {
                        prefix: below,
                        from,
                        reply,
                    })
                    .await;
                match page {
                    Err(e) => return Some((vec![Err(e)], None)),
                    Ok((changes, through)) if !changes.is_empty() => {
                        let changes = changes.into_iter().map(Ok).collect();
                        return Some((changes, Some((db, prefix, through))));
                    }
                    Ok((_, through)) => {
                        // Nothing for us up to here: next time from there, and wait for a newer one.
                        if through > from {
                            return Some((Vec::new(), Some((db, prefix, through))));
                        }
                        if *db.newest.borrow() == newest && db.newest.changed().await.is_err() {
                            return None;
                        }
                    }
                }
            }
        })
        .flat_map(futures::stream::iter)
        .boxed()
    }
}

#[async_trait(?Send)]
impl Db for SqliteDb {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, DbError> {
        Self::get(self, key).await
    }
    async fn list(&self, prefix: &str) -> Result<(DbRev, Vec<Entry>), DbError> {
        Self::list(self, prefix).await
    }
    async fn commit(&self, txn: Txn) -> Result<DbRev, DbError> {
        Self::commit(self, txn).await
    }
    fn watch(&self, prefix: &str, from: DbRev) -> LocalBoxStream<'static, Result<Change, DbError>> {
        Self::watch(self, prefix, from).boxed_local()
    }
}

/// The lock goes with its file descriptor, so also with `kill -9`.
fn take_lock(path: &Path) -> Result<std::fs::File, OpenError> {
    use std::io::{Read as _, Seek as _, Write as _};
    let io = |source| OpenError::Folder {
        path: path.to_owned(),
        source,
    };
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(io)?;
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        let _unread = (&mut file).take(32).read_to_string(&mut holder);
        return Err(OpenError::Locked {
            path: path.to_owned(),
            holder: holder.trim().to_owned(),
        });
    }
    file.set_len(0).map_err(io)?;
    file.rewind().map_err(io)?;
    writeln!(file, "{}", std::process::id()).map_err(io)?;
    Ok(file)
}
