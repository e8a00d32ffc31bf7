//! `trueup run` with a thousand hosts that are not there ([`crate::twin`]), at default intervals: its memory and its
//! processor time, by the kernel's count. All else of it is real: trunk, Nix, database, API.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use trueup_fixtures::fleet;

use crate::Asked;
use crate::numbers::{Outcome, Series};
use crate::rig;
use crate::stages::Log;
use crate::twin::Twins;
use trueup_tests::harness;

/// How the benchmark starts itself as the controller.
pub const CONTROLLER: &str = "--controller";

const HOSTS: usize = 1000;
const WINDOW: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_secs(60);
/// Promises of issue 2.
const RSS_MAX: f64 = 150.0;
const CPU_MAX: f64 = 2.0;
const SAMPLE: Duration = Duration::from_secs(1);
/// A thousand hosts in groups of ten, some two seconds a group on a busy machine.
const CONVERGED_MAX: Duration = Duration::from_secs(1800);
/// `USER_HZ`.
const TICKS: f64 = 100.0;

pub fn run(asked: &Asked) -> Result<Outcome> {
    let window = if asked.short { SHORT } else { WINDOW };
    let dir = tempfile::Builder::new().prefix("trueup-bench-").tempdir()?;
    let env = lab_env()?;
    let mut outcome = Outcome::default();
    crate::plan::run(&mut outcome)?;
    let mut running = Controller::start(dir.path(), &env, asked.hosts.unwrap_or(HOSTS))?;
    let measured = running.measure(window, &mut outcome);
    if let Err(e) = measured {
        return Err(e.context(format!("its last words:\n{}", running.log.tail(30))));
    }
    drop(running);
    Ok(outcome)
}

/// The real controller over twins, as a process of its own.
struct Controller {
    child: Child,
    log: Log,
    hosts: Vec<String>,
    sha1: String,
    began: Instant,
}

