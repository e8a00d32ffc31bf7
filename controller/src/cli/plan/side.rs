//! One revision of the fleet: its manifests, and what each of its hosts is to be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use trueup_engine::ports::{
    BuildUpdate, Builder as _, EvalFailure, EvalWant, Evaluated, Evaluator as _, Head, Opened,
    SourceError,
};
use trueup_schema::kind::{ResolvedHost, Target};
use trueup_schema::manifest::{self, Style};
use trueup_schema::{HostName, Revision};

use super::super::{CliError, Ctx, Exit};
use crate::edge::nix::{Nix, NixSettings};
use crate::edge::source::{Desired, ReadFile};
use crate::secrets::{Found, Repository, goals};
use crate::settings::{self, Fragment, Limits};

/// A folder of ours for trees and logs, gone at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(what: &str) -> Result<Self, CliError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = std::env::temp_dir().join(format!("trueup-{what}-{}", std::process::id()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|e| CliError::failed(format!("making {}: {e}", path.display())))?;
        Ok(Self(path))
    }
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _best_effort = std::fs::remove_dir_all(&self.0);
    }
}

/// Nix as the controller would use it: its settings are taken where they can be read.
pub fn nix(fragment: &Fragment, store: Option<String>, scratch: &Path) -> Nix {
    let defaults = Limits::default();
    let limits = &fragment.limits;
    let store = store.or_else(|| fragment.hub.store.clone());
    Nix::new(NixSettings {
        program: fragment.nix.program.clone().unwrap_or_else(|| "nix".into()),
        store: store.filter(|s| s != "auto"),
        env: crate::run::environment(),
        config: std::env::var("NIX_CONFIG").unwrap_or_default(),
        state: scratch.to_owned(),
        roots: scratch.join("roots"),
        evaluation_memory: limits
            .evaluation_memory_mib
            .unwrap_or(defaults.evaluation_memory_mib)
            << 20,
        evaluation_wall: limits
            .evaluation_timeout
            .map_or(defaults.evaluation_timeout, |d| d.get()),
        evaluations: limits.evaluations.unwrap_or(defaults.evaluations) as usize,
        builds: limits.builds.unwrap_or(defaults.builds) as usize,
        evaluation_store_max: u64::MAX,
        build_silence: limits
            .build_silence
            .map_or(defaults.build_silence, |d| d.get()),
        // A plan signs nothing.
        signing_key: PathBuf::new(),
        ring: crate::edge::nix::SigningRing::default(),
    })
}

/// Manifests as a person's screen has them, with the encrypted files that they name, and what each host is sent of
/// those: all problems of a revision as one text, then their number.
pub fn read(files: &[(String, Vec<u8>)], file: ReadFile<'_>) -> Result<Desired, Vec<String>> {
    let source = |name: &str| file(name).map_or(Found::Missing, Found::File);
    let repository = Repository::new(&source);
    let fleet = manifest::resolve_with(files, Some(&repository)).map_err(|problems| {
        let text = manifest::render(&problems, Style::Plain);
        vec![text.trim_end().to_owned(), manifest::count(&problems)]
    })?;
    let secrets = goals(&fleet, &source)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    Ok(Desired { fleet, secrets })
}

/// Nothing is fetched here: what fails is finding a commit.
pub fn told(error: SourceError) -> String {
    match error {
        SourceError::Fetch { url, why } => format!("{url}: {why}"),
        other => other.to_string(),
    }
}

/// Why a revision can't be planned.
pub fn refused(revision: &Revision, error: SourceError) -> CliError {
    match error {
        SourceError::BadManifests { problems, .. } => CliError::new(
            Exit::Failed,
            format!(
                "the manifests of {} are wrong\n{}",
                revision.short(),
                problems.join("\n")
            ),
        ),
        other => CliError::failed(other.to_string()),
    }
}

pub type Results = BTreeMap<HostName, Result<Evaluated, EvalFailure>>;

