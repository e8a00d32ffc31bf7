//! Units after a switch or the way back: what ran runs again, deaf sockets hear, what still runs from another closure is
//! found. It compares what was seen of units before, meanwhile and now.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::units::{self, Unit, Units};

/// Where a closure's units are.
const ADMIN: &str = "/etc/systemd/system";
/// Starting or stopping one unit on the way back.
const UNIT_LIMIT: Duration = Duration::from_secs(600);

/// A unit that is meant to stay up, and that can be started again: none of a session, and none that somebody made for a
/// while, which is gone for good once it ended.
fn is_lasting(name: &str, unit: &Unit) -> bool {
    const TRANSIENT: &str = "/run/systemd/transient/";
    let service = name.ends_with(".service") && (unit.kind != "oneshot" || unit.remains);
    let session = ["user@", "user-runtime-dir@", "session-"]
        .iter()
        .any(|p| name.starts_with(p));
    !session
        && !unit.file.starts_with(TRANSIENT)
        && (service
            || [".socket", ".timer", ".path"]
                .iter()
                .any(|s| name.ends_with(s)))
}

/// Starts what ran and does not (also what a person started), stops what a person had stopped.
pub fn restore(before: &Units, after: &Units) {
    for (name, old) in before {
        let now = after.get(name).cloned().unwrap_or_default();
        // Of a service that rested little was asked; what runs now by the same definition tells the rest.
        let known = if old.is_up() { old } else { &now };
        if units::ours(name) || !is_lasting(name, known) || old.load != "loaded" {
            continue;
        }
        let told = if old.is_up() && !now.is_up() {
            if is_asleep(old, after) {
                Ok(())
            } else {
                units::systemctl(&["start"], &[name], UNIT_LIMIT)
            }
        } else if old.active == "inactive"
            && now.active == "active"
            && !known.triggered_by.iter().any(|t| after.contains_key(t))
        {
            units::systemctl(&["stop"], &[name], UNIT_LIMIT)
        } else {
            Ok(())
        };
        if let Err(e) = told {
            eprintln!("trueup-agent: {name}: {e}");
        }
    }
}

/// Is the file of a socket that listens another one now? Looked at without systemd: mostly nothing has changed.
#[must_use]
pub fn a_socket_changed(old: &Units) -> bool {
    a_socket_changed_in(Path::new(ADMIN), old)
}

fn a_socket_changed_in(dir: &Path, old: &Units) -> bool {
    let changed = |name: &str, unit: &Unit| match fs::canonicalize(dir.join(name)) {
        Ok(now) => now != Path::new(&unit.file),
        // Where else systemd has it from no closure reaches, but it may be gone.
        Err(_) => unit.file.starts_with("/nix/store/"),
    };
    let listens = |(name, unit): &(&String, &Unit)| name.ends_with(".socket") && unit.is_up();
    old.iter().filter(listens).any(|(n, u)| changed(n, u))
}

/// A socket whose file changed says "listening" and is deaf until it is restarted; its service must be down for that.
pub fn restart_changed_sockets(old: &Units, new: &Units) {
    for (name, now) in new {
        let Some(stem) = name.strip_suffix(".socket") else {
            continue;
        };
        let changed = old
            .get(name)
            .is_some_and(|o| o.is_up() && o.file != now.file && !o.file.is_empty());
        if !changed || !now.is_up() {
            continue;
        }
        let service = format!("{stem}.service");
        let _not_up = units::systemctl(&["stop"], &[&service], UNIT_LIMIT);
        if let Err(e) = units::systemctl(&["restart"], &[name], units::SYSTEMCTL_LIMIT) {
            eprintln!("trueup-agent: {name}: {e}");
        }
    }
}

/// Units whose process was started from another definition than the one that is there now. `history` are looks from the
/// oldest on: the first in which the unit ran as it does now tells which definition its process has.
#[must_use]
pub fn restart_debt(history: &[&Units], now: &Units) -> Vec<String> {
    let is_old = |name: &str, unit: &Unit| {
        let began = history
            .iter()
            .find_map(|look| look.get(name).filter(|u| u.invocation == unit.invocation));
        began.is_some_and(|b| !b.digest.is_empty() && b.digest != unit.digest)
    };
    now.iter()
        .filter(|(name, u)| {
            u.is_up() && !u.digest.is_empty() && !u.invocation.is_empty() && is_old(name, u)
        })
        .filter(|(name, _)| !units::ours(name))
        .map(|(name, _)| name.clone())
        .collect()
}

