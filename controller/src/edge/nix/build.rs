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
use trueup_engine::ports::{BuildFailure, BuildUpdate, Builder};
use trueup_schema::{DrvPath, ErrorClass, StorePath};

use super::log::{self, BuildLog};
use super::{Nix, built, exec};
use crate::edge::exec::{ExecError, Exit, Limits, Line};

/// A build ends at the latest after so long; its silence ends it sooner.
const BUILD_WALL: Duration = Duration::from_secs(24 * 3600);
/// Updates that wait to be read.
const UPDATES: usize = 64;
/// Last lines in a failure.
const TAIL_LINES: usize = 25;

#[async_trait(?Send)]
impl Builder for Nix {
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
        futures::stream::select(work, updates).boxed_local()
    }

    async fn is_valid(&self, path: &StorePath) -> bool {
        let asked = self.ask(["path-info", "--offline", path.as_str()]).await;
        asked.is_ok_and(|exit| exit.ok())
    }

    async fn keep_roots(&self, keep: &[StorePath]) {
        let Ok(entries) = std::fs::read_dir(&self.settings.roots) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let base = name.strip_suffix(".drv").unwrap_or(&name);
            // Links only, and only such as are made here: the folder may be shared with other links of trueup.
            let ours =
                name.starts_with(ROOT_PREFIX) && entry.file_type().is_ok_and(|t| t.is_symlink());
            let to = std::fs::read_link(self.settings.roots.join(base));
            let kept = |to: PathBuf| keep.iter().any(|k| Path::new(k.as_str()) == to);
            if ours && !to.is_ok_and(kept) {
                let _gone_already = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// Roots of builds are told from others in the folder (the agent's) by this.
const ROOT_PREFIX: &str = "hub-";

fn root_name(root: &str) -> String {
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || "._-@".contains(c) {
            c
        } else {
            '_'
        }
    };
    format!(
        "{ROOT_PREFIX}{}",
        root.chars().map(safe).take(200).collect::<String>()
    )
}

impl Nix {
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
        // Direct links to store paths, made before the build: one that dangles does no harm and protects from the
        // moment on that the path is valid.
        let base = self.settings.roots.join(root_name(root));
        std::fs::create_dir_all(&self.settings.roots)
            .and_then(|()| relink(&base.with_added_extension("drv"), Path::new(drv.as_str())))
            .and_then(|()| relink(&base, Path::new(out.as_str())))
            .map_err(|e| fail(format!("rooting in {}: {e}", self.settings.roots.display())))?;
        let logs = self.settings.state.join("logs");
        std::fs::create_dir_all(&logs).map_err(|e| fail(format!("{}: {e}", logs.display())))?;
        let mut log = BuildLog::new(&logs);
        let exit = self.follow(drv, &mut log, updates).await;
        match exit {
            Ok(exit) if exit.ok() => Ok(out.clone()),
            Ok(exit) => Err(failure(drv, &log, &exit)),
            Err(e) => Err(fail(e.to_string())),
        }
    }

    async fn follow(
        &self,
        drv: &DrvPath,
        log: &mut BuildLog,
        updates: &mpsc::Sender<BuildUpdate>,
    ) -> Result<Exit, ExecError> {
        let silence = self.settings.build_silence.as_secs().to_string();
        let installable = format!("{drv}^out");
        let args = [
            "build",
            "--no-link",
            "--log-format",
            "internal-json",
            "-v",
            "--max-silent-time",
            &silence,
            &installable,
        ];
        let limits = Limits {
            wall: BUILD_WALL,
            ..Limits::default()
        };
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let mut spec = self.spec(args, limits);
        // What is built is signed as it becomes valid, where no daemon builds: a process less between build and copy.
        let key = self.settings.signing_key.display();
        let config = format!("{}\nextra-secret-key-files = {key}\n", self.config());
        spec.env.insert("NIX_CONFIG".to_owned(), config.into());
        let mut running = exec::stream(spec)?;
        let records = self.settings.state.join(built::FOLDER);
        built::tidy(&records, std::time::SystemTime::now());
        let mut elsewhere = BTreeSet::new();
        while let Some(line) = running.next().await {
            let (Line::Out(text) | Line::Err(text)) = line;
            if log.take(&text) {
                for (drv, machine) in &log.machines {
                    if !elsewhere.contains(drv) {
                        elsewhere.insert(drv.clone());
                        if let Err(e) = built::record(&records, drv, machine) {
                            tracing::warn!(%drv, error = %e, "what a builder builds was not recorded: signing will refuse it");
                        }
                    }
                }
                // Progress is worth less than speed: whoever is slow misses some.
                let _slow_reader = updates.try_send(BuildUpdate::Progress(log.progress()));
            }
        }
        running.finish().await
    }

    /// The log of a derivation, as far as it was built here.
    #[must_use]
    pub fn build_log(&self, drv: &DrvPath) -> Option<PathBuf> {
        let path = log::file(&self.settings.state.join("logs"), drv.as_str());
        path.exists().then_some(path)
    }
}

fn failure(wanted: &DrvPath, log: &BuildLog, exit: &Exit) -> BuildFailure {
    let drv = log::culprit(&log.errors).unwrap_or_else(|| wanted.to_string());
    let said = |what: &str| log.errors.iter().any(|e| e.contains(what));
    // A builder that says no says it again; all else may be another time's luck.
    let builder = [
        "builder for ",
        "Cannot build ",
        "hash mismatch",
        " timed out after ",
    ]
    .iter()
    .any(|what| said(what));
    let starved =
        exit.code.is_none() || said("No space left on device") || said("failed due to signal 9");
    // A machine that is lost in the middle looks like a builder that failed.
    let lost = log.machines.contains_key(&drv) && !log::machine_said(&log.errors, &drv);
    let lost = lost || said("cannot build on '");
    let mut log_tail = log.tail(&drv);
    if log_tail.is_empty() {
        let lines = log.errors.iter().flat_map(|e| e.lines()).map(str::to_owned);
        log_tail = lines.collect();
        log_tail.drain(..log_tail.len().saturating_sub(TAIL_LINES));
    }
    let first = log
        .errors
        .iter()
        .find(|e| e.contains("error:"))
        .or(log.errors.back());
    let message = first.and_then(|e| e.lines().find(|l| !l.trim().is_empty()));
    let message = message.unwrap_or("nix gave no reason").trim();
    let message = match log.machines.get(&drv).filter(|_| lost) {
        Some(machine) => format!("the builder {machine} was lost: {message}"),
        None => message.to_owned(),
    };
    BuildFailure {
        class: if builder && !starved && !lost {
            ErrorClass::Desired
        } else {
            ErrorClass::Transient
        },
        drv,
        message: message
            .trim_start_matches("error:")
            .trim()
            .chars()
            .take(500)
            .collect(),
        log_tail,
    }
}

/// Makes `link` point to `to`, replacing what was there in one step.
fn relink(link: &Path, to: &Path) -> std::io::Result<()> {
    let new = link.with_added_extension("new");
    let _left_by_a_crash = std::fs::remove_file(&new);
    symlink(to, &new)?;
    std::fs::rename(&new, link)
}
