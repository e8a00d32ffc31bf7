//! The demo is a program that somebody runs first thing: it has to work again and again, and after it was killed.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::harness::{Lab, command, static_agent, wait};
use trueup_tests::{processes, programs};

/// About two minutes on an idle machine.
const DEMO_MAX: Duration = Duration::from_secs(900);
/// What a killed demo started notices that, and goes.
const GONE_MAX: Duration = Duration::from_secs(30);

fn demo(log: &Path) -> Child {
    let log = File::create(log).unwrap();
    command(env!("CARGO_BIN_EXE_trueup-demo"))
        .env("TRUEUP_TEST_TRUEUP", programs::trueup())
        .env("TRUEUP_TEST_AGENT", static_agent())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn said(log: &Path) -> String {
    std::fs::read_to_string(log).unwrap()
}

/// The folder that it said it works in.
fn world(log: &Path) -> Option<String> {
    let text = said(log);
    let line = text.lines().find(|line| line.starts_with("controller "))?;
    line.rsplit_once(" in ").map(|(_, dir)| dir.to_owned())
}

fn runs_to_its_end(log: &Path) {
    let mut child = demo(log);
    let status = wait(DEMO_MAX, || child.try_wait().unwrap());
    let Some(status) = status else {
        child.kill().unwrap();
        panic!("the demo does not end:\n{}", said(log));
    };
    assert!(status.success(), "{status}:\n{}", said(log));
    assert!(said(log).contains("all as expected"), "{}", said(log));
    let dir = world(log).unwrap();
    assert!(!Path::new(&dir).exists(), "{dir} stays");
    assert_eq!(processes::mentioning(&dir), Vec::<String>::new());
}

#[test]
fn the_demo_ends_well_twice_in_a_row_and_after_it_was_killed() {
    // No host of ours: the demo has its own, and two cores are enough for those.
    let Some(_turn) = Lab::up(&[]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let log = |n: u32| folder.path().join(format!("demo-{n}.log"));

    let mut child = demo(&log(0));
    let middle = wait(DEMO_MAX, || {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "it ended: {}", said(&log(0)));
        said(&log(0)).contains("web-2: harden sshd").then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(middle.is_some(), "{}", said(&log(0)));
    let killed = world(&log(0)).unwrap();
    assert!(Path::new(&killed).exists(), "it was killed too late");
    // The controller and the connections that it shares go without anybody's help.
    let left = || processes::mentioning(&killed);
    wait(GONE_MAX, || left().is_empty().then_some(()))
        .unwrap_or_else(|| panic!("left: {:#?}", left()));

    runs_to_its_end(&log(1));
    assert!(!Path::new(&killed).exists(), "{killed} stays");
    runs_to_its_end(&log(2));
}
