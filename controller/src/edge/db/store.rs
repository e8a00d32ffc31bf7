//! The tables and what is done to them. One connection, used by one thread; knows nothing of channels.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use trueup_engine::ports::{Change, DbError, DbRev, Entry, Fence, Guard, Key, Op, Txn};
use trueup_schema::status::Event;

use super::layout::{self, LAYOUT};
use super::value;

/// Revisions whose changes a watch can still be told of. A watcher that is further behind lists again, which for a
/// thousand hosts is cheaper than reading so many changes.
const HISTORY_REVS: u64 = 10_000;
/// How often old history and old events are dropped, in revisions.
const TIDY_EVERY: u64 = 500;
/// Events kept at most; the oldest go first.
const EVENTS_MAX: i64 = 100_000;
/// Events older than this go too.
const EVENTS_DAYS: i64 = 30;
/// Old events looked at in one go, so that a tidy never holds up commits for long.
const EVENTS_TIDIED: i64 = 2_000;
/// Changes told in one page. More than the most that one commit can have, so that a page always ends between two.
const PAGE: i64 = 1_000;
/// Another process that reads (a backup, `sqlite3`) may hold us up so long.
pub(super) const BUSY: Duration = Duration::from_secs(5);

pub(super) const TABLES: &str = "
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS kv (key TEXT PRIMARY KEY, rev INTEGER NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log (rev INTEGER, n INTEGER, key TEXT NOT NULL, value BLOB, PRIMARY KEY (rev, n)) WITHOUT ROWID;
";

pub(super) fn storage(attempt: &'static str) -> impl Fn(rusqlite::Error) -> DbError {
    move |e| DbError::Storage {
        attempt,
        why: e.to_string(),
    }
}

fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// The open file.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) connection: Connection,
    layout: i64,
    /// It is not the database of the last run: why, for people.
    pub(super) told: Option<String>,
}

impl Store {
    /// As a release opens it whose layout is `layout`.
    pub(super) fn open(path: &Path, layout: i64) -> Result<Self, DbError> {
        let told = layout::prepare(path, layout)?;
        let err = storage("opening the database");
        let connection = Connection::open(path).map_err(&err)?;
        connection.busy_timeout(BUSY).map_err(&err)?;
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .map_err(&err)?;
        // FULL: a commit that returned survives a power cut. NORMAL would not promise that with a WAL.
        connection
            .pragma_update(None, "synchronous", "FULL")
            .map_err(&err)?;
        layout::create(&connection, layout)?;
        Ok(Self {
            connection,
            layout,
            told,
        })
    }

    /// For looking only, also while a controller has it open.
    pub(super) fn open_read_only(path: &Path) -> Result<Self, DbError> {
        let err = storage("opening the database to read");
        let connection =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(&err)?;
        connection.busy_timeout(BUSY).map_err(&err)?;
        Ok(Self {
            connection,
            layout: LAYOUT,
            told: None,
        })
    }

    fn meta(&self, name: &str) -> Result<Option<i64>, DbError> {
        self.connection
            .query_row("SELECT value FROM meta WHERE name = ?", [name], |r| {
                r.get(0)
            })
            .optional()
            .map_err(storage("reading a counter"))
    }

    fn set_meta(&self, name: &str, to: i64) -> Result<(), DbError> {
        self.connection
            .prepare_cached("INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value")
            .and_then(|mut s| s.execute(params![name, to]))
            .map(|_| ())
            .map_err(storage("writing a counter"))
    }

    pub(super) fn rev(&self) -> Result<DbRev, DbError> {
        Ok(DbRev(unsigned(self.meta("rev")?.unwrap_or(0))))
    }

    pub(super) fn term(&self) -> Result<Fence, DbError> {
        Ok(Fence(unsigned(self.meta("term")?.unwrap_or(0))))
    }

    pub(super) fn begin_term(&self) -> Result<Fence, DbError> {
        self.raise_term(0)
    }

    /// One more than the greatest of ours and `above`.
    pub(super) fn raise_term(&self, above: u64) -> Result<Fence, DbError> {
        let term = self.term()?.0.max(above).saturating_add(1);
        self.set_meta("term", number(term))?;
        if self.layout >= 2 {
            layout::note_run(&self.connection, number(term))?;
        }
        Ok(Fence(term))
    }

    /// SQLite's own check, and ours of each value.
    pub(super) fn check(&self) -> Result<u64, DbError> {
        let err = storage("checking the database");
        let said: String = self
            .connection
            .query_row("PRAGMA quick_check(1)", [], |r| r.get(0))
            .map_err(&err)?;
        if said != "ok" {
            return Err(DbError::Corrupt {
                key: "the database's file".to_owned(),
                why: said,
            });
        }
        let mut statement = self
            .connection
            .prepare("SELECT key, rev, value FROM kv")
            .map_err(&err)?;
        let mut rows = statement.query([]).map_err(&err)?;
        let mut seen = 0;
        while let Some(row) = rows.next().map_err(&err)? {
            entry(row)?;
            seen += 1;
        }
        let mut statement = self
            .connection
            .prepare("SELECT rev, key, value FROM log")
            .map_err(&err)?;
        let mut rows = statement.query([]).map_err(&err)?;
        while let Some(row) = rows.next().map_err(&err)? {
            change(row)?;
        }
        Ok(seen)
    }

