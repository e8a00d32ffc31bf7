//! What people do by hand, on real hosts: taken back and not deployed again, held and released, observed only, taken out of
//! the trunk, left. Judged by the hosts' own links, journals and units.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Host, Lab, command, wait_slowly};
use trueup_tests::world::{QUICK, Stage, World, condition};

const BOTH: [&str; 2] = ["web-1", "web-2"];
const CURRENT: &str = "/run/current-system";
const PROFILE: &str = "/nix/var/nix/profiles/system";
const BOOT: &str = "/boot/default";
const STATE: &str = "/nix/var/trueup";
const ROOTS: &str = "/nix/var/nix/gcroots/trueup";
/// The agent, as the controller brought it.
const AGENT: &str = "/nix/var/nix/gcroots/trueup/agent/bin/trueup-agent";
/// CI's machines are slow.
const PATIENCE: Duration = Duration::from_secs(240);

fn both() -> Option<World> {
    let stage = Stage::demo(&BOTH, QUICK);
    let mut world = World::set(Lab::up(&BOTH)?, &stage).unwrap();
    world.patience = PATIENCE;
    Some(world)
}

fn serve(world: &mut World, name: &str, text: &str) {
    let args = [("message", text)];
    let change = (name, "web", &args[..]);
    world.commit(&format!("{name}: {text}"), &[change]).unwrap();
}

fn reason(status: &Value) -> &str {
    let ready = status["conditions"].as_array().into_iter().flatten();
    let ready = ready.into_iter().find(|c| c["type"] == "Ready");
    ready.map_or("", |c| c["reason"].as_str().unwrap_or_default())
}

/// All three agree, so a power cut changes nothing.
fn settled_at(host: &Host) -> String {
    let at = host.link(CURRENT).unwrap();
    assert_eq!(host.link(PROFILE).as_ref(), Some(&at));
    assert_eq!(host.link(BOOT).as_ref(), Some(&at));
    at
}

fn handled(world: &World, name: &str) {
    let nudge = world.nudge(name).unwrap();
    let path = format!("/v1/nudges/{nudge}");
    wait_slowly(PATIENCE, || {
        let nudge = world.api(&path).ok()?;
        nudge["status"]["handledAt"].is_string().then_some(())
    })
    .expect("the nudge is handled");
}

#[test]
fn what_is_taken_back_by_hand_stays_back_until_the_trunk_changes_it() {
    let Some(mut world) = both() else { return };
    serve(&mut world, "web-1", "one");
    let one = world.head().to_owned();
    world.start_and_wait().unwrap();
    world.all_ready(&BOTH).unwrap();
    let host = world.host("web-1").clone();
    let at_one = settled_at(&host);
    serve(&mut world, "web-1", "two");
    world.all_ready(&["web-1"]).unwrap();
    world.page("web-1", "two").unwrap();
    let at_two = settled_at(&host);

    let back = [
        "rollback",
        "--host",
        "web-1",
        "--wait",
        "--reason",
        "two is slow",
    ];
    let said = world.trueup(&back).unwrap();
    assert!(said.contains("web-1  rolled back"), "{said}");
    world.page("web-1", "one").unwrap();
    assert_eq!(settled_at(&host), at_one);
    let table = world.trueup(&["get", "hosts"]).unwrap();
    assert!(table.contains("Held rolled back"), "{table}");
    let described = world.trueup(&["describe", "host/web-1"]).unwrap();
    for words in [
        "two is slow",
        "reconcile --host web-1 --retry",
        "rolled back",
    ] {
        assert!(described.contains(words), "{words}: {described}");
    }

    // Neither by a person's look, nor by a controller that starts again, nor by another host's commit.
    let known = world.switches("web-1").unwrap();
    assert_eq!(known.get(&at_two), Some(&1));
    handled(&world, "web-1");
    world.kill();
    world.start_and_wait().unwrap();
    serve(&mut world, "web-2", "other");
    world.all_ready(&["web-2"]).unwrap();
    handled(&world, "web-1");
    assert_eq!(world.switches("web-1").unwrap(), known);
    assert_eq!(settled_at(&host), at_one);

    // What changes it brings it forward.
    serve(&mut world, "web-1", "three");
    world.all_ready(&["web-1"]).unwrap();
    world.page("web-1", "three").unwrap();
    // And to a revision, from which a person goes on with the trunk.
    let back = ["rollback", "web-1", "--to", &one[..10], "--wait"];
    world.trueup(&back).unwrap();
    world.page("web-1", "one").unwrap();
    let on = ["reconcile", "--host", "web-1", "--retry", "--wait"];
    world.trueup(&on).unwrap();
    world.page("web-1", "three").unwrap();

    let history = world.trueup(&["history", "host/web-1"]).unwrap();
    assert_eq!(history.matches("Succeeded").count(), 6, "{history}");
    assert_eq!(history.matches("(rollback)").count(), 2, "{history}");
    assert!(history.contains("two is slow"), "{history}");
    let again = world
        .call(&["rollback", "web-1", "--to", &at_two[..43]])
        .unwrap();
    assert!(again.status.success() || again.status.code() == Some(1));
}

