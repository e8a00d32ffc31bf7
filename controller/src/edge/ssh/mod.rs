//! Hosts over the system's `ssh`: people's configuration, agents and jump hosts work. Host keys are pinned; nothing is
//! trusted on first use. What runs on a host is the agent alone, with arguments of a safe alphabet; data goes by stdin.

mod agent;
mod config;
mod fault;
mod hosts;
mod masters;
mod probe;
mod standing;
mod way;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use trueup_engine::ports::{Target, TransportError, TransportFault};
use trueup_schema::wire::{KeysReport, MAX_DOCUMENT, Report, Signed};
use trueup_schema::{HostName, System};

use super::exec::{self, ExecSpec, Exit, Limits, Line};
pub use config::Freshness;
pub use masters::Masters;
pub use probe::Probe;

/// An ordinary question to the agent. A login may take 25 s on a host whose logind is busy, and then succeed.
const ASK_WALL: Duration = Duration::from_secs(60);
/// A closure over a slow line.
const COPY_WALL: Duration = Duration::from_secs(3600);
/// An activation is followed no longer than this; then reports are asked for at intervals.
const FOLLOW_WALL: Duration = Duration::from_secs(7200);
/// Reports that wait for the engine. One that finds no room is dropped: the next has all that it had.
const REPORTS_WAITING: usize = 4096;

/// What this edge needs to know.
#[derive(Debug, Clone)]
pub struct SshSettings {
    /// `ssh`.
    pub ssh: PathBuf,
    /// `nix`.
    pub nix: PathBuf,
    /// The environment of both: PATH, HOME, SSH_AUTH_SOCK, NIX_CONFIG … and nothing else.
    pub env: BTreeMap<String, OsString>,
    /// Private key, if not one of the agent's or of the person's configuration.
    pub identity: Option<PathBuf>,
    /// The person's configuration.
    pub config: Option<PathBuf>,
    /// A private folder of ours for sockets and generated files.
    pub run_dir: PathBuf,
    /// Nix' store URL of the hub; `None`: Nix' default.
    pub hub: Option<String>,
    /// The static agent for each platform: a store path, a folder with `bin/trueup-agent`, or the program.
    pub agents: BTreeMap<System, PathBuf>,
    /// The fleet's public key, for a host's first contact; empty where nothing is offered.
    pub pin: String,
    /// Says what a host is told of our keys, where they change while we run.
    pub book: Option<Rc<dyn KeyBook>>,
    /// What hosts have to trust for store paths: `name:base64`.
    pub store_key: String,
}

/// Our keys, as hosts are told of them.
pub trait KeyBook: std::fmt::Debug {
    /// The key for store paths that a host should trust now; in a rotation, the one that comes.
    fn store_key(&self) -> String;
    /// What a host obeys from its first contact on.
    fn pin(&self) -> String;
    /// The list that this host should take, if it should take one.
    fn list_for(&self, host: &KeysReport) -> Option<Signed>;
}

/// The port.
#[derive(Debug)]
pub struct SshHosts {
    inner: Rc<Inner>,
    reports: RefCell<Option<mpsc::Receiver<(HostName, Report)>>>,
}

#[derive(Debug)]
struct Inner {
    settings: SshSettings,
    run_dir: PathBuf,
    agents: agent::Packages,
    masters: Masters,
    ways: way::Ways,
    report: mpsc::Sender<(HostName, Report)>,
    /// Does our `ssh` lack a quick exchange of keys that is also safe from tomorrow's computers? Asked once.
    slow_exchange: tokio::sync::OnceCell<bool>,
    /// Who follows which host's activation: one session each.
    following: RefCell<BTreeMap<HostName, tokio::task::AbortHandle>>,
    standing: Rc<standing::Standing>,
}

/// How a session began.
#[derive(Debug)]
enum Talk {
    /// With a line, and goes on.
    Answered(exec::Running, String),
    /// It ended without a word.
    Ended(Exit),
}

impl Talk {
    fn exit(&self) -> Option<&Exit> {
        match self {
            Self::Answered(..) => None,
            Self::Ended(exit) => Some(exit),
        }
    }
}

fn error(host: &HostName, fault: TransportFault, message: impl Into<String>) -> TransportError {
    TransportError {
        host: host.clone(),
        fault,
        message: message.into(),
    }
}

impl SshHosts {
    /// Makes the private folder.
    pub fn new(settings: SshSettings) -> std::io::Result<Self> {
        let run_dir = config::private_dir(&settings.run_dir)?;
        let (report, reports) = mpsc::channel(REPORTS_WAITING);
        let inner = Inner {
            masters: Masters {
                ssh: settings.ssh.clone(),
                env: settings.env.clone(),
                run_dir: run_dir.clone(),
            },
            settings,
            run_dir,
            agents: agent::Packages::default(),
            ways: way::Ways::default(),
            report,
            slow_exchange: tokio::sync::OnceCell::new(),
            following: RefCell::default(),
            standing: Rc::default(),
        };
        Ok(Self {
            inner: Rc::new(inner),
            reports: RefCell::new(Some(reports)),
        })
    }