    pub(super) fn get(&self, key: &Key) -> Result<Option<Entry>, DbError> {
        let err = storage("reading an entry");
        let mut statement = self
            .connection
            .prepare_cached("SELECT key, rev, value FROM kv WHERE key = ?")
            .map_err(&err)?;
        let mut rows = statement.query([key.as_str()]).map_err(&err)?;
        rows.next().map_err(&err)?.map(entry).transpose()
    }

    pub(super) fn list(&self, prefix: &str) -> Result<(DbRev, Vec<Entry>), DbError> {
        let err = storage("listing entries");
        let mut statement = self
            .connection
            .prepare_cached(
                "SELECT key, rev, value FROM kv WHERE key >= ?1 AND key < ?2 ORDER BY key",
            )
            .map_err(&err)?;
        let mut rows = statement
            .query(params![prefix, prefix_end(prefix)])
            .map_err(&err)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(&err)? {
            found.push(entry(row)?);
        }
        Ok((self.rev()?, found))
    }

    /// Within a transaction of the caller's: other commits may be in the same one.
    pub(super) fn apply(&self, txn: &Txn) -> Result<DbRev, DbError> {
        txn.within_limits()?;
        let current = self.term()?;
        if txn.fence != current {
            return Err(DbError::Fenced {
                current: current.0,
                ours: txn.fence.0,
            });
        }
        for guard in &txn.when {
            self.holds(guard)?;
        }
        let rev = DbRev(self.rev()?.0 + 1);
        let mut n = 0;
        for op in &txn.then {
            match op {
                Op::Put(key, value) => self.put(rev, n, key.as_str(), value)?,
                Op::Delete(key) => self.delete(rev, n, key.as_str())?,
            }
            n += 1;
        }
        for (i, event) in txn.events.iter().enumerate() {
            let (key, value) = stored_event(rev, i, event)?;
            self.put(rev, n, &key, &value)?;
            n += 1;
        }
        self.set_meta("rev", number(rev.0))?;
        Ok(rev)
    }

    fn holds(&self, guard: &Guard) -> Result<(), DbError> {
        let (key, wanted) = match guard {
            Guard::At(key, rev) => (key, Some(number(rev.0))),
            Guard::Absent(key) => (key, None),
        };
        let is: Option<i64> = self
            .connection
            .prepare_cached("SELECT rev FROM kv WHERE key = ?")
            .and_then(|mut s| s.query_row([key.as_str()], |r| r.get(0)).optional())
            .map_err(storage("checking a guard"))?;
        if is == wanted {
            Ok(())
        } else {
            Err(DbError::Conflict {
                key: key.as_str().to_owned(),
            })
        }
    }

    fn put(&self, rev: DbRev, n: i64, key: &str, bytes: &[u8]) -> Result<(), DbError> {
        let err = storage("writing an entry");
        let sealed = value::seal(key, bytes);
        self.connection
            .prepare_cached(
                "INSERT INTO kv VALUES (?1, ?2, ?3) ON CONFLICT (key) DO UPDATE SET rev = excluded.rev, value = excluded.value",
            )
            .and_then(|mut s| s.execute(params![key, number(rev.0), sealed]))
            .map_err(&err)?;
        self.log(rev, n, key, Some(&sealed))
    }

    fn delete(&self, rev: DbRev, n: i64, key: &str) -> Result<(), DbError> {
        let gone = self
            .connection
            .prepare_cached("DELETE FROM kv WHERE key = ?")
            .and_then(|mut s| s.execute([key]))
            .map_err(storage("deleting an entry"))?;
        if gone == 0 {
            return Ok(());
        }
        self.log(rev, n, key, None)
    }

    fn log(&self, rev: DbRev, n: i64, key: &str, sealed: Option<&[u8]>) -> Result<(), DbError> {
        self.connection
            .prepare_cached("INSERT INTO log VALUES (?, ?, ?, ?)")
            .and_then(|mut s| s.execute(params![number(rev.0), n, key, sealed]))
            .map(|_| ())
            .map_err(storage("writing history"))
    }

