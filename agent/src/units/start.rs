//! Units without a file, which systemd makes at our word: told over its own socket, or by `systemd-run` where that is closed.
//! A program of systemd's takes longer to start than systemd to make the unit, and an activation needs three.

use std::thread;
use std::time::{Duration, Instant};

use super::SYSTEMCTL_LIMIT;
use crate::bus::{self, Bus, Property, Question, Value};
use crate::exec::{self, ExecError};

const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
/// Between two looks at a unit that starts: its program has only to be executed.
const LOOK: Duration = Duration::from_millis(3);

/// One setting, named as in a unit's file.
#[derive(Debug, Clone)]
pub enum Setting<'a> {
    /// As it stands there.
    Text(&'a str, &'a str),
    /// `yes` or `no`.
    Bool(&'a str, bool),
    /// A number that may be below zero.
    Signed(&'a str, i32),
    /// A time in microseconds; its name ends with `Sec`.
    Micros(&'a str, u64),
    /// A stream that is appended to this file.
    Append(&'a str, &'a str),
    /// Of a timer: so many microseconds after userspace began.
    OnStartup(u64),
}

impl Setting<'_> {
    /// For `systemd-run`.
    fn word(&self) -> String {
        match self {
            Self::Text(name, value) => format!("{name}={value}"),
            Self::Bool(name, value) => format!("{name}={}", if *value { "yes" } else { "no" }),
            Self::Signed(name, value) => format!("{name}={value}"),
            Self::Micros(name, value) => format!("{name}={value}us"),
            Self::Append(name, file) => format!("{name}=append:{file}"),
            Self::OnStartup(value) => format!("OnStartupSec={value}us"),
        }
    }

    /// For the socket.
    fn property(&self) -> (String, Property) {
        match self {
            Self::Text(name, value) => ((*name).to_owned(), Property::Text((*value).to_owned())),
            Self::Bool(name, value) => ((*name).to_owned(), Property::Bool(*value)),
            Self::Signed(name, value) => ((*name).to_owned(), Property::Signed(*value)),
            Self::Micros(name, value) => {
                let name = name.strip_suffix("Sec").unwrap_or(name);
                (format!("{name}USec"), Property::Number(*value))
            }
            Self::Append(name, file) => (
                format!("{name}FileToAppend"),
                Property::Text((*file).to_owned()),
            ),
            Self::OnStartup(value) => {
                let base = Property::Timer("OnStartupSec", *value);
                ("TimersMonotonic".to_owned(), base)
            }
        }
    }
}

/// Of a service that outlives who asked for it and every switch of the host, and is started again when it is killed.
pub const LASTING: [Setting<'static>; 6] = [
    Setting::Text("Type", "exec"),
    Setting::Text("Restart", "on-failure"),
    Setting::Micros("StartLimitIntervalSec", 0),
    Setting::Micros("TimeoutStopSec", 5_000_000),
    Setting::Text("KillMode", "control-group"),
    Setting::Bool("IgnoreOnIsolate", true),
];

/// A service that is to be started; it is forgotten when it has ended, failed or not.
#[derive(Debug)]
pub struct Transient<'a> {
    /// Without its suffix.
    pub name: &'a str,
    /// Of the service.
    pub service: &'a [Setting<'a>],
    /// Of the timer that starts it; without any it is started now.
    pub timer: &'a [Setting<'a>],
    /// The program, and its words.
    pub command: &'a [&'a str],
}

impl Transient<'_> {
    /// What is started now: the service, or its timer.
    #[must_use]
    pub fn unit(&self) -> String {
        let kind = if self.timer.is_empty() {
            "service"
        } else {
            "timer"
        };
        format!("{}.{kind}", self.name)
    }

    fn properties(&self) -> Vec<(String, Property)> {
        let words = self.command.iter().map(|w| (*w).to_owned()).collect();
        let mut all: Vec<_> = self.service.iter().map(Setting::property).collect();
        all.push(("ExecStart".to_owned(), Property::Command(words)));
        all
    }

    fn over_bus(&self, bus: &mut Bus) -> std::io::Result<()> {
        let collect = || {
            let how = Property::Text("inactive-or-failed".to_owned());
            ("CollectMode".to_owned(), how)
        };
        let mut service = self.properties();
        service.push(collect());
        if self.timer.is_empty() {
            return bus.start_transient(&self.unit(), &service, None);
        }
        let mut timer: Vec<_> = self.timer.iter().map(Setting::property).collect();
        timer.push(collect());
        let name = format!("{}.service", self.name);
        bus.start_transient(&self.unit(), &timer, Some((&name, &service)))
    }

    fn args(&self, wait: bool) -> Vec<String> {
        let mut args = ["--quiet", "--no-ask-password", "--collect"]
            .map(str::to_owned)
            .to_vec();
        if !wait {
            args.push("--no-block".to_owned());
        }
        args.push(format!("--unit={}", self.name));
        for setting in self.timer {
            args.extend(["--timer-property".to_owned(), setting.word()]);
        }
        for setting in self.service {
            args.extend(["-p".to_owned(), setting.word()]);
        }
        args.push("--".to_owned());
        args.extend(self.command.iter().map(|w| (*w).to_owned()));
        args
    }

    fn by_systemd_run(&self, wait: bool) -> Result<(), ExecError> {
        let args = self.args(wait);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        exec::tool_ok("systemd-run", &args, SYSTEMCTL_LIMIT).map(|_| ())
    }
}

/// Makes it, and does not wait for it.
pub fn start(unit: &Transient<'_>) -> Result<(), ExecError> {
    let told = Bus::open().and_then(|mut bus| unit.over_bus(&mut bus));
    told.or_else(|_| unit.by_systemd_run(false))
}

