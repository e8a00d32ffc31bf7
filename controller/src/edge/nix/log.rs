//! Nix' internal-json log: what is being built, how far, and each derivation's own lines. Pure but for the log files.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use trueup_engine::ports::BuildProgress;

/// Of one derivation's log on the disk.
const LOG_BYTES: u64 = 16 << 20;
/// Of one derivation's log in an error.
const TAIL_LINES: usize = 25;
/// Derivations whose tail is remembered.
const TAILS_MAX: usize = 256;
/// Messages of Nix itself, kept for the error.
const MESSAGES_MAX: usize = 50;

// Nix' numbers of activities and results (src/libutil/logging.hh).
const COPY_PATHS: u64 = 103;
const BUILDS: u64 = 104;
const BUILD: u64 = 105;
const LOG_LINE: u64 = 101;
const POST_BUILD_LINE: u64 = 107;
const PROGRESS: u64 = 105;

/// What a build has said so far.
#[derive(Debug)]
pub(super) struct BuildLog {
    folder: PathBuf,
    kinds: BTreeMap<u64, u64>,
    building: BTreeMap<u64, String>,
    counts: BTreeMap<u64, (u64, u64)>,
    tails: BTreeMap<String, VecDeque<String>>,
    written: BTreeMap<String, u64>,
    /// Errors that Nix printed, oldest first.
    pub(super) errors: VecDeque<String>,
}

impl BuildLog {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            kinds: BTreeMap::new(),
            building: BTreeMap::new(),
            counts: BTreeMap::new(),
            tails: BTreeMap::new(),
            written: BTreeMap::new(),
            errors: VecDeque::new(),
        }
    }

    /// Takes one line; true if progress changed.
    pub(super) fn take(&mut self, line: &str) -> bool {
        let Some(json) = line.strip_prefix("@nix ") else {
            self.error(line);
            return false;
        };
        let Ok(v) = serde_json::from_str::<Value>(json) else {
            return false;
        };
        let id = v["id"].as_u64().unwrap_or(0);
        let kind = v["type"].as_u64().unwrap_or(0);
        match v["action"].as_str() {
            Some("start") => self.start(id, kind, &v["fields"]),
            Some("stop") => {
                self.kinds.remove(&id);
                self.building.remove(&id).is_some()
            }
            Some("result") => self.result(id, kind, &v["fields"]),
            Some("msg") if v["level"].as_u64() == Some(0) => {
                self.error(v["msg"].as_str().unwrap_or_default());
                false
            }
            _ => false,
        }
    }

    fn start(&mut self, id: u64, kind: u64, fields: &Value) -> bool {
        self.kinds.insert(id, kind);
        if kind == BUILD
            && let Some(drv) = fields[0].as_str()
        {
            self.building.insert(id, drv.to_owned());
            return true;
        }
        false
    }

    fn result(&mut self, id: u64, kind: u64, fields: &Value) -> bool {
        match kind {
            PROGRESS if matches!(self.kinds.get(&id), Some(&(BUILDS | COPY_PATHS))) => {
                let n = |i: usize| fields[i].as_u64().unwrap_or(0);
                self.counts.insert(id, (n(0), n(1))) != Some((n(0), n(1)))
            }
            LOG_LINE | POST_BUILD_LINE => {
                if let (Some(drv), Some(text)) =
                    (self.building.get(&id).cloned(), fields[0].as_str())
                {
                    self.line(&drv, text);
                }
                false
            }
            _ => false,
        }
    }

    fn error(&mut self, text: &str) {
        let text = plain(text);
        if text.trim().is_empty() {
            return;
        }
        if self.errors.len() == MESSAGES_MAX {
            self.errors.pop_front();
        }
        self.errors.push_back(text.chars().take(4000).collect());
    }

    fn line(&mut self, drv: &str, text: &str) {
        if self.tails.contains_key(drv) || self.tails.len() < TAILS_MAX {
            let tail = self.tails.entry(drv.to_owned()).or_default();
            if tail.len() == TAIL_LINES {
                tail.pop_front();
            }
            tail.push_back(plain(text).chars().take(1000).collect());
        }
        let first = !self.written.contains_key(drv);
        let written = self.written.entry(drv.to_owned()).or_default();
        if *written > LOG_BYTES {
            return;
        }
        *written += text.len() as u64 + 1;
        let path = file(&self.folder, drv);
        let mut options = std::fs::OpenOptions::new();
        options
            .create(true)
            .write(true)
            .append(!first)
            .truncate(first);
        // A log that can't be written stops no build.
        if let Err(e) = options.open(&path).and_then(|mut f| writeln!(f, "{text}")) {
            tracing::warn!(path = %path.display(), error = %e, "a build's log is not written");
        }
    }

    pub(super) fn progress(&self) -> BuildProgress {
        let sum = |f: fn(&(u64, u64)) -> u64| self.counts.values().map(f).sum();
        let name = |drv: &String| {
            let name = drv.rsplit('/').next().unwrap_or_default();
            name.get(33..)
                .unwrap_or(name)
                .trim_end_matches(".drv")
                .to_owned()
        };
        BuildProgress {
            done: sum(|c| c.0),
            expected: sum(|c| c.1),
            current: self.building.values().map(name).collect(),
        }
    }

    pub(super) fn tail(&self, drv: &str) -> Vec<String> {
        let tail = self.tails.get(drv);
        tail.map(|t| t.iter().cloned().collect())
            .unwrap_or_default()
    }
}

