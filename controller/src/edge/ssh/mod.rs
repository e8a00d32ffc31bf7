//! Hosts over the system's `ssh`: people's configuration, agents and jump hosts work. Host keys are pinned; nothing is
//! trusted on first use. What runs on a host is the agent alone, with arguments of a safe alphabet; data goes by stdin.

mod agent;
mod config;
mod fault;
mod masters;
mod probe;
mod way;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use trueup_engine::ports::{Hosts, ReportStream, Target, TransportError, TransportFault};
use trueup_schema::wire::{
    AttemptState, Farewell, KeysReport, MAX_DOCUMENT, OfferReply, Order, Report, Signed,
};
use trueup_schema::{HostName, StorePath, System};

use super::exec::{self, ExecSpec, Exit, Limits, Line};
pub use config::Freshness;
pub use masters::Masters;
pub use probe::Probe;

/// An ordinary question to the agent. A login may take 25 s on a host whose logind is busy, and then succeed.
const ASK_WALL: Duration = Duration::from_secs(60);
/// Folders of attempts and links: little, but on a disk that may be slow.
const LEAVE_WALL: Duration = Duration::from_secs(120);
/// A closure over a slow line.
const COPY_WALL: Duration = Duration::from_secs(3600);
/// An activation is followed no longer than this; then reports are asked for at intervals.
const FOLLOW_WALL: Duration = Duration::from_secs(7200);
/// A new try to confirm begins this long after the one before, beside it.
const CONFIRM_PAUSE: Duration = Duration::from_millis(1500);
/// Tries to confirm that wait at once.
const CONFIRM_TRIES: usize = 5;
/// One of them: a login may take 25 s and then succeed. The host answers when it has committed; what takes longer is
/// asked again by the next try, or observed.
const TRY_WALL: Duration = Duration::from_secs(30);
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

    /// Runs the agent with these words; brings it first where it is not there.
    async fn agent(
        &self,
        target: &Target,
        fresh: Freshness,
        words: &[&str],
        stdin: &[u8],
        wall: Duration,
    ) -> Result<Exit, TransportError> {
        let mut brought = false;
        loop {
            let program = self
                .agents
                .program(&self.settings, &self.run_dir, target)
                .await?;
            let mut remote = vec![program.as_str()];
            remote.extend_from_slice(words);
            let mut spec = self.spec(target, fresh, &remote)?;
            spec.stdin = stdin.to_vec();
            spec.limits.wall = wall;
            let exit = self.run(target, &spec).await?;
            if !fault::lacks_program(&exit) || brought {
                if exit.ok() {
                    self.ways.answered(&self.run_dir, target);
                }
                return Ok(exit);
            }
            self.bring_agent(target).await?;
            brought = true;
        }
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

#[async_trait(?Send)]
impl Hosts for SshHosts {
    async fn prepare(
        &self,
        target: &Target,
        paths: &[StorePath],
    ) -> Result<Vec<StorePath>, TransportError> {
        let target = &self.inner.way(target).await;
        let mut words = vec!["want"];
        words.extend(paths.iter().map(StorePath::as_str));
        self.inner
            .ask(target, Freshness::Reuse, &words, ASK_WALL)
            .await
    }

    async fn offer(&self, target: &Target, intent: &Signed) -> Result<OfferReply, TransportError> {
        let pin = self.inner.settings.book.as_ref().map(|b| b.pin());
        let pin = pin.unwrap_or_else(|| self.inner.settings.pin.clone());
        let envelope = serde_json::json!({ "signed": intent, "pin": pin });
        let line = format!("{envelope}\n");
        let target = &self.inner.way(target).await;
        let mut brought = false;
        loop {
            let (settings, dir) = (&self.inner.settings, &self.inner.run_dir);
            let program = self.inner.agents.program(settings, dir, target).await?;
            let mut spec =
                self.inner
                    .spec(target, Freshness::Reuse, &[&program, "offer", "--follow"])?;
            spec.stdin = line.clone().into_bytes();
            spec.limits.wall = FOLLOW_WALL;
            let failed = |e: exec::ExecError| {
                error(&target.host, TransportFault::Unreachable, e.to_string())
            };
            let mut running = exec::stream(spec).map_err(failed)?;
            let answer = tokio::time::timeout(ASK_WALL, first_out(&mut running)).await;
            let answer = answer.map_err(|_| {
                error(
                    &target.host,
                    TransportFault::Unreachable,
                    "it did not answer an offer within 60 s",
                )
            })?;
            let Some(answer) = answer else {
                let exit = running.finish().await.map_err(failed)?;
                if fault::lacks_program(&exit) && !brought {
                    self.inner.bring_agent(target).await?;
                    brought = true;
                    continue;
                }
                return Err(fault::of(target, &exit));
            };
            let reply: OfferReply = first_line(target, &answer)?;
            self.inner.ways.answered(&self.inner.run_dir, target);
            if matches!(reply, OfferReply::Begun { .. } | OfferReply::Busy { .. }) {
                let session = follow(self.inner.report.clone(), target.host.clone(), running);
                let mut following = self.inner.following.borrow_mut();
                if let Some(older) = following.insert(target.host.clone(), session) {
                    older.abort();
                }
            }
            return Ok(reply);
        }
    }

    async fn copy(&self, target: &Target, paths: &[StorePath]) -> Result<(), TransportError> {
        let paths: Vec<&str> = paths.iter().map(StorePath::as_str).collect();
        let target = self.inner.way(target).await;
        self.inner.copy(&target, &paths).await
    }

    async fn confirm(
        &self,
        target: &Target,
        order: Order,
        nonce: &str,
        within_secs: u64,
    ) -> Result<Report, TransportError> {
        let slow = &self.inner.slow_exchange;
        slow.get_or_init(|| self.inner.ask_exchanges()).await;
        let order = order.to_string();
        let words = ["confirm", "--order", &order, "--nonce", nonce];
        let until = tokio::time::Instant::now() + Duration::from_secs(within_secs);
        let mut tries = FuturesUnordered::new();
        let mut last = error(
            &target.host,
            TransportFault::Unreachable,
            "no new connection came about",
        );
        loop {
            if tries.len() < CONFIRM_TRIES && tokio::time::Instant::now() < until {
                tries.push(
                    self.inner
                        .ask::<Report>(target, Freshness::New, &words, TRY_WALL),
                );
            } else if tries.is_empty() {
                return Err(last);
            }
            let pause = tokio::time::sleep(CONFIRM_PAUSE);
            tokio::pin!(pause);
            tokio::select! {
                Some(done) = tries.next() => match done {
                    Ok(report) => return Ok(report),
                    Err(e) => {
                        last = e;
                        pause.await; // what fails at once must not be asked in a tight loop
                    }
                },
                () = &mut pause => {}
            }
        }
    }

    async fn witness(&self, witness: &Target, watch: &Signed) -> Result<(), TransportError> {
        let target = self.inner.way(witness).await;
        let line = format!("{}\n", serde_json::json!({ "signed": watch, "pin": null }));
        let exit = self
            .inner
            .agent(
                &target,
                Freshness::Reuse,
                &["witness"],
                line.as_bytes(),
                ASK_WALL,
            )
            .await?;
        if exit.ok() {
            return Ok(());
        }
        Err(fault::of(&target, &exit))
    }

    async fn leave(&self, target: &Target) -> Result<Farewell, TransportError> {
        let target = self.inner.way(target).await;
        self.inner
            .ask(&target, Freshness::Reuse, &["leave"], LEAVE_WALL)
            .await
    }

    async fn observe(&self, target: &Target) -> Result<Report, TransportError> {
        let target = self.inner.way(target).await;
        let report: Report = self
            .inner
            .ask(&target, Freshness::Reuse, &["report"], ASK_WALL)
            .await?;
        Ok(self.inner.tell_keys(&target, report).await)
    }

    fn reports(&self) -> ReportStream {
        match self.reports.borrow_mut().take() {
            Some(mut from) => futures::stream::poll_fn(move |cx| from.poll_recv(cx)).boxed_local(),
            None => futures::stream::empty().boxed_local(),
        }
    }
}

async fn first_out(running: &mut exec::Running) -> Option<String> {
    while let Some(line) = running.next().await {
        if let Line::Out(text) = line {
            return Some(text);
        }
    }
    None
}

/// Passes on what the host says until the attempt ends or the connection does.
fn follow(
    to: mpsc::Sender<(HostName, Report)>,
    host: HostName,
    mut running: exec::Running,
) -> tokio::task::AbortHandle {
    exec::beside(async move {
        while let Some(line) = first_out(&mut running).await {
            if line.len() > MAX_DOCUMENT {
                continue;
            }
            match serde_json::from_str::<Report>(&line) {
                Ok(report) => {
                    let ended = report
                        .attempt
                        .as_ref()
                        .is_none_or(|a| a.state == AttemptState::Ended);
                    if to.try_send((host.clone(), report)).is_err() {
                        tracing::warn!(%host, "a report found no room; the next one has all that it had");
                    }
                    if ended {
                        break;
                    }
                }
                Err(e) => tracing::warn!(%host, "a line of its agent is not understood: {e}"),
            }
        }
    })
}
