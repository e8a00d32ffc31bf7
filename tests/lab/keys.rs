//! The key for intents is rotated while the fleet runs: each host obeys both keys, then the new one alone. Judged by the
//! host's own file of pinned keys, and by what it still takes.

use serde_json::Value;
use trueup_tests::world::{Stage, World};

use crate::harness::{Lab, wait_slowly};

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
