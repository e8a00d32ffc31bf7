//! What the agent does instead of starting a program of Nix', beside that program.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use trueup_agent::{profile, store};
use trueup_schema::StorePath;
use trueup_tests::harness::{command, wait};

use crate::rig::{self, Dir};

const PATIENCE: Duration = Duration::from_secs(120);

struct Real {
    dir: Dir,
}

impl Real {
    fn new() -> Option<Self> {
        let dir = Dir::new();
        rig::nix(dir.path())?;
        Some(Self { dir })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, program: &str) -> std::process::Command {
        let mut command = command(program);
        let config = std::env::var("NIX_CONFIG").unwrap_or_default();
        let store = self.at("store");
        command
            .env(
                "NIX_CONFIG",
                format!("{config}\nstore = {}\n", store.display()),
            )
            .env("NIX_DAEMON_SOCKET_PATH", self.at("socket"))
            .env("HOME", self.dir.path());
        command
    }

    fn says(&self, program: &str, args: &[&str]) -> String {
        let out = self.command(program).args(args).output().unwrap();
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{program} {args:?}: {told}");
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    fn path(&self, name: &str) -> StorePath {
        let file = self.at(name);
        std::fs::write(&file, name).unwrap();
        let path = self.says("nix-store", &["--add", file.to_str().unwrap()]);
        path.parse().unwrap()
    }
}

fn current(profile: &Path) -> String {
    let link = std::fs::read_link(profile).unwrap();
    link.to_str().unwrap().to_owned()
}

#[test]
fn nix_env_goes_on_with_a_profile_that_the_agent_set_and_the_agent_with_nix_envs() {
    let Some(real) = Real::new() else { return };
    let (a, b, c) = (real.path("a"), real.path("b"), real.path("c"));
    let profile = real.at("profiles/system");
    let name = profile.to_str().unwrap();
    profile::set(&profile, &a).unwrap();
    real.says("nix-env", &["-p", name, "--set", b.as_str()]);
    assert_eq!(current(&profile), "system-2-link");
    // Nix sees the same closure as no new generation, and so do we.
    real.says("nix-env", &["-p", name, "--set", b.as_str()]);
    profile::set(&profile, &b).unwrap();
    assert_eq!(current(&profile), "system-2-link");
    profile::set(&profile, &c).unwrap();
    assert_eq!(current(&profile), "system-3-link");
    let listed = real.says("nix-env", &["-p", name, "--list-generations"]);
    let listed: Vec<&str> = listed.lines().map(str::trim_start).collect();
    let starts = |at: usize, n: &str| listed[at].split_whitespace().next() == Some(n);
    assert!(
        listed.len() == 3 && starts(0, "1") && starts(1, "2"),
        "{listed:?}"
    );
    assert!(
        starts(2, "3") && listed[2].contains("(current)"),
        "{listed:?}"
    );
    real.says("nix-env", &["-p", name, "--rollback"]);
    assert_eq!(current(&profile), "system-2-link");
    real.says("nix-env", &["-p", name, "--delete-generations", "1"]);
    profile::set(&profile, &a).unwrap();
    assert_eq!(current(&profile), "system-4-link");
    // Neither leaves its lock behind.
    assert!(!real.at("profiles/system.lock").exists());
}

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn nixs_daemon_says_which_paths_are_valid() {
    let Some(real) = Real::new() else { return };
    let there = real.path("a");
    let missing: StorePath = "/nix/store/00000000000000000000000000000000-a"
        .parse()
        .unwrap();
    let socket = real.at("socket");
    assert!(
        store::by_daemon(&socket, std::slice::from_ref(&there)).is_err(),
        "nobody listens yet"
    );
    let quiet = real
        .command("nix-daemon")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _daemon = Daemon(quiet.unwrap());
    let asked = [there.clone(), missing, there];
    let told = wait(PATIENCE, || store::by_daemon(&socket, &asked).ok());
    assert_eq!(told.as_deref(), Some([true, false, true].as_slice()));
}