impl Controller {
    fn start(dir: &Path, env: &[(String, String)], count: usize) -> Result<Self> {
        let hosts = names(count);
        let (repo, store) = (dir.join("fleet"), dir.join("store"));
        write_fleet(&repo, &hosts)?;
        seed(&store, &repo, env)?;
        let sha1 = fleet::commit_all(&repo, "a thousand")?;
        let settings = format!(
            "repository:\n  url: file://{}\n  branch: main\nstateDir: {}\nlisten:\n  socket: {}\nhub:\n  store: {}\n",
            repo.display(),
            dir.join("state").display(),
            dir.join("api.sock").display(),
            store.display()
        );
        fs::write(dir.join("trueup.yaml"), settings)?;
        let log = dir.join("controller.log");
        let out = File::options().append(true).create(true).open(&log)?;
        let child = rig::with_nix(rig::command(std::env::current_exe()?), env)
            .arg(CONTROLLER)
            .arg(dir.join("trueup.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(out)
            .spawn()?;
        Ok(Self {
            child,
            log: Log::new(&log),
            hosts,
            sha1,
            began: Instant::now(),
        })
    }

    fn measure(&mut self, window: Duration, outcome: &mut Outcome) -> Result<()> {
        self.log
            .until(&self.sha1, &self.hosts, "ready", CONVERGED_MAX)?;
        let took = self.began.elapsed().as_secs_f64();
        println!("{} hosts are Ready after {took:.0} s", self.hosts.len());
        let first = self.used()?;
        let (mut rss, mut cpu, mut last) = (Series::default(), Series::default(), first);
        let began = Instant::now();
        let mut ticked = began;
        while began.elapsed() < window {
            std::thread::sleep(SAMPLE);
            let now = self.used()?;
            cpu.add((now.seconds - last.seconds) / ticked.elapsed().as_secs_f64() * 100.0);
            rss.add(now.mib);
            (last, ticked) = (now, Instant::now());
        }
        let share = (last.seconds - first.seconds) / began.elapsed().as_secs_f64() * 100.0;
        let (peak, hosts) = (rss.max(), self.hosts.len());
        outcome.row(
            format!("{hosts} hosts: from the start to all Ready"),
            "s",
            [took].into_iter().collect(),
        );
        outcome.row(
            format!("{hosts} hosts: resident memory, each second"),
            "MiB",
            rss,
        );
        outcome.row(
            format!("{hosts} hosts: processor, each second"),
            "% of a core",
            cpu,
        );
        outcome.row(
            format!("{hosts} hosts: processor, over {} s", window.as_secs()),
            "% of a core",
            [share].into_iter().collect(),
        );
        outcome.promise(
            format!("{hosts} hosts: {peak:.0} MiB resident at most, less than {RSS_MAX:.0}"),
            peak < RSS_MAX,
        );
        outcome.promise(
            format!("{hosts} hosts: {share:.2} % of a core, less than {CPU_MAX:.0}"),
            share < CPU_MAX,
        );
        Ok(())
    }

    fn used(&self) -> Result<Used> {
        used(self.child.id())
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Used {
    /// Processor time of the process itself, without its children.
    pub seconds: f64,
    pub mib: f64,
}

/// Seconds of processor time of a process and of the children that it has waited for.
pub fn spent(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has ended")?;
    let (_, rest) = stat.rsplit_once(')').context("stat")?;
    // Behind the name: utime, stime, cutime and cstime are the 12th to the 15th.
    let ticks = rest.split_whitespace().skip(11).take(4);
    Ok(ticks.filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / TICKS)
}

/// By the kernel's count.
pub fn used(pid: u32) -> Result<Used> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has ended")?;
    let (_, rest) = stat.rsplit_once(')').context("stat")?;
    let field = |n: usize| -> f64 {
        let word = rest.split_whitespace().nth(n);
        word.and_then(|w| w.parse::<f64>().ok()).unwrap_or(f64::NAN)
    };
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let rss = rss.and_then(|l| l.trim().trim_end_matches(" kB").trim().parse::<f64>().ok());
    // Behind the name: utime and stime are the 12th and 13th.
    Ok(Used {
        seconds: (field(11) + field(12)) / TICKS,
        mib: rss.context("VmRSS")? / 1024.0,
    })
}

/// The controller: settings, log and engine as `trueup run` has them, with twins behind the port.
pub fn controller(settings: &Path) -> Result<()> {
    let settings = trueup::settings::load(Some(settings), &trueup::settings::Overrides::default())?;
    let filter = tracing_subscriber::EnvFilter::new("info,stage=debug");
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    let set = log.with_writer(std::io::stderr).json().flatten_event(true);
    ensure!(set.try_init().is_ok(), "the log did not start");
    Ok(trueup::run::run_over(&settings, Rc::new(Twins::default()))?)
}

/// All of them want the same closure: what is measured is the controller and not how fast Nix builds.
fn write_fleet(repo: &Path, hosts: &[String]) -> Result<()> {
    fleet::materialise("twenty", repo, &Default::default())?;
    let names: Vec<String> = hosts.iter().map(|h| format!("\"{h}\"")).collect();
    let flake = format!(
        "{{\n  outputs = {{ self }}: let\n    lab = import ./lib.nix;\n    host = lab.host \"any\" {{ variant = \"base\"; }};\n  \
         in {{\n    nixosConfigurations = builtins.listToAttrs (map (name: {{ inherit name; value = host; }}) [ {} ]);\n  }};\n}}\n",
        names.join(" ")
    );
    fs::write(repo.join("flake.nix"), flake)?;
    fs::write(repo.join("fleet/hosts.yaml"), manifests(hosts))?;
    Ok(fs::write(repo.join("fleet/fleet.yaml"), FLEET)?)
}

/// The fleet's rules.
pub const FLEET: &str = "apiVersion: trueup/v1alpha1\nkind: Fleet\nmetadata:\n  name: thousand\nspec:\n  adopt: auto\n  \
     defaults:\n    system: x86_64-linux\n  rollout:\n    maxConcurrent: 50\n";

/// `h0001` and on.
pub fn names(count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("h{n:04}")).collect()
}

/// A host each.
pub fn manifests(hosts: &[String]) -> String {
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBoyqQ8Qg2q0Wk3dQ3v0l7m0o1m2b3c4d5e6f7g8h9iA";
    let host = |(n, host): (usize, &String)| {
        format!(
            "---\napiVersion: trueup/v1alpha1\nkind: Host\nmetadata:\n  name: {host}\n  labels: {{rack: r{}}}\nspec:\n  \
             address: 10.0.{}.{}\n  ssh:\n    user: root\n    port: 22\n    hostKeys: [\"{key}\"]\n",
            n % 20,
            n / 250,
            n % 250
        )
    };
    hosts.iter().enumerate().map(host).collect()
}

/// The builder of the fixture fleets, and its hash.
fn seed(store: &Path, repo: &Path, env: &[(String, String)]) -> Result<()> {
    harness::script("0", &["seed", &store.display().to_string()])?;
    let busybox: PathBuf = value(env, "TRUEUP_LAB_BUSYBOX")?.into();
    let mut nix = rig::with_nix(rig::command("nix"), env);
    let sri = rig::read(nix.args(["hash", "path"]).arg(busybox))?;
    let pin = serde_json::json!({ "name": "busybox", "sri": sri }).to_string();
    Ok(fs::write(repo.join("busybox.json"), pin)?)
}

fn value(env: &[(String, String)], name: &str) -> Result<String> {
    let found = env.iter().find(|(n, _)| n == name);
    found
        .map(|(_, v)| v.clone())
        .with_context(|| format!("the lab's env has {name}"))
}

/// The lab's Nix; no host of it is needed.
fn lab_env() -> Result<Vec<(String, String)>> {
    let text = harness::script("0", &["env", "-o", "json"])?;
    let map: std::collections::BTreeMap<String, String> = serde_json::from_str(&text)?;
    // A lab's own key is there while its hosts are; here is no lab, and trueup has its own.
    let keyless = |(name, value): (String, String)| {
        let lines = value.lines().filter(|l| !l.starts_with("secret-key-files"));
        let value = lines.collect::<Vec<_>>().join("\n");
        (name, value)
    };
    Ok(map.into_iter().map(keyless).collect())
}
