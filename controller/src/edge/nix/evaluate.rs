//! Evaluation: some hosts in one process; if that fails, each of them in a process of its own, so that one host's
//! error is its own. Keeps no results: the pipeline does, under the key that is made here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Component, Path};
use std::time::Duration;

use futures::stream::{self, LocalBoxStream, StreamExt as _};
use serde::Deserialize;
use trueup_engine::ports::{EvalFailure, EvalWant, Evaluated, Evaluator, Tree, Validity};
use trueup_schema::{DrvPath, ErrorClass, HostName, StorePath};

use super::expression;
use super::{Nix, exec};
use crate::edge::exec::{ExecError, Exit, Limits};

/// Hosts in one process. Of a host's 1.5 s only 0.2 s is shared with the next, and each adds 90 MB: few is enough.
const BATCH: usize = 8;
/// A batch that takes longer is given up, and each of its hosts tried alone with all the time that it may have: one that
/// loops must not hold up the rest for so long.
const BATCH_WALL: Duration = Duration::from_secs(180);
/// Nix' trace, as kept.
const TRACE_BYTES: usize = 16 << 10;
/// Warnings, as kept.
const WARNINGS_MAX: usize = 50;
/// JSON of a batch, and what it traces.
const OUTPUT_BYTES: usize = 8 << 20;

#[derive(Debug, Deserialize)]
struct Found {
    drv: DrvPath,
    out: StorePath,
}

impl Evaluator for Nix {
    fn evaluate(
        &self,
        tree: &Tree,
        wants: Vec<EvalWant>,
    ) -> LocalBoxStream<'static, (HostName, Result<Evaluated, EvalFailure>)> {
        let (nix, tree) = (self.clone(), tree.clone());
        let at_once = self.settings.evaluations.max(1);
        // Spread over the processes first: eight hosts on two processes are two batches of four.
        let size = wants.len().div_ceil(at_once).clamp(1, BATCH);
        stream::iter(batches(wants, size))
            .map(move |batch| nix.clone().batch(tree.clone(), batch))
            .flatten_unordered(at_once)
            .boxed_local()
    }

    fn still_valid(&self, record: &Evaluated, tree: &Tree) -> Validity {
        // The footprint of an evaluation is not recorded yet, so only the same commit is proof.
        if record.key.starts_with(&self.key_head(tree)) {
            return Validity::Valid;
        }
        Validity::Unknown {
            why: "another commit, or other settings of Nix; what an evaluation read is not recorded yet"
                .to_owned(),
        }
    }
}

/// Wants of one file together, in groups of at most `size`.
fn batches(wants: Vec<EvalWant>, size: usize) -> Vec<Vec<EvalWant>> {
    let mut by_file: BTreeMap<Option<String>, Vec<EvalWant>> = BTreeMap::new();
    for want in wants {
        by_file.entry(want.file.clone()).or_default().push(want);
    }
    by_file
        .into_values()
        .flat_map(|w| w.chunks(size).map(<[_]>::to_vec).collect::<Vec<_>>())
        .collect()
}

type Result1 = (HostName, Result<Evaluated, EvalFailure>);

impl Nix {
    /// `v1:<commit>:<digest of settings>:`, before the attribute.
    fn key_head(&self, tree: &Tree) -> String {
        let settings = format!(
            "{}\0{}\0{}\0{:?}",
            self.settings.program.display(),
            self.version,
            self.config(),
            self.settings.store
        );
        let digest = trueup_schema::Digest::of(settings.as_bytes());
        format!("v1:{}:{}:", tree.revision.sha1(), digest.short())
    }

