//! From one layout of the tables to the next, and back: before a database is changed for a newer trueup a backup is made
//! beside it, and an older trueup that finds a layout that it does not know takes that backup. Nothing is ever deleted.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, params};
use trueup_engine::ports::DbError;

use super::store::{BUSY, TABLES, storage};

/// The layout of the tables that this release writes. Layout 2 has `runs`: which version led in which term.
pub(super) const LAYOUT: i64 = 2;
/// Runs that are remembered.
const RUNS: i64 = 100;
/// From the layout of the index plus one to the one after it.
const STEPS: [&str; 1] = [
    "CREATE TABLE IF NOT EXISTS runs (term INTEGER PRIMARY KEY, version TEXT NOT NULL, at TEXT NOT NULL) WITHOUT ROWID;",
];

fn refuse(attempt: &'static str) -> impl Fn(std::io::Error) -> DbError {
    move |e| DbError::Storage {
        attempt,
        why: e.to_string(),
    }
}

/// `FILE.layout-N`: the database as it was when it had layout N.
pub(super) fn kept(path: &Path, layout: i64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".layout-{layout}"));
    name.into()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn layout_of(connection: &Connection) -> Result<Option<i64>, DbError> {
    let err = storage("reading the database's layout");
    let is_there: Option<i64> = connection
        .query_row("SELECT 1 FROM sqlite_master WHERE name = 'meta'", [], |r| {
            r.get(0)
        })
        .optional()
        .map_err(&err)?;
    if is_there.is_none() {
        return Ok(None);
    }
    connection
        .query_row("SELECT value FROM meta WHERE name = 'layout'", [], |r| {
            r.get(0)
        })
        .optional()
        .map_err(&err)
}

