//! What a login may do on a host: what is missing is told by the error, with the next step; with that done it converges.

use std::time::Duration;

use super::switched;
use crate::harness::{Lab, command, wait_slowly};
use trueup_tests::programs;
use trueup_tests::world::{Stage, World};

const HOST: &str = "web-1";
const PATIENCE: Duration = Duration::from_secs(240);
/// A try that a person asked for has told what it lacks.
const TRIES_MAX: Duration = Duration::from_secs(15);

/// The lab has no sudo. This is one as far as trueup can tell: setuid root, it takes `-n --` and becomes the rest.
const SUDO: &str = r#"
use std::os::unix::process::CommandExt;
fn main() {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    assert!(args.len() > 2 && args[0] == "-n" && args[1] == "--", "sudo: {args:?}");
    let error = std::process::Command::new(&args[2]).args(&args[3..]).uid(0).gid(0).exec();
    eprintln!("sudo: {}: command not found ({error})", args[2].to_string_lossy());
    std::process::exit(1);
}
"#;

pub(crate) fn put_sudo(world: &World, name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("sudo.rs"), folder.path().join("sudo"));
    std::fs::write(&source, SUDO).unwrap();
    let built = command(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned()))
        .args([
            "--edition",
            "2024",
            "-C",
            "target-feature=+crt-static",
            "-o",
        ])
        .arg(&program)
        .arg(&source)
        .status()
        .unwrap();
    assert!(built.success());
    let bytes = std::fs::read(&program).unwrap();
    world
        .closures()
        .put(world.host(name), &bytes, "/usr/bin/sudo");
    world.host(name).read(&["chmod", "4755", "/usr/bin/sudo"]);
}

/// Asks for a new try until the host's `Ready` says this.
fn told(world: &World, words: &str) {
    let says = || world.why(HOST).ok()?.contains(words).then_some(());
    let said = wait_slowly(PATIENCE, || {
        world.nudge(HOST).ok()?;
        wait_slowly(TRIES_MAX, says)
    });
    assert!(
        said.is_some(),
        "not told {words:?}, but: {:?}",
        world.why(HOST)
    );
}

#[test]
fn what_a_login_lacks_is_told_and_once_it_is_there_the_host_converges() {
    let Some(lab) = Lab::up(&[HOST]) else { return };
    let stage = Stage::demo(
        &[HOST],
        "    activation: {confirmTimeout: 60s, settle: 1s}\n    drift: {interval: 10s}\n",
    );
    let mut world = World::set(lab, &stage).unwrap();
    world.patience = PATIENCE;
    let made = world.host(HOST).sh(
        "useradd --create-home --shell /bin/sh deploy && install -d -o deploy -m 700 /home/deploy/.ssh && \
         install -o deploy -m 600 /root/.ssh/authorized_keys /home/deploy/.ssh/authorized_keys",
    );
    assert_eq!(made.code, 0, "{made:?}");
    world
        .edit_host(HOST, "    user: root\n", "    user: deploy\n")
        .unwrap();
    world.commit("as deploy", &[]).unwrap();
    world.start_and_wait().unwrap();
    told(&world, "set `ssh.user: root`, or `ssh.become: true`");

    world
        .edit_host(
            HOST,
            "    user: deploy\n",
            "    user: deploy\n    become: true\n",
        )
        .unwrap();
    world.commit("as deploy, who becomes root", &[]).unwrap();
    told(&world, "sudo without a password");

    let host = world.host(HOST).clone();
    let trust = host.read(&["cat", "/etc/nix/lab.conf"]);
    host.read(&["truncate", "--size", "0", "/etc/nix/lab.conf"]);
    host.read(&["systemctl", "try-restart", "nix-daemon.service"]);
    put_sudo(&world, HOST);
    // Debian lets only a group use the daemon.
    told(&world, "may not use the Nix daemon");
    host.read(&["usermod", "--append", "--groups", "nix-users", "deploy"]);
    // A session keeps the groups that it began with.
    host.ssh(&["pkill", "-KILL", "-u", "deploy"]);
    let key = trust.rsplit(' ').next().unwrap();
    told(
        &world,
        &format!("add `{key}` to its nix.settings.trusted-public-keys"),
    );
    assert_eq!(switched(&world, HOST), 0);

    let put =
        format!("echo '{trust}' > /etc/nix/lab.conf && systemctl try-restart nix-daemon.service");
    assert_eq!(host.sh(&put).code, 0);
    world.nudge(HOST).unwrap();
    world.all_ready(&[HOST]).unwrap();
    assert_eq!(switched(&world, HOST), 1);
}

/// Names become words on command lines: none of them can begin an option or another command.
#[test]
fn names_that_would_be_options_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = "apiVersion: trueup/v1alpha1\nkind: Fleet\nmetadata: {name: demo}\nspec: {defaults: {system: x86_64-linux}}\n";
    std::fs::write(folder.path().join("fleet.yaml"), fleet).unwrap();
    for (name, address, ssh) in [
        ("-oProxyCommand=id", "10.0.0.1", "{}"),
        ("a;id", "10.0.0.1", "{}"),
        ("web-1", "-oProxyCommand=id", "{}"),
        ("web-1", "10.0.0.1 -oProxyCommand=id", "{}"),
        ("web-1", "10.0.0.1", "{user: \"-oProxyCommand=id\"}"),
        ("web-1", "10.0.0.1", "{user: \"root;id\"}"),
        ("web-1", "10.0.0.1", "{jump: \"-oProxyCommand=id\"}"),
        ("web-1", "10.0.0.1", "{jump: \"a,b -oProxyCommand=id\"}"),
        (
            "web-1",
            "10.0.0.1",
            "{hostKeys: [\"ssh-ed25519 AAAA\\nHost *\"]}",
        ),
    ] {
        let host = format!(
            "apiVersion: trueup/v1alpha1\nkind: Host\nmetadata: {{name: \"{name}\"}}\nspec: {{address: \"{address}\", ssh: {ssh}}}\n"
        );
        std::fs::write(folder.path().join("hosts.yaml"), &host).unwrap();
        let out = command(programs::trueup())
            .arg("validate")
            .arg(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned()
            + &String::from_utf8_lossy(&out.stdout);
        assert_eq!(out.status.code(), Some(1), "{host}{said}");
        assert!(said.contains("hosts.yaml:"), "{host}{said}");
    }
}