/// Restarts those of the units that may be restarted: neither their own file nor systemd forbids it.
pub fn restart_where_allowed(names: &[String], now: &Units) {
    let allowed: BTreeSet<&str> = names
        .iter()
        .filter(|n| now.get(*n).is_some_and(|u| !u.keeps_its_process))
        .map(String::as_str)
        .collect();
    for name in allowed {
        if let Err(e) = units::systemctl(&["restart"], &[name], UNIT_LIMIT) {
            eprintln!("trueup-agent: {name}: {e}");
        }
    }
}

/// Units that ran and do not, and units that are failed and were not.
#[must_use]
pub fn differences(before: &Units, now: &Units) -> Vec<String> {
    let mut found = BTreeSet::new();
    for (name, old) in before {
        if units::ours(name) || !is_lasting(name, old) || !old.is_up() {
            continue;
        }
        if !now.get(name).is_some_and(Unit::is_up) && !is_asleep(old, now) {
            found.insert(format!("{name} ran and does not"));
        }
    }
    for name in units::failed(now) {
        if before.get(&name).is_none_or(|u| u.active != "failed") {
            found.insert(format!("{name} is failed"));
        }
    }
    found.into_iter().collect()
}

/// Down, and a socket, timer or path brings it up when it is needed.
fn is_asleep(unit: &Unit, now: &Units) -> bool {
    unit.triggered_by
        .iter()
        .any(|t| now.get(t).is_some_and(Unit::is_up))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(invocation: &str, digest: &str) -> Units {
        let unit = Unit {
            active: "active".to_owned(),
            sub: "running".to_owned(),
            invocation: invocation.to_owned(),
            digest: digest.to_owned(),
            ..Unit::default()
        };
        [("a.service".to_owned(), unit)].into()
    }

    #[test]
    fn a_unit_that_somebody_made_for_a_while_is_not_missed() {
        let mut before = look("i1", "one");
        assert_eq!(
            differences(&before, &Units::new()),
            ["a.service ran and does not"]
        );
        before.get_mut("a.service").expect("there").file =
            "/run/systemd/transient/a.service".to_owned();
        assert!(differences(&before, &Units::new()).is_empty());
    }

    #[test]
    fn a_socket_of_another_file_has_changed() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = |name: &str| {
            let path = dir.path().join(name);
            fs::write(&path, "").expect("written");
            let real = fs::canonicalize(path).expect("there");
            real.to_str().expect("text").to_owned()
        };
        let of = |name: &str, file: &str, active: &str| -> Units {
            let unit = Unit {
                active: active.to_owned(),
                file: file.to_owned(),
                ..Unit::default()
            };
            [(name.to_owned(), unit)].into()
        };
        let (here, store) = (file("a.socket"), "/nix/store/x/a.socket");
        for (name, from, active, changed) in [
            ("a.socket", here.as_str(), "active", false),
            ("a.socket", store, "active", true),
            ("a.socket", store, "inactive", false),
            ("gone.socket", store, "active", true),
            (
                "gone.socket",
                "/usr/lib/systemd/system/gone.socket",
                "active",
                false,
            ),
            ("a.service", store, "active", false),
        ] {
            let old = of(name, from, active);
            let got = a_socket_changed_in(dir.path(), &old);
            assert_eq!(got, changed, "{name} of {from}, {active}");
        }
    }

    #[test]
    fn a_process_of_another_definition_is_a_debt() {
        let (old, new) = (look("i1", "one"), look("i1", "two"));
        assert_eq!(restart_debt(&[&old], &new), ["a.service"]);
        assert!(
            restart_debt(&[&old], &look("i2", "two")).is_empty(),
            "restarted"
        );
        assert!(
            restart_debt(&[&old], &look("i1", "one")).is_empty(),
            "unchanged"
        );
    }

    #[test]
    fn after_the_way_back_only_what_began_meanwhile_is_a_debt() {
        let (before, during) = (look("i1", "one"), look("i1", "two"));
        assert!(
            restart_debt(&[&before, &during], &before).is_empty(),
            "kept its process"
        );
        let (during, after) = (look("i2", "two"), look("i2", "one"));
        assert_eq!(restart_debt(&[&before, &during], &after), ["a.service"]);
    }
}