    /// All in one process; if that does not work out, each in a process of its own, beside each other: one host that
    /// loops for its whole time must not make the others of its batch wait for it.
    fn batch(self, tree: Tree, wants: Vec<EvalWant>) -> LocalBoxStream<'static, Result1> {
        let at_once = self.settings.evaluations.max(1);
        let wall = self.settings.evaluation_wall;
        stream::once(async move {
            let several = wants.len() > 1;
            let first = match several {
                true => self
                    .together(&tree, &wants, wall.min(BATCH_WALL))
                    .await
                    .ok(),
                false => None,
            };
            match first {
                Some(found) => stream::iter(found).boxed_local(),
                None => stream::iter(wants)
                    .map(move |want| {
                        let (nix, tree) = (self.clone(), tree.clone());
                        async move { nix.alone(&tree, want, wall).await }
                    })
                    .buffer_unordered(at_once)
                    .boxed_local(),
            }
        })
        .flatten()
        .boxed_local()
    }

    /// A flake's files have to lie on this machine to be read.
    fn own_store(&self) -> Vec<OsString> {
        match self.hub {
            Some(_) => vec!["--eval-store".into(), self.evaluation_store().into()],
            None => Vec::new(),
        }
    }

    /// A store in a folder is made by the first that opens it, and two that make it at once fail: so one does, before all.
    async fn open_store(&self) {
        if self.settings.store.is_none() {
            return;
        }
        let mut args: Vec<OsString> = ["eval", "--expr", "1"].map(OsString::from).into();
        args.extend(self.own_store());
        let limits = Limits {
            wall: super::QUESTION_WALL,
            ..Limits::default()
        };
        // What is wrong with it the evaluation tells.
        let _told_later = exec::run(&self.spec(args, limits)).await;
    }

    /// The one way to evaluate: in its turn, in a store that is there, within time and memory.
    pub(super) async fn run_evaluation(
        &self,
        mut args: Vec<OsString>,
        wall: Duration,
        output: usize,
    ) -> Result<Exit, EvalFailure> {
        let _permit = self.evaluating.acquire().await;
        self.opened.get_or_init(|| self.open_store()).await;
        args.extend(self.own_store());
        let limits = Limits {
            wall,
            output,
            rss: Some(self.settings.evaluation_memory),
        };
        exec::run(&self.spec(args, limits)).await.map_err(not_run)
    }

    async fn alone(&self, tree: &Tree, want: EvalWant, wall: Duration) -> Result1 {
        let one = std::slice::from_ref(&want);
        let result = self.together(tree, one, wall).await.and_then(|found| {
            let first = found.into_iter().next();
            first.map_or_else(|| Err(desired("Nix gave no answer for it")), |(_, r)| r)
        });
        (want.host, result)
    }

    async fn together(
        &self,
        tree: &Tree,
        wants: &[EvalWant],
        wall: Duration,
    ) -> Result<Vec<Result1>, EvalFailure> {
        let mut selected = Vec::new();
        for want in wants {
            let parts = expression::parts(&want.attribute)
                .ok_or_else(|| desired(&format!("`{}` is no attribute path", want.attribute)))?;
            selected.push((want.host.as_str(), parts));
        }
        let expression = expression::select(&selected);
        let file = wants.first().and_then(|w| w.file.as_deref());
        if let Some(file) = file.filter(|f| !stays_inside(f)) {
            return Err(desired(&format!("`{file}` is no file of the repository")));
        }
        let args = arguments(tree, file, expression);
        let exit = self.run_evaluation(args, wall, OUTPUT_BYTES).await?;
        if !exit.ok() {
            return Err(failed(&exit));
        }
        let mut found: BTreeMap<String, Found> =
            serde_json::from_slice(&exit.stdout).map_err(|e| EvalFailure {
                class: ErrorClass::Desired,
                message: format!("the attribute is no derivation: {e}"),
                trace: exit.out_text().chars().take(500).collect(),
            })?;
        let warnings = warnings(&exit);
        let share = wants.len() as u64;
        Ok(wants
            .iter()
            .filter_map(|want| {
                let f = found.remove(want.host.as_str())?;
                // Before anybody else's turn, and so before garbage is collected.
                self.keep_for_the_hub(&f.drv, &f.out, want.host.as_str());
                let evaluated = Evaluated {
                    key: format!(
                        "{}{}:{}",
                        self.key_head(tree),
                        want.file.as_deref().unwrap_or_default(),
                        want.attribute
                    ),
                    drv: f.drv,
                    out: f.out,
                    peak_rss: exit.usage.peak_rss,
                    user_time_ms: exit.usage.user_ms / share,
                    warnings: warnings.clone(),
                };
                Some((want.host.clone(), Ok(evaluated)))
            })
            .collect())
    }
}