/// Answers by what was asked: the attribute, and the file that it is in.
pub type Known = BTreeMap<(String, Option<String>), Result<Evaluated, EvalFailure>>;

pub struct Side {
    pub head: Head,
    pub opened: Opened,
    pub results: Results,
    /// How much of that this side had to evaluate by itself.
    pub evaluated: usize,
}

impl Side {
    pub fn host(&self, name: &HostName) -> Option<&ResolvedHost> {
        self.opened.fleet.hosts.get(name)
    }

    /// Evaluates these of its hosts, each attribute once, without those that are known; how far it is stands on the screen.
    pub async fn evaluate(
        &mut self,
        nix: &Nix,
        only: &[HostName],
        mut known: Known,
        ctx: &mut Ctx<'_>,
    ) {
        let hosts = self.opened.fleet.hosts.values();
        let wanted = |h: &&ResolvedHost| only.is_empty() || only.contains(&h.name);
        let wants: Vec<EvalWant> = hosts.filter(wanted).map(want).collect();
        let asked_by: BTreeMap<&HostName, _> = wants.iter().map(|w| (&w.host, asked(w))).collect();
        let mut first: BTreeMap<_, EvalWant> = BTreeMap::new();
        for want in wants.iter().filter(|w| !known.contains_key(&asked(w))) {
            first.entry(asked(want)).or_insert_with(|| want.clone());
        }
        let (at, all) = (self.head.revision.short(), first.len());
        let mut results = nix.evaluate(&self.opened.tree, first.into_values().collect());
        if all > 0 {
            ctx.status(&format!("evaluating {at}: 0/{all}"));
        }
        while let Some((host, result)) = results.next().await {
            self.evaluated += 1;
            known.insert(asked_by[&host].clone(), result);
            ctx.status(&format!("evaluating {at}: {}/{all}", self.evaluated));
        }
        for (host, asked) in asked_by {
            if let Some(result) = known.get(&asked) {
                self.results.insert(host.clone(), result.clone());
            }
        }
        ctx.status("");
    }

    /// What it found, for another side that would find the same.
    pub fn known(&self) -> Known {
        let found = self.results.iter().filter_map(|(host, result)| {
            let want = want(self.host(host)?);
            Some((asked(&want), result.clone()))
        });
        found.collect()
    }

    /// Builds what was evaluated; a host whose build fails fails.
    pub async fn build(&mut self, nix: &Nix, ctx: &mut Ctx<'_>) {
        for (host, result) in &mut self.results {
            let Ok(evaluated) = result else { continue };
            ctx.status(&format!("building {host}"));
            let mut updates = nix.build(&evaluated.drv, &evaluated.out, host.as_str());
            while let Some(update) = updates.next().await {
                match update {
                    BuildUpdate::Progress(p) => {
                        ctx.status(&format!("building {host} {}/{}", p.done, p.expected));
                    }
                    BuildUpdate::Done(Ok(_)) => {}
                    BuildUpdate::Done(Err(failure)) => {
                        *result = Err(EvalFailure {
                            class: failure.class,
                            message: format!("build: {}", failure.message),
                            trace: failure.log_tail.join("\n"),
                        });
                        break;
                    }
                }
            }
        }
        ctx.status("");
    }
}

fn asked(want: &EvalWant) -> (String, Option<String>) {
    (want.attribute.clone(), want.file.clone())
}

fn want(host: &ResolvedHost) -> EvalWant {
    let (attribute, file) = match &host.target {
        Target::Flake { attribute } => (attribute.clone(), None),
        Target::File { file, attr } => (attr.clone(), Some(file.clone())),
    };
    EvalWant {
        host: host.name.clone(),
        attribute,
        file,
    }
}

/// The settings, where they are and can be read; a plan needs none.
pub fn fragment(config: Option<&Path>) -> Result<Fragment, CliError> {
    match settings::read(config) {
        Ok(fragment) => Ok(fragment),
        Err(_) if config.is_none() => Ok(Fragment::default()),
        Err(e) => Err(e.into()),
    }
}