/// Gone from the host and from the hub, whatever rooted it.
fn gone_everywhere(world: &World, host: &Host, closure: &str) {
    let delete = ["nix", "store", "delete", "--ignore-liveness"];
    host.read(&[&delete[..], &[closure]].concat());
    let nix = world.path();
    let out = command("env")
        .arg(format!("PATH={nix}"))
        .args(delete)
        .args(["--store", &world.closures().store(), closure])
        .envs(world.lab().env())
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
}

#[test]
fn a_closure_that_is_gone_is_not_gone_back_to_and_nothing_changes_on_the_host() {
    let Some(mut world) = both() else { return };
    serve(&mut world, "web-1", "one");
    world.start_and_wait().unwrap();
    world.all_ready(&BOTH).unwrap();
    let host = world.host("web-1").clone();
    let at_one = settled_at(&host);
    serve(&mut world, "web-1", "two");
    world.all_ready(&["web-1"]).unwrap();
    let (before, known) = (standing(&host), world.switches("web-1").unwrap());

    gone_everywhere(&world, &host, &at_one);
    let back = ["rollback", "--host", "web-1", "--to", &at_one, "--wait"];
    let asked = world.call(&back).unwrap();
    let said = [asked.stdout, asked.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(asked.status.code(), Some(1), "{said}");
    assert!(said.contains("trueup history host/web-1"), "{said}");
    let events = world.trueup(&["events", "web-1"]).unwrap();
    assert!(events.contains("RollbackRefused"), "{events}");
    // The trunk is followed as before, and nothing on the host has moved.
    handled(&world, "web-1");
    world.all_ready(&["web-1"]).unwrap();
    world.page("web-1", "two").unwrap();
    assert_eq!(standing(&host), before);
    assert_eq!(world.switches("web-1").unwrap(), known);
    let listed = world.trueup(&["history", "host/web-1"]).unwrap();
    assert!(!listed.contains("Failed"), "{listed}");

    serve(&mut world, "web-1", "three");
    world.all_ready(&["web-1"]).unwrap();
    world.page("web-1", "three").unwrap();
    settled_at(&host);
}

#[test]
fn a_hold_on_the_host_is_kept_and_shown_and_ends_by_itself_or_by_release() {
    let Some(mut world) = both() else { return };
    serve(&mut world, "web-1", "one");
    world.start_and_wait().unwrap();
    world.all_ready(&BOTH).unwrap();
    let host = world.host("web-1").clone();
    let at_one = settled_at(&host);
    let known = world.switches("web-1").unwrap();

    // No controller is needed to lay a hold.
    world.kill();
    let said = host.read(&[AGENT, "hold", "--for", "2h", "--reason", "raid rebuild"]);
    assert!(said.contains("held until"), "{said}");
    serve(&mut world, "web-1", "two");
    world.start_and_wait().unwrap();
    world
        .until(&["web-1"], "Held", |s| {
            s["phase"] == "Held" && reason(s) == "Held"
        })
        .unwrap();
    assert_eq!(world.switches("web-1").unwrap(), known);
    assert_eq!(settled_at(&host), at_one);
    for (args, exit) in [
        (&["get", "hosts"][..], 0),
        (&["describe", "host/web-1"], 0),
        (&["events", "web-1", "--kind", "Held"], 0),
        (&["diff", "host/web-1"], 3),
    ] {
        let out = world.call(args).unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert_eq!(out.status.code(), Some(exit), "{args:?}: {text}");
        assert!(text.contains("Held"), "{args:?}: {text}");
        let short = args[1] == "hosts";
        assert!(short || text.contains("raid rebuild"), "{args:?}: {text}");
    }
    let held = world.status("web-1").unwrap();
    let held = condition(&held, "Held").unwrap()["message"].clone();
    assert!(
        held.as_str().unwrap().contains("by root: raid rebuild"),
        "{held}"
    );

    let said = host.read(&[AGENT, "release"]);
    assert!(said.contains("raid rebuild"), "{said}");
    // Without anybody's help: the host is looked at again, and converges.
    world.all_ready(&["web-1"]).unwrap();
    world.page("web-1", "two").unwrap();

    // An offer that meets a hold which no report has told of is refused by name, and no failure.
    host.read(&[AGENT, "hold", "--for", "20s", "--reason", "a short look"]);
    serve(&mut world, "web-1", "three");
    world.all_ready(&["web-1"]).unwrap();
    world.page("web-1", "three").unwrap();
    let history = world.trueup(&["history", "host/web-1"]).unwrap();
    assert_eq!(history.matches("Succeeded").count(), 3, "{history}");
    assert!(!history.contains("Failed"), "{history}");
}

#[test]
fn an_early_release_is_seen_soon_however_rarely_the_host_is_looked_at() {
    let rarely = QUICK.replace("interval: 10s", "interval: 6h");
    assert_ne!(rarely, QUICK);
    let one = ["web-1"];
    let stage = Stage::demo(&one, &rarely);
    let Some(lab) = Lab::up(&one) else { return };
    let mut world = World::set(lab, &stage).unwrap();
    // Well below the five minutes after which any host is looked at.
    world.patience = Duration::from_secs(150);
    serve(&mut world, "web-1", "one");
    world.start_and_wait().unwrap();
    world.all_ready(&one).unwrap();
    let host = world.host("web-1").clone();
    host.read(&[AGENT, "hold", "--for", "2h", "--reason", "raid rebuild"]);
    serve(&mut world, "web-1", "two");
    world
        .until(&one, "Held", |s| {
            s["phase"] == "Held" && reason(s) == "Held"
        })
        .unwrap();
    // Nothing is said to the controller, and nobody asks it.
    let said = host.read(&[AGENT, "release"]);
    assert!(said.contains("twice a minute"), "{said}");
    world.all_ready(&one).unwrap();
    world.page("web-1", "two").unwrap();
    settled_at(&host);
}

#[test]
fn observed_released_and_left_hosts_are_not_touched() {
    let Some(mut world) = both() else { return };
    world
        .edit_host("web-2", "spec:\n", "spec:\n  delivery: observe\n")
        .unwrap();
    serve(&mut world, "web-1", "one");
    let untouched = world.switches("web-2").unwrap();
    world.start_and_wait().unwrap();
    world.all_ready(&["web-1"]).unwrap();
    observed(&mut world, &untouched);
    released_and_left(&mut world);
    assert_eq!(world.switches("web-2").unwrap(), untouched);
}

fn observed(world: &mut World, untouched: &std::collections::BTreeMap<String, usize>) {
    world
        .until(&["web-2"], "observed only", |s| {
            reason(s) == "ObservedOnly" && condition(s, "Drifted").is_some()
        })
        .unwrap();
    let asked = world
        .call(&["reconcile", "--host", "web-2", "--retry", "--wait"])
        .unwrap();
    assert_eq!(asked.status.code(), Some(1));
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    assert!(said.contains("spec.delivery: observe"), "{said}");
    assert_eq!(&world.switches("web-2").unwrap(), untouched);
    let closures = world
        .host("web-2")
        .sh("ls -d /nix/store/*-web-2-* 2>/dev/null | wc -l");
    assert_eq!(closures.code, 0, "{closures:?}");
    let refused = world.call(&["leave", "host/web-2"]).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--still-managed"));
}

/// What must not move when trueup goes: what runs, since when, and which units there are.
fn standing(host: &Host) -> (String, String, String, String) {
    (
        settled_at(host),
        host.unit("web.service", "ActiveEnterTimestampMonotonic"),
        host.unit("web.service", "MainPID"),
        host.boot_id(),
    )
}

/// Out of the trunk, and told so.
pub(crate) fn released(world: &mut World, name: &str) {
    let line = format!("  name: {name}\n");
    world
        .edit("fleet/hosts.yaml", |text| {
            let others = text.split("---\n").filter(|b| !b.contains(&line));
            others.collect::<Vec<_>>().join("---\n")
        })
        .unwrap();
    world.commit(&format!("{name} goes"), &[]).unwrap();
    wait_slowly(PATIENCE, || {
        let events = world.trueup(&["events", name]).ok()?;
        events.contains("HostReleased").then_some(())
    })
    .expect("it is released");
}

fn released_and_left(world: &mut World) {
    let host = world.host("web-1").clone();
    let before = standing(&host);
    let known = world.switches("web-1").unwrap();
    let path = world.repo().join("fleet/hosts.yaml");
    let manifests = std::fs::read_to_string(&path).unwrap();
    released(world, "web-1");
    assert_eq!(standing(&host), before);
    assert_eq!(
        host.ssh(&["test", "-d", STATE]).code,
        0,
        "and its state stays"
    );

    let agent = host.link(AGENT).unwrap();
    host.read(&[AGENT, "hold", "--for", "2h", "--reason", "nobody cares"]);
    let left = world.trueup(&["leave", "host/web-1"]).unwrap();
    assert!(left.contains("web-1 is left"), "{left}");
    for gone in [STATE, ROOTS] {
        assert_eq!(host.ssh(&["test", "-e", gone]).code, 1, "{gone}: {left}");
    }
    let units = host.read(&[
        "systemctl",
        "list-units",
        "--all",
        "--plain",
        "--no-legend",
        "trueup-*",
    ]);
    assert_eq!(units, "");
    assert_eq!(standing(&host), before);
    assert_eq!(world.switches("web-1").unwrap(), known);
    // Again, from here and there: nothing is left to do.
    world.trueup(&["leave", "host/web-1"]).unwrap();
    assert_eq!(
        host.read(&[&agent, "leave"]),
        r#"{"removed":[],"stays":[]}"#
    );
    assert_eq!(host.ssh(&["test", "-e", STATE]).code, 1);
    // A plain NixOS: its own tools do as they always did.
    let own = host.ssh(&[&format!("{PROFILE}/bin/switch-to-configuration"), "boot"]);
    assert_eq!(own.code, 0, "{own:?}");
    assert_eq!(standing(&host), before);

    // And a person who changes their mind has it back, with nothing activated that runs already.
    std::fs::write(&path, manifests).unwrap();
    world.commit("web-1 comes again", &[]).unwrap();
    world.all_ready(&["web-1"]).unwrap();
    assert_eq!(standing(&host), before);
    assert_eq!(world.switches("web-1").unwrap(), known);
}
