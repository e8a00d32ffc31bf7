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
WantedBy,RequiredBy,TriggeredBy,ConditionTimestampMonotonic,ConditionResult,Job,RemainAfterExit,UnitFileState";

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

/// Asks systemd for all.
pub fn snapshot() -> Result<Units, ExecError> {
    let out = exec::tool_ok(
        "systemctl",
        &["show", "--all", "--no-pager", PROPERTIES, "*"],
        SYSTEMCTL_LIMIT,
    )?;
    Ok(parse(&out))
}

fn parse(text: &str) -> Units {
    let mut all = Units::new();
    for block in text.split("\n\n") {
        let mut unit = Unit::default();
        let mut id = "";
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
                "FragmentPath" => {
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
        if !id.is_empty() {
            all.insert(id.to_owned(), unit);
        }
    }
    all
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
