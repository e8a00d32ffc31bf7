//! Builds, and the roots that keep what is wanted from the garbage collector. Which builds, and each once, is the
//! pipeline's matter; Nix' own locks make a second one of the same derivation wait.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{LocalBoxStream, StreamExt as _};
use tokio::sync::mpsc;
use trueup_engine::ports::{BuildFailure, BuildUpdate, Builder, MachineStatus};
use trueup_schema::kind::ResolvedBuilder;
use trueup_schema::{DrvPath, ErrorClass, StorePath};

use super::joint::{self, Verdict};
use super::log::{self, BuildLog, MachineSaid};
use super::machines::Machines;
use super::{Nix, built, exec};
use crate::edge::exec::{Exit, Limits, Line};

/// A build ends at the latest after so long; its silence ends it sooner.
const BUILD_WALL: Duration = Duration::from_secs(24 * 3600);
/// Updates that wait to be read.
const UPDATES: usize = 64;
/// Runs of one build, each without the machines that the ones before lost.
const TRIES: u32 = 4;
/// Last lines in a failure.
const TAIL_LINES: usize = 25;

#[async_trait(?Send)]
impl Builder for Nix {
    async fn root(&self, drv: &DrvPath, out: &StorePath, root: &str) {
        // A hub on another machine has no derivation yet: it travels there as its build begins.
        self.keep_for_the_hub(drv, out, root);
        if self.hub.is_none()
            && let Err(why) = self.link(drv, out, root).await
        {
            tracing::warn!(%why, %drv, "a derivation has no root until its build begins");
        }
    }

    fn build(
        &self,
        drv: &DrvPath,
        out: &StorePath,
        root: &str,
    ) -> LocalBoxStream<'static, BuildUpdate> {
        let (nix, drv, out, root) = (self.clone(), drv.clone(), out.clone(), root.to_owned());
        let (tx, rx) = mpsc::channel(UPDATES);
        let work = async move {
            let result = nix.build_now(&drv, &out, &root, &tx).await;
            // Nobody listens any more: nothing to tell.
            let _unheard = tx.send(BuildUpdate::Done(result)).await;
        };
        // The work goes on only while somebody reads: dropping the stream ends the build.
        let work = futures::stream::once(work).filter_map(|()| async { None });
        let updates =
            futures::stream::unfold(rx, |mut rx| async { rx.recv().await.map(|u| (u, rx)) });
        let all = futures::stream::select(work, updates).boxed_local();
        // Its end is the end, whoever else of its group is still told of progress.
        futures::stream::unfold(Some(all), |all| async {
            let mut all = all?;
            let update = all.next().await?;
            let goes_on = !matches!(update, BuildUpdate::Done(_));
            Some((update, goes_on.then_some(all)))
        })
        .boxed_local()
    }

    async fn is_valid(&self, path: &StorePath) -> bool {
        let asked = self.ask(["path-info", "--offline", path.as_str()]).await;
        asked.is_ok_and(|exit| exit.ok())
    }

    async fn keep_roots(&self, keep: &[StorePath]) {
        let names: BTreeSet<String> = keep.iter().map(|p| p.hash().to_owned()).collect();
        // A root that a build makes while this lists and drops is made after it: the lock is taken without a pause.
        let _alone = self.roots.lock().await;
        let dropped = async {
            let there = self.root_links().await?;
            let old: Vec<String> = there
                .into_iter()
                .filter(|name| is_root(name) && !is_kept(name, &names))
                .collect();
            self.unlink_roots(&old).await
        };
        if let Err(why) = dropped.await {
            tracing::warn!(%why, "old roots of builds stay for now");
        }
        self.tidy_evaluations(&names);
    }

    fn use_machines(&self, machines: Vec<ResolvedBuilder>) {
        self.machines.replace(machines);
    }

    fn machines(&self) -> LocalBoxStream<'static, Vec<MachineStatus>> {
        self.clone().follow_machines()
    }
}

