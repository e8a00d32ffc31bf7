//! What the agent reads from systemd's own socket, beside what `systemctl` prints of the same units on a real host.

use serde_json::Value;
use trueup_tests::closures::Closures;

use crate::harness::{Host, Lab, planted_agent};

/// Of every unit.
const STATE: [&str; 3] = ["load", "active", "sub"];
/// Of a service, whether it runs or not.
const SERVICE: [&str; 8] = [
    "kind",
    "result",
    "restarts",
    "file",
    "wantedBy",
    "triggeredBy",
    "tried",
    "remains",
];
/// Of a service that is up.
const UP: [&str; 3] = ["invocation", "digest", "keepsItsProcess"];
const SOCKET: [&str; 5] = ["result", "file", "wantedBy", "triggeredBy", "tried"];
/// Of timers and paths.
const OTHER: [&str; 3] = ["result", "file", "triggeredBy"];
/// Units come and go, and change between the two questions: asked again so often before it counts as a difference.
const TRIES: usize = 10;

/// Some of each kind and state, beside those that the host has: failed, restarted, waiting, with drop-ins, remaining.
const UNITS: &str = r#"
set -e
put() { cat > /run/systemd/system/$1; }
put lab-fails.service <<'U'
[Service]
Type=oneshot
ExecStart=/bin/false
U
put lab-loops.service <<'U'
[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=/bin/false
Restart=always
RestartSec=3600
U
put lab-remains.service <<'U'
[Unit]
RefuseManualStop=yes
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
[Install]
WantedBy=multi-user.target
RequiredBy=lab.target
U
put lab.target <<'U'
[Unit]
Description=a target of the lab
Wants=lab-skipped.service
U
put lab-asked.service <<'U'
[Service]
ExecStart=/bin/sleep 1000
U
put lab-asked.socket <<'U'
[Socket]
ListenStream=/run/lab-asked.sock
U
put lab-asked.timer <<'U'
[Timer]
OnActiveSec=1h
U
put lab-asked.path <<'U'
[Path]
PathExists=/run/lab-never
U
put lab-skipped.service <<'U'
[Unit]
ConditionPathExists=/nonexistent
[Service]
ExecStart=/bin/true
U
mkdir -p /run/systemd/system/lab-asked.service.d
printf '[Service]\nEnvironment=A=1\n' > /run/systemd/system/lab-asked.service.d/more.conf
systemctl daemon-reload
systemctl --runtime --quiet enable lab-remains.service
systemctl start lab-fails.service || true
systemctl start --no-block lab-loops.service
systemctl start lab-remains.service lab.target lab-asked.service lab-asked.timer lab-asked.path lab-skipped.service
"#;

fn both(host: &Host) -> (Value, Value) {
    let out = host.ssh(&["/srv/planted", "units-both-ways"]);
    assert_eq!(out.code, 0, "{out:?}");
    let mut all: Vec<Value> = serde_json::from_str(&out.stdout).unwrap();
    let systemctl = all.pop().unwrap();
    (all.pop().unwrap(), systemctl)
}

fn fields(name: &str, unit: &Value, units: &serde_json::Map<String, Value>) -> Vec<&'static str> {
    let mut all = STATE.to_vec();
    let rests = unit["active"] == "inactive";
    // Nobody asks for more of what is not there and does not run, or rests while nobody who is up wants it.
    let up = |by: &Value| {
        let by = by.as_str().and_then(|n| units.get(n));
        by.is_some_and(|u| u["active"] == "active")
    };
    let wanted = unit["wantedBy"]
        .as_array()
        .is_some_and(|w| w.iter().any(up));
    if rests && (unit["load"] != "loaded" || name.ends_with(".service") && !wanted) {
        return all;
    }
    match name.rsplit('.').next() {
        Some("service") => {
            all.extend(SERVICE);
            if matches!(unit["active"].as_str(), Some("active" | "reloading")) {
                all.extend(UP);
            }
        }
        Some("socket") => all.extend(SOCKET),
        Some("timer" | "path") => all.extend(OTHER),
        _ => {}
    }
    all
}

/// Lists have no order.
fn of(unit: &Value, field: &str) -> Value {
    let mut value = unit[field].clone();
    if let Value::Array(items) = &mut value {
        items.sort_by_key(ToString::to_string);
    }
    value
}

fn differences(bus: &Value, systemctl: &Value) -> Vec<String> {
    let (bus, systemctl) = (bus.as_object().unwrap(), systemctl.as_object().unwrap());
    let mut all = Vec::new();
    for name in bus.keys().filter(|n| !systemctl.contains_key(*n)) {
        all.push(format!("{name}: systemctl does not list it"));
    }
    for (name, there) in systemctl {
        let Some(here) = bus.get(name) else {
            all.push(format!("{name}: the socket does not list it"));
            continue;
        };
        for field in fields(name, there, systemctl) {
            let (a, b) = (of(here, field), of(there, field));
            if a != b {
                all.push(format!(
                    "{name} {field}: {a} by the socket, {b} by systemctl"
                ));
            }
        }
    }
    all
}

