//! The demo's stage: a lab, a fleet repository, a controller. It commits, asks and reads; it judges nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use trueup_fixtures::fleet::{self, HostAt};

use crate::closures::Closures;
use crate::harness::{self, Host, Lab};
use crate::{CONVERGED_MAX, HOSTS};

/// How often a person would look.
const LOG_LINES: usize = 30;

pub struct World {
    lab: Lab,
    dir: tempfile::TempDir,
    controller: Child,
    commit: String,
}

type Change<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

impl World {
    pub fn start(lab: Lab) -> Result<Self> {
        // As an installer leaves a machine: some closure runs, boots, and is its first generation.
        let installer = Closures::of(&lab, "demo", &HOSTS);
        for name in HOSTS {
            installer.install(lab.host(name), "base", &[]);
        }
        let dir = tempfile::Builder::new().prefix("trueup-demo-").tempdir()?;
        let at = HOSTS
            .iter()
            .map(|name| (name.to_string(), place(lab.host(name))))
            .collect();
        let repo = dir.path().join("fleet");
        fleet::materialise("demo", &repo, &at)?;
        quicken(&repo)?;
        let commit = fleet::commit_all(&repo, "the fleet")?;
        let hub = dir.path().join("hub");
        lab.seed(&hub.display().to_string());
        let key = lab.host(HOSTS[0]).key.clone();
        let nix_key = key.with_file_name("cache-key.sec");
        let agent = harness::static_agent();
        let settings = format!(
            "repository:\n  url: file://{repo}\n  branch: main\nstateDir: {state}\nlisten:\n  socket: {socket}\n\
             hub:\n  store: {hub}\nsigning:\n  keyFile: {nix_key}\nssh:\n  identityFile: {key}\n\
             agent:\n  packages:\n    x86_64-linux: {agent}\n",
            repo = repo.display(),
            state = dir.path().join("state").display(),
            socket = dir.path().join("api.sock").display(),
            hub = hub.display(),
            nix_key = nix_key.display(),
            key = key.display(),
            agent = agent.display(),
        );
        fs::write(dir.path().join("trueup.yaml"), settings)?;
        let log = File::create(dir.path().join("controller.log"))?;
        let controller = command(&lab, trueup_program())
            .args(["run", "--config"])
            .arg(dir.path().join("trueup.yaml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting the controller")?;
        println!("controller {} in {}", controller.id(), dir.path().display());
        Ok(Self {
            lab,
            dir,
            controller,
            commit,
        })
    }

    pub fn host(&self, name: &str) -> &Host {
        self.lab.host(name)
    }

    /// A merge.
    pub fn commit(&mut self, message: &str, changes: &[Change]) -> Result<()> {
        let repo = self.dir.path().join("fleet");
        for (host, variant, args) in changes {
            fleet::set_host(&repo, host, variant, args)?;
        }
        self.commit = fleet::commit_all(&repo, message)?;
        println!("merged {} \"{message}\"", &self.commit[..7]);
        Ok(())
    }

    /// Waits until these hosts are Ready at the newest commit.
    pub fn all_ready(&self, names: &[&str]) -> Result<()> {
        for name in names {
            self.until(name, "Ready at the newest commit", |status| {
                let at = status["appliedRevision"].as_str().unwrap_or_default();
                status["phase"] == "Ready" && at.ends_with(&self.commit)
            })?;
        }
        Ok(())
    }

    pub fn outcome(&self, name: &str, outcome: &str) -> Result<()> {
        self.until(name, outcome, |status| {
            let tried = status["attemptedRevision"].as_str().unwrap_or_default();
            tried.ends_with(&self.commit) && status["outcome"] == outcome
        })
    }

    pub fn condition(&self, name: &str, kind: &str) -> Result<()> {
        self.until(name, kind, |status| {
            let of = status["conditions"].as_array();
            of.is_some_and(|all| {
                all.iter()
                    .any(|c| c["type"] == kind && c["status"] == "True")
            })
        })
    }

    fn until(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
        let mut last = Value::Null;
        harness::wait(CONVERGED_MAX, || {
            last = self.status(name).unwrap_or_default();
            holds(&last).then_some(())
        })
        .with_context(|| format!("{name} is not {what} after {CONVERGED_MAX:?}; it is {last:#}"))
    }

    fn status(&self, name: &str) -> Result<Value> {
        let text = self.trueup(&["get", "hosts", "-o", "json"])?;
        let list: Value = serde_json::from_str(&text)?;
        let items = list["items"].as_array().context("no items")?;
        let host = items.iter().find(|item| item["metadata"]["name"] == name);
        Ok(host.with_context(|| format!("no host {name}"))?["status"].clone())
    }

    /// What `web.service` of a host serves.
    pub fn page(&self, name: &str, expected: &str) -> Result<()> {
        let text = self
            .host(name)
            .read(&["curl", "-s", "http://127.0.0.1:8080/"]);
        ensure!(text == expected, "{name} serves {text:?}, not {expected:?}");
        Ok(())
    }

    /// How often switch-to-configuration ran on each: its own lines in the host's journal.
    pub fn starts(&self, names: &[&str]) -> BTreeMap<String, usize> {
        let count = |name: &&str| {
            let journal = self
                .host(name)
                .sh("journalctl -q -t nixos -o cat --no-pager");
            let lines = journal.stdout.lines();
            (
                name.to_string(),
                lines.filter(|l| l.starts_with("switching to")).count(),
            )
        };
        names.iter().map(count).collect()
    }

    /// The closure of the host's generation before the current one.
    pub fn older_closure(&self, name: &str) -> Result<String> {
        let list = "readlink -e $(ls -d /nix/var/nix/profiles/system-*-link | sort -t- -k2 -n | tail -n 2 | head -n 1)";
        let out = self.host(name).sh(list);
        ensure!(out.code == 0, "{name} has no older generation: {out:?}");
        Ok(out.stdout.trim().to_owned())
    }

    /// Runs the command line; what it prints.
    pub fn trueup(&self, args: &[&str]) -> Result<String> {
        let out = self.call(args)?;
        if !out.status.success() {
            bail!(
                "trueup {}: {}\n{}",
                args.join(" "),
                out.status,
                String::from_utf8_lossy(&out.stderr)
            );
        }
        Ok(String::from_utf8(out.stdout)?)
    }

    /// The same, for the audience.
    pub fn show(&self, args: &[&str]) -> Result<()> {
        println!("$ trueup {}\n{}", args.join(" "), self.trueup(args)?);
        Ok(())
    }

    fn call(&self, args: &[&str]) -> Result<Output> {
        command(&self.lab, trueup_program())
            .args(args)
            .env("TRUEUP_SOCKET", self.dir.path().join("api.sock"))
            .stdin(Stdio::null())
            .output()
            .context("starting trueup")
    }

    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("controller.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Stays until somebody presses Enter or Ctrl-C.
    pub fn play(&self) {
        println!(
            "\nyours to play with, until Enter or Ctrl-C:\n  export TRUEUP_SOCKET={dir}/api.sock\n  {trueup} get hosts --watch\n  \
             edit {dir}/fleet/hosts.nix and commit\n  TRUEUP_LAB_ID={id} cargo xtask lab ssh web-1",
            dir = self.dir.path().display(),
            trueup = trueup_program().display(),
            id = self.lab.id(),
        );
        let _ = std::io::stdin().read_line(&mut String::new());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // It is the demo's own; the lab and the folder go after it.
        let _ = self.controller.kill();
        let _ = self.controller.wait();
    }
}

fn place(host: &Host) -> HostAt {
    HostAt {
        address: host.address.clone(),
        port: host.port,
        host_key: host.host_key.clone(),
    }
}

/// Nobody wants to watch a demo wait: shorter windows than a fleet would have.
fn quicken(repo: &std::path::Path) -> Result<()> {
    let path = repo.join("fleet/fleet.yaml");
    let text = fs::read_to_string(&path)?;
    // The fleet has `defaults` already, and a key given twice is an error.
    let quick = "  defaults:\n    activation: {confirmTimeout: 20s, settle: 2s}\n    drift: {interval: 10s}\n";
    ensure!(
        text.contains("  defaults:\n"),
        "{} has no defaults",
        path.display()
    );
    fs::write(&path, text.replacen("  defaults:\n", quick, 1))?;
    Ok(())
}

fn trueup_program() -> PathBuf {
    // Beside us: cargo puts both into one folder.
    let mut path = std::env::current_exe().unwrap_or_default();
    path.set_file_name("trueup");
    path
}

#[allow(
    clippy::disallowed_methods,
    reason = "a demo starts the program that it shows"
)]
fn command(lab: &Lab, program: PathBuf) -> Command {
    let mut command = Command::new(program);
    for (name, value) in lab.env() {
        if name == "PATH" || name == "TRUEUP_LAB_NIX" {
            let path = std::env::var("PATH").unwrap_or_default();
            if name == "TRUEUP_LAB_NIX" {
                command.env("PATH", format!("{value}:{path}"));
            }
        } else {
            command.env(name, value);
        }
    }
    command
}
