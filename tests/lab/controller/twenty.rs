//! Twenty hosts, and three of them are trouble: one is away, one is slow, one fails. The others notice nothing.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use super::CURRENT;
use crate::harness::{Lab, static_agent, wait};
use trueup_tests::programs;
use trueup_tests::world::{Stage, World};

const AWAY: &str = "n07";
const SLOW: &str = "n12";
const FAILING: &str = "n17";
/// Twenty first activations on two cores.
const PATIENCE: Duration = Duration::from_secs(900);
/// The engine's: first delay and longest, and the least share of it that jitter leaves.
const BACKOFF_BASE_MS: u64 = 1000;
const BACKOFF_MAX_MS: u64 = 300_000;
const JITTER_LEAST: u64 = 10;

/// In front of the host's own `nix-daemon`: the first copy (the agent's) passes, later ones wait for the test.
const HELD: &str = "#!/bin/sh
if [ -e /run/agent-came ]; then
  touch /run/held
  while [ -e /run/hold ]; do sleep 0.2; done
fi
touch /run/agent-came
exec /usr/bin/nix-daemon \"$@\"
";

/// A program `ssh` in a folder of its own that writes down when it was called, and becomes the real one.
fn writing_ssh(folder: &Path) {
    let real = std::env::var_os("PATH")
        .and_then(|path| {
            std::env::split_paths(&path)
                .map(|dir| dir.join("ssh"))
                .find(|program| program.is_file())
        })
        .unwrap();
    let log = folder.join("calls");
    let text = format!(
        "#!/bin/sh\necho \"$(date +%s%3N) $*\" >> {}\nexec {} \"$@\"\n",
        log.display(),
        real.display()
    );
    let program = folder.join("ssh");
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// When the agent of a host was asked something, in milliseconds. Opening a connection ahead of need is no attempt.
fn attempts(folder: &Path, address: &str) -> Vec<u64> {
    let text = std::fs::read_to_string(folder.join("calls")).unwrap_or_default();
    let login = format!("@{address} ");
    text.lines()
        .filter(|line| line.contains(&login) && line.contains("/bin/trueup-agent "))
        .map(|line| line.split(' ').next().unwrap().parse().unwrap())
        .collect()
}

fn twenty() -> Option<World> {
    let names: Vec<String> = (1..=20).map(|n| format!("n{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let stage = Stage {
        fleet: "twenty",
        hosts: &names,
        defaults: "    activation: {confirmTimeout: 180s, settle: 1s}\n",
        trueup: programs::trueup(),
        ssh: "",
        agent: static_agent(),
    };
    let mut world = World::set(Lab::up(&names)?, &stage).unwrap();
    world.patience = PATIENCE;
    Some(world)
}

#[test]
fn seventeen_are_ready_while_one_is_away_one_is_slow_and_one_fails() {
    let Some(mut world) = twenty() else { return };
    let folder = tempfile::tempdir().unwrap();
    writing_ssh(folder.path());
    let more = "    maxConcurrent: 10\n    maxFailures: 5\n";
    world
        .edit("fleet/fleet.yaml", |t| {
            t.replace("    maxConcurrent: 10\n", more)
        })
        .unwrap();
    let put = format!(
        "printf '%s' '{}' > /usr/local/bin/nix-daemon && chmod +x /usr/local/bin/nix-daemon && touch /run/hold",
        HELD.replace('\'', r"'\''")
    );
    assert_eq!(world.host(SLOW).sh(&put).code, 0);
    let slow_ran = world.host(SLOW).link(CURRENT);
    world.host(AWAY).net(false);
    world
        .commit("generation one", &[(FAILING, "fails-at-start", &[])])
        .unwrap();
    let path = format!("{}:{}", folder.path().display(), world.path());
    world.start(&[("PATH", &path)]).unwrap();

    let trouble = [AWAY, SLOW, FAILING];
    let hosts: Vec<String> = world.hosts().into_iter().map(str::to_owned).collect();
    let others: Vec<&str> = hosts
        .iter()
        .map(String::as_str)
        .filter(|n| !trouble.contains(n))
        .collect();
    assert_eq!(others.len(), 17);
    world.all_ready(&others).unwrap();

    // The slow one's copy has begun and has not ended: we hold it.
    let slow = world.host(SLOW);
    wait(PATIENCE, || {
        (slow.ssh(&["test", "-e", "/run/held"]).code == 0).then_some(())
    })
    .unwrap();
    assert_eq!(slow.link(CURRENT), slow_ran);
    assert_eq!(world.status(SLOW).unwrap()["phase"], "Copying");
    world
        .until(&[AWAY], "Unreachable", |s| s["phase"] == "Unreachable")
        .unwrap();
    world.outcome(FAILING, "RolledBack").unwrap();

    // The one that is away is tried, again and again, and never sooner than the back-off allows.
    let address = world.host(AWAY).address.clone();
    let tried = wait(PATIENCE, || {
        let tried = attempts(folder.path(), &address);
        (tried.len() >= 4).then_some(tried)
    })
    .unwrap();
    for (n, pair) in tried.windows(2).enumerate() {
        let cap = (BACKOFF_BASE_MS << n.min(16)).min(BACKOFF_MAX_MS);
        let gap = pair[1] - pair[0];
        assert!(
            gap >= cap / JITTER_LEAST,
            "{gap} ms after attempt {}: {tried:?}",
            n + 1
        );
    }

    slow.read(&["rm", "/run/hold"]);
    world.all_ready(&[SLOW]).unwrap();
    world.host(AWAY).net(true);
    world.all_ready(&[AWAY]).unwrap();
    for name in hosts.iter().filter(|name| *name != FAILING) {
        assert_eq!(super::switched(&world, name), 1, "{name}");
    }
}
