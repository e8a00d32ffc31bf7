//! Nix' internal-json log: what is being built, how far, and each derivation's own lines. Pure but for the log files.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
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

/// Activities that are followed; a build of a whole system has some thousands.
const ACTIVITIES_MAX: usize = 100_000;
/// Derivations named as under way.
const CURRENT_MAX: usize = 32;

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
    /// Derivations that were handed to another machine, and to which.
    pub(super) machines: BTreeMap<String, String>,
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
            machines: BTreeMap::new(),
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
        if self.kinds.len() >= ACTIVITIES_MAX {
            return false;
        }
        self.kinds.insert(id, kind);
        let Some(drv) = fields[0]
            .as_str()
            .filter(|drv| kind == BUILD && is_drv(drv))
        else {
            return false;
        };
        self.building.insert(id, drv.to_owned());
        if let Some(machine) = fields[1].as_str().filter(|m| !m.is_empty()) {
            let machine = machine.chars().take(300).collect();
            self.machines.insert(drv.to_owned(), machine);
        }
        true
    }

    fn result(&mut self, id: u64, kind: u64, fields: &Value) -> bool {
        match kind {
            PROGRESS
                if self.counts.len() < ACTIVITIES_MAX
                    && matches!(self.kinds.get(&id), Some(&(BUILDS | COPY_PATHS))) =>
            {
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
        let sum = |f: fn(&(u64, u64)) -> u64| {
            let add = |a: u64, c| a.saturating_add(f(c));
            self.counts.values().fold(0, add)
        };
        let name = |drv: &String| {
            let name = drv.rsplit('/').next().unwrap_or_default();
            name.get(33..)
                .unwrap_or(name)
                .trim_end_matches(".drv")
                .to_owned()
        };
        // A derivation on another machine is told twice: by our Nix, and by the one over there.
        let current: BTreeSet<&String> = self.building.values().collect();
        BuildProgress {
            done: sum(|c| c.0),
            expected: sum(|c| c.1),
            current: current.into_iter().map(name).take(CURRENT_MAX).collect(),
        }
    }

    /// What other machines build now, and which.
    pub(super) fn under_way(&self) -> impl Iterator<Item = (&String, &String)> {
        let drvs = self.building.values();
        drvs.filter_map(|drv| Some((drv, self.machines.get(drv)?)))
    }

    /// The same with those errors alone that name one of these derivations, or several of which one is such.
    pub(super) fn only(&self, ours: impl Fn(&str) -> bool) -> Self {
        let concerns = |e: &&String| derivations(e).any(&ours);
        Self {
            folder: self.folder.clone(),
            kinds: BTreeMap::new(),
            building: BTreeMap::new(),
            counts: BTreeMap::new(),
            tails: self.tails.clone(),
            written: BTreeMap::new(),
            machines: self.machines.clone(),
            errors: self.errors.iter().filter(concerns).cloned().collect(),
        }
    }

    pub(super) fn tail(&self, drv: &str) -> Vec<String> {
        let tail = self.tails.get(drv);
        tail.map(|t| t.iter().cloned().collect())
            .unwrap_or_default()
    }
}

/// Derivations that a text of Nix names, each between quotes, some with an output: `….drv^out`.
fn derivations(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split('\'').map(|t| t.split('^').next().unwrap_or(t));
    quoted.filter(|t| is_drv(t))
}

/// A derivation as Nix names it, and no way out of a folder of logs.
fn is_drv(text: &str) -> bool {
    text.parse::<trueup_schema::DrvPath>().is_ok()
}

/// Where a derivation's log is kept.
pub(super) fn file(folder: &Path, drv: &str) -> PathBuf {
    let base = drv.rsplit('/').next().unwrap_or_default();
    folder.join(format!("{}.log", base.trim_end_matches(".drv")))
}

/// Logs in a folder whose derivation's hash begins so: with enough of it, one.
pub fn find(folder: &Path, hash: &str) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        if name.to_string_lossy().starts_with(hash) {
            found.push(folder.join(name));
        }
    }
    found.sort();
    Ok(found)
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
        // With an output: `….drv^out`.
        let drv = rest.split('\'').nth(1)?.split('^').next()?;
        (drv.starts_with("/nix/store/") && drv.ends_with(".drv")).then(|| drv.to_owned())
    };
    let by = |after: &str| errors.iter().find_map(|e| named(e, after));
    by("builder for ")
        .or_else(|| by("Cannot build "))
        .or_else(|| by("building of "))
        .or_else(|| by("build of "))
        .or_else(|| by("derivation "))
}

/// What the machine that was to build something said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MachineSaid {
    /// That the build failed.
    Failed,
    /// That it does not build it: wrong system, a feature that it lacks, no trust.
    Refused(String),
    /// Nothing: the connection broke. Our Nix then says that the *builder* failed, as if it had run to its end.
    Nothing,
}