    /// Changes below `prefix` after `from`, whole revisions, and up to which revision they are all told.
    pub(super) fn since(&self, prefix: &str, from: DbRev) -> Result<(Vec<Change>, DbRev), DbError> {
        let err = storage("reading history");
        let (oldest, newest) = (unsigned(self.meta("compacted")?.unwrap_or(0)), self.rev()?);
        // A revision from the future is one of another database: this one was lost or restored.
        if from.0 < oldest || from > newest {
            return Err(DbError::Compacted {
                oldest: oldest.max(1),
            });
        }
        let mut statement = self
            .connection
            .prepare_cached(
                "SELECT rev, key, value FROM log WHERE rev > ?1 AND key >= ?2 AND key < ?3 ORDER BY rev, n LIMIT ?4",
            )
            .map_err(&err)?;
        let mut rows = statement
            .query(params![number(from.0), prefix, prefix_end(prefix), PAGE])
            .map_err(&err)?;
        let mut changes = Vec::new();
        while let Some(row) = rows.next().map_err(&err)? {
            changes.push(change(row)?);
        }
        if changes.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) {
            return Ok((changes, newest));
        }
        // A full page may have cut its last revision: that one comes with the next page.
        let last = changes.last().map_or(newest, |c| c.rev);
        changes.retain(|c| c.rev < last);
        Ok((changes, DbRev(last.0 - 1)))
    }

    /// Forgets history and old events once in a while; called after commits.
    pub(super) fn tidy(&self, rev: DbRev) -> Result<(), DbError> {
        if !rev.0.is_multiple_of(TIDY_EVERY) {
            return Ok(());
        }
        if let Some(through) = rev.0.checked_sub(HISTORY_REVS) {
            self.compact(DbRev(through))?;
        }
        self.drop_old_events()
    }

    pub(super) fn compact(&self, through: DbRev) -> Result<(), DbError> {
        let through = through.min(self.rev()?);
        let so_far = unsigned(self.meta("compacted")?.unwrap_or(0));
        if through.0 <= so_far {
            return Ok(());
        }
        self.connection
            .execute("DELETE FROM log WHERE rev <= ?", [number(through.0)])
            .map_err(storage("dropping history"))?;
        self.set_meta("compacted", number(through.0))
    }

    /// Retention is no change that anybody watches: it raises no revision.
    fn drop_old_events(&self) -> Result<(), DbError> {
        let err = storage("dropping old events");
        self.connection
            .execute(
                "DELETE FROM kv WHERE key < (SELECT key FROM kv WHERE key >= '/events/' AND key < '/events0'
                 ORDER BY key DESC LIMIT 1 OFFSET ?) AND key >= '/events/' AND key < '/events0'",
                [EVENTS_MAX],
            )
            .map_err(&err)?;
        let cutoff = trueup_schema::Timestamp::now().as_second() - EVENTS_DAYS * 24 * 3600;
        let oldest: Vec<String> = {
            let mut statement = self
                .connection
                .prepare_cached("SELECT key, rev, value FROM kv WHERE key >= '/events/' AND key < '/events0' ORDER BY key LIMIT ?")
                .map_err(&err)?;
            let mut rows = statement.query([EVENTS_TIDIED]).map_err(&err)?;
            let mut old = Vec::new();
            while let Some(row) = rows.next().map_err(&err)? {
                let entry = entry(row)?;
                match serde_json::from_slice::<Event>(&entry.value) {
                    Ok(event) if event.at.as_second() >= cutoff => break,
                    _ => old.push(entry.key.as_str().to_owned()),
                }
            }
            old
        };
        for key in oldest {
            self.connection
                .prepare_cached("DELETE FROM kv WHERE key = ?")
                .and_then(|mut s| s.execute([key]))
                .map_err(&err)?;
        }
        Ok(())
    }
}

/// The first text that is greater than all that begin with `prefix`. Keys are ASCII, so this is above them all.
fn prefix_end(prefix: &str) -> String {
    format!("{prefix}\u{7f}")
}

fn stored_event(rev: DbRev, n: usize, event: &Event) -> Result<(String, Vec<u8>), DbError> {
    let mut event = event.clone();
    event.id = format!("{}-{n}", rev.0);
    let key = format!("/events/{:020}-{n:03}", rev.0);
    let value = serde_json::to_vec(&event).map_err(|e| DbError::Storage {
        attempt: "printing an event",
        why: e.to_string(),
    })?;
    Ok((key, value))
}

fn key_of(text: &str) -> Result<Key, DbError> {
    let parts: Vec<&str> = text.trim_start_matches('/').split('/').collect();
    Key::new(&parts)
}

fn entry(row: &rusqlite::Row<'_>) -> Result<Entry, DbError> {
    let err = storage("reading a row");
    let key: String = row.get(0).map_err(&err)?;
    let rev: i64 = row.get(1).map_err(&err)?;
    let sealed = row
        .get_ref(2)
        .and_then(|v| Ok(v.as_blob()?))
        .map_err(&err)?;
    Ok(Entry {
        value: value::open(&key, sealed)?,
        key: key_of(&key)?,
        rev: DbRev(unsigned(rev)),
    })
}

fn change(row: &rusqlite::Row<'_>) -> Result<Change, DbError> {
    let err = storage("reading a row of history");
    let rev: i64 = row.get(0).map_err(&err)?;
    let key: String = row.get(1).map_err(&err)?;
    let sealed: Option<Vec<u8>> = row.get(2).map_err(&err)?;
    Ok(Change {
        rev: DbRev(unsigned(rev)),
        value: sealed.map(|s| value::open(&key, &s)).transpose()?,
        key: key_of(&key)?,
    })
}