/// How units stand that were started.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stand {
    /// Of each: `active`, `activating`, `failed` …
    pub states: Vec<String>,
    /// The first one's process.
    pub pid: u64,
}

/// Makes them and waits until each has started, or has not.
pub fn start_all(units: &[Transient<'_>]) -> Result<Stand, ExecError> {
    let mut bus = Bus::open().ok();
    for unit in units {
        let told = bus.as_mut().map(|bus| unit.over_bus(bus));
        if !matches!(told, Some(Ok(()))) {
            unit.by_systemd_run(true)?;
        }
    }
    let names: Vec<String> = units.iter().map(Transient::unit).collect();
    match bus.and_then(|mut bus| stand_over_bus(&mut bus, &names).ok()) {
        Some(stand) => Ok(stand),
        None => stand_by_systemctl(&names),
    }
}

fn stand_over_bus(bus: &mut Bus, names: &[String]) -> std::io::Result<Stand> {
    let paths: Vec<String> = names.iter().map(|n| bus::path_of(n)).collect();
    let mut asked: Vec<Question<'_>> = paths
        .iter()
        .map(|p| (p.as_str(), UNIT, "ActiveState"))
        .collect();
    asked.extend(paths.first().map(|p| (p.as_str(), SERVICE, "MainPID")));
    let begun = Instant::now();
    loop {
        let mut stand = Stand::default();
        for answer in bus.ask(&asked)? {
            match answer {
                Some(Value::Number(pid)) => stand.pid = pid,
                Some(Value::Text(state)) => stand.states.push(state),
                // It is gone already.
                _ => stand.states.push(String::new()),
            }
        }
        // Until systemd comes to the job it is `inactive` as before.
        let to_come = |s: &String| matches!(s.as_str(), "inactive" | "activating");
        let starting = stand.states.iter().any(to_come);
        if !starting || begun.elapsed() > SYSTEMCTL_LIMIT {
            return Ok(stand);
        }
        thread::sleep(LOOK);
    }
}

fn stand_by_systemctl(names: &[String]) -> Result<Stand, ExecError> {
    let mut args = vec!["show", "--property=ActiveState,MainPID", "--"];
    args.extend(names.iter().map(String::as_str));
    Ok(parse(&exec::tool_ok("systemctl", &args, SYSTEMCTL_LIMIT)?))
}

fn parse(text: &str) -> Stand {
    let mut stand = Stand::default();
    for (key, value) in text.lines().filter_map(|l| l.split_once('=')) {
        match key {
            "ActiveState" => stand.states.push(value.to_owned()),
            "MainPID" => stand.pid = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    stand
}

/// Queues the stop of these; whoever is gone already needs none.
pub fn stop_soon(names: &[&str]) {
    let Ok(mut bus) = Bus::open() else {
        let verb = ["stop", "--no-block", "--quiet"];
        let _told = super::systemctl(&verb, names, SYSTEMCTL_LIMIT);
        return;
    };
    for name in names {
        let _told = bus.stop(name);
    }
}

/// One unit in each way, for a test that compares them on a real host.
#[cfg(feature = "planted")]
pub fn both_ways() -> Result<(), crate::AgentError> {
    let service = [
        Setting::Text("Type", "exec"),
        Setting::Text("Restart", "on-failure"),
        Setting::Micros("RestartSec", 0),
        Setting::Micros("TimeoutStopSec", 5_000_000),
        Setting::Bool("IgnoreOnIsolate", true),
        Setting::Bool("DefaultDependencies", false),
        Setting::Signed("OOMScoreAdjust", -900),
        Setting::Text("KillMode", "mixed"),
        Setting::Append("StandardOutput", "/run/both-ways.log"),
    ];
    let timer = [
        Setting::OnStartup(86_400_000_000),
        Setting::Micros("AccuracySec", 100_000),
        Setting::Bool("RemainAfterElapse", false),
    ];
    let command = ["/bin/sleep", "600"];
    let mut bus = Bus::open().map_err(|e| crate::AgentError::Request(e.to_string()))?;
    for (kind, timer) in [("service", [].as_slice()), ("timer", &timer)] {
        for way in ["bus", "run"] {
            let name = format!("way-{kind}-{way}");
            let unit = Transient {
                name: &name,
                service: &service,
                timer,
                command: &command,
            };
            match way {
                "bus" => unit
                    .over_bus(&mut bus)
                    .map_err(|e| crate::AgentError::Request(e.to_string()))?,
                _ => unit.by_systemd_run(true)?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_says_the_same_in_both_ways() {
        let all = [
            Setting::Micros("RestartSec", 7),
            Setting::Append("StandardError", "/x"),
            Setting::OnStartup(9),
            Setting::Signed("OOMScoreAdjust", -900),
        ];
        let words: Vec<String> = all.iter().map(Setting::word).collect();
        assert_eq!(
            words,
            [
                "RestartSec=7us",
                "StandardError=append:/x",
                "OnStartupSec=9us",
                "OOMScoreAdjust=-900"
            ]
        );
        let properties: Vec<_> = all.iter().map(Setting::property).collect();
        assert_eq!(
            properties,
            [
                ("RestartUSec".to_owned(), Property::Number(7)),
                (
                    "StandardErrorFileToAppend".to_owned(),
                    Property::Text("/x".to_owned())
                ),
                (
                    "TimersMonotonic".to_owned(),
                    Property::Timer("OnStartupSec", 9)
                ),
                ("OOMScoreAdjust".to_owned(), Property::Signed(-900)),
            ]
        );
    }

    #[test]
    fn how_units_stand_is_read_in_their_order() {
        let stand = parse("MainPID=12\nActiveState=active\n\nActiveState=failed\n");
        assert_eq!(stand.states, ["active", "failed"]);
        assert_eq!(stand.pid, 12);
    }
}
