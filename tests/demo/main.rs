//! The demo: three lab hosts converge from a merge, a bad one harms none, drift is found and mended, a nudge is heard.
//! Every verdict is read from the hosts themselves; trueup's own word is only shown beside it.
//! `cargo xtask demo` builds what this needs and starts it.

#[allow(dead_code, clippy::unwrap_used, reason = "the lab tests' own")]
#[path = "../lab/closures.rs"]
mod closures;
#[allow(dead_code, reason = "the lab tests use all of it")]
#[path = "../lab/harness.rs"]
mod harness;
mod world;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use world::World;

/// Long enough for a busy machine with two cores; a step that takes longer has failed.
const CONVERGED_MAX: Duration = Duration::from_secs(120);

const HOSTS: [&str; 3] = ["web-1", "web-2", "db-1"];

fn main() -> ExitCode {
    let keep = std::env::args().any(|arg| arg == "--keep");
    let Some(lab) = harness::Lab::up(&HOSTS) else {
        eprintln!("demo: it needs lab hosts, see above");
        return ExitCode::FAILURE;
    };
    let mut told = Vec::new();
    let done = World::start(lab).and_then(|mut world| {
        let done = acts(&mut world, &mut told);
        if let Err(error) = &done {
            eprintln!(
                "\n{error:#}\n\nthe controller's last words:\n{}",
                world.log_tail()
            );
        }
        if keep {
            world.play();
        }
        done
    });
    println!("\n{:<64} {:>7}", "what was seen on the hosts", "seconds");
    for (what, took) in &told {
        println!("✓ {what:<62} {:>7.1}", took.as_secs_f64());
    }
    match done {
        Ok(()) => {
            println!("all {} as expected", told.len());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("✗ {error:#}");
            ExitCode::FAILURE
        }
    }
}

type Told = Vec<(&'static str, Duration)>;

fn acts(world: &mut World, told: &mut Told) -> Result<()> {
    let mut act = |what: &'static str, play: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        println!("\n── {what}");
        let began = Instant::now();
        play()?;
        told.push((what, began.elapsed()));
        Ok(())
    };
    act(
        "a merge: three hosts converge, confirmed, boot default",
        &mut || first_merge(world),
    )?;
    act("a merge for one host touches that host only", &mut || {
        one_host(world)
    })?;
    act(
        "a merge that kills sshd is rolled back by the host",
        &mut || bad_merge(world),
    )?;
    act(
        "the next good merge converges without a person",
        &mut || good_again(world),
    )?;
    act(
        "somebody switched by hand: drift is found, nothing undone",
        &mut || drift(world),
    )?;
    act("a nudge puts it right", &mut || nudge(world))
}

fn first_merge(world: &mut World) -> Result<()> {
    world.commit("generation one", &[])?;
    world.all_ready(&HOSTS)?;
    for name in HOSTS {
        let host = world.host(name);
        let running = host.link("/run/current-system");
        ensure!(running.is_some(), "{name} runs no closure");
        ensure!(
            running == host.link("/nix/var/nix/profiles/system"),
            "{name}: profile differs"
        );
        ensure!(
            running == host.link("/boot/default"),
            "{name}: boot default differs"
        );
    }
    world.page("web-1", "hello from generation one")?;
    world.show(&["get", "hosts"])
}

fn one_host(world: &mut World) -> Result<()> {
    let before = world.starts(&["web-2", "db-1"]);
    world.commit(
        "web-1: generation two",
        &[("web-1", "web", &[("message", "generation two")])],
    )?;
    world.all_ready(&["web-1"])?;
    world.page("web-1", "generation two")?;
    ensure!(
        world.starts(&["web-2", "db-1"]) == before,
        "another host was activated"
    );
    Ok(())
}

fn bad_merge(world: &mut World) -> Result<()> {
    let before = world.host("web-2").link("/run/current-system");
    world.commit("web-2: harden sshd", &[("web-2", "sshd-broken", &[])])?;
    world.outcome("web-2", "RolledBack")?;
    let host = world.host("web-2");
    ensure!(
        host.link("/run/current-system") == before,
        "web-2 does not run what it ran"
    );
    ensure!(
        host.link("/boot/default") == before,
        "web-2's boot default has moved"
    );
    ensure!(
        host.unit("sshd.service", "ActiveState") == "active",
        "web-2's sshd does not run"
    );
    world.show(&["describe", "host/web-2"])
}

fn good_again(world: &mut World) -> Result<()> {
    world.commit(
        "web-2: generation three",
        &[("web-2", "web", &[("message", "generation three")])],
    )?;
    world.all_ready(&HOSTS)?;
    world.page("web-2", "generation three")
}

fn drift(world: &mut World) -> Result<()> {
    let host = world.host("web-1");
    let good = host.link("/run/current-system");
    let other = world.older_closure("web-1")?;
    let host = world.host("web-1");
    host.read(&[&format!("{other}/bin/switch-to-configuration"), "test"]);
    ensure!(
        host.link("/run/current-system") != good,
        "the hand had no effect"
    );
    world.trueup(&["reconcile", "--host", "db-1", "--wait"])?;
    world.condition("web-1", "Drifted")?;
    let host = world.host("web-1");
    ensure!(
        host.link("/run/current-system") != good,
        "alert undid what a person did"
    );
    world.show(&["get", "events"])
}

fn nudge(world: &mut World) -> Result<()> {
    let profile = world.host("web-1").link("/nix/var/nix/profiles/system");
    world.show(&["reconcile", "--host", "web-1", "--wait"])?;
    world.all_ready(&["web-1"])?;
    ensure!(
        world.host("web-1").link("/run/current-system") == profile,
        "web-1 still drifts"
    );
    Ok(())
}
