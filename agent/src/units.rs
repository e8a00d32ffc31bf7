//! A unit as systemd tells of it: what it is, what its process was made from, and what is done to it; units that systemd
//! makes at our word. It judges nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::exec::{self, ExecError};

mod ask;
pub mod seen;
mod start;

#[cfg(feature = "planted")]
pub use ask::both_ways;
pub use ask::{for_judging, snapshot, sockets, states};
#[cfg(feature = "planted")]
pub use start::both_ways as made_both_ways;
pub use start::{LASTING, Setting, Stand, Transient, start, start_all, stop_soon};

/// One call to systemd may take so long.
pub const SYSTEMCTL_LIMIT: Duration = Duration::from_secs(20);
/// Lines of a unit's journal that are told.
const LOG_LINES: usize = 10;
/// A told line is at most so long.
const LOG_LINE: usize = 400;

/// One unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Unit {
    /// `loaded`, `not-found`, `masked`.
    pub load: String,
    /// `active`, `failed` …
    pub active: String,
    /// `running`, `auto-restart` …
    pub sub: String,
    /// `oneshot` …
    pub kind: String,
    /// `success` or what it failed of.
    pub result: String,
    /// Automatic restarts.
    pub restarts: u32,
    /// Where its file lies, links followed.
    pub file: String,
    /// Units that want or require it.
    pub wanted_by: Vec<String>,
    /// Sockets, timers and paths that start it.
    pub triggered_by: Vec<String>,
    /// Its conditions were looked at in this boot.
    pub tried: bool,
    /// A job of it is queued.
    pub job: bool,
    /// Lasts after its process ended.
    pub remains: bool,
    /// Which run of it this is: another one after each start.
    pub invocation: String,
    /// Of its definition, as far as a change of it wants a restart; empty where it is not of a closure, or does not run.
    pub digest: String,
    /// Its definition says that a switch leaves its process alone, or only reloads it.
    pub keeps_its_process: bool,
}

/// All loaded units by name.
pub type Units = BTreeMap<String, Unit>;

impl Unit {
    /// Up, or on the way.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading")
            || (self.active == "activating" && self.sub != "auto-restart")
    }
}

/// What a service's name ends with.
const SERVICE: &str = ".service";

impl Unit {
    /// Takes one property in; `files` gets those of its definition.
    fn set(&mut self, key: &str, value: &str, files: &mut Vec<String>) {
        let words = || value.split_whitespace().map(str::to_owned);
        match key {
            "LoadState" => value.clone_into(&mut self.load),
            "ActiveState" => value.clone_into(&mut self.active),
            "SubState" => value.clone_into(&mut self.sub),
            "Type" => value.clone_into(&mut self.kind),
            "Result" => value.clone_into(&mut self.result),
            "NRestarts" => self.restarts = value.parse().unwrap_or(0),
            "InvocationID" => value.clone_into(&mut self.invocation),
            "RefuseManualStop" => self.keeps_its_process |= value == "yes",
            "DropInPaths" => files.extend(words()),
            "FragmentPath" => {
                files.push(value.to_owned());
                let real = std::fs::canonicalize(value).ok();
                self.file = real
                    .and_then(|p| p.to_str().map(str::to_owned))
                    .unwrap_or_else(|| value.to_owned());
            }
            "WantedBy" | "RequiredBy" => self.wanted_by.extend(words()),
            "TriggeredBy" => self.triggered_by.extend(words()),
            "ConditionTimestampMonotonic" => self.tried = value != "0" && !value.is_empty(),
            "Job" => self.job = !value.is_empty() && value != "0",
            "RemainAfterExit" => self.remains = value == "yes",
            _ => {}
        }
    }

    /// Of services of a closure: what their process should be.
    fn define_if_up(&mut self, id: &str, mut files: Vec<String>) {
        if id.ends_with(SERVICE) && self.file.starts_with("/nix/store/") && self.is_up() {
            files.sort_unstable();
            let text: Vec<String> = files.iter().map(definition).collect();
            define(self, &text.concat());
        }
    }
}