/// Links only, and only such as are made here: the folder may be shared with other links of trueup.
fn is_root(name: &str) -> bool {
    let safe = |b: u8| b.is_ascii_alphanumeric() || b"._-@".contains(&b);
    name.starts_with(ROOT_PREFIX) && name.bytes().all(safe)
}

/// A root's name ends with the hash of the output that it was made for.
pub(super) fn is_kept(name: &str, hashes: &BTreeSet<String>) -> bool {
    let base = name.strip_suffix(".drv").unwrap_or(name);
    base.rsplit('.')
        .next()
        .is_some_and(|hash| hashes.contains(hash))
}

/// Roots of builds are told from others in the folder (the agent's) by this.
const ROOT_PREFIX: &str = "hub-";

pub(super) fn root_name(root: &str, out: &StorePath) -> String {
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || "._-@".contains(c) {
            c
        } else {
            '_'
        }
    };
    format!(
        "{ROOT_PREFIX}{}.{}",
        root.chars().map(safe).take(150).collect::<String>(),
        out.hash()
    )
}

impl Nix {
    /// Direct links to store paths, made before the build: one that dangles does no harm and protects from the moment on
    /// that the path is valid.
    async fn link(&self, drv: &DrvPath, out: &StorePath, root: &str) -> Result<(), String> {
        let base = root_name(root, out);
        let links = [(format!("{base}.drv"), drv.as_str()), (base, out.as_str())];
        let _alone = self.roots.lock().await;
        self.link_roots(&links).await
    }

    async fn build_now(
        &self,
        drv: &DrvPath,
        out: &StorePath,
        root: &str,
        updates: &mpsc::Sender<BuildUpdate>,
    ) -> Result<StorePath, BuildFailure> {
        let fail = |message: String| BuildFailure {
            class: ErrorClass::Transient,
            drv: drv.to_string(),
            message,
            log_tail: Vec::new(),
        };
        self.link(drv, out, root).await.map_err(fail)?;
        self.bring(drv.as_str()).await.map_err(fail)?;
        let logs = self.settings.state.join("logs");
        std::fs::create_dir_all(&logs).map_err(|e| fail(format!("{}: {e}", logs.display())))?;
        let mut turn = match self.build_jointly(drv, out, &logs, updates).await {
            Verdict::Built => return Ok(out.clone()),
            Verdict::Failed(failure) => return Err(failure),
            Verdict::Alone(turn) => turn,
        };
        let mut tries = 0;
        loop {
            tries += 1;
            let mut log = BuildLog::new(&logs);
            let updates = std::slice::from_ref(updates);
            let end = joint::holding(turn.take(), self.follow(&[drv], &mut log, updates)).await;
            let failure = match end {
                Ok(End::Exit(exit)) if exit.ok() => return Ok(out.clone()),
                Ok(End::Exit(exit)) => failure(drv, &log, &exit, &self.machines),
                Ok(End::Lost(machine)) => Failed {
                    lost: None,
                    ..Failed::transient(drv, format!("the builder {machine} does not answer"))
                },
                Err(e) => Failed {
                    again: false,
                    ..Failed::transient(drv, e)
                },
            };
            if let Some((machine, why)) = &failure.lost
                && let Some(name) = self.machines.name_of(machine)
            {
                self.machines.lose(&name, why);
            }
            // Without the machine that was lost: what was built until then is there.
            if !failure.again || tries == TRIES {
                return Err(failure.failure);
            }
        }
    }

