//! Closures for lab hosts, made and carried by plain Nix: for tests that need one there without trueup's help.
//! It knows fleets and stores; what runs on a host is the test's business.

#![allow(clippy::unwrap_used, reason = "only tests use it")]

use crate::harness::{Host, Lab};
use crate::processes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use trueup_fixtures::fleet::{self, HostAt};

/// More would only wait for each other.
const COPIES_AT_ONCE: usize = 4;

/// A fleet in a Git repository of its own, and a store with the builder in it.
pub struct Closures {
    folder: tempfile::TempDir,
    env: Vec<(String, String)>,
    nix: PathBuf,
}

impl Closures {
    /// Fleet `name` with the addresses of these hosts.
    pub fn of(lab: &Lab, name: &str, hosts: &[&str]) -> Closures {
        let folder = tempfile::Builder::new()
            .prefix(processes::WORLD)
            .tempdir()
            .unwrap();
        let me = processes::Stamp::of(std::process::id()).expect("we run");
        me.write(&folder.path().join(processes::OWNER)).unwrap();
        let env = lab.env();
        let value = |wanted: &str| {
            env.iter()
                .find(|(name, _)| name == wanted)
                .map(|(_, value)| value.clone())
                .unwrap_or_else(|| panic!("lab env has {wanted}"))
        };
        let at: BTreeMap<String, HostAt> = hosts
            .iter()
            .map(|name| (String::from(*name), place(lab.host(name))))
            .collect();
        let nix = PathBuf::from(value("TRUEUP_LAB_NIX")).join("nix");
        let busybox = value("TRUEUP_LAB_BUSYBOX");
        let closures = Closures { folder, env, nix };
        fleet::materialise(name, &closures.fleet(), &at).unwrap();
        lab.seed(&closures.store());
        // the base's busybox may be newer than the one that the fleets pin
        let sri = closures.nix(&["hash", "path", &busybox]);
        let pin = serde_json::json!({ "name": "busybox", "sri": sri }).to_string();
        std::fs::write(closures.fleet().join("busybox.json"), pin).unwrap();
        closures
    }

    /// Of this world alone; it goes with us.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The fleet's repository (not committed yet).
    pub fn fleet(&self) -> PathBuf {
        self.folder.path().join("fleet")
    }

    /// The store that it builds in, for `--store`.
    pub fn store(&self) -> String {
        self.folder.path().join("store").display().to_string()
    }

    /// Makes `host` a variant, commits, and builds its toplevel.
    pub fn build(&self, host: &str, variant: &str, args: &[(&str, &str)]) -> String {
        fleet::set_host(&self.fleet(), host, variant, args).unwrap();
        fleet::commit_all(&self.fleet(), &format!("{host}: {variant} {args:?}")).unwrap();
        self.build_attribute(&format!(
            "nixosConfigurations.{host}.config.system.build.toplevel"
        ))
    }

    /// Builds whatever the committed flake has there.
    pub fn build_attribute(&self, attribute: &str) -> String {
        let installable = format!("git+file://{}#{attribute}", self.fleet().display());
        self.nix(&[
            "build",
            "--store",
            &self.store(),
            "--no-link",
            "--print-out-paths",
            &installable,
        ])
    }

    /// Copies a closure to a host.
    pub fn copy(&self, top: &str, to: &Host) {
        let url = format!("ssh-ng://{}@{}", to.user, to.address);
        self.nix(&["copy", "--store", &self.store(), "--to", &url, top]);
    }

    /// Builds, copies, and makes it what the host runs, boots and has as its first generation: the state in which
    /// trueup finds a NixOS host. A fresh lab host runs no closure at all, which a switch refuses with 100.
    pub fn install(&self, host: &Host, variant: &str, args: &[(&str, &str)]) -> String {
        let top = self.build(&host.name, variant, args);
        self.copy(&top, host);
        host.read(&[&format!("{top}/bin/lab-install")]);
        top
    }

    /// The same for many hosts: one commit, one build, a few copies at a time.
    pub fn install_all(&self, hosts: &[&Host], variant: &str) {
        let mut args = vec!["build", "--store"];
        let store = self.store();
        args.extend([store.as_str(), "--no-link", "--print-out-paths"]);
        for host in hosts {
            fleet::set_host(&self.fleet(), &host.name, variant, &[]).unwrap();
        }
        fleet::commit_all(&self.fleet(), &format!("all are {variant}")).unwrap();
        let wanted: Vec<String> = hosts
            .iter()
            .map(|host| {
                format!(
                    "git+file://{}#nixosConfigurations.{}.config.system.build.toplevel",
                    self.fleet().display(),
                    host.name
                )
            })
            .collect();
        args.extend(wanted.iter().map(String::as_str));
        let built = self.nix(&args);
        let of = |host: &Host| {
            let name = format!("-nixos-system-{}-", host.name);
            built.lines().find(|path| path.contains(&name)).unwrap()
        };
        for some in hosts.chunks(COPIES_AT_ONCE) {
            std::thread::scope(|scope| {
                for host in some {
                    scope.spawn(|| {
                        self.copy(of(host), host);
                        host.read(&[&format!("{}/bin/lab-install", of(host))]);
                    });
                }
            });
        }
    }

    /// Puts a program on a host, by its store.
    pub fn put(&self, host: &Host, program: &[u8], at: &str) {
        let file = self.folder.path().join("program");
        std::fs::write(&file, program).unwrap();
        let file = file.display().to_string();
        let path = self.nix(&[
            "store",
            "add",
            "--mode",
            "flat",
            "--store",
            &self.store(),
            &file,
        ]);
        self.copy(&path, host);
        host.read(&["install", "-m", "755", &path, at]);
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "the test's own Nix, beside trueup's exec"
    )]
    fn nix(&self, args: &[&str]) -> String {
        let out = Command::new(&self.nix)
            .args(args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env("XDG_CACHE_HOME", self.folder.path().join("cache"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .expect("the lab's nix runs");
        assert!(
            out.status.success(),
            "nix {args:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }
}

/// A lab host as the fixtures want it.
pub fn place(host: &Host) -> HostAt {
    HostAt {
        address: host.address.clone(),
        port: host.port,
        host_key: host.host_key.clone(),
    }
}