fn desired(message: &str) -> EvalFailure {
    EvalFailure {
        class: ErrorClass::Desired,
        message: message.to_owned(),
        trace: String::new(),
    }
}

fn stays_inside(file: &str) -> bool {
    let mut parts = Path::new(file).components();
    parts.all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
}

fn arguments(tree: &Tree, file: Option<&str>, expression: String) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["eval".into(), "--json".into(), "--show-trace".into()];
    match file {
        Some(file) => {
            args.extend(["--file".into(), tree.path.join(file).into()]);
            args.push(String::new().into());
        }
        None => {
            args.push("--no-write-lock-file".into());
            args.push(flake(tree).into());
        }
    }
    args.extend(["--apply".into(), expression.into()]);
    args
}

/// `path:` and not `git+file:`: the tree is exported already, so Nix needs no Git, no second copy of the history and no
/// cache of its own. Commit and time are told, so that `self.rev` and `self.lastModified` are as from Git.
/// `#.` is the root of the outputs: attributes are absolute.
fn flake(tree: &Tree) -> String {
    let modified = std::fs::metadata(&tree.path)
        .and_then(|m| m.modified())
        .ok()
        .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok())
        .map_or(0, |d| d.as_secs());
    format!(
        "path:{}?rev={}&lastModified={modified}#.",
        tree.path.display(),
        tree.revision.sha1()
    )
}

pub(super) fn not_run(error: ExecError) -> EvalFailure {
    let next = match error {
        ExecError::TimedOut { .. } => "; limits.evaluationTimeout in trueup.yaml is the limit",
        ExecError::TooMuchMemory { .. } => {
            "; limits.evaluationMemoryMiB in trueup.yaml is the limit"
        }
        _ => "",
    };
    EvalFailure {
        class: ErrorClass::Transient,
        message: format!("{error}{next}"),
        trace: String::new(),
    }
}

/// What Nix says when the network, the disk or the daemon is at fault, and not the code.
const TRANSIENT: [&str; 7] = [
    "unable to download",
    "Couldn't resolve host",
    "No space left on device",
    "Nix daemon disconnected",
    "cannot connect to socket",
    "Too many open files",
    "database is busy",
];

pub(super) fn failed(exit: &Exit) -> EvalFailure {
    let text = exit.err_text();
    let transient = exit.code.is_none() || TRANSIENT.iter().any(|t| text.contains(t));
    // Nix prints the trace first and the cause last.
    let message = text
        .lines()
        .map(str::trim)
        .rfind(|l| l.starts_with("error:") && l.len() > "error:".len())
        .map_or("nix gave no reason", |l| {
            l.trim_start_matches("error:").trim()
        });
    let from = text.len().saturating_sub(TRACE_BYTES);
    let from = (from..=text.len()).find(|i| text.is_char_boundary(*i));
    EvalFailure {
        class: if transient {
            ErrorClass::Transient
        } else {
            ErrorClass::Desired
        },
        message: message.chars().take(500).collect(),
        trace: text[from.unwrap_or(0)..].to_owned(),
    }
}

fn warnings(exit: &Exit) -> Vec<String> {
    let text = exit.err_text();
    let said = text
        .lines()
        .filter_map(|l| l.trim().strip_prefix("evaluation warning: "));
    said.take(WARNINGS_MAX)
        .map(|l| l.chars().take(500).collect())
        .collect()
}