/// Where a derivation's log is kept.
pub(super) fn file(folder: &Path, drv: &str) -> PathBuf {
    let base = drv.rsplit('/').next().unwrap_or_default();
    folder.join(format!("{}.log", base.trim_end_matches(".drv")))
}

/// Without colours and other control sequences: it goes to a database and to terminals of others.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                if chars.next() == Some('[') {
                    chars.find(|c| c.is_ascii_alphabetic());
                }
            }
            '\n' | '\t' => out.push(c),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// The derivation at fault: the first that Nix names as failed by itself, else the first named at all.
pub(super) fn culprit(errors: &VecDeque<String>) -> Option<String> {
    let named = |text: &str, after: &str| {
        let rest = &text[text.find(after)? + after.len()..];
        let drv = rest.split('\'').nth(1)?;
        (drv.starts_with("/nix/store/") && drv.ends_with(".drv")).then(|| drv.to_owned())
    };
    let by = |after: &str| errors.iter().find_map(|e| named(e, after));
    by("builder for ")
        .or_else(|| by("Cannot build "))
        .or_else(|| by("build of "))
        .or_else(|| by("derivation "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_build_are_kept_under_its_derivation() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = BuildLog::new(dir.path());
        let drv = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x.drv";
        assert!(log.take(&format!(
            r#"@nix {{"action":"start","id":7,"type":105,"fields":["{drv}","",1,1]}}"#
        )));
        assert_eq!(log.progress().current, ["x"]);
        log.take(
            r#"@nix {"action":"result","id":7,"type":101,"fields":["\u001b[31mhello\u001b[0m"]}"#,
        );
        assert_eq!(log.tail(drv), ["hello"]);
        assert!(file(dir.path(), drv).exists());
        log.take(r#"@nix {"action":"start","id":8,"type":104}"#);
        log.take(r#"@nix {"action":"result","id":8,"type":105,"fields":[3,9,1,0]}"#);
        assert_eq!((log.progress().done, log.progress().expected), (3, 9));
    }

    #[test]
    fn the_dependency_that_failed_is_named_and_not_what_needs_it() {
        let errors = VecDeque::from([
            "error: builder for '/nix/store/a-dep.drv' failed with exit code 1".to_owned(),
            "error: 1 dependencies of derivation '/nix/store/b-top.drv' failed to build".to_owned(),
        ]);
        assert_eq!(culprit(&errors).unwrap(), "/nix/store/a-dep.drv");
    }
}
