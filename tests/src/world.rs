//! One controller on lab hosts: a lab, a fleet repository, the program `trueup`. It commits, asks, reads and kills; it
//! judges nothing.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use trueup_fixtures::fleet;

use crate::closures::Closures;
use crate::harness::{self, Host, Lab};
use crate::processes::{self, Stamp};
use crate::programs;

/// Long enough for a busy machine with two cores; what takes longer has failed.
pub const CONVERGED_MAX: Duration = Duration::from_secs(180);
/// From the start of a controller to its first answer.
const ANSWERS_MAX: Duration = Duration::from_secs(30);
/// A controller that was told to end.
const ENDS_MAX: Duration = Duration::from_secs(30);
/// Lines of the log that are shown when something fails.
const LOG_LINES: usize = 30;

/// Nobody wants to watch a demo wait: shorter windows than a fleet would have.
pub const QUICK: &str =
    "    activation: {confirmTimeout: 20s, settle: 2s}\n    drift: {interval: 10s}\n";

/// What a world is made of.
#[derive(Debug, Clone)]
pub struct Stage<'a> {
    /// A fleet of the fixtures.
    pub fleet: &'a str,
    /// Its hosts; all are in the lab.
    pub hosts: &'a [&'a str],
    /// Lines of the fleet's `defaults`.
    pub defaults: &'a str,
    /// The program.
    pub trueup: &'a Path,
    /// Lines of `trueup.yaml` below `ssh`.
    pub ssh: &'a str,
    /// The static agent.
    pub agent: &'a Path,
}

impl<'a> Stage<'a> {
    /// Hosts of the fleet `demo` and the program as it is shipped: what most tests want.
    #[must_use]
    pub fn demo(hosts: &'a [&'a str], defaults: &'a str) -> Self {
        Self {
            fleet: "demo",
            hosts,
            defaults,
            trueup: programs::trueup(),
            ssh: "",
            agent: harness::static_agent(),
        }
    }
}

pub struct World {
    lab: Lab,
    /// Of the lab, as it stays.
    env: Vec<(String, String)>,
    closures: Closures,
    trueup: PathBuf,
    hosts: Vec<String>,
    controller: Option<Child>,
    commit: String,
    /// How long something is waited for.
    pub patience: Duration,
}

/// A host, what it becomes, with which arguments.
pub type Change<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

impl World {
    /// Hosts as an installer leaves them: some closure runs, boots, and is their first generation. A repository with
    /// nothing that trueup has seen. No controller yet.
    pub fn set(lab: Lab, stage: &Stage<'_>) -> Result<Self> {
        processes::reap();
        let closures = Closures::of(&lab, stage.fleet, stage.hosts);
        let repo = closures.fleet();
        let wanted = fs::read_to_string(repo.join("hosts.nix"))?;
        let hosts: Vec<&Host> = stage.hosts.iter().map(|name| lab.host(name)).collect();
        closures.install_all(&hosts, "base");
        fs::write(repo.join("hosts.nix"), wanted)?;
        add_defaults(&repo, stage.defaults)?;
        only(&repo, stage.hosts)?;
        let dir = closures.folder();
        let key = &hosts.first().context("a world has hosts")?.key;
        let settings = format!(
            "repository:\n  url: file://{repo}\n  branch: main\nstateDir: {dir}/state\nlisten:\n  socket: {dir}/api.sock\n\
             hub:\n  store: {hub}\nsigning:\n  keyFile: {nix_key}\nssh:\n  identityFile: {key}\n{ssh}\
             agent:\n  packages:\n    x86_64-linux: {agent}\n",
            repo = repo.display(),
            dir = dir.display(),
            hub = closures.store(),
            nix_key = key.with_file_name("cache-key.sec").display(),
            key = key.display(),
            ssh = stage.ssh,
            agent = stage.agent.display(),
        );
        fs::write(dir.join("trueup.yaml"), settings)?;
        Ok(Self {
            env: lab.env(),
            lab,
            trueup: stage.trueup.to_owned(),
            hosts: stage.hosts.iter().map(|name| String::from(*name)).collect(),
            controller: None,
            commit: String::new(),
            patience: CONVERGED_MAX,
            closures,
        })
    }

