//! An object store as etcd is: keys, versioned bytes, one revision that rises with each commit, compare-and-commit.
//! No SQL, index or join shows through.

use async_trait::async_trait;
use futures::stream::LocalBoxStream;
use serde::{Deserialize, Serialize};
use trueup_schema::status::Event;

/// A value is at most this long (etcd's limit).
pub const MAX_VALUE: usize = 1 << 20;
/// A transaction has at most this many guards and operations together.
pub const MAX_OPS: usize = 100;
/// Operations and events of a transaction together: etcd takes 128 changes, and the edge needs a few for itself.
pub const MAX_CHANGES: usize = 124;
/// Bytes of all values and events of a transaction: etcd takes requests of 1.5 MiB.
pub const MAX_TXN_BYTES: usize = 1472 << 10;

/// `/<kind>/<name>`; parts are of `[A-Za-z0-9._@:+-]`, not empty, not `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(String);

impl Key {
    /// From parts; characters outside the alphabet are refused.
    pub fn new(parts: &[&str]) -> Result<Self, DbError> {
        let ok = |p: &&str| {
            !p.is_empty()
                && *p != "."
                && *p != ".."
                && p.len() <= 255
                && p.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._@:+-".contains(&b))
        };
        if parts.len() < 2 || !parts.iter().all(ok) {
            return Err(DbError::BadKey {
                key: parts.join("/"),
            });
        }
        Ok(Self(format!("/{}", parts.join("/"))))
    }
    /// The text, with its leading slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The last part.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

/// Our own bytes. Format header and checksum are the edge's matter.
pub type Value = Vec<u8>;

/// Revision of the whole db: rises by one with each commit.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct DbRev(pub u64);

/// Term of leadership. A commit with an old one fails with [`DbError::Fenced`].
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Fence(pub u64);

/// A key with its value and the revision that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which.
    pub key: Key,
    /// What.
    pub value: Value,
    /// Written by this commit.
    pub rev: DbRev,
}

/// What must hold for a transaction to be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// The key's last write was this commit.
    At(Key, DbRev),
    /// There is no such key.
    Absent(Key),
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes.
    Put(Key, Value),
    /// Deletes; of a key that is not there it does nothing.
    Delete(Key),
}

/// All or nothing: changes, the events that tell of them, and the outbox entries that follow from those.
#[derive(Debug, Clone, Default)]
pub struct Txn {
    /// Who leads.
    pub fence: Fence,
    /// What must hold.
    pub when: Vec<Guard>,
    /// What changes.
    pub then: Vec<Op>,
    /// Events; the db gives them their ids (`<DbRev>-<n>`) and stores each under `/events/<id, zero-padded>`.
    pub events: Vec<Event>,
}

impl Txn {
    /// Whether it keeps etcd's limits, which hold whatever lies below.
    pub fn within_limits(&self) -> Result<(), DbError> {
        let most = |what, size, limit| match size > limit {
            true => Err(DbError::TooLarge { what, size, limit }),
            false => Ok(()),
        };
        most(
            "a transaction's operations",
            self.when.len() + self.then.len(),
            MAX_OPS,
        )?;
        let changes = self.then.len() + self.events.len();
        most("a transaction's changes and events", changes, MAX_CHANGES)?;
        let mut bytes = 0;
        for op in &self.then {
            if let Op::Put(key, value) = op {
                most("a value", value.len(), MAX_VALUE)?;
                bytes += key.as_str().len() + value.len();
            }
        }
        // What an event takes beside its message is little and bounded by its type.
        let message = |e: &Event| e.message.len() + 1024;
        bytes += self.events.iter().map(message).sum::<usize>();
        most("a transaction", bytes, MAX_TXN_BYTES)
    }
}

/// A change that a watch saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// By which commit.
    pub rev: DbRev,
    /// Which key.
    pub key: Key,
    /// The new value; `None`: deleted.
    pub value: Option<Value>,
}

/// Why the db did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DbError {
    /// A guard did not hold: read again and decide again.
    #[error("{key} changed meanwhile")]
    Conflict {
        /// Whose guard.
        key: String,
    },
    /// Another controller leads.
    #[error("another controller leads (term {current}, ours {ours})")]
    Fenced {
        /// Whose term it is.
        current: u64,
        /// Ours.
        ours: u64,
    },
    /// The watch's history is gone: list again.
    #[error("history before revision {oldest} is compacted: list again")]
    Compacted {
        /// The oldest that is kept.
        oldest: u64,
    },
    /// A key outside the alphabet.
    #[error("`{key}` is no key")]
    BadKey {
        /// As given.
        key: String,
    },
    /// Over a limit.
    #[error("{what} is {size}, the limit is {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How large.
        size: usize,
        /// How large it may be.
        limit: usize,
    },
    /// A value whose checksum or format is wrong.
    #[error("{key} is damaged: {why}")]
    Corrupt {
        /// Which.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// The storage below failed.
    #[error("{attempt}: {why}")]
    Storage {
        /// What was attempted.
        attempt: &'static str,
        /// What it said.
        why: String,
    },
}

/// The port.
#[async_trait(?Send)]
pub trait Db {
    /// One entry.
    async fn get(&self, key: &Key) -> Result<Option<Entry>, DbError>;
    /// All entries below a prefix such as `/hosts/`, in the order of keys, all at one revision.
    async fn list(&self, prefix: &str) -> Result<(DbRev, Vec<Entry>), DbError>;
    /// All or nothing. When it returns `Ok`, it is on the disk.
    async fn commit(&self, txn: Txn) -> Result<DbRev, DbError>;
    /// Changes below a prefix after `from`, each once, in order; [`DbError::Compacted`] ends it.
    fn watch(&self, prefix: &str, from: DbRev) -> LocalBoxStream<'static, Result<Change, DbError>>;
}
