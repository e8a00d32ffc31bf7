//! Commits that come faster than they can be built and activated, for a while: no host starves, none goes back, and who waits
//! for a delivery sees one.

use std::process::Child;
use std::time::{Duration, Instant};

use super::switched;
use crate::harness::{Lab, wait};
use trueup_tests::world::{Change, Stage, World};

const TWO: [&str; 2] = ["web-1", "web-2"];
const DEFAULTS: &str = "    activation: {confirmTimeout: 60s, settle: 1s}\n";
/// Between two commits; each build, and each activation, takes three times as long.
const PACE: Duration = Duration::from_secs(2);
const SLOW: &str = "6";
/// Long enough for several deliveries of either host.
const COMMITS: usize = 40;
/// Of those, a host has to see at least so many while they come.
const SEEN_MIN: usize = 2;

/// `web-1` takes long to build, `web-2` to activate; both change each time.
fn next(world: &mut World, n: usize) {
    // Another text is another build; the time is the same.
    let seconds = format!("{}{SLOW}", "0".repeat(n));
    let note = format!("{n}");
    let slow: &[(&str, &str)] = &[("seconds", &seconds)];
    let hangs: &[(&str, &str)] = &[("seconds", SLOW), ("note", &note)];
    let changes: [Change; 2] = [
        ("web-1", "slow-build", slow),
        ("web-2", "activation-hangs", hangs),
    ];
    world.commit(&format!("commit {n}"), &changes).unwrap();
}

fn deliveries(world: &World, name: &str) -> usize {
    world.switches(name).unwrap().values().sum()
}

/// The revisions that a host tried, oldest first, as places in the stream.
fn tried(world: &World, name: &str, commits: &[String]) -> Vec<usize> {
    let text = world
        .trueup(&["history", &format!("host/{name}"), "-o", "json"])
        .unwrap();
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    let items = list["items"].as_array().unwrap();
    let place = |item: &serde_json::Value| {
        let revision = item["status"]["revision"].as_str().unwrap();
        let found = commits.iter().position(|c| revision.ends_with(c.as_str()));
        found.unwrap_or_else(|| panic!("{revision} is none of ours"))
    };
    items.iter().rev().map(place).collect()
}

fn catches_up(world: &World) -> bool {
    let told = world.trueup(&["describe", "host/web-1"]).unwrap();
    told.contains("catching up")
}

fn waits_for(world: &World, name: &str) -> Child {
    let args = ["reconcile", "--host", name, "--wait"];
    world.spawn(&args).unwrap()
}

#[test]
fn commits_that_come_faster_than_builds_and_activations_starve_nobody() {
    let Some(lab) = Lab::up(&TWO) else { return };
    let mut world = World::set(lab, &Stage::demo(&TWO, DEFAULTS)).unwrap();
    world.commit("first", &[]).unwrap();
    let mut commits = vec![world.head().to_owned()];
    world.start_and_wait().unwrap();
    world.all_ready(&TWO).unwrap();

    let before = TWO.map(|name| deliveries(&world, name));
    let mut waiting = TWO.map(|name| (name, None));
    let mut caught_up = false;
    let begun = Instant::now();
    for n in 0..COMMITS {
        next(&mut world, n);
        commits.push(world.head().to_owned());
        if n == 3 {
            waiting = TWO.map(|name| (name, Some(waits_for(&world, name))));
        }
        caught_up |= catches_up(&world);
        let due = PACE * u32::try_from(n + 1).unwrap();
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    let seen = TWO.map(|name| deliveries(&world, name));
    for (name, (before, seen)) in TWO.iter().zip(before.into_iter().zip(seen)) {
        let got = seen - before;
        assert!(got >= SEEN_MIN, "{name}: {got} deliveries in the stream");
        assert!(
            got < COMMITS / 2,
            "{name}: {got}: no stream that is too fast"
        );
    }
    assert!(caught_up, "nobody was told of it");
    // Who asked in its midst was answered in its midst.
    for (name, child) in &mut waiting {
        let child = child.as_mut().unwrap();
        let ended = child.try_wait().unwrap();
        assert!(ended.is_some_and(|s| s.success()), "{name}: {ended:?}");
    }

    world.all_ready(&TWO).unwrap();
    for name in TWO {
        assert_eq!(switched(&world, name), 1, "the last one, once");
        let places = tried(&world, name, &commits);
        assert!(places.is_sorted(), "{name} went back: {places:?}");
        let every = world.switches(name).unwrap();
        assert!(every.values().all(|n| *n == 1), "{name}: {every:?}");
    }
    wait(world.patience, || (!catches_up(&world)).then_some(())).expect("it has caught up");
}
