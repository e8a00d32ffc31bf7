//! Both keys of the controller are rotated while the fleet runs: each host takes both, then the new one alone. Judged by the
//! host's own files of keys, and by what it still takes.

use serde_json::Value;
use trueup_tests::world::{Stage, World};

use crate::harness::{Host, Lab, wait_slowly};

const HOST: &str = "web-1";
const PINNED: &str = "/nix/var/trueup/keys/controller.pub";

/// The host's own list.
fn pinned(world: &World) -> Vec<String> {
    let text = world.host(HOST).read(&["cat", PINNED]);
    let keys = text.lines().filter(|l| !l.starts_with('#'));
    keys.map(str::to_owned).collect()
}

fn becomes(world: &World, wanted: &[&str]) {
    let is = wait_slowly(world.patience, || {
        world.nudge(HOST).ok()?;
        (pinned(world) == wanted).then_some(())
    });
    let found = pinned(world);
    assert!(
        is.is_some(),
        "{found:?}, not {wanted:?}:\n{}",
        world.log_tail()
    );
}

fn status(world: &World) -> Value {
    let text = world.trueup(&["keys", "status", "-o", "json"]).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn an_intent_key_is_rotated_over_hosts_that_obey_both_meanwhile() {
    let Some(lab) = Lab::up(&[HOST]) else { return };
    let stage = Stage::demo(
        &[HOST],
        "    activation: {confirmTimeout: 60s, settle: 1s}\n    drift: {interval: 10s}\n",
    );
    let mut world = World::set(lab, &stage).unwrap();
    world.commit("the first", &[]).unwrap();
    world.start_and_wait().unwrap();
    world.all_ready(&[HOST]).unwrap();
    let old = status(&world)["intent"]["current"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(pinned(&world), [old.as_str()], "at first contact");

    world.trueup(&["keys", "rotate", "intent"]).unwrap();
    let new = status(&world)["intent"]["next"]
        .as_str()
        .unwrap()
        .to_owned();
    becomes(&world, &[&new, &old]);
    // In the middle of it the controller is killed, and what both sign is taken.
    world.kill();
    world.start_and_wait().unwrap();
    assert_eq!(status(&world)["intent"]["next"], new.as_str());
    world
        .commit("in the middle", &[(HOST, "web", &[("message", "both")])])
        .unwrap();
    world.all_ready(&[HOST]).unwrap();
    assert_eq!(status(&world)["hosts"][0]["intent"], "both");

    world
        .trueup(&["keys", "rotate", "intent", "--finish"])
        .unwrap();
    becomes(&world, &[&new]);
    world
        .commit("after it", &[(HOST, "web", &[("message", "the new one")])])
        .unwrap();
    world.all_ready(&[HOST]).unwrap();
    world.page(HOST, "the new one").unwrap();
    assert_eq!(status(&world)["intent"]["current"], new.as_str());
    assert_eq!(status(&world)["hosts"][0]["intent"], "current");
}

/// Whose store paths the host's Nix takes, and nobody else's.
fn trusts(host: &Host, keys: &[&str]) {
    let line = format!(
        "echo 'trusted-public-keys = {}' > /etc/nix/lab.conf && systemctl try-restart nix-daemon.service",
        keys.join(" ")
    );
    assert_eq!(host.sh(&line).code, 0);
}

/// What `keys status` says of the host's store keys, once it has reported.
fn told_as(world: &World, wanted: &str) {
    let is = wait_slowly(world.patience, || {
        world.nudge(HOST).ok()?;
        let host = status(world)["hosts"][0].clone();
        (host["store"] == wanted && host["unsigned"] == serde_json::json!([])).then_some(())
    });
    let found = status(world);
    assert!(
        is.is_some(),
        "not {wanted}: {found:#}\n{}",
        world.log_tail()
    );
}

/// Names of the keys that signed what the host runs, as its own store has it.
fn signers(world: &World) -> Vec<String> {
    let host = world.host(HOST);
    let top = host.link("/run/current-system").unwrap();
    let told = host.read(&["nix", "path-info", "--sigs", &top]);
    let words = told.split_whitespace().filter(|w| w.starts_with("trueup-"));
    let names = words.filter_map(|w| w.split(':').next());
    // The lab's own key signs whatever its Nix builds, and is trusted by nobody here.
    let ours = names.filter(|n| *n != "trueup-lab-1");
    ours.map(str::to_owned).collect()
}

fn lands(world: &mut World, text: &str) {
    world
        .commit(text, &[(HOST, "web", &[("message", text)])])
        .unwrap();
    world.all_ready(&[HOST]).unwrap();
    world.page(HOST, text).unwrap();
}

fn text_of(status: &Value, which: &str) -> String {
    status["store"][which].as_str().unwrap().to_owned()
}

#[test]
fn a_store_key_is_rotated_over_hosts_that_trust_both_and_then_the_new_one_alone() {
    let Some(lab) = Lab::up(&[HOST]) else { return };
    let stage = Stage::demo(
        &[HOST],
        "    activation: {confirmTimeout: 60s, settle: 1s}\n    drift: {interval: 10s}\n",
    );
    let mut world = World::set(lab, &stage).unwrap();
    // A key of trueup's own, made at its first start.
    let settings = world.dir().join("trueup.yaml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let (before, after) = text.split_once("signing:\n").unwrap();
    let after = after.split_once('\n').unwrap().1;
    std::fs::write(&settings, format!("{before}{after}")).unwrap();
    world.commit("the first", &[]).unwrap();
    world.start_and_wait().unwrap();
    let old = text_of(&status(&world), "current");
    assert!(old.starts_with("trueup-1:"), "{old}");
    let host = world.host(HOST).clone();
    trusts(&host, &[&old]);
    lands(&mut world, "by the old one");
    assert_eq!(signers(&world), ["trueup-1"]);

    let said = world.trueup(&["keys", "rotate", "store"]).unwrap();
    let new = text_of(&status(&world), "next");
    assert!(
        new.starts_with("trueup-2:") && said.contains(&new),
        "{said}"
    );
    told_as(&world, "old");
    let early = world
        .call(&["keys", "rotate", "store", "--finish"])
        .unwrap();
    assert_eq!(early.status.code(), Some(1));
    let why = String::from_utf8_lossy(&early.stderr).into_owned();
    assert!(why.contains("web-1 would be left behind"), "{why}");
    // In the middle of it the controller is killed; both sign, and a host that trusts the old one takes that.
    world.kill();
    world.start_and_wait().unwrap();
    assert_eq!(text_of(&status(&world), "next"), new);
    lands(&mut world, "by both");
    assert_eq!(signers(&world), ["trueup-1", "trueup-2"]);

    trusts(&host, &[&old, &new]);
    told_as(&world, "both");
    trusts(&host, &[&new]);
    told_as(&world, "new");
    lands(&mut world, "for who trusts the new one");

    let said = world
        .trueup(&["keys", "rotate", "store", "--finish"])
        .unwrap();
    assert!(said.contains(&new), "{said}");
    let now = status(&world);
    assert_eq!(text_of(&now, "current"), new);
    assert!(now["store"]["next"].is_null(), "{now:#}");
    lands(&mut world, "by the new one");
    assert_eq!(signers(&world), ["trueup-2"]);
    told_as(&world, "current");

    // Whoever trusts the old one alone takes nothing any more, and is told what to do.
    trusts(&host, &[&old]);
    world
        .commit("refused", &[(HOST, "web", &[("message", "refused")])])
        .unwrap();
    let fix = format!("add `{new}` to its nix.settings.trusted-public-keys");
    let told = wait_slowly(world.patience, || {
        let events = world.trueup(&["events", HOST, "-o", "json"]).ok()?;
        events.contains(&fix).then_some(())
    });
    let events = || world.trueup(&["events", HOST, "-o", "json"]);
    assert!(told.is_some(), "{:?} {:?}", world.why(HOST), events());
    world.page(HOST, "by the new one").unwrap();
    trusts(&host, &[&new]);
    world.nudge(HOST).unwrap();
    world.all_ready(&[HOST]).unwrap();
}
