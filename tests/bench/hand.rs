//! What a person would run instead, in two ways. As typed: `nix eval`, `nix build`, `nix copy`, `ssh … switch` for each host, the
//! hosts at the same time, each `ssh` a login of its own. With care: one evaluation and one build for all hosts, then a copy and a
//! switch for each at the same time, over one shared connection a host, as nixos-rebuild makes it.

use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::rig::{self, Rig};
use crate::stages::{At, now};

/// How a person goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    AsTyped,
    WithCare,
}

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
pub fn deploy(rig: &Rig, hosts: &[String], way: Way) -> Result<(Times, Vec<String>)> {
    let env = rig.env();
    let store = rig.hand.store.display().to_string();
    let flake = format!("git+file://{}#nixosConfigurations", rig.hand.repo.display());
    let hand = Hand {
        rig,
        env: &env,
        store: &store,
        flake: &flake,
        way,
    };
    let began = now();
    let ends = match way {
        Way::AsTyped => hand.each(hosts.to_vec(), |host| {
            let (mut times, tops) = hand.build(began, std::slice::from_ref(&host))?;
            let top = tops.into_iter().next().context("nix built nothing")?;
            (times.copied, times.switched) = hand.push(&host, &top)?;
            Ok((times, top))
        }),
        Way::WithCare => {
            let (built, tops) = hand.build(began, hosts)?;
            let work: Vec<_> = hosts.iter().cloned().zip(tops).collect();
            hand.each(work, |(host, top)| {
                let mut times = built;
                (times.copied, times.switched) = hand.push(&host, &top)?;
                Ok((times, top))
            })
        }
    };
    let (mut last, mut tops) = (None, Vec::new());
    for end in ends {
        let (times, top) = end?;
        tops.push(top);
        last = Some(last.map_or(times, |l: Times| l.later(times)));
    }
    close(rig, hosts);
    Ok((last.context("no hosts")?, tops))
}

impl Times {
    fn later(self, other: Self) -> Self {
        Self {
            began: self.began,
            evaluated: self.evaluated.max(other.evaluated),
            built: self.built.max(other.built),
            copied: self.copied.max(other.copied),
            switched: self.switched.max(other.switched),
        }
    }
}

struct Hand<'r> {
    rig: &'r Rig,
    env: &'r [(String, String)],
    store: &'r str,
    flake: &'r str,
    way: Way,
}

impl Hand<'_> {
    fn nix(&self) -> std::process::Command {
        let mut nix = rig::with_nix(rig::command("nix"), self.env);
        nix.env("XDG_CACHE_HOME", self.rig.folder().join("hand-cache"));
        nix
    }

    /// For all at the same time.
    fn each<W: Send, T: Send>(
        &self,
        work: Vec<W>,
        one: impl Fn(W) -> Result<T> + Sync,
    ) -> Vec<Result<T>> {
        thread::scope(|scope| {
            let one = &one;
            let begun: Vec<_> = work
                .into_iter()
                .map(|w| scope.spawn(move || one(w)))
                .collect();
            begun
                .into_iter()
                .map(|t| t.join().unwrap_or_else(|_| Err(anyhow!("a thread ended"))))
                .collect()
        })
    }

    /// `nix eval` and `nix build` of these.
    fn build(&self, began: At, hosts: &[String]) -> Result<(Times, Vec<String>)> {
        let names: Vec<String> = hosts.iter().map(|h| format!("\"{h}\"")).collect();
        let pick = format!(
            "c: builtins.concatStringsSep \" \" (map (h: c.${{h}}.config.system.build.toplevel.drvPath) [ {} ])",
            names.join(" ")
        );
        let mut eval = self.nix();
        eval.args(["eval", "--raw", "--store", self.store, self.flake]);
        let drvs = rig::read(eval.args(["--apply", &pick]))?;
        let evaluated = now();
        let wanted: Vec<String> = drvs.split(' ').map(|d| format!("{d}^out")).collect();
        let mut build = self.nix();
        build.args(["build", "--store", self.store, "--no-link"]);
        let out = rig::read(build.arg("--print-out-paths").args(&wanted))?;
        let built = now();
        let times = Times {
            began,
            evaluated,
            built,
            copied: built,
            switched: built,
        };
        Ok((times, out.lines().map(str::to_owned).collect()))
    }

    /// `nix copy` and `ssh … switch`: when each ended.
    fn push(&self, host: &str, top: &str) -> Result<(At, At)> {
        let sockets = self.rig.folder().join("hand-ssh");
        std::fs::create_dir_all(&sockets)?;
        let options = options(self.env, &sockets, self.way)?;
        let host = self.rig.host(host);
        let login = format!("{}@{}", host.user, host.address);
        let url = format!("ssh-ng://{login}");
        let mut copy = self.nix();
        copy.env("NIX_SSHOPTS", &options);
        rig::read(copy.args(["copy", "--from", self.store, "--to", &url, top]))?;
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
}

fn options(env: &[(String, String)], sockets: &Path, way: Way) -> Result<String> {
    let lab = env.iter().find(|(name, _)| name == "NIX_SSHOPTS");
    let (_, lab) = lab.context("the lab's NIX_SSHOPTS")?;
    if way == Way::AsTyped {
        return Ok(lab.clone());
    }
    Ok(format!(
        "{lab} -o ControlMaster=auto -o ControlPath={}/%h -o ControlPersist=60",
        sockets.display()
    ))
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