    /// Starts the controller. It ends with us, also when we are killed: the kernel tells it.
    pub fn start(&mut self, env: &[(&str, &str)]) -> Result<()> {
        ensure!(self.controller.is_none(), "a controller runs already");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir().join("controller.log"))?;
        let mut command = self.command("setpriv");
        command
            .args(["--pdeathsig", "TERM", "--"])
            .arg(&self.trueup);
        command
            .args(["run", "--config"])
            .arg(self.dir().join("trueup.yaml"));
        command.envs(env.iter().copied());
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context("starting the controller")?;
        if let Some(stamp) = Stamp::of(child.id()) {
            stamp.write(&self.dir().join(processes::CONTROLLER))?;
        }
        self.controller = Some(child);
        Ok(())
    }

    /// The same, and waits until it answers.
    pub fn start_and_wait(&mut self) -> Result<()> {
        self.start(&[])?;
        harness::wait(ANSWERS_MAX, || self.list("hosts").ok())
            .with_context(|| format!("the controller does not answer:\n{}", self.log_tail()))?;
        Ok(())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.controller.take() {
            let _gone_already = child.kill();
            let _reaped = child.wait();
        }
    }

    /// Tells it to end, and waits for that.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let pid = self.controller.as_ref().context("no controller runs")?.id();
        Stamp::of(pid)
            .context("the controller has ended")?
            .signal("TERM");
        self.ended(ENDS_MAX).context("it does not end at SIGTERM")
    }

    /// Waits for it to end by itself; `None`: it does not.
    pub fn ended(&mut self, max: Duration) -> Option<ExitStatus> {
        let child = self.controller.as_mut()?;
        let status = harness::wait(max, || child.try_wait().ok().flatten());
        if status.is_some() {
            self.controller = None;
        }
        status
    }

    pub fn pid(&self) -> Option<u32> {
        self.controller.as_ref().map(Child::id)
    }

    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    pub fn closures(&self) -> &Closures {
        &self.closures
    }

    /// Everything of this world: `fleet` (the repository), `state`, `controller.log`.
    pub fn dir(&self) -> &Path {
        self.closures.folder()
    }

    pub fn repo(&self) -> PathBuf {
        self.closures.fleet()
    }

    pub fn host(&self, name: &str) -> &Host {
        self.lab.host(name)
    }

    pub fn hosts(&self) -> Vec<&str> {
        self.hosts.iter().map(String::as_str).collect()
    }

    /// A merge.
    pub fn commit(&mut self, message: &str, changes: &[Change]) -> Result<()> {
        for (host, variant, args) in changes {
            fleet::set_host(&self.repo(), host, variant, args)?;
        }
        self.commit = fleet::commit_all(&self.repo(), message)?;
        Ok(())
    }

    /// Changes a manifest file; part of the next commit.
    pub fn edit(&self, file: &str, change: impl FnOnce(String) -> String) -> Result<()> {
        let path = self.repo().join(file);
        let before = fs::read_to_string(&path)?;
        let after = change(before.clone());
        ensure!(
            before != after,
            "{file}: the change changes nothing:\n{before}"
        );
        fs::write(&path, after)?;
        Ok(())
    }

    /// Changes the manifest of one host; part of the next commit.
    pub fn edit_host(&self, name: &str, from: &str, to: &str) -> Result<()> {
        let line = format!("  name: {name}\n");
        self.edit("fleet/hosts.yaml", |text| {
            let change = |block: &str| {
                if block.contains(&line) {
                    block.replace(from, to)
                } else {
                    block.to_owned()
                }
            };
            text.split("---\n")
                .map(change)
                .collect::<Vec<_>>()
                .join("---\n")
        })
    }

    /// The newest commit's id.
    pub fn head(&self) -> &str {
        &self.commit
    }

    /// Waits until these hosts are Ready at the newest commit.
    pub fn all_ready(&self, names: &[&str]) -> Result<()> {
        self.until(names, "Ready at the newest commit", |status| {
            let at = status["appliedRevision"].as_str().unwrap_or_default();
            status["phase"] == "Ready" && at.ends_with(&self.commit)
        })
    }

    /// Waits until the newest commit's attempt ended so.
    pub fn outcome(&self, name: &str, outcome: &str) -> Result<()> {
        self.until(&[name], outcome, |status| {
            let tried = status["attemptedRevision"].as_str().unwrap_or_default();
            tried.ends_with(&self.commit) && status["outcome"] == outcome
        })
    }

    pub fn condition(&self, name: &str, kind: &str) -> Result<()> {
        self.until(&[name], kind, |status| condition(status, kind).is_some())
    }

    /// Waits until something holds of the status of each of these.
    pub fn until(&self, names: &[&str], what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
        let mut last = BTreeMap::new();
        let done = harness::wait_slowly(self.patience, || {
            last = self.statuses().unwrap_or_default();
            names
                .iter()
                .all(|name| last.get(*name).is_some_and(&holds))
                .then_some(())
        });
        if done.is_some() {
            return Ok(());
        }
        let name = names
            .iter()
            .find(|name| !last.get(**name).is_some_and(&holds));
        let name = name.context("nobody to wait for")?;
        bail!(
            "{name} is not {what} after {:?}; it is {:#}",
            self.patience,
            last.get(*name).unwrap_or(&Value::Null)
        )
    }

    /// `status` of all hosts.
    pub fn statuses(&self) -> Result<BTreeMap<String, Value>> {
        let hosts = self.list("hosts")?;
        Ok(hosts
            .into_iter()
            .map(|host| {
                let name = host["metadata"]["name"].as_str().unwrap_or_default();
                (name.to_owned(), host["status"].clone())
            })
            .collect())
    }

    pub fn status(&self, name: &str) -> Result<Value> {
        let mut all = self.statuses()?;
        all.remove(name).with_context(|| format!("no host {name}"))
    }

    /// `trueup get WHAT -o json`: its items.
    pub fn list(&self, what: &str) -> Result<Vec<Value>> {
        let text = self.trueup(&["get", what, "-o", "json"])?;
        let mut list: Value = serde_json::from_str(&text)?;
        match list["items"].take() {
            Value::Array(items) => Ok(items),
            other => bail!("get {what} gives no items but {other}"),
        }
    }

    /// What `web.service` of a host serves.
    pub fn page(&self, name: &str, expected: &str) -> Result<()> {
        let text = self
            .host(name)
            .read(&["curl", "-s", "http://127.0.0.1:8080/"]);
        ensure!(text == expected, "{name} serves {text:?}, not {expected:?}");
        Ok(())
    }

    /// How often a host switched to which closure: the lines of switch-to-configuration in its own journal.
    pub fn switches(&self, name: &str) -> Result<BTreeMap<String, usize>> {
        const BEGUN: &str = "switching to system configuration ";
        let journal = self
            .host(name)
            .sh("journalctl -q -t nixos -o cat --no-pager");
        ensure!(journal.code == 0, "{name}: {journal:?}");
        let mut counted = BTreeMap::new();
        for line in journal.stdout.lines() {
            let closure = line.strip_prefix(BEGUN).filter(|rest| !rest.contains(' '));
            if let Some(closure) = closure {
                *counted.entry(closure.to_owned()).or_insert(0) += 1;
            }
        }
        Ok(counted)
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
                "trueup {}: {}\n{}{}",
                args.join(" "),
                out.status,
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr)
            );
        }
        Ok(String::from_utf8(out.stdout)?)
    }

    /// Asks the API itself, for what no command shows.
    pub fn api(&self, path: &str) -> Result<Value> {
        let mut socket = UnixStream::connect(self.socket())?;
        socket.set_read_timeout(Some(ANSWERS_MAX))?;
        write!(
            socket,
            "GET {path} HTTP/1.1\r\nHost: trueup\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
        ensure!(head.contains(" 200 "), "{path}: {head}\n{body}");
        let body = &body[body.find('{').unwrap_or(0)..=body.rfind('}').unwrap_or(0)];
        serde_json::from_str(body).with_context(|| format!("{path}: {text}"))
    }

    /// Asks for a host to be looked at now; the nudge's id.
    pub fn nudge(&self, name: &str) -> Result<String> {
        let said = self.trueup(&["reconcile", "--host", name])?;
        let id = said.trim().rsplit_once("as nudge ");
        let (_, id) = id.with_context(|| format!("no nudge: {said}"))?;
        Ok(id.to_owned())
    }

    /// Words of a host's `Ready` condition.
    pub fn why(&self, name: &str) -> Result<String> {
        let status = self.status(name)?;
        let ready = status["conditions"].as_array().into_iter().flatten();
        let ready = ready.into_iter().find(|c| c["type"] == "Ready");
        Ok(ready.map_or(String::new(), |c| {
            format!("{} {}", c["reason"], c["message"])
        }))
    }

    /// Where programs are found by the controller.
    pub fn path(&self) -> String {
        let own = std::env::var("PATH").unwrap_or_default();
        let nix = self.env.iter().find(|(name, _)| name == "TRUEUP_LAB_NIX");
        nix.map_or(own.clone(), |(_, nix)| format!("{nix}:{own}"))
    }

    pub fn call(&self, args: &[&str]) -> Result<Output> {
        self.asking(args).output().context("starting trueup")
    }

    /// The same, and does not wait for it.
    pub fn spawn(&self, args: &[&str]) -> Result<Child> {
        let mut command = self.asking(args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().context("starting trueup")
    }

    fn asking(&self, args: &[&str]) -> Command {
        let mut command = self.command(&self.trueup);
        let socket = ("TRUEUP_SOCKET", self.socket());
        command.args(args).envs([socket]).stdin(Stdio::null());
        command
    }

    pub fn socket(&self) -> PathBuf {
        self.dir().join("api.sock")
    }

    pub fn program(&self) -> &Path {
        &self.trueup
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir().join("controller.log")).unwrap_or_default()
    }

    pub fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "the world starts the program under test"
    )]
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .envs(self.env.iter().cloned())
            .env("PATH", self.path());
        command
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.controller = None;
        processes::clear(self.dir());
    }
}

/// A condition that is true.
pub fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    let all = status["conditions"].as_array()?;
    all.iter()
        .find(|c| c["type"] == kind && c["status"] == "True")
}

/// Hosts of the fleet that are not in the lab have no manifest.
fn only(repo: &Path, hosts: &[&str]) -> Result<()> {
    let path = repo.join("fleet/hosts.yaml");
    let text = fs::read_to_string(&path)?;
    let ours = |block: &&str| {
        hosts
            .iter()
            .any(|name| block.contains(&format!("  name: {name}\n")))
    };
    let blocks: Vec<&str> = text.split("---\n").filter(ours).collect();
    ensure!(blocks.len() == hosts.len(), "{}: {text}", path.display());
    fs::write(&path, blocks.join("---\n"))?;
    Ok(())
}

fn add_defaults(repo: &Path, lines: &str) -> Result<()> {
    let path = repo.join("fleet/fleet.yaml");
    let text = fs::read_to_string(&path)?;
    // The fleet has `defaults` already, and a key given twice is an error.
    let place = "  defaults:\n";
    ensure!(text.contains(place), "{} has no defaults", path.display());
    fs::write(&path, text.replacen(place, &format!("{place}{lines}"), 1))?;
    Ok(())
}
