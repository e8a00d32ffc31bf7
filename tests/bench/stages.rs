//! The controller's log, read for the marks that its engine leaves at the end of each stage (`TRUEUP_LOG=stage=debug`).
//! Times are the machine's wall clock, which lab hosts share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::Value;

/// How often the log is looked at; a look reads what was added.
const LOOK: Duration = Duration::from_millis(20);

/// Seconds since 1970.
pub type At = f64;

pub fn now() -> At {
    seconds(SystemTime::now())
}

pub fn seconds(at: SystemTime) -> At {
    at.duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}

/// Stage of a host (`""`: of the trunk) to the time of its last end, for one revision.
pub type Marks = BTreeMap<(String, String), At>;

/// Follows one log.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
}

impl Log {
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// All marks of a revision until now.
    pub fn marks(&self, revision: &str) -> Result<Marks> {
        let text = std::fs::read_to_string(&self.path).context("reading the controller's log")?;
        let mut marks = Marks::new();
        for line in text.lines().filter(|l| l.contains(revision)) {
            let Ok(v) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            let (Some(stage), true) = (v["stage"].as_str(), v["revision"] == revision) else {
                continue;
            };
            let at = v["at"].as_str().or(v["timestamp"].as_str());
            let Some(at) = at.and_then(|t| t.parse::<trueup_schema::Timestamp>().ok()) else {
                continue;
            };
            let host = v["host"].as_str().unwrap_or_default().to_owned();
            let at = at.as_nanosecond() as f64 / 1e9;
            // What is done twice (two offers) ends with the last; `ready` is the first: what follows is upkeep.
            let slot = marks.entry((host, stage.to_owned())).or_insert(at);
            if stage != "ready" {
                *slot = at;
            }
        }
        Ok(marks)
    }

    /// Waits until each of `hosts` has `stage` at `revision`.
    pub fn until(
        &self,
        revision: &str,
        hosts: &[String],
        stage: &str,
        max: Duration,
    ) -> Result<Marks> {
        let began = std::time::Instant::now();
        loop {
            let marks = self.marks(revision)?;
            let there = |h: &String| marks.contains_key(&(h.clone(), stage.to_owned()));
            if hosts.iter().all(there) {
                return Ok(marks);
            }
            if began.elapsed() > max {
                let missing: Vec<&String> = hosts.iter().filter(|h| !there(h)).collect();
                anyhow::bail!("{missing:?} not {stage} after {max:?}");
            }
            std::thread::sleep(LOOK);
        }
    }

    pub fn tail(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    pub fn truncate(&self) -> Result<()> {
        // Opened for appending by the controller, so it goes on at the start.
        std::fs::File::options()
            .write(true)
            .open(&self.path)
            .and_then(|f| f.set_len(0))
            .context("emptying the controller's log")
    }
}
