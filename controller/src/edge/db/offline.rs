//! What `trueup db` does with a database file: check, copy, print. Works beside a running controller; changes nothing.

use std::io::Write;
use std::path::Path;

use serde_json::json;
use trueup_engine::ports::{DbError, DbRev, Fence};

use super::layout;
use super::store::{Store, storage};

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Entries, all whole.
    pub entries: u64,
    /// The newest revision.
    pub rev: DbRev,
    /// The newest term.
    pub term: Fence,
    /// Which version led in it, and since when.
    pub led_by: Option<(String, String)>,
}

/// Reads every value and its checksum.
pub fn check(file: &Path) -> Result<Checked, DbError> {
    let store = Store::open_read_only(file)?;
    Ok(Checked {
        entries: store.check()?,
        rev: store.rev()?,
        term: store.term()?,
        led_by: layout::last_run(&store.connection),
    })
}

/// A whole copy into a new file.
pub fn backup(file: &Path, to: &Path) -> Result<(), DbError> {
    copy(&Store::open_read_only(file)?, to)
}

pub(super) fn copy(store: &Store, to: &Path) -> Result<(), DbError> {
    let refuse = |why: String| DbError::Storage {
        attempt: "copying the database",
        why,
    };
    let path = to
        .to_str()
        .ok_or_else(|| refuse("the path is not UTF-8".to_owned()))?;
    if to.exists() {
        return Err(refuse(format!("{path} is there already")));
    }
    // VACUUM INTO reads one snapshot and leaves a file without a WAL beside it.
    store
        .connection
        .execute("VACUUM INTO ?", [path])
        .map_err(storage("copying the database"))?;
    std::fs::File::open(to)
        .and_then(|f| f.sync_all())
        .map_err(|e| refuse(e.to_string()))
}

/// One JSON object a line: `{key, rev, value}`; values that are not JSON as a string of hex under `hex`.
pub fn export(file: &Path, out: &mut impl Write) -> Result<u64, DbError> {
    let (_, entries) = Store::open_read_only(file)?.list("/")?;
    let mut written = 0;
    for entry in entries {
        let line = match serde_json::from_slice::<serde_json::Value>(&entry.value) {
            Ok(value) => json!({"key": entry.key.as_str(), "rev": entry.rev.0, "value": value}),
            Err(_) => {
                json!({"key": entry.key.as_str(), "rev": entry.rev.0, "hex": hex::encode(&entry.value)})
            }
        };
        writeln!(out, "{line}").map_err(|e| DbError::Storage {
            attempt: "printing entries",
            why: e.to_string(),
        })?;
        written += 1;
    }
    Ok(written)
}