    /// To end the shared connections with, once all else has ended.
    #[must_use]
    pub fn masters(&self) -> Masters {
        self.inner.masters.clone()
    }
}

impl Inner {
    /// Files for the way to a host. Without pins nobody is spoken to.
    fn route(&self, target: &Target) -> Result<config::Route, TransportError> {
        if target.host_keys.is_empty() {
            return Err(error(&target.host, TransportFault::HostKey, fault::NO_KEY));
        }
        let slow = self.slow_exchange.get().copied().unwrap_or(false);
        config::route(&self.run_dir, &self.settings, target, slow).map_err(|e| {
            let what = format!("writing its ssh configuration: {e}");
            error(&target.host, TransportFault::Protocol, what)
        })
    }

    fn spec(
        &self,
        target: &Target,
        fresh: Freshness,
        remote: &[&str],
    ) -> Result<ExecSpec, TransportError> {
        let route = self.route(target)?;
        let config = match fresh {
            Freshness::Reuse => route.config,
            Freshness::New => route.confirm,
        };
        let mut args: Vec<OsString> = vec!["-F".into(), config.into(), "-T".into()];
        args.extend(fresh.options().iter().map(OsString::from));
        args.push("--".into());
        args.push(route.login.into());
        if target.become_root {
            args.extend(["sudo", "-n", "--"].map(OsString::from));
        }
        for word in remote {
            if !config::is_safe_word(word) {
                let what = format!("`{word}` can't be said to a remote shell");
                return Err(error(&target.host, TransportFault::Protocol, what));
            }
            args.push((*word).into());
        }
        let mut spec = ExecSpec::new(self.settings.ssh.clone(), args);
        spec.env = self.settings.env.clone();
        spec.limits = Limits {
            wall: ASK_WALL,
            output: 2 * MAX_DOCUMENT,
            rss: None,
        };
        Ok(spec)
    }

    async fn ask_exchanges(&self) -> bool {
        let mut spec = ExecSpec::new(self.settings.ssh.clone(), ["-Q", "kex"]);
        spec.env = self.settings.env.clone();
        let told = exec::run(&spec).await;
        // One that does not say is left as it is.
        told.is_ok_and(|exit| exit.ok() && !exit.out_text().lines().any(|l| l == config::ML_KEM))
    }

    async fn run(&self, target: &Target, spec: &ExecSpec) -> Result<Exit, TransportError> {
        match exec::run(spec).await {
            Ok(exit) => Ok(exit),
            Err(e) => {
                // A master that no longer answers must not hold up the next try.
                self.masters.end(&self.route(target)?.socket).await;
                Err(error(
                    &target.host,
                    TransportFault::Unreachable,
                    e.to_string(),
                ))
            }
        }
    }

    /// Calls the agent with these words, and brings it first where it is not there. `exit` of what came of it: none where the
    /// agent talks.
    async fn call<T>(
        &self,
        target: &Target,
        fresh: Freshness,
        words: &[&str],
        exit: fn(&T) -> Option<&Exit>,
        run: impl AsyncFn(ExecSpec) -> Result<T, TransportError>,
    ) -> Result<T, TransportError> {
        let mut brought = false;
        loop {
            let (settings, dir) = (&self.settings, &self.run_dir);
            let program = self.agents.program(settings, dir, target).await?;
            let mut remote = vec![program.as_str()];
            remote.extend_from_slice(words);
            let done = run(self.spec(target, fresh, &remote)?).await?;
            match exit(&done) {
                Some(exit) if fault::lacks_program(exit) && !brought => {}
                Some(exit) if !exit.ok() => return Ok(done),
                _ => {
                    self.ways.answered(&self.run_dir, target);
                    return Ok(done);
                }
            }
            self.bring_agent(target).await?;
            brought = true;
        }
    }

    /// Runs the agent with these words, to its end.
    async fn agent(
        &self,
        target: &Target,
        fresh: Freshness,
        words: &[&str],
        stdin: &[u8],
        wall: Duration,
    ) -> Result<Exit, TransportError> {
        let run = async |mut spec: ExecSpec| {
            spec.stdin = stdin.to_vec();
            spec.limits.wall = wall;
            self.run(target, &spec).await
        };
        self.call(target, fresh, words, |exit| Some(exit), run)
            .await
    }

