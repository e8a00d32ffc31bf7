//! The whole controller, as one program, against lab hosts: killed, cut off, given hosts that are away, slow or others
//! than it thinks. Judged by the hosts' own journals and links.

mod away;
mod crash;
mod demo;
mod reach;
mod rights;
mod stream;
mod twenty;

pub(crate) use rights::put_sudo;
use std::path::Path;

use crate::harness::{Lab, static_agent};
use trueup_tests::world::{Stage, World};

const THREE: [&str; 3] = ["web-1", "web-2", "db-1"];
const CURRENT: &str = "/run/current-system";
const BOOT: &str = "/boot/default";

/// Three hosts of the fleet `demo`, and a controller that does not run yet.
fn three(trueup: &Path, defaults: &str) -> Option<World> {
    let stage = Stage {
        fleet: "demo",
        hosts: &THREE,
        defaults,
        trueup,
        ssh: "",
        agent: static_agent(),
    };
    Some(World::set(Lab::up(&THREE)?, &stage).unwrap())
}

/// How often a host switched to what it is to run now.
pub(crate) fn switched(world: &World, name: &str) -> usize {
    let status = world.status(name).unwrap();
    let closure = status["desiredClosure"].as_str().unwrap();
    let switches = world.switches(name).unwrap();
    switches.get(closure).copied().unwrap_or_default()
}
