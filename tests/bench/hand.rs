//! What a person would run instead: `nix eval`, `nix build`, `nix copy`, `ssh … switch`, one after the other; for many
//! hosts one evaluation and one build, then a copy and a switch for each at the same time. One shared SSH connection a
//! host and run, as nixos-rebuild makes it.

use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::rig::{self, Rig};
use crate::stages::{At, now};

/// When each command ended; of those that ran side by side the last.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub began: At,
    pub evaluated: At,
    pub built: At,
    pub copied: At,
    pub switched: At,
}

/// Brings `hosts` to what the repository's head says. Gives times and the closures.
pub fn deploy(rig: &Rig, hosts: &[String]) -> Result<(Times, Vec<String>)> {
    let env = rig.env();
    let store = rig.hand.store.display().to_string();
    let flake = format!("git+file://{}#nixosConfigurations", rig.hand.repo.display());
    let nix = || {
        let mut nix = rig::with_nix(rig::command("nix"), &env);
        nix.env("XDG_CACHE_HOME", rig.folder().join("hand-cache"));
        nix
    };
    let began = now();
    let names: Vec<String> = hosts.iter().map(|h| format!("\"{h}\"")).collect();
    let pick = format!(
        "c: builtins.concatStringsSep \" \" (map (h: c.${{h}}.config.system.build.toplevel.drvPath) [ {} ])",
        names.join(" ")
    );
    let drvs =
        rig::read(nix().args(["eval", "--raw", "--store", &store, &flake, "--apply", &pick]))?;
    let evaluated = now();
    let wanted: Vec<String> = drvs.split(' ').map(|d| format!("{d}^out")).collect();
    let out = rig::read(
        nix()
            .args(["build", "--store", &store, "--no-link", "--print-out-paths"])
            .args(&wanted),
    )?;
    let built = now();
    let tops: Vec<String> = out.lines().map(str::to_owned).collect();
    let work: Vec<_> = hosts.iter().zip(tops.clone()).collect();
    let ends: Vec<Result<(At, At)>> = thread::scope(|scope| {
        let begun: Vec<_> = work
            .into_iter()
            .map(|(name, top)| {
                let (host, env, store, nix) = (rig.host(name), &env, &store, nix());
                let sockets = rig.folder().join("hand-ssh");
                scope.spawn(move || push(host, env, store, nix, &sockets, &top))
            })
            .collect();
        begun
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err(anyhow!("a thread ended"))))
            .collect()
    });
    let mut times = Times {
        began,
        evaluated,
        built,
        copied: built,
        switched: built,
    };
    for end in ends {
        let (copied, switched) = end?;
        times.copied = times.copied.max(copied);
        times.switched = times.switched.max(switched);
    }
    close(rig, hosts);
    Ok((times, tops))
}

fn options(env: &[(String, String)], sockets: &Path) -> Result<String> {
    let lab = env.iter().find(|(name, _)| name == "NIX_SSHOPTS");
    let (_, lab) = lab.context("the lab's NIX_SSHOPTS")?;
    Ok(format!(
        "{lab} -o ControlMaster=auto -o ControlPath={}/%h -o ControlPersist=60",
        sockets.display()
    ))
}

fn push(
    host: &trueup_tests::harness::Host,
    env: &[(String, String)],
    store: &str,
    mut nix: std::process::Command,
    sockets: &Path,
    top: &str,
) -> Result<(At, At)> {
    std::fs::create_dir_all(sockets)?;
    let options = options(env, sockets)?;
    let login = format!("{}@{}", host.user, host.address);
    let url = format!("ssh-ng://{login}");
    rig::read(
        nix.env("NIX_SSHOPTS", &options)
            .args(["copy", "--from", store, "--to", &url, top]),
    )?;
    let copied = now();
    let switch = format!(
        "nix-env -p /nix/var/nix/profiles/system --set {top} && {top}/bin/switch-to-configuration switch"
    );
    rig::read(
        rig::command("ssh")
            .args(options.split_whitespace())
            .args([&login, "--", &switch]),
    )?;
    Ok((copied, now()))
}

/// The next run begins without a connection.
fn close(rig: &Rig, hosts: &[String]) {
    let sockets = rig.folder().join("hand-ssh");
    for name in hosts {
        let path = format!(
            "ControlPath={}/{}",
            sockets.display(),
            rig.host(name).address
        );
        let _none_there = rig::command("ssh")
            .args(["-F", "/dev/null", "-o", &path, "-O", "exit", "any"])
            .stderr(std::process::Stdio::null())
            .status();
    }
}
