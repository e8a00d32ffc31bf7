//! Two equal fleets of lab hosts, each with a Git repository and a store: one is trueup's, one is a person's. It starts
//! the controller and reads hosts; it measures nothing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use trueup_fixtures::fleet;

use crate::stages::{At, Log};
use trueup_tests::harness::{Host, Lab};
use trueup_tests::processes;

/// A busy machine may take long to take ten hosts over.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// A machine is calm when so much of it is idle …
const CALM_IDLE: f64 = 0.8;
/// … over so long; on a busy one nobody waits longer than that.
const CALM_LOOK: Duration = Duration::from_millis(300);
const CALM_MAX: Duration = Duration::from_secs(10);
/// Lines of the controller's log in an error.
const LOG_LINES: usize = 30;
/// The agent's own root on a host.
const AGENT_ON_HOST: &str = "/nix/var/nix/gcroots/trueup/agent/bin/trueup-agent";
const AGENT: &str = "TRUEUP_TEST_AGENT";
const PROGRAM: &str = "TRUEUP_BENCH_PROGRAM";

/// A repository, a store, and who is in it.
#[derive(Debug)]
pub struct Side {
    pub hosts: Vec<String>,
    pub repo: PathBuf,
    pub store: PathBuf,
}

pub struct Rig {
    pub trueup: Side,
    pub hand: Side,
    pub log: Log,
    dir: tempfile::TempDir,
    controller: Child,
    lab: Lab,
}

impl Rig {
    /// `count` hosts on each side, all on their first generation; trueup's side adopted and `Ready`.
    pub fn start(count: usize) -> Result<Self> {
        let names = |from: usize| (from..from + count).map(|n| format!("n{n:02}"));
        let (ours, theirs): (Vec<String>, Vec<String>) = (names(1).collect(), names(51).collect());
        let all: Vec<&str> = ours.iter().chain(&theirs).map(String::as_str).collect();
        let lab = Lab::up(&all).context("benchmarks of merges need lab hosts, see above")?;
        println!("{} lab hosts are up", all.len());
        let dir = tempfile::Builder::new().prefix("trueup-bench-").tempdir()?;
        let trueup = side(&lab, dir.path(), "trueup", ours)?;
        let hand = side(&lab, dir.path(), "hand", theirs)?;
        for side in [&trueup, &hand] {
            first_generation(&lab, dir.path(), side)?;
        }
        println!("all have a first generation");
        let log = dir.path().join("controller.log");
        let controller = controller(&lab, dir.path(), &trueup, &log)?;
        let rig = Self {
            trueup,
            hand,
            log: Log::new(&log),
            dir,
            controller,
            lab,
        };
        Ok(rig)
    }

    pub fn host(&self, name: &str) -> &Host {
        self.lab.host(name)
    }

    pub fn env(&self) -> Vec<(String, String)> {
        self.lab.env()
    }

    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Each of these hosts gets a page that no host had before, in one commit. The commit and when the branch moved.
    pub fn merge(&self, side: &Side, hosts: &[String], word: &str) -> Result<(String, At)> {
        for host in hosts {
            let message = format!("{host} {word}");
            fleet::set_host(&side.repo, host, "web", &[("message", &message)])?;
        }
        self.commit(side, word)
    }

    pub fn commit(&self, side: &Side, word: &str) -> Result<(String, At)> {
        let sha1 = fleet::commit_all(&side.repo, word)?;
        let moved = fs::metadata(side.repo.join(".git/refs/heads/main"))?.modified()?;
        Ok((sha1, crate::stages::seconds(moved)))
    }

    /// Closes the controller's shared connections: a run must not find those that the run before it left.
    pub fn disconnect(&self) {
        for socket in processes::sockets(self.dir.path()) {
            let socket = format!("ControlPath={}", socket.display());
            let _none_there = command("ssh")
                .args(["-F", "/dev/null", "-o", &socket, "-O", "exit", "any"])
                .stderr(Stdio::null())
                .status();
        }
    }

    /// Waits until the machine has next to nothing to do: what a run leaves behind (sessions that end, units that are
    /// taken away) must not be paid for by the other side's.
    pub fn calm(&self) -> Result<()> {
        // What runs before left to be written is nobody's of this run.
        read(&mut command("sync"))?;
        let began = std::time::Instant::now();
        let mut before = cpu_times()?;
        while began.elapsed() < CALM_MAX {
            std::thread::sleep(CALM_LOOK);
            let now = cpu_times()?;
            let (idle, all) = (now.0 - before.0, now.1 - before.1);
            if idle >= all * CALM_IDLE {
                break;
            }
            before = now;
        }
        Ok(())
    }

