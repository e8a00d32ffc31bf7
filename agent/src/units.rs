//! What systemd says of its units: the states of all, and details of those that need them. It judges nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bus::{Bus, Listed, Question, Value};
use crate::exec::{self, ExecError};

/// One call to systemd may take so long.
pub const SYSTEMCTL_LIMIT: Duration = Duration::from_secs(20);
/// Lines of a unit's journal that are told.
const LOG_LINES: usize = 10;
/// Units asked for in one call: their names must fit into a command line.
const MAX_ASKED: usize = 1000;
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

/// Units that something is to be known of beside their state: what stays up, and what starts it.
const SERVICE: &str = ".service";
const SOCKET: &str = ".socket";
const DETAILED: [(&str, &str); 4] = [
    (SERVICE, "org.freedesktop.systemd1.Service"),
    (SOCKET, "org.freedesktop.systemd1.Socket"),
    (".timer", "org.freedesktop.systemd1.Timer"),
    (".path", "org.freedesktop.systemd1.Path"),
];
const UNIT: &str = "org.freedesktop.systemd1.Unit";
/// Who starts a unit as it starts itself.
const WANTED_BY: [&str; 2] = ["WantedBy", "RequiredBy"];
/// What is asked of a unit's own interface, and then of its kind's. Each question costs systemd some 40 µs, so what nobody
/// looks at is not asked: only of a service that is up it counts from which definition its process is.
fn questions(name: &str, up: bool) -> (&'static [&'static str], &'static [&'static str]) {
    const WANTED: &[&str] = &[
        "FragmentPath",
        "TriggeredBy",
        "WantedBy",
        "RequiredBy",
        "ConditionTimestampMonotonic",
        "DropInPaths",
        "InvocationID",
        "RefuseManualStop",
    ];
    const SERVICES: &[&str] = &["Result", "Type", "NRestarts", "RemainAfterExit"];
    if !name.ends_with(SERVICE) {
        let own = if name.ends_with(SOCKET) { 5 } else { 2 };
        return (&WANTED[..own], &SERVICES[..1]);
    }
    (if up { WANTED } else { &WANTED[..5] }, SERVICES)
}

/// What is known of all units. Mounts, targets and the like are asked for their state only, and so is what is masked or
/// has no file and is down; and (but where `systemctl` has to be asked) a service that rests while nobody who is up wants it.
pub fn snapshot() -> Result<Units, ExecError> {
    looked(Wanted::All)
}

/// Sockets: their states and files.
pub fn sockets() -> Result<Units, ExecError> {
    let mut all = looked(Wanted::SocketFiles)?;
    all.retain(|name, _| name.ends_with(SOCKET));
    Ok(all)
}

/// Of which units details are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    All,
    SocketFiles,
    None,
}

impl Wanted {
    fn is(self, name: &str) -> bool {
        self == Self::All || self == Self::SocketFiles && name.ends_with(SOCKET)
    }
}

fn looked(wanted: Wanted) -> Result<Units, ExecError> {
    // Its private socket may be closed, or speak another way.
    over_bus(wanted).or_else(|_| over_systemctl(wanted))
}

/// Everything both ways, for a test that compares them on a real host.
#[cfg(feature = "planted")]
pub fn both_ways() -> Result<[Units; 2], crate::AgentError> {
    let bus = over_bus(Wanted::All).map_err(|e| crate::AgentError::Request(e.to_string()))?;
    Ok([bus, over_systemctl(Wanted::All)?])
}

fn over_systemctl(wanted: Wanted) -> Result<Units, ExecError> {
    let mut all = states_by_systemctl()?;
    let names: Vec<String> = all
        .iter()
        .filter(|(name, unit)| wanted.is(name) && details(name, unit).is_some())
        .map(|(name, _)| name.clone())
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for some in names.chunks(MAX_ASKED) {
        let args = ["show", "--all", "--no-pager", PROPERTIES, "--"];
        let out = exec::tool_ok("systemctl", &[&args, some].concat(), SYSTEMCTL_LIMIT)?;
        all.extend(parse(&out));
    }
    Ok(all)
}

/// The interface that has a unit's details, if they are to be asked.
fn details(name: &str, unit: &Unit) -> Option<&'static str> {
    let (_, interface) = DETAILED.iter().find(|(kind, _)| name.ends_with(kind))?;
    (unit.load == "loaded" || unit.active != "inactive").then_some(interface)
}