    /// One run of `nix build` to its end. Of several derivations one that fails holds up no other.
    pub(super) async fn follow(
        &self,
        drvs: &[&DrvPath],
        log: &mut BuildLog,
        updates: &[mpsc::Sender<BuildUpdate>],
    ) -> Result<End, String> {
        let silence = self.settings.build_silence.as_secs().to_string();
        let mut args: Vec<OsString> = [
            "build",
            "--no-link",
            "--log-format",
            "internal-json",
            "-v",
            "--max-silent-time",
            &silence,
        ]
        .map(OsString::from)
        .into();
        if let (None, Some(lines)) = (&self.hub, self.machines.lines()) {
            args.extend(["--builders".into(), lines.into()]);
        }
        if drvs.len() > 1 {
            args.push("--keep-going".into());
        }
        args.extend(drvs.iter().map(|drv| format!("{drv}^out").into()));
        let limits = Limits {
            wall: BUILD_WALL,
            ..Limits::default()
        };
        let mut spec = self.spec(args, limits);
        if let Some(store) = self.store_for_builds().await?
            && let Some(last) = spec.args.last_mut()
        {
            // After `--store`, which `spec` puts at the end.
            *last = store.into();
        }
        // What is built is signed as it becomes valid, where no daemon builds: a process less between build and copy. A
        // daemon that trusts us would read the files itself, and may not see them: systemd mounts credentials for us alone.
        let mut config = self.config();
        if self
            .settings
            .store
            .as_deref()
            .is_some_and(|s| s.starts_with('/'))
        {
            let keys = self.signing_keys();
            let keys: Vec<String> = keys.iter().map(|(f, _)| f.display().to_string()).collect();
            config.push_str(&format!("\nextra-secret-key-files = {}\n", keys.join(" ")));
        }
        spec.env.insert("NIX_CONFIG".to_owned(), config.into());
        let _permit = self.building.acquire().await;
        let mut running = exec::stream(spec).map_err(|e| e.to_string())?;
        let records = self.settings.state.join(built::FOLDER);
        built::tidy(&records, std::time::SystemTime::now());
        let mut elsewhere = BTreeSet::new();
        let mut shown = Shown::new(&self.machines);
        loop {
            // Listened for before it is looked for, so that none is missed between the two.
            let news = self.machines.lost.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            let lost = log.under_way().find_map(|(_, machine)| {
                let name = self.machines.name_of(machine)?;
                self.machines.is_lost(&name).then_some(name)
            });
            if let Some(name) = lost {
                // Dropping it ends the build here; Nix by itself would wait for as long as TCP does.
                return Ok(End::Lost(name));
            }
            let line = tokio::select! {
                line = running.next() => line,
                () = news => continue,
            };
            let Some(Line::Out(text) | Line::Err(text)) = line else {
                break;
            };
            if !log.take(&text) {
                continue;
            }
            for (drv, machine) in &log.machines {
                if elsewhere.insert(drv.clone())
                    && let Err(e) = built::record(&records, drv, machine)
                {
                    tracing::warn!(%drv, error = %e, "what a builder builds was not recorded: signing will refuse it");
                }
            }
            shown.show(log.under_way());
            // Progress is worth less than speed: whoever is slow misses some.
            for reader in updates {
                let _slow_reader = reader.try_send(BuildUpdate::Progress(log.progress()));
            }
        }
        running
            .finish()
            .await
            .map(End::Exit)
            .map_err(|e| e.to_string())
    }

    /// The log of a derivation, as far as it was built here.
    #[must_use]
    pub fn build_log(&self, drv: &DrvPath) -> Option<PathBuf> {
        let path = log::file(&self.settings.state.join("logs"), drv.as_str());
        path.exists().then_some(path)
    }
}

/// What a run of `nix build` has its machines do, as people see it. Nothing, once it ended, however it did.
struct Shown<'m> {
    machines: &'m Machines,
    now: BTreeSet<(String, String)>,
}

impl<'m> Shown<'m> {
    fn new(machines: &'m Machines) -> Self {
        Self {
            machines,
            now: BTreeSet::new(),
        }
    }

    /// Each derivation and the machine's store, as Nix names it.
    fn show<'l>(&mut self, under_way: impl Iterator<Item = (&'l String, &'l String)>) {
        let name = |(drv, machine): (&String, &String)| {
            Some((self.machines.name_of(machine)?, drv_name(drv).to_owned()))
        };
        let now: BTreeSet<_> = under_way.filter_map(name).collect();
        for (machine, what) in self.now.difference(&now) {
            self.machines.building(machine, what, false);
        }
        for (machine, what) in now.difference(&self.now) {
            self.machines.building(machine, what, true);
        }
        self.now = now;
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.show(std::iter::empty());
    }
}

/// How a run of `nix build` ended.
pub(super) enum End {
    Exit(Exit),
    /// This machine built for us and is lost.
    Lost(String),
}