    /// Starts the agent with these words, to read its lines. Without `line` it is told later what it reads.
    async fn converse(
        &self,
        target: &Target,
        words: &[&str],
        line: Option<&str>,
    ) -> Result<Talk, TransportError> {
        let failed =
            |e: exec::ExecError| error(&target.host, TransportFault::Unreachable, e.to_string());
        let run = async |mut spec: ExecSpec| {
            spec.limits.wall = FOLLOW_WALL;
            let running = match line {
                Some(line) => {
                    spec.stdin = line.as_bytes().to_vec();
                    exec::stream(spec)
                }
                None => exec::converse(spec),
            };
            let mut running = running.map_err(failed)?;
            let answer = tokio::time::timeout(ASK_WALL, first_out(&mut running)).await;
            let Ok(answer) = answer else {
                // A master that no longer answers must not hold up the next try.
                self.masters.end(&self.route(target)?.socket).await;
                return Err(silent(target));
            };
            Ok(match answer {
                Some(answer) => Talk::Answered(running, answer),
                None => Talk::Ended(running.finish().await.map_err(failed)?),
            })
        };
        self.call(target, Freshness::Reuse, words, Talk::exit, run)
            .await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        target: &Target,
        fresh: Freshness,
        words: &[&str],
        wall: Duration,
    ) -> Result<T, TransportError> {
        let exit = self.agent(target, fresh, words, b"", wall).await?;
        if !exit.ok() {
            return Err(fault::of(target, &exit));
        }
        first_line(target, &exit.out_text())
    }

    /// A host that obeys others than those keys that sign is told so; its report after that, or the one before.
    async fn tell_keys(&self, target: &Target, report: Report) -> Report {
        let book = self.settings.book.as_ref();
        let list = book.and_then(|b| b.list_for(report.keys.as_ref()?));
        let Some(list) = list else { return report };
        let line = format!("{}\n", serde_json::json!({ "signed": list, "pin": null }));
        let told = self
            .agent(
                target,
                Freshness::Reuse,
                &["keys"],
                line.as_bytes(),
                ASK_WALL,
            )
            .await;
        let answer = match told {
            Ok(exit) if exit.ok() => first_line(target, &exit.out_text()),
            Ok(exit) => Err(fault::of(target, &exit)),
            Err(e) => Err(e),
        };
        match answer {
            Ok(after) => {
                tracing::info!(host = %target.host, "it was told which keys to obey");
                after
            }
            Err(e) => {
                // Told again with the next report, and shown by `trueup keys status` until then.
                tracing::warn!(host = %target.host, "it was not told which keys to obey: {}", e.message);
                report
            }
        }
    }

    async fn copy(&self, target: &Target, paths: &[&str]) -> Result<(), TransportError> {
        let route = self.route(target)?;
        let mut args: Vec<OsString> = vec!["copy".into()];
        if let Some(hub) = &self.settings.hub {
            args.extend(["--from".into(), hub.into()]);
        }
        args.extend(["--substitute-on-destination", "--to"].map(OsString::from));
        args.push(route.store_url.into());
        args.push("--".into());
        args.extend(paths.iter().map(OsString::from));
        let mut spec = ExecSpec::new(self.settings.nix.clone(), args);
        spec.env = self.settings.env.clone();
        // Split at blanks by Nix: the file's name has none.
        let options = format!("-F {}", route.config.display());
        spec.env.insert("NIX_SSHOPTS".to_owned(), options.into());
        spec.limits.wall = COPY_WALL;
        let exit = self.run(target, &spec).await?;
        if exit.ok() {
            Ok(())
        } else {
            Err({
                // A rotation changes it while we run.
                let book = self.settings.book.as_ref().map(|b| b.store_key());
                let key = book.as_ref().unwrap_or(&self.settings.store_key);
                fault::of_copy(target, &exit, key)
            })
        }
    }
}

fn first_line<T: DeserializeOwned>(target: &Target, text: &str) -> Result<T, TransportError> {
    let line = text.lines().next().unwrap_or_default();
    if line.len() > MAX_DOCUMENT {
        return Err(error(
            &target.host,
            TransportFault::Protocol,
            "its answer is longer than a document may be",
        ));
    }
    serde_json::from_str(line).map_err(|e| {
        let what = format!("its agent's answer is not understood: {e}");
        error(&target.host, TransportFault::Protocol, what)
    })
}

fn silent(target: &Target) -> TransportError {
    let what = format!("it did not answer within {} s", ASK_WALL.as_secs());
    error(&target.host, TransportFault::Unreachable, what)
}

async fn first_out(running: &mut exec::Running) -> Option<String> {
    while let Some(line) = running.next().await {
        if let Line::Out(text) = line {
            return Some(text);
        }
    }
    None
}