/// Makes the database at `path` one of layout `ours`. An answer is for people: it is not the one of the last run.
pub(super) fn prepare(path: &Path, ours: i64) -> Result<Option<String>, DbError> {
    finish_restoring(path)?;
    if !path.exists() {
        return Ok(None);
    }
    let connection = Connection::open(path).map_err(storage("opening the database"))?;
    connection
        .busy_timeout(BUSY)
        .map_err(storage("opening the database"))?;
    match layout_of(&connection)? {
        Some(found) if found > ours => restore(path, connection, found, ours).map(Some),
        Some(found) if found < ours => {
            backup(&connection, &kept(path, found))?;
            migrate(&connection, found, ours)?;
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// A whole copy, in place of an older one of the same layout.
fn backup(connection: &Connection, to: &Path) -> Result<(), DbError> {
    let attempt = "backing up the database before it is changed";
    let new = beside(to, ".new");
    let _left_by_a_crash = std::fs::remove_file(&new);
    let text = new.to_str().ok_or_else(|| DbError::Storage {
        attempt,
        why: "the path is not UTF-8".to_owned(),
    })?;
    connection
        .execute("VACUUM INTO ?", [text])
        .map_err(storage(attempt))?;
    std::fs::File::open(&new)
        .and_then(|f| f.sync_all())
        .and_then(|()| std::fs::rename(&new, to))
        .and_then(|()| sync_folder(to))
        .map_err(refuse(attempt))
}

/// All steps or none.
fn migrate(connection: &Connection, found: i64, ours: i64) -> Result<(), DbError> {
    let err = storage("changing the database's layout");
    let from = usize::try_from(found - 1).unwrap_or(0);
    let to = usize::try_from(ours - 1).unwrap_or(0).min(STEPS.len());
    let steps = STEPS.get(from..to).unwrap_or_default().concat();
    connection
        .execute_batch(&format!(
            "BEGIN IMMEDIATE; {steps} UPDATE meta SET value = {ours} WHERE name = 'layout'; COMMIT;"
        ))
        .map_err(&err)?;
    tracing::info!(
        "the database has layout {ours} now, and had {found}; a backup from before is beside it"
    );
    Ok(())
}

/// The tables of a new database.
pub(super) fn create(connection: &Connection, ours: i64) -> Result<(), DbError> {
    let err = storage("making the database");
    connection.execute_batch(TABLES).map_err(&err)?;
    if layout_of(connection)?.is_none() {
        let steps = STEPS
            .get(..usize::try_from(ours - 1).unwrap_or(0))
            .unwrap_or_default();
        connection
            .execute_batch(&format!(
                "BEGIN IMMEDIATE; {} INSERT INTO meta VALUES ('layout', {ours}); COMMIT;",
                steps.concat()
            ))
            .map_err(&err)?;
    }
    Ok(())
}

/// Puts the newest backup of a layout that we know in the place of the database, and the database beside it.
fn restore(path: &Path, connection: Connection, found: i64, ours: i64) -> Result<String, DbError> {
    let attempt = "going back to the backup of before";
    let Some(layout) = (1..=ours).rev().find(|n| kept(path, *n).exists()) else {
        return Err(DbError::Storage {
            attempt: "opening the database",
            why: format!(
                "its layout is {found}, this trueup knows {ours}, and no backup of an older one ({}) is there: use a newer trueup",
                kept(path, ours).display()
            ),
        });
    };
    let from = kept(path, layout);
    // What is in its log belongs to it, wherever it lies.
    connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .map_err(storage(attempt))?;
    drop(connection);
    let ready = beside(path, RESTORING);
    let copied = beside(&ready, ".new");
    std::fs::copy(&from, &copied)
        .and_then(|_| std::fs::File::open(&copied)?.sync_all())
        .and_then(|()| std::fs::rename(&copied, &ready))
        .and_then(|()| sync_folder(path))
        .and_then(|()| std::fs::rename(path, kept(path, found)))
        .map_err(refuse(attempt))?;
    finish_restoring(path)?;
    let made = std::fs::metadata(&from).and_then(|m| m.modified()).ok();
    let made = made
        .and_then(|t| trueup_schema::Timestamp::try_from(t).ok())
        .map_or(String::new(), |t| format!(" of {t:.0}"));
    if layout < ours {
        let connection = Connection::open(path).map_err(storage(attempt))?;
        migrate(&connection, layout, ours)?;
    }
    Ok(format!(
        "the database was written by a newer trueup (layout {found}), so the backup{made} that it made was taken (layout \
         {layout}); what people asked for since (nudges, suspensions, adoptions) is not in it; hosts are asked anew. The \
         newer one is kept as {}",
        kept(path, found).display()
    ))
}

/// A backup that is to take the database's place.
const RESTORING: &str = ".restoring";

/// Ends what a crash may have cut: the old one is moved away, the backup not yet in its place.
fn finish_restoring(path: &Path) -> Result<(), DbError> {
    let ready = beside(path, RESTORING);
    if path.exists() || !ready.exists() {
        return Ok(());
    }
    for log in ["-wal", "-shm"] {
        let _none = std::fs::remove_file(beside(path, log));
    }
    std::fs::rename(&ready, path)
        .and_then(|()| sync_folder(path))
        .map_err(refuse("going back to the backup of before"))
}

/// Who led in which term, for people.
pub(super) fn note_run(connection: &Connection, term: i64) -> Result<(), DbError> {
    let at = trueup_schema::Timestamp::now().to_string();
    connection
        .execute(
            "INSERT INTO runs VALUES (?1, ?2, ?3) ON CONFLICT (term) DO UPDATE SET version = excluded.version, at = excluded.at",
            params![term, env!("CARGO_PKG_VERSION"), at],
        )
        .and_then(|_| connection.execute("DELETE FROM runs WHERE term <= ?", [term - RUNS]))
        .map(|_| ())
        .map_err(storage("noting which version runs"))
}

/// Version and time of the newest run, if the layout has them.
pub(super) fn last_run(connection: &Connection) -> Option<(String, String)> {
    let last = "SELECT version, at FROM runs ORDER BY term DESC LIMIT 1";
    connection
        .query_row(last, [], |r| Ok((r.get(0)?, r.get(1)?)))
        .ok()
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
