//! An attempt's journal: append-only, each record synced before the effect that follows it. A torn last record is
//! ignored, a bad earlier one is `JournalCorrupt`: nothing is touched then.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use trueup_core::agent::{Event, IllegalEvent, Moment, State, apply};
use trueup_schema::Timestamp;
use trueup_schema::wire::{Order, Stage};

use crate::files::{self, FileError, Layout};
use crate::plant::{self, Bug};

/// The oldest format whose readers understand what is written here: what is only added does not raise it.
const FORMAT: u32 = 1;
/// Who writes.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Length and checksum.
const HEAD: usize = 8;
/// A record is never longer.
const MAX_RECORD: usize = 1 << 20;

/// What is wrong with a journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A record before the last is damaged.
    #[error("JournalCorrupt: {path}: record {record}: {message}")]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// Which record, from 0.
        record: u64,
        /// What is wrong.
        message: String,
    },
    /// An agent of another version wrote what this one does not know.
    #[error(
        "JournalNewer: {path} was written by trueup-agent {agent}, which this one ({VERSION}) does not understand"
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its version, if it is told.
        agent: String,
    },
    /// Another process of ours has this attempt.
    #[error("another process has the attempt {0}")]
    Locked(Order),
    /// The machine refuses the event.
    #[error(transparent)]
    Illegal(#[from] IllegalEvent),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record<E> {
    format: u32,
    seq: u64,
    boot_id: String,
    boottime: u64,
    at: Timestamp,
    event: E,
    /// Who wrote it; journals of 0.1.0 do not say so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    agent: String,
}

/// What a journal says.
#[derive(Debug)]
pub struct Read {
    /// The fold.
    pub state: State,
    /// The boot in which the last record was written.
    pub boot_id: String,
    /// When each stage began.
    pub timeline: Vec<(Timestamp, Stage)>,
    records: u64,
    good: u64,
}

/// Where records go: the file, or in tests something that remembers in which order it was asked.
pub trait Medium: std::fmt::Debug {
    /// Adds these bytes at the end.
    fn add(&mut self, bytes: &[u8]) -> std::io::Result<()>;
    /// Returns when all that was added would be there after a power cut.
    fn sync(&mut self) -> std::io::Result<()>;
}

impl Medium for File {
    fn add(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.write_all(bytes)
    }
    fn sync(&mut self) -> std::io::Result<()> {
        self.sync_data()
    }
}

/// An attempt's journal, open for writing and locked.
#[derive(Debug)]
pub struct Journal {
    file: Box<dyn Medium>,
    order: Order,
    records: u64,
    /// The fold of all records.
    pub state: State,
}

/// Now, in boot time.
#[must_use]
pub fn now() -> Moment {
    Moment {
        boot_id: boot_id(),
        at: boottime(),
    }
}

/// Nanoseconds since boot, suspend included.
#[must_use]
pub fn boottime() -> u64 {
    let t = clock_gettime(ClockId::Boottime);
    t.tv_sec.unsigned_abs() * 1_000_000_000 + t.tv_nsec.unsigned_abs()
}

/// A span in the unit of [`boottime`].
#[must_use]
pub fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// Which boot this is.
#[must_use]
pub fn boot_id() -> String {
    files::text("/proc/sys/kernel/random/boot_id")
}

/// Reads an attempt; `None` when there is no whole record.
pub fn read(layout: &Layout, order: Order) -> Result<Option<Read>, JournalError> {
    let path = layout.journal(order);
    match files::read_bounded(&path)? {
        Some(bytes) => parse(&path, &bytes),
        None => Ok(None),
    }
}

