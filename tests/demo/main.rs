//! The demo: three lab hosts converge from a merge, a bad one harms none, drift is found and mended, a nudge is heard.
//! Every verdict is read from the hosts themselves; trueup's own word is only shown beside it.
//! `cargo xtask demo` builds what this needs and starts it.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use trueup_tests::harness::{self, Lab};
use trueup_tests::world::{QUICK, Stage, World};

const HOSTS: [&str; 3] = ["web-1", "web-2", "db-1"];

fn main() -> ExitCode {
    let mut keep = false;
    for arg in std::env::args().skip(1) {
        if arg != "--keep" {
            eprintln!("usage: cargo xtask demo [--keep]");
            return ExitCode::from(2);
        }
        keep = true;
    }
    let began = Instant::now();
    let Some(lab) = Lab::up(&HOSTS) else {
        eprintln!("demo: it needs lab hosts, see above");
        return ExitCode::FAILURE;
    };
    let mut told = Vec::new();
    let done = start(lab).and_then(|mut world| {
        told.push(("three hosts, as an installer leaves them", began.elapsed()));
        let done = acts(&mut world, &mut told);
        if let Err(error) = &done {
            eprintln!(
                "\n{error:#}\n\nthe controller's last words:\n{}",
                world.log_tail()
            );
        }
        if keep {
            play(&world);
        }
        done
    });
    println!("\n{:<64} {:>7}", "what was seen on the hosts", "seconds");
    for (what, took) in &told {
        println!("✓ {what:<62} {:>7.1}", took.as_secs_f64());
    }
    let sum = began.elapsed().as_secs_f64();
    println!("  {:<62} {sum:>7.1}", "together");
    match done {
        Ok(()) => {
            println!("all as expected");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("✗ {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(lab: Lab) -> Result<World> {
    let trueup = std::env::current_exe()?.with_file_name("trueup");
    let trueup = std::env::var_os("TRUEUP_TEST_TRUEUP").map_or(trueup, Into::into);
    let stage = Stage {
        fleet: "demo",
        hosts: &HOSTS,
        defaults: QUICK,
        trueup: &trueup,
        ssh: "",
        agent: harness::static_agent(),
    };
    let mut world = World::set(lab, &stage)?;
    merge(&mut world, "the fleet", &[])?;
    world.start_and_wait()?;
    let pid = world.pid().context("it runs")?;
    println!("controller {pid} in {}", world.dir().display());
    Ok(world)
}

type Change<'a> = trueup_tests::world::Change<'a>;

/// A commit, for the audience.
fn merge(world: &mut World, message: &str, changes: &[Change]) -> Result<()> {
    world.commit(message, changes)?;
    println!("merged {} \"{message}\"", &world.head()[..7]);
    Ok(())
}

/// A command, for the audience.
fn show(world: &World, args: &[&str]) -> Result<()> {
    println!("$ trueup {}\n{}", args.join(" "), world.trueup(args)?);
    Ok(())
}

/// How often each of these switched.
fn starts(world: &World, names: &[&str]) -> Result<BTreeMap<String, usize>> {
    let count = |name: &&str| Ok((String::from(*name), world.switches(name)?.values().sum()));
    names.iter().map(count).collect()
}

/// Stays until somebody presses Enter or Ctrl-C.
fn play(world: &World) {
    println!(
        "\nyours to play with, until Enter or Ctrl-C:\n  export TRUEUP_SOCKET={socket}\n  {trueup} get hosts --watch\n  \
         edit {repo}/hosts.nix and commit\n  TRUEUP_LAB_ID={id} cargo xtask lab ssh web-1",
        socket = world.socket().display(),
        trueup = world.program().display(),
        repo = world.repo().display(),
        id = world.lab().id(),
    );
    let read = std::io::stdin().read_line(&mut String::new());
    if matches!(read, Ok(0)) {
        // Nobody can press Enter here: until Ctrl-C, or whatever else ends us.
        loop {
            std::thread::park();
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
    merge(world, "generation one", &[])?;
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
    show(world, &["get", "hosts"])
}

fn one_host(world: &mut World) -> Result<()> {
    let before = starts(world, &["web-2", "db-1"])?;
    merge(
        world,
        "web-1: generation two",
        &[("web-1", "web", &[("message", "generation two")])],
    )?;
    world.all_ready(&["web-1"])?;
    world.page("web-1", "generation two")?;
    ensure!(
        starts(world, &["web-2", "db-1"])? == before,
        "another host was activated"
    );
    Ok(())
}

fn bad_merge(world: &mut World) -> Result<()> {
    let before = world.host("web-2").link("/run/current-system");
    merge(
        world,
        "web-2: harden sshd",
        &[("web-2", "sshd-broken", &[])],
    )?;
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
    show(world, &["describe", "host/web-2"])
}

fn good_again(world: &mut World) -> Result<()> {
    merge(
        world,
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
    show(world, &["get", "events"])
}

fn nudge(world: &mut World) -> Result<()> {
    let profile = world.host("web-1").link("/nix/var/nix/profiles/system");
    show(world, &["reconcile", "--host", "web-1", "--wait"])?;
    world.all_ready(&["web-1"])?;
    ensure!(
        world.host("web-1").link("/run/current-system") == profile,
        "web-1 still drifts"
    );
    Ok(())
}