    pub fn controller_pid(&self) -> u32 {
        self.controller.id()
    }

    /// What a command of `trueup` prints when it asks the controller.
    pub fn trueup_says(&self, args: &[&str]) -> Result<String> {
        let program =
            std::env::var_os(PROGRAM).with_context(|| format!("{PROGRAM} names trueup"))?;
        let socket = self.dir.path().join("api.sock");
        read(command(program).arg("--socket").arg(socket).args(args))
    }

    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        error.context(format!(
            "the controller's last words:\n{}",
            self.log.tail(LOG_LINES)
        ))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.controller.kill();
        let _ = self.controller.wait();
    }
}

/// Ticks of the whole machine: idle ones, and all.
fn cpu_times() -> Result<(f64, f64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let first = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> = first
        .split_whitespace()
        .skip(1)
        .filter_map(|t| t.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, …
    Ok((ticks.iter().skip(3).take(2).sum(), ticks.iter().sum()))
}

/// When a host ran `top` to the end of its switch, by its own journal; and when that became its boot default.
pub fn seen_by(host: &Host, top: &str) -> Result<(At, At)> {
    let script = "journalctl -q -t nixos -o json -n 6 --no-pager --output-fields=MESSAGE; stat -c %.9Y /boot/default; readlink /boot/default";
    let out = host.sh(script);
    ensure!(out.code == 0, "{}: {out:?}", host.name);
    let (mut ran, mut lines) = (None, out.stdout.lines().peekable());
    while let Some(line) = lines.next_if(|l| l.starts_with('{')) {
        let entry: Value = serde_json::from_str(line)?;
        let said = entry["MESSAGE"].as_str().unwrap_or_default();
        if said == format!("finished switching to system configuration {top}") {
            let micros: f64 = entry["__REALTIME_TIMESTAMP"]
                .as_str()
                .context("no time")?
                .parse()?;
            ran = Some(micros / 1e6);
        }
    }
    let boot: At = lines.next().context("no stat")?.parse()?;
    let default = lines.next().unwrap_or_default();
    ensure!(default == top, "{} boots {default}, not {top}", host.name);
    Ok((
        ran.with_context(|| format!("{} never switched to {top}", host.name))?,
        boot,
    ))
}

/// What the agent's journal says of its last attempt: when each of its stages began.
pub fn timeline(host: &Host) -> Result<Vec<(String, At)>> {
    let out = host.read(&[AGENT_ON_HOST, "report"]);
    let report: Value = serde_json::from_str(&out)?;
    let stages = report["attempt"]["timeline"].as_array();
    let stages = stages.context("the report has no timeline")?;
    let stage = |entry: &Value| {
        let at: trueup_schema::Timestamp = entry[0].as_str()?.parse().ok()?;
        let at = at.as_nanosecond() as f64 / 1e9;
        Some((entry[1].as_str()?.to_owned(), at))
    };
    Ok(stages.iter().filter_map(stage).collect())
}

/// How often switch-to-configuration began on a host, by its journal.
pub fn switches(host: &Host) -> usize {
    let journal = host.sh("journalctl -q -t nixos -o cat --no-pager");
    let lines = journal.stdout.lines();
    lines.filter(|l| l.starts_with("switching to")).count()
}

fn side(lab: &Lab, dir: &Path, name: &str, hosts: Vec<String>) -> Result<Side> {
    let repo = dir.join(format!("{name}-fleet"));
    let store = dir.join(format!("{name}-store"));
    fleet::materialise("twenty", &repo, &Default::default())?;
    let mut lines = String::from("{\n");
    let mut manifests = String::new();
    for host in &hosts {
        lines += &format!("  {host} = {{ variant = \"web\"; message = \"{host} one\"; }};\n");
        let at = lab.host(host);
        manifests += &format!(
            "---\napiVersion: trueup/v1alpha1\nkind: Host\nmetadata:\n  name: {host}\nspec:\n  address: {}\n  ssh:\n    \
             user: root\n    port: {}\n    hostKeys: [\"{}\"]\n",
            at.address, at.port, at.host_key
        );
    }
    fs::write(repo.join("hosts.nix"), lines + "}\n")?;
    fs::write(repo.join("fleet/hosts.yaml"), manifests)?;
    fs::write(
        repo.join("fleet/fleet.yaml"),
        "apiVersion: trueup/v1alpha1\nkind: Fleet\nmetadata:\n  name: bench\nspec:\n  adopt: auto\n  defaults:\n    \
         system: x86_64-linux\n    activation: {settle: 0s}\n  rollout:\n    maxConcurrent: 10\n",
    )?;
    lab.seed(&store.display().to_string());
    // The base's busybox may be newer than the one that the fleets pin.
    let env = lab.env();
    let busybox = env.iter().find(|(n, _)| n == "TRUEUP_LAB_BUSYBOX");
    let (_, busybox) = busybox.context("TRUEUP_LAB_BUSYBOX")?;
    let sri = read(tools(lab, "nix").args(["hash", "path", busybox]))?;
    let pin = serde_json::json!({ "name": "busybox", "sri": sri }).to_string();
    fs::write(repo.join("busybox.json"), pin)?;
    Ok(Side { hosts, repo, store })
}

/// As an installer leaves a machine: some closure runs, boots, and is its first generation. By plain Nix on both sides.
fn first_generation(lab: &Lab, dir: &Path, side: &Side) -> Result<()> {
    fleet::commit_all(&side.repo, "the fleet")?;
    let store = side.store.display().to_string();
    let tops = side.hosts.iter().map(|host| {
        format!(
            "git+file://{}#nixosConfigurations.{host}.config.system.build.toplevel",
            side.repo.display()
        )
    });
    let mut build = tools(lab, "nix");
    build
        .env("XDG_CACHE_HOME", dir.join("cache"))
        .args(["build", "--store", &store, "--no-link", "--print-out-paths"])
        .args(tops);
    let out = read(&mut build)?;
    for (name, top) in side.hosts.iter().zip(out.lines()) {
        let host = lab.host(name);
        let url = format!("ssh-ng://{}@{}", host.user, host.address);
        read(tools(lab, "nix").args(["copy", "--from", &store, "--to", &url, top]))?;
        host.read(&[&format!("{top}/bin/lab-install")]);
    }
    Ok(())
}

fn controller(lab: &Lab, dir: &Path, side: &Side, log: &Path) -> Result<Child> {
    let key = lab.host(&side.hosts[0]).key.clone();
    let nix_key = key.with_file_name("cache-key.sec");
    let agent =
        std::env::var_os(AGENT).with_context(|| format!("{AGENT} names the static agent"))?;
    let program = std::env::var_os(PROGRAM).with_context(|| format!("{PROGRAM} names trueup"))?;
    let settings = format!(
        "repository:\n  url: file://{repo}\n  branch: main\nstateDir: {state}\nlisten:\n  socket: {socket}\nhub:\n  \
         store: {hub}\nsigning:\n  keyFile: {nix_key}\nssh:\n  identityFile: {key}\nagent:\n  packages:\n    \
         x86_64-linux: {agent}\n",
        repo = side.repo.display(),
        state = dir.join("state").display(),
        socket = dir.join("api.sock").display(),
        hub = side.store.display(),
        nix_key = nix_key.display(),
        key = key.display(),
        agent = Path::new(&agent).display(),
    );
    fs::write(dir.join("trueup.yaml"), settings)?;
    let out = File::options().append(true).create(true).open(log)?;
    let child = tools(lab, program)
        .args(["run", "--log", "info,stage=debug", "--config"])
        .arg(dir.join("trueup.yaml"))
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .context("starting the controller")?;
    Ok(child)
}

/// A program with the lab's Nix in its PATH.
pub fn tools(lab: &Lab, program: impl AsRef<std::ffi::OsStr>) -> Command {
    with_nix(command(program), &lab.env())
}

pub fn with_nix(mut command: Command, env: &[(String, String)]) -> Command {
    for (name, value) in env {
        match name.as_str() {
            "TRUEUP_LAB_NIX" => {
                let path = std::env::var("PATH").unwrap_or_default();
                command.env("PATH", format!("{value}:{path}"));
            }
            "PATH" => {}
            _ => {
                command.env(name, value);
            }
        }
    }
    command
}

/// Runs to the end; what it prints, without white space at the ends.
pub fn read(command: &mut Command) -> Result<String> {
    let out = command.stdin(Stdio::null()).output()?;
    if !out.status.success() {
        bail!(
            "{command:?}: {}\n{}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
        );
    }
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

#[allow(
    clippy::disallowed_methods,
    reason = "a benchmark starts what it measures"
)]
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    Command::new(program)
}
