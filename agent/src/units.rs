//! What systemd says of its units: one `systemctl show` for all of them, parsed. It judges nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::exec::{self, ExecError};

/// One call to systemd may take so long.
pub const SYSTEMCTL_LIMIT: Duration = Duration::from_secs(20);
/// Lines of a unit's journal that are told.
const LOG_LINES: usize = 10;
/// A told line is at most so long.
const LOG_LINE: usize = 400;
const PROPERTIES: &str = "--property=Id,LoadState,ActiveState,SubState,Type,NRestarts,Result,FragmentPath,\
WantedBy,RequiredBy,TriggeredBy,ConditionTimestampMonotonic,ConditionResult,Job,RemainAfterExit,UnitFileState,\
InvocationID,DropInPaths,RefuseManualStop";

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

/// Asks systemd for all of all units: as dear as it gets, a question a unit.
pub fn snapshot() -> Result<Units, ExecError> {
    look("*")
}

/// The same of sockets only.
pub fn sockets() -> Result<Units, ExecError> {
    look("*.socket")
}

fn look(which: &str) -> Result<Units, ExecError> {
    let out = exec::tool_ok(
        "systemctl",
        &["show", "--all", "--no-pager", PROPERTIES, which],
        SYSTEMCTL_LIMIT,
    )?;
    Ok(parse(&out))
}

/// What state all units are in, and nothing else of them: one question.
pub fn states() -> Result<Units, ExecError> {
    let args = [
        "list-units",
        "--all",
        "--full",
        "--plain",
        "--no-legend",
        "--no-pager",
    ];
    let out = exec::tool_ok("systemctl", &args, SYSTEMCTL_LIMIT)?;
    Ok(parse_states(&out))
}

fn parse_states(text: &str) -> Units {
    let unit = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let name = words.next()?;
        let unit = Unit {
            load: words.next()?,
            active: words.next()?,
            sub: words.next()?,
            ..Unit::default()
        };
        Some((name, unit))
    };
    text.lines().filter_map(unit).collect()
}

fn parse(text: &str) -> Units {
    let mut all = Units::new();
    for block in text.split("\n\n") {
        let mut unit = Unit::default();
        let mut id = "";
        let mut files: Vec<&str> = Vec::new();
        for line in block.lines() {
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let words = || value.split_whitespace().map(str::to_owned);
            match key {
                "Id" => id = value,
                "LoadState" => unit.load = value.to_owned(),
                "ActiveState" => unit.active = value.to_owned(),
                "SubState" => unit.sub = value.to_owned(),
                "Type" => unit.kind = value.to_owned(),
                "Result" => unit.result = value.to_owned(),
                "NRestarts" => unit.restarts = value.parse().unwrap_or(0),
                "InvocationID" => unit.invocation = value.to_owned(),
                "RefuseManualStop" => unit.keeps_its_process |= value == "yes",
                "DropInPaths" => files.extend(value.split_whitespace()),
                "FragmentPath" => {
                    files.push(value);
                    let real = std::fs::canonicalize(value).ok();
                    unit.file = real
                        .and_then(|p| p.to_str().map(str::to_owned))
                        .unwrap_or_else(|| value.to_owned());
                }
                "WantedBy" | "RequiredBy" => unit.wanted_by.extend(words()),
                "TriggeredBy" => unit.triggered_by.extend(words()),
                "ConditionTimestampMonotonic" => unit.tried = value != "0" && !value.is_empty(),
                "Job" => unit.job = !value.is_empty() && value != "0",
                "RemainAfterExit" => unit.remains = value == "yes",
                _ => {}
            }
        }
        if id.ends_with(".service") && unit.file.starts_with("/nix/store/") && unit.is_up() {
            files.sort_unstable();
            let text: Vec<String> = files.iter().map(definition).collect();
            define(&mut unit, &text.concat());
        }
        if !id.is_empty() {
            all.insert(id.to_owned(), unit);
        }
    }
    all
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

fn definition(path: &&str) -> String {
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

    #[test]
    fn lines_of_the_list_are_states() {
        let all = parse_states(
            "a.service loaded failed failed An application\n\nb.socket loaded active listening B\n",
        );
        assert_eq!(failed(&all), ["a.service"]);
        assert!(all["b.socket"].is_up());
    }

    #[test]
    fn blocks_are_units() {
        let all = parse(
            "Id=a.service\nActiveState=active\nSubState=running\nNRestarts=4\nWantedBy=x.target y.target\n\n\
             Id=b.socket\nActiveState=failed\nConditionTimestampMonotonic=0\n",
        );
        assert_eq!(all["a.service"].restarts, 4);
        assert_eq!(all["a.service"].wanted_by.len(), 2);
        assert_eq!(failed(&all), ["b.socket"]);
        assert!(!all["b.socket"].tried);
    }
}