/// Keys whose change wants no restart: the switch ignores or only reloads for them.
const IDLE_KEYS: [&str; 6] = [
    "Description",
    "Documentation",
    "OnFailure",
    "OnSuccess",
    "X-Reload-Triggers",
    "SourcePath",
];
/// A definition longer than this is cut.
const MAX_DEFINITION: usize = 1 << 20;

fn definition(path: &String) -> String {
    let mut text = crate::files::text(path);
    text.truncate(text.floor_char_boundary(MAX_DEFINITION));
    text.push('\n');
    text
}

fn define(unit: &mut Unit, text: &str) {
    let key = |line: &str| line.split('=').next().unwrap_or("").trim().to_owned();
    let counts = |line: &&str| {
        let line = line.trim();
        !line.is_empty()
            && !line.starts_with(['#', ';'])
            && !IDLE_KEYS.contains(&key(line).as_str())
    };
    let kept: Vec<&str> = text.lines().filter(counts).collect();
    unit.digest = trueup_schema::Digest::of(kept.join("\n").as_bytes()).to_string();
    unit.keeps_its_process |= kept.iter().any(|line| {
        matches!(
            (
                key(line).as_str(),
                line.split_once('=').map_or("", |(_, v)| v.trim())
            ),
            ("X-RestartIfChanged", "false" | "no" | "0")
                | (
                    "X-ReloadIfChanged" | "X-OnlyManualStart" | "RefuseManualStop",
                    "true" | "yes" | "1"
                )
        )
    });
}

/// Names of failed units, our own left out.
#[must_use]
pub fn failed(units: &Units) -> Vec<String> {
    units
        .iter()
        .filter(|(name, u)| u.active == "failed" && !ours(name))
        .map(|(name, _)| name.clone())
        .collect()
}

/// Units that this program makes.
#[must_use]
pub fn ours(name: &str) -> bool {
    name.starts_with("trueup-")
}

/// What systemd is waiting for.
#[must_use]
pub fn jobs() -> Vec<String> {
    let out = exec::tool_ok(
        "systemctl",
        &["list-jobs", "--no-legend", "--no-pager"],
        SYSTEMCTL_LIMIT,
    );
    out.unwrap_or_default()
        .lines()
        .take(64)
        .map(|l| l.split_whitespace().skip(1).collect::<Vec<_>>().join(" "))
        .collect()
}

/// The last lines of a unit's journal.
#[must_use]
pub fn log(unit: &str) -> Vec<String> {
    let count = LOG_LINES.to_string();
    let args = ["-u", unit, "-n", &count, "-o", "cat", "--no-pager", "-b"];
    let out = exec::tool_ok("journalctl", &args, SYSTEMCTL_LIMIT).unwrap_or_default();
    out.lines()
        .map(|l| l.chars().take(LOG_LINE).collect())
        .collect()
}

/// `systemctl VERB -- UNIT…`, bounded; errors are told, not fatal.
pub fn systemctl(verb: &[&str], names: &[&str], limit: Duration) -> Result<(), ExecError> {
    let mut args: Vec<&str> = verb.to_vec();
    args.push("--");
    args.extend_from_slice(names);
    exec::tool_ok("systemctl", &args, limit).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_is_what_wants_a_restart() {
        let of = |text: &str| {
            let mut unit = Unit::default();
            define(&mut unit, text);
            unit
        };
        let base = "[Service]\nExecStart=/a\n";
        assert_eq!(
            of(base).digest,
            of("[Service]\n# why\nExecStart=/a\nDocumentation=x\n").digest
        );
        assert_ne!(of(base).digest, of("[Service]\nExecStart=/b\n").digest);
        assert!(of("X-RestartIfChanged=false\n").keeps_its_process);
        assert!(!of(base).keeps_its_process);
    }
}
