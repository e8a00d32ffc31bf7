//! How systemd is asked of its units: over its own socket, or by `systemctl` where that is closed. The states of all, and
//! details of those that need them.

use std::collections::BTreeMap;

use super::{SERVICE, SYSTEMCTL_LIMIT, Unit, Units};
use crate::bus::{Bus, Listed, Question, Value};
use crate::exec::{self, ExecError};

/// Units asked for in one call: their names must fit into a command line.
const MAX_ASKED: usize = 1000;
const PROPERTIES: &str = "--property=Id,LoadState,ActiveState,SubState,Type,NRestarts,Result,FragmentPath,\
WantedBy,RequiredBy,TriggeredBy,ConditionTimestampMonotonic,ConditionResult,Job,RemainAfterExit,UnitFileState,\
InvocationID,DropInPaths,RefuseManualStop";

/// Units that something is to be known of beside their state: what stays up, and what starts it.
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

/// What tells whether units were harmed, and whose process is of another definition: of who is up less than of who is not.
pub fn for_judging() -> Result<Units, ExecError> {
    looked(Wanted::Judged)
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
    Judged,
    SocketFiles,
    None,
}

impl Wanted {
    fn is(self, name: &str) -> bool {
        match self {
            Self::All | Self::Judged => true,
            Self::SocketFiles => name.ends_with(SOCKET),
            Self::None => false,
        }
    }

    /// The questions about a unit, and about its kind.
    fn of(self, name: &str, up: bool) -> (&'static [&'static str], &'static [&'static str]) {
        const PROCESS: &[&str] = &["FragmentPath", "DropInPaths", "InvocationID"];
        match self {
            Self::SocketFiles => (&["FragmentPath"], &[]),
            Self::Judged if up && name.ends_with(SERVICE) => (PROCESS, &["NRestarts"]),
            Self::Judged if up => (&[], &[]),
            _ => questions(name, up),
        }
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
    let state = |row: &Listed| Unit {
        load: row.load.clone(),
        active: row.active.clone(),
        sub: row.sub.clone(),
        job: row.job,
        ..Unit::default()
    };
    let mut all: Units = listed
        .iter()
        .map(|row| (row.name.clone(), state(row)))
        .collect();
    let detailed =
        |row: &&Listed| wanted.is(&row.name) && details(&row.name, &all[&row.name]).is_some();
    let rests = |row: &&Listed| row.name.ends_with(SERVICE) && row.active == "inactive";
    let (resting, mut asked): (Vec<&Listed>, Vec<&Listed>) =
        listed.iter().filter(detailed).partition(rests);
    asked.extend(wanted_by_who_is_up(&mut bus, &all, resting)?);

    let mut asking: Vec<Question<'_>> = Vec::new();
    let mut of: Vec<&str> = Vec::new();
    for row in asked {
        let unit = &all[&row.name];
        let Some(interface) = details(&row.name, unit) else {
            continue;
        };
        let (every, own) = wanted.of(&row.name, unit.is_up());
        asking.extend(every.iter().map(|p| (row.path.as_str(), UNIT, *p)));
        asking.extend(own.iter().map(|p| (row.path.as_str(), interface, *p)));
        of.resize(asking.len(), &row.name);
    }
    let mut files: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for ((name, (_, _, property)), answer) in of.iter().zip(&asking).zip(bus.ask(&asking)?) {
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

/// Most services that rest are wanted by nobody who is up, and then no more is asked of them.
fn wanted_by_who_is_up<'r>(
    bus: &mut Bus,
    all: &Units,
    mut resting: Vec<&'r Listed>,
) -> std::io::Result<Vec<&'r Listed>> {
    let asking: Vec<Question<'_>> = resting
        .iter()
        .flat_map(|row| WANTED_BY.map(|p| (row.path.as_str(), UNIT, p)))
        .collect();
    let answers = bus.ask(&asking)?;
    let is_up = |name: &str| all.get(name).is_some_and(|u| u.active == "active");
    let mut answers = answers.chunks(WANTED_BY.len());
    resting.retain(|_| {
        let by = answers.next().unwrap_or_default().iter().flatten();
        by.cloned()
            .map(plain)
            .any(|names| names.split_whitespace().any(is_up))
    });
    Ok(resting)
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

#[cfg(test)]
mod tests {
    use super::super::failed;
    use super::*;

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