fn over_bus(wanted: Wanted) -> std::io::Result<Units> {
    let mut bus = Bus::open()?;
    let listed = bus.units()?;
    let mut all = Units::new();
    for row in &listed {
        let unit = Unit {
            load: row.load.clone(),
            active: row.active.clone(),
            sub: row.sub.clone(),
            job: row.job,
            ..Unit::default()
        };
        all.insert(row.name.clone(), unit);
    }
    let rests = |row: &&Listed| row.name.ends_with(SERVICE) && row.active == "inactive";
    let detailed =
        |row: &&Listed| wanted.is(&row.name) && details(&row.name, &all[&row.name]).is_some();
    let (resting, mut asked): (Vec<&Listed>, Vec<&Listed>) =
        listed.iter().filter(detailed).partition(rests);
    if !resting.is_empty() {
        // Most services that rest are wanted by nobody who is up, and then no more is asked of them.
        let who = |row: &&Listed| WANTED_BY.map(|p| (row.path.clone(), UNIT, p));
        let questions: Vec<_> = resting.iter().flat_map(who).collect();
        let questions: Vec<Question<'_>> = questions
            .iter()
            .map(|(path, of, p)| (path.as_str(), *of, *p))
            .collect();
        let answers = bus.ask(&questions)?;
        for (row, answers) in resting.iter().zip(answers.chunks(WANTED_BY.len())) {
            let names = answers
                .iter()
                .flatten()
                .cloned()
                .map(plain)
                .collect::<Vec<_>>()
                .join(" ");
            if names
                .split_whitespace()
                .any(|n| all.get(n).is_some_and(|u| u.active == "active"))
            {
                asked.push(row);
            }
        }
    }
    let mut questions_of: Vec<Question<'_>> = Vec::new();
    let mut of: Vec<&str> = Vec::new();
    for row in asked {
        let unit = &all[&row.name];
        let Some(interface) = details(&row.name, unit) else {
            continue;
        };
        let (every, own) = match wanted {
            Wanted::SocketFiles => (["FragmentPath"].as_slice(), [].as_slice()),
            _ => questions(&row.name, unit.is_up()),
        };
        questions_of.extend(every.iter().map(|p| (row.path.as_str(), UNIT, *p)));
        questions_of.extend(own.iter().map(|p| (row.path.as_str(), interface, *p)));
        of.resize(questions_of.len(), &row.name);
    }
    let mut files: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let answers = bus.ask(&questions_of)?;
    for ((name, (_, _, property)), answer) in of.iter().zip(&questions_of).zip(answers) {
        if let (Some(unit), Some(value)) = (all.get_mut(*name), answer) {
            unit.set(property, &plain(value), files.entry(name).or_default());
        }
    }
    for (name, files) in files {
        if let Some(unit) = all.get_mut(name) {
            unit.define_if_up(name, files);
        }
    }
    Ok(all)
}

/// As `systemctl show` prints it.
fn plain(value: Value) -> String {
    match value {
        Value::Text(text) => text,
        Value::Number(number) => number.to_string(),
        Value::Bool(yes) => if yes { "yes" } else { "no" }.to_owned(),
        Value::Bytes(bytes) => bytes.iter().map(|b| format!("{b:02x}")).collect(),
        Value::Texts(texts) => texts.join(" "),
    }
}

/// What state all units are in, and nothing else of them: one question.
pub fn states() -> Result<Units, ExecError> {
    over_bus(Wanted::None).or_else(|_| states_by_systemctl())
}

fn states_by_systemctl() -> Result<Units, ExecError> {
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
        let mut files = Vec::new();
        let pairs = || block.lines().filter_map(|line| line.split_once('='));
        let id = pairs().find(|(key, _)| *key == "Id").map_or("", |(_, v)| v);
        for (key, value) in pairs() {
            unit.set(key, value, &mut files);
        }
        if !id.is_empty() {
            unit.define_if_up(id, files);
            all.insert(id.to_owned(), unit);
        }
    }
    all
}

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

    #[test]
    fn what_is_masked_and_down_is_asked_for_its_state_only() {
        let all = parse_states(
            "a.service loaded inactive dead A\nb.service masked inactive dead B\nc.service masked active running C\n\
             d.service not-found inactive dead D\ne.mount loaded active mounted E\nf.timer loaded active waiting F\n",
        );
        let asked: Vec<&str> = all
            .iter()
            .filter(|(name, unit)| details(name, unit).is_some())
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(asked, ["a.service", "c.service", "f.timer"]);
    }

    #[test]
    fn a_property_says_the_same_whichever_way_it_came() {
        let told = parse(
            "Id=a.service\nWantedBy=x.target y.target\nInvocationID=0aff\nRemainAfterExit=yes\nNRestarts=3\n\
             ConditionTimestampMonotonic=17\n",
        );
        let mut unit = Unit::default();
        let texts = ["x.target", "y.target"].map(str::to_owned).to_vec();
        for (key, value) in [
            ("WantedBy", Value::Texts(texts)),
            ("InvocationID", Value::Bytes(vec![10, 255])),
            ("RemainAfterExit", Value::Bool(true)),
            ("NRestarts", Value::Number(3)),
            ("ConditionTimestampMonotonic", Value::Number(17)),
        ] {
            unit.set(key, &plain(value), &mut Vec::new());
        }
        assert_eq!(told["a.service"], unit);
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
