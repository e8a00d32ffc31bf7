//! The controller is away at bad moments, or a host is.

use std::time::Duration;

use super::{BOOT, CURRENT, switched, three};
use crate::harness::wait;
use trueup_tests::programs;
use trueup_tests::world::World;

/// Long enough for a confirmation on a busy machine, short enough to be waited for.
const DEFAULTS: &str =
    "    activation: {confirmTimeout: 30s, settle: 1s}\n    drift: {interval: 10s}\n";
/// Confirmation's window, the dead-man's 15 s behind it, and the way back.
const BACK_MAX: Duration = Duration::from_secs(180);
const DIES_MAX: Duration = Duration::from_secs(120);

fn message(text: &str) -> [(&str, &str); 1] {
    [("message", text)]
}

#[test]
fn a_controller_that_is_away_harms_no_host_and_a_host_that_is_away_holds_up_no_other() {
    let Some(mut world) = three(programs::trueup_with_crash_points(), DEFAULTS) else {
        return;
    };
    world.commit("generation one", &[]).unwrap();
    world.start_and_wait().unwrap();
    world.all_ready(&super::THREE).unwrap();
    killed_while_activating(&mut world);
    away_for_the_whole_window(&mut world);
    a_host_goes_and_comes_back(&mut world);
    connections_end_with_it(&mut world);
}

fn killed_while_activating(world: &mut World) {
    let before = world.host("web-1").link(CURRENT);
    let known = world.switches("web-1").unwrap();
    world
        .commit(
            "web-1: slow to activate",
            &[("web-1", "activation-hangs", &[("seconds", "15")])],
        )
        .unwrap();
    let begun = wait(world.patience, || {
        (world.switches("web-1").unwrap() != known).then_some(())
    });
    assert!(begun.is_some(), "{}", world.log_tail());
    world.kill();
    assert_eq!(
        world.host("web-1").link(CURRENT),
        before,
        "it was killed too late"
    );
    world.start_and_wait().unwrap();
    world.all_ready(&["web-1"]).unwrap();
    assert_eq!(switched(world, "web-1"), 1);
    let host = world.host("web-1");
    assert_eq!(host.link(CURRENT), host.link(BOOT));
}

fn away_for_the_whole_window(world: &mut World) {
    world.kill();
    let before = world.host("web-2").link(CURRENT).unwrap();
    let known = world.switches("web-2").unwrap();
    world
        .commit("web-2: two", &[("web-2", "web", &message("two"))])
        .unwrap();
    world
        .start(&[("TRUEUP_CRASH_AT", "confirm.start")])
        .unwrap();
    assert!(
        world.ended(DIES_MAX).is_some(),
        "nothing to confirm:\n{}",
        world.log_tail()
    );
    // Nobody confirms: the host goes back by itself, which it says with a switch to what it ran.
    let host = world.host("web-2");
    let back = wait(BACK_MAX, || {
        let now = world.switches("web-2").ok()?;
        let again = now.get(&before) > known.get(&before);
        (again && host.link(CURRENT).as_ref() == Some(&before)).then_some(())
    });
    assert!(back.is_some(), "{:?}", world.switches("web-2"));
    assert_eq!(host.link(BOOT).as_ref(), Some(&before));
    world.start_and_wait().unwrap();
    world.all_ready(&["web-2"]).unwrap();
    assert_eq!(
        switched(world, "web-2"),
        2,
        "once for nothing, and once again"
    );
    let told = world.trueup(&["describe", "host/web-2"]).unwrap();
    assert!(!told.contains("quarantined"), "{told}");
    world.page("web-2", "two").unwrap();
}

fn a_host_goes_and_comes_back(world: &mut World) {
    world.host("db-1").net(false);
    let changes = [
        ("web-2", "web", &message("three")[..]),
        ("db-1", "db", &message("three")[..]),
    ];
    world.commit("three", &changes).unwrap();
    world.all_ready(&["web-2"]).unwrap();
    world
        .until(&["db-1"], "Unreachable", |s| s["phase"] == "Unreachable")
        .unwrap();
    world.host("db-1").net(true);
    world.all_ready(&["db-1"]).unwrap();
    assert_eq!(switched(world, "db-1"), 1);
}

/// The shared connections are processes of ssh's own: none is left when the controller was told to end.
fn connections_end_with_it(world: &mut World) {
    use trueup_tests::processes;
    world.nudge("web-1").unwrap();
    let open = || (!processes::sockets(world.dir()).is_empty()).then_some(());
    wait(world.patience, open).expect("it shares a connection");
    assert!(world.stop().unwrap().success());
    assert_eq!(
        processes::sockets(world.dir()),
        Vec::<std::path::PathBuf>::new()
    );
    let folder = world.dir().join("state/ssh").display().to_string();
    assert_eq!(processes::mentioning(&folder), Vec::<String>::new());
}