#[test]
fn the_socket_of_systemd_says_what_systemctl_says() {
    let Some(lab) = Lab::up(&["web-1"]) else {
        return;
    };
    let host = lab.host("web-1");
    let made = host.sh(UNITS);
    assert_eq!(made.code, 0, "{made:?}");
    let agent = std::fs::read(planted_agent()).unwrap();
    Closures::of(&lab, "demo", &["web-1"]).put(host, &agent, "/srv/planted");
    assert_eq!(host.ssh(&["chmod", "0755", "/srv/planted"]).code, 0);
    let mut last = Vec::new();
    for _ in 0..TRIES {
        let (bus, systemctl) = both(host);
        // What was made to differ is really there, and read.
        for (name, field, value) in [
            ("lab-fails.service", "active", "failed"),
            ("lab-fails.service", "result", "exit-code"),
            ("lab-remains.service", "sub", "exited"),
            ("lab-skipped.service", "active", "inactive"),
            ("lab-asked.timer", "sub", "waiting"),
        ] {
            assert_eq!(bus[name][field], value, "{name} {field}: {}", bus[name]);
        }
        assert_eq!(bus["lab-remains.service"]["remains"], true);
        let run = &bus["lab-asked.service"]["invocation"];
        assert!(run.as_str().is_some_and(|i| !i.is_empty()), "{run}");
        // Wanted by a target that is up: asked in full, though it rests.
        let skipped = &bus["lab-skipped.service"];
        assert_eq!(skipped["wantedBy"], serde_json::json!(["lab.target"]));
        assert_eq!(skipped["tried"], true, "{skipped}");
        last = differences(&bus, &systemctl);
        let count = bus.as_object().unwrap().len();
        assert!(count > 50, "{count} units");
        if last.is_empty() {
            println!("{count} units, the same both ways");
            return;
        }
    }
    panic!("{last:#?}");
}

/// Not the same for two units, or of the moment.
const OWN: [&str; 22] = [
    "Id=",
    "Names=",
    "Description=",
    "InvocationID=",
    "ControlGroup=",
    "ControlGroupId=",
    "MainPID=",
    "ExecMainPID=",
    "Triggers=",
    "TriggeredBy=",
    "Unit=",
    "After=",
    "Before=",
    "FragmentPath=",
    "Memory",
    "CPUUsage",
    "IO",
    "IP",
    "Tasks",
    "Effective",
    "ExecStart",
    "Next",
];

#[test]
fn a_unit_made_over_the_socket_is_the_one_that_systemd_run_makes() {
    let Some(lab) = Lab::up(&["web-1"]) else {
        return;
    };
    let host = lab.host("web-1");
    let agent = std::fs::read(planted_agent()).unwrap();
    Closures::of(&lab, "demo", &["web-1"]).put(host, &agent, "/srv/planted");
    assert_eq!(host.ssh(&["chmod", "0755", "/srv/planted"]).code, 0);
    let made = host.ssh(&["/srv/planted", "made-both-ways"]);
    assert_eq!(made.code, 0, "{made:?}");
    let told = |unit: &str| -> Vec<String> {
        let out = host.ssh(&["systemctl", "show", "--all", unit]);
        let own =
            |line: &&str| OWN.iter().any(|o| line.starts_with(o)) || line.contains("Timestamp");
        let lines = out.stdout.lines().filter(|line| !own(line));
        lines.map(str::to_owned).collect()
    };
    for (unit, says) in [
        ("service", "OOMScoreAdjust=-900"),
        ("service", "StandardOutput=append"),
        ("service", "CollectMode=inactive-or-failed"),
        ("service", "ActiveState=active"),
        ("timer", "AccuracyUSec=100ms"),
        ("timer", "CollectMode=inactive-or-failed"),
        ("timer", "ActiveState=active"),
    ] {
        let [bus, run] = ["bus", "run"].map(|way| told(&format!("way-{unit}-{way}.{unit}")));
        let says_so = |line: &&String| line.starts_with(says);
        assert!(bus.iter().any(|l| says_so(&l)), "{says}: {bus:#?}");
        let differ: Vec<_> = bus.iter().filter(|l| !run.contains(l)).collect();
        assert_eq!(
            (differ.len(), bus.len()),
            (0, run.len()),
            "{unit}: {differ:#?}"
        );
    }
    // What the timer starts is loaded with it.
    let [bus, run] = ["bus", "run"].map(|way| {
        let unit = format!("way-timer-{way}.service");
        let out = host.ssh(&["systemctl", "cat", &unit]);
        out.stdout.replace(&unit, "UNIT").replace(way, "WAY")
    });
    assert!(bus.contains("OOMScoreAdjust=-900"), "{bus}");
    assert!(run.contains("OOMScoreAdjust=-900"), "{run}");
}
