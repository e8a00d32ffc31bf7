//! By which way a host is reached: sshd moves, connections are shared by a person's configuration, another machine
//! answers at a host's address.

use std::process::Stdio;
use std::time::Duration;

use super::{CURRENT, THREE, switched};
use crate::harness::{Host, Lab, command, wait};
use trueup_tests::world::{Stage, World, condition};

const DEFAULTS: &str =
    "    activation: {confirmTimeout: 40s, settle: 1s}\n    drift: {interval: 10s}\n";
/// Not of the fleet: the other machine.
const OTHER: &str = "spare";
const MOVED_PORT: u16 = 2222;
const PATIENCE: Duration = Duration::from_secs(240);

/// A person's ssh, with the configuration that the controller is given too.
fn person(config: &str, host: &Host, words: &[&str]) -> bool {
    let known = format!("UserKnownHostsFile={}", host.known_hosts.display());
    command("ssh")
        .args(["-F", config, "-o", &known, "-o", "BatchMode=yes", "-i"])
        .arg(&host.key)
        .args(words)
        .arg(format!("root@{}", host.address))
        .args(if words.is_empty() { &["true"][..] } else { &[] })
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

#[test]
fn a_host_is_confirmed_by_its_new_way_alone_and_another_machine_is_never_touched() {
    let names = ["web-1", "web-2", "db-1", OTHER];
    let Some(lab) = Lab::up(&names) else { return };
    let folder = tempfile::Builder::new()
        .prefix("trueup-person-")
        .tempdir()
        .unwrap();
    let config = folder.path().join("config").display().to_string();
    let shared = format!(
        "Host *\n  ControlMaster auto\n  ControlPath {}/%C\n  ControlPersist 900\n",
        folder.path().display()
    );
    std::fs::write(&config, shared).unwrap();
    let stage = Stage {
        ssh: &format!("  configFile: {config}\n"),
        ..Stage::demo(&THREE, DEFAULTS)
    };
    let mut world = World::set(lab, &stage).unwrap();
    world.patience = PATIENCE;
    world.commit("generation one", &[]).unwrap();
    world.start_and_wait().unwrap();
    world.all_ready(&THREE).unwrap();
    sshd_moves_and_its_manifest_with_it(&mut world);
    an_old_connection_cannot_confirm(&mut world, &config);
    another_machine_is_never_activated(&mut world);
}

fn sshd_moves_and_its_manifest_with_it(world: &mut World) {
    let moved = MOVED_PORT.to_string();
    world
        .edit_host("web-1", "    port: 22\n", &format!("    port: {moved}\n"))
        .unwrap();
    world
        .commit(
            "web-1: sshd moves",
            &[("web-1", "sshd-moved", &[("port", &moved)])],
        )
        .unwrap();
    world.all_ready(&["web-1"]).unwrap();
    let host = world.host("web-1").clone();
    assert_eq!(host.ssh_port(MOVED_PORT, &["true"]).code, 0);
    assert_eq!(
        host.ssh(&["true"]).code,
        255,
        "nothing listens on the old port"
    );
    let status = world.status("web-1").unwrap();
    let runs = host.ssh_port(MOVED_PORT, &["readlink", "-e", CURRENT]);
    assert_eq!(Some(runs.stdout.trim()), status["desiredClosure"].as_str());
    assert_eq!(status["outcome"], "Succeeded");

    // And back again, by the same way.
    world
        .edit_host("web-1", &format!("    port: {moved}\n"), "    port: 22\n")
        .unwrap();
    world
        .commit(
            "web-1: sshd moves back",
            &[("web-1", "web", &[("message", "back")])],
        )
        .unwrap();
    world.all_ready(&["web-1"]).unwrap();
    assert_eq!(switched(world, "web-1"), 1);
    world.page("web-1", "back").unwrap();
}

/// A connection from before the activation works all the time, in the person's ssh and in the controller's: it does
/// not count.
fn an_old_connection_cannot_confirm(world: &mut World, config: &str) {
    let host = world.host("web-2").clone();
    assert!(person(config, &host, &[]));
    assert!(
        person(config, &host, &["-O", "check"]),
        "the person shares no connection"
    );
    let before = host.link(CURRENT);
    world
        .commit("web-2: no sshd", &[("web-2", "sshd-gone", &[])])
        .unwrap();
    world.outcome("web-2", "RolledBack").unwrap();
    assert!(
        person(config, &host, &["-O", "check"]),
        "the old connection went away"
    );
    assert_eq!(host.link(CURRENT), before);
    world
        .commit(
            "web-2: with sshd",
            &[("web-2", "web", &[("message", "with sshd")])],
        )
        .unwrap();
    world.all_ready(&["web-2"]).unwrap();
    assert!(person(config, &host, &["-O", "exit"]));
}

fn another_machine_is_never_activated(world: &mut World) {
    let (host, other) = (world.host("db-1").clone(), world.host(OTHER).clone());
    let known = world.switches(OTHER).unwrap();
    let ran = other.link(CURRENT);
    world
        .edit_host("db-1", &host.address, &other.address)
        .unwrap();
    world
        .edit_host("db-1", &host.host_key, &other.host_key)
        .unwrap();
    world
        .commit(
            "db-1: elsewhere",
            &[("db-1", "db", &[("message", "elsewhere")])],
        )
        .unwrap();
    world
        .until(&["db-1"], "another machine", |status| {
            condition(status, "Stalled").is_some_and(|c| c["reason"] == "IdentityMismatch")
        })
        .unwrap();
    // Asked again, it is still not touched.
    let nudge = world.nudge("db-1").unwrap();
    wait(PATIENCE, || {
        let nudge = world.api(&format!("/v1/nudges/{nudge}")).unwrap();
        nudge["status"]["handledAt"].is_string().then_some(())
    })
    .unwrap();
    assert_eq!(world.switches(OTHER).unwrap(), known);
    assert_eq!(other.link(CURRENT), ran);

    world
        .edit_host("db-1", &other.address, &host.address)
        .unwrap();
    world
        .edit_host("db-1", &other.host_key, &host.host_key)
        .unwrap();
    world
        .commit("db-1: here", &[("db-1", "db", &[("message", "here")])])
        .unwrap();
    world.all_ready(&["db-1"]).unwrap();
}