/// A failure, and what it means for the machines.
pub(super) struct Failed {
    pub(super) failure: BuildFailure,
    /// A machine, as Nix names it, and why it is taken for lost.
    lost: Option<(String, String)>,
    /// Without that machine it may work at once.
    again: bool,
}

impl Failed {
    fn transient(drv: &DrvPath, message: String) -> Self {
        Self {
            failure: BuildFailure {
                class: ErrorClass::Transient,
                drv: drv.to_string(),
                message,
                log_tail: Vec::new(),
            },
            lost: None,
            again: true,
        }
    }
}

pub(super) fn failure(
    wanted: &DrvPath,
    log: &BuildLog,
    exit: &Exit,
    machines: &Machines,
) -> Failed {
    let lost_names = machines.lost_names();
    let drv = log::culprit(&log.errors).unwrap_or_else(|| wanted.to_string());
    let said = |what: &str| log.errors.iter().any(|e| e.contains(what));
    // A builder that says no says it again; all else may be another time's luck.
    let no = [
        "builder for ",
        "Cannot build ",
        "hash mismatch",
        " timed out after ",
    ];
    let no = no.iter().any(|what| said(what));
    let starved =
        exit.code.is_none() || said("No space left on device") || said("failed due to signal 9");
    let machine = log.machines.get(&drv);
    let verdict = machine.map(|_| log::machine_said(&log.errors, &drv));
    // A machine that is lost in the middle looks like a builder that failed.
    let lost = match (&verdict, machine) {
        (Some(MachineSaid::Nothing), Some(m)) => Some((m.clone(), log::last(&log.errors))),
        _ => log::unreachable(&log.errors),
    };
    // Nobody is there who has the feature that it asks for: who has it may be lost.
    let required = log
        .errors
        .iter()
        .find(|e| e.contains("is required to build"));
    let homeless =
        required.is_some_and(|e| lost.is_some() || !lost_names.is_empty() || machines.offer(e));
    let refused = matches!(verdict, Some(MachineSaid::Refused(_)));
    let desired = (no || required.is_some()) && !starved && !homeless && !refused && lost.is_none();
    let first = log
        .errors
        .iter()
        .find(|e| e.contains("error:"))
        .or(log.errors.back());
    let message = first.and_then(|e| e.lines().find(|l| !l.trim().is_empty()));
    let message = message.unwrap_or("nix gave no reason").trim();
    let message = message.trim_start_matches("error:").trim();
    let message = match (&verdict, &lost) {
        (Some(MachineSaid::Refused(why)), _) => {
            format!("the builder {} refused: {why}", machine.map_or("", |m| m))
        }
        (_, Some((machine, why))) => format!("the builder {machine} was lost: {why}"),
        _ if homeless => format!(
            "it waits for a builder ({}): {message}",
            lost_names.join(", ")
        ),
        _ => message.to_owned(),
    };
    let mut log_tail = log.tail(&drv);
    if log_tail.is_empty() {
        let lines = log.errors.iter().flat_map(|e| e.lines()).map(str::to_owned);
        log_tail = lines.collect();
        log_tail.drain(..log_tail.len().saturating_sub(TAIL_LINES));
    }
    Failed {
        failure: BuildFailure {
            class: if desired {
                ErrorClass::Desired
            } else {
                ErrorClass::Transient
            },
            drv,
            message: message.chars().take(500).collect(),
            log_tail,
        },
        again: lost.is_some(),
        lost,
    }
}

/// A derivation by name, for people.
fn drv_name(drv: &str) -> &str {
    let base = drv.rsplit('/').next().unwrap_or_default();
    base.get(33..).unwrap_or(base).trim_end_matches(".drv")
}

/// Makes `link` point to `to`, replacing what was there in one step.
pub(super) fn relink(link: &Path, to: &Path) -> std::io::Result<()> {
    let new = link.with_added_extension("new");
    let _left_by_a_crash = std::fs::remove_file(&new);
    symlink(to, &new)?;
    std::fs::rename(&new, link)
}