/// The same; what an agent of another version wrote and this one does not understand is told apart from what is damaged:
/// nothing of it is ours to go on with.
pub fn read_known(
    layout: &Layout,
    order: Order,
) -> Result<Result<Option<Read>, String>, JournalError> {
    match read(layout, order) {
        Ok(read) => Ok(Ok(read)),
        Err(e @ JournalError::Newer { .. }) => Ok(Err(e.to_string())),
        Err(e) => Err(e),
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Option<Read>, JournalError> {
    let mut state = None;
    let mut timeline = Vec::new();
    let mut boot_id = String::new();
    let (mut offset, mut records) = (0_usize, 0_u64);
    loop {
        let rest = &bytes[offset..];
        let corrupt = |message: String| JournalError::Corrupt {
            path: path.to_owned(),
            record: records,
            message,
        };
        let (Some(len), Some(crc)) = (word(rest, 0), word(rest, 4)) else {
            break; // end, or a torn head
        };
        let len = len as usize;
        let Some(body) = rest.get(HEAD..HEAD.saturating_add(len)) else {
            if len > MAX_RECORD {
                return Err(corrupt(format!("length {len}")));
            }
            break; // torn
        };
        if crc32c::crc32c(body) != crc {
            if rest.len() == HEAD + len {
                break; // the last one, written in part
            }
            return Err(corrupt("checksum".to_owned()));
        }
        // In two steps: an event that is not known tells of a newer agent, if the rest says that one wrote it.
        let record: Record<serde_json::Value> =
            serde_json::from_slice(body).map_err(|e| corrupt(e.to_string()))?;
        if record.format > FORMAT && record.seq == records {
            return Err(JournalError::Newer {
                path: path.to_owned(),
                agent: record.agent,
            });
        }
        if record.format != FORMAT || record.seq != records {
            return Err(corrupt(format!(
                "format {}, sequence {}",
                record.format, record.seq
            )));
        }
        let event: Event = match serde_json::from_value(record.event) {
            Ok(event) => event,
            Err(_) if !record.agent.is_empty() && record.agent != VERSION => {
                return Err(JournalError::Newer {
                    path: path.to_owned(),
                    agent: record.agent,
                });
            }
            Err(e) => return Err(corrupt(e.to_string())),
        };
        if let Some(stage) = event.stage() {
            timeline.push((record.at, stage));
        }
        boot_id = record.boot_id;
        state = Some(apply(state, event).map_err(|e| corrupt(e.to_string()))?);
        offset += HEAD + len;
        records += 1;
    }
    Ok(state.map(|state| Read {
        state,
        boot_id,
        timeline,
        records,
        good: offset as u64,
    }))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(four.try_into().ok()?))
}

fn encode(record: &Record<Event>) -> Vec<u8> {
    let body = serde_json::to_vec(record).expect("a record has no map with odd keys");
    let mut out = Vec::with_capacity(HEAD + body.len());
    let len = u32::try_from(body.len()).expect("records are far below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    out.extend_from_slice(&body);
    out
}

fn open_locked(layout: &Layout, order: Order) -> Result<File, JournalError> {
    let path = layout.journal(order);
    let fail = |source| FileError::Write {
        path: path.clone(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(fail)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
        rustix::io::Errno::WOULDBLOCK => JournalError::Locked(order),
        e => fail(e.into()).into(),
    })?;
    Ok(file)
}

/// Must it be on the disk before what follows? Not where what follows is undone by a power cut itself, or is the next
/// record: these reach the disk with one that must.
fn must_last(event: &Event) -> bool {
    match event {
        // Checks, notes of this boot, units of this boot; then comes Applying.
        Event::Staged | Event::Recorded(_) | Event::Armed { .. } => false,
        // The next part, with its own record, or Awaiting.
        Event::Applied { .. } => false,
        // Waiting; then comes Committing, or the way back.
        Event::JudgedGood | Event::Confirmed => false,
        // BootAsked.
        Event::ProfileSet => false,
        _ => true,
    }
}

impl Journal {
    /// Begins a new attempt's journal.
    pub fn create(layout: &Layout, order: Order, first: Event) -> Result<Self, JournalError> {
        let file = open_locked(layout, order)?;
        files::sync_dir(&layout.root.join("journal"))?;
        let mut journal = Self {
            file: Box::new(file),
            order,
            records: 0,
            state: apply(None, first.clone())?,
        };
        journal.write(layout, first)?;
        Ok(journal)
    }

    /// Opens an attempt to go on with it; drops a torn end.
    pub fn open(layout: &Layout, order: Order) -> Result<Self, JournalError> {
        let mut file = open_locked(layout, order)?;
        let Some(read) = read(layout, order)? else {
            return Err(JournalError::Corrupt {
                path: layout.journal(order),
                record: 0,
                message: "empty".to_owned(),
            });
        };
        let fail = |source| FileError::Write {
            path: layout.journal(order),
            source,
        };
        file.set_len(read.good).map_err(fail)?;
        file.seek(SeekFrom::End(0)).map_err(fail)?;
        Ok(Self {
            file: Box::new(file),
            order,
            records: read.records,
            state: read.state,
        })
    }

    /// Writes an event that the machine allows, then takes it. It has reached the disk, with all before it, if something
    /// may follow that must not be there without it.
    pub fn append(&mut self, layout: &Layout, event: Event) -> Result<(), JournalError> {
        let state = apply(Some(self.state.clone()), event.clone())?;
        self.write(layout, event)?;
        self.state = state;
        Ok(())
    }

    fn write(&mut self, layout: &Layout, event: Event) -> Result<(), JournalError> {
        let (now, lasts) = (now(), must_last(&event));
        let bytes = encode(&Record {
            format: FORMAT,
            seq: self.records,
            boot_id: now.boot_id,
            boottime: now.at,
            at: Timestamp::now(),
            event,
            agent: VERSION.to_owned(),
        });
        let fail = |source| FileError::Write {
            path: layout.journal(self.order),
            source,
        };
        self.file.add(&bytes).map_err(fail)?;
        if lasts && !plant::is(Bug::SkipFsync) {
            self.file.sync().map_err(fail)?;
        }
        self.records += 1;
        Ok(())
    }
}

/// All attempts that have a journal, oldest first.
pub fn orders(layout: &Layout) -> Vec<Order> {
    let mut found: Vec<Order> = fs::read_dir(layout.root.join("journal"))
        .into_iter()
        .flatten()
        .filter_map(|e| {
            let name = e.ok()?.file_name().into_string().ok()?;
            crate::parse_order(&name)
        })
        .collect();
    found.sort_unstable();
    found
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
