//! Exit codes of switch-to-configuration: none is believed, links and units are looked at.

use super::*;

/// What a `switch-to-configuration` does at `test`, how that is called, and whether the goal is blamed.
const ODD: [(&str, &str, Outcome, &str, bool); 5] = [
    (
        "untouched-100",
        "exit 100",
        Outcome::RebootRequired,
        "init interface",
        false,
    ),
    (
        "half-1",
        "systemctl stop app.service; exit 1",
        Outcome::RolledBack,
        "exit 1",
        true,
    ),
    (
        "half-2",
        "systemctl stop app.service; exit 2",
        Outcome::RolledBack,
        "exit 2",
        true,
    ),
    (
        "panic-101",
        "systemctl stop app.service; ln -sfn $OUT /run/.odd; mv -T /run/.odd /run/current-system; exit 101",
        Outcome::RolledBack,
        "exit 101",
        true,
    ),
    (
        "killed",
        "systemctl stop app.service; kill -9 $$",
        Outcome::RolledBack,
        "exit -1",
        true,
    ),
];

#[test]
fn an_odd_exit_is_judged_by_what_it_left() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let mut good = c.install(host);
    for (name, body, outcome, said, blamed) in ODD {
        let path = format!("/root/{name}");
        let put = host.sh(&format!(
            "printf '%s\\n' '#!/bin/sh' '[ \"$1\" = test ] || exit 0' '{body}' > {path}; chmod +x {path}"
        ));
        assert_eq!(put.code, 0, "{put:?}");
        let odd = c.closure(host, "real", &[("program", &path)]);
        let end = c.leave(host, &odd, &Ask::default());
        assert_eq!(end.outcome, Some(outcome), "{name}: {end:?}");
        assert!(
            end.message.as_ref().unwrap().contains(said),
            "{name}: {end:?}"
        );
        assert_eq!(end.evidence, blamed, "{name}");
        runs(host, &good, &good, &good);
        assert_eq!(host.unit("app.service", "ActiveState"), "active", "{name}");
        good = c.converges(host, name);
    }
}

#[test]
fn a_held_lock_is_waited_for_and_then_told_and_the_goal_is_not_blamed() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let next = c.closure(host, "base", &[("note", "two")]);
    let hold = |unit: &str, secs: &str| {
        let held = host.sh(&format!(
            "mkdir -p /run/nixos; systemd-run --quiet --collect --unit={unit} flock /run/nixos/switch-to-configuration.lock sleep {secs}; \
             until ! flock -n /run/nixos/switch-to-configuration.lock true; do sleep 0.1; done"
        ));
        assert_eq!(held.code, 0, "{held:?}");
    };
    hold("holder", "600");
    let end = c.leave(host, &next, &Ask::default());
    assert_eq!(end.outcome, Some(Outcome::Failed), "{end:?}");
    assert!(end.message.as_ref().unwrap().contains("lock"), "{end:?}");
    is_not_blamed(&end);
    runs(host, &first, &first, &first);
    assert_eq!(host.sh("systemctl stop holder").code, 0);
    // Held for a moment only: nobody notices.
    hold("briefly", "3");
    let end = c.deliver(host, &next, &Ask::default());
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    runs(host, &next, &next, &next);
    c.converges(host, "three");
}