pub(super) fn machine_said(errors: &VecDeque<String>, drv: &str) -> MachineSaid {
    let told = format!("build of '{drv}' on ");
    let Some((_, said)) = errors.iter().find_map(|e| e.split_once(&told)) else {
        return MachineSaid::Nothing;
    };
    let by_itself = [
        "builder for ",
        "hash mismatch",
        "timed out after",
        "Cannot build",
    ];
    if by_itself.iter().any(|what| said.contains(what)) {
        return MachineSaid::Failed;
    }
    let why = said
        .split_once("failed:")
        .map_or(said, |(_, why)| why)
        .trim();
    let why = why.trim_start_matches("error:").trim();
    MachineSaid::Refused(
        why.lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(300)
            .collect(),
    )
}

/// A machine that could not be reached, and why: `cannot build on 'ssh-ng://…': error: …`.
pub(super) fn unreachable(errors: &VecDeque<String>) -> Option<(String, String)> {
    errors.iter().find_map(|e| {
        let (_, rest) = e.split_once("cannot build on '")?;
        let (machine, why) = rest.split_once('\'')?;
        let why = why
            .trim_start_matches(':')
            .trim()
            .trim_start_matches("error:")
            .trim();
        Some((machine.to_owned(), why.chars().take(300).collect()))
    })
}

/// The first of the errors that is not about the build itself.
pub(super) fn last(errors: &VecDeque<String>) -> String {
    let other = errors.iter().find(|e| !e.contains("builder for "));
    let text = other
        .or(errors.back())
        .map_or("the connection broke", String::as_str);
    text.trim_start_matches("error:")
        .trim()
        .chars()
        .take(300)
        .collect()
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
    fn a_build_elsewhere_is_told_once_and_its_machine_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = BuildLog::new(dir.path());
        let drv = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x.drv";
        for (id, machine) in [(1, "ssh-ng://b1"), (2, "")] {
            log.take(&format!(
                r#"@nix {{"action":"start","id":{id},"type":105,"fields":["{drv}","{machine}",1,1]}}"#
            ));
        }
        assert_eq!(log.progress().current, ["x"]);
        assert_eq!(log.machines[drv], "ssh-ng://b1");
        let lost = VecDeque::from([
            "error: Nix daemon disconnected unexpectedly (maybe it crashed?)".to_owned(),
            format!("error: builder for '{drv}' failed with exit code 1"),
        ]);
        assert_eq!(machine_said(&lost, drv), MachineSaid::Nothing);
        assert!(last(&lost).contains("disconnected"));
        let failed = VecDeque::from([format!(
            "error: build of '{drv}' on 'ssh-ng://b1' failed: builder for '{drv}' failed with exit code 3"
        )]);
        assert_eq!(machine_said(&failed, drv), MachineSaid::Failed);
        let refused = VecDeque::from([format!(
            "error: build of '{drv}' on 'ssh-ng://b1' failed: error: a 'x86_64-linux' with features {{kvm}} is required"
        )]);
        assert!(
            matches!(machine_said(&refused, drv), MachineSaid::Refused(why) if why.starts_with("a 'x86"))
        );
        let away = VecDeque::from(["cannot build on 'ssh-ng://b1': error: no route".to_owned()]);
        assert_eq!(
            unreachable(&away),
            Some(("ssh-ng://b1".to_owned(), "no route".to_owned()))
        );
    }

    proptest::proptest! {
        #[test]
        fn no_line_of_nix_panics_or_writes_outside(
            lines in proptest::collection::vec(line(), 0..40)
        ) {
            let dir = tempfile::tempdir().unwrap();
            let logs = dir.path().join("logs");
            std::fs::create_dir(&logs).unwrap();
            let mut log = BuildLog::new(&logs);
            for line in &lines {
                log.take(line);
                let p = log.progress();
                assert!(p.current.len() <= CURRENT_MAX);
            }
            assert!(log.errors.len() <= MESSAGES_MAX);
            if let Some(drv) = culprit(&log.errors) {
                machine_said(&log.errors, &drv);
            }
            unreachable(&log.errors);
            last(&log.errors);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }

        #[test]
        fn plain_text_has_no_control_characters(text: String) {
            assert!(!plain(&text).chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
        }
    }

    /// Lines as Nix prints them, some with wrong types or names, and some that are not.
    fn line() -> impl proptest::strategy::Strategy<Value = String> {
        use proptest::prelude::*;
        let drv = prop_oneof![
            Just("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x.drv".to_owned()),
            Just("../../evil.drv".to_owned()),
            Just("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-../../x.drv".to_owned()),
            any::<String>(),
        ];
        let field = prop_oneof![
            drv.prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            Just(Value::Null),
        ];
        let message = (
            prop_oneof![
                Just("start"),
                Just("stop"),
                Just("result"),
                Just("msg"),
                Just("x")
            ],
            0_u64..4,
            100_u64..108,
            proptest::collection::vec(field, 0..4),
            any::<String>(),
        );
        let message = message.prop_map(|(action, id, kind, fields, msg)| {
            let v = serde_json::json!({
                "action": action, "id": id, "type": kind, "level": 0, "fields": fields, "msg": msg
            });
            format!("@nix {v}")
        });
        prop_oneof![4 => message, 1 => any::<String>(), 1 => any::<String>().prop_map(|s| format!("@nix {s}"))]
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
