//! The `nix` program: evaluates, builds, signs and copies, all in the hub's store. It decides nothing: what is wanted,
//! and when, is the pipeline's matter.
//!
//! **Invariant:** evaluation and build use the same store. With another store for evaluation (`eval-store auto`) a
//! build by a chroot or remote store does not find the derivations; so for a hub on another machine, where a flake's
//! files can't be read, they are made in a store beside our state and taken there before the build.

mod build;
mod built;
mod caches;
mod collect;
mod evaluate;
mod expression;
mod hub;
mod info;
mod inspect;
mod joint;
mod log;
mod machines;
mod outputs;
mod publish;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use collect::STORE_MAX as EVALUATION_STORE_MAX;
pub use inspect::Derivation;
pub use joint::GROUP_MAX;
pub use log::find as find_logs;
pub use outputs::{Asked, NAMES_MAX, Output};

use super::exec::{self, ExecError, ExecSpec, Exit, Limits};

/// A short question to Nix (is a path valid?) takes no longer, a busy daemon included.
const QUESTION_WALL: Duration = Duration::from_secs(60);

/// Which Nix, and what it may use.
#[derive(Debug, Clone)]
pub struct NixSettings {
    /// The program: a path, or a name in `env`'s PATH.
    pub program: PathBuf,
    /// `--store` for everything; `None`: Nix' own choice (`auto`).
    pub store: Option<String>,
    /// The whole environment: at least PATH and HOME. `NIX_CONFIG` goes through `config`.
    pub env: BTreeMap<String, OsString>,
    /// More lines for `NIX_CONFIG`.
    pub config: String,
    /// Logs of builds lie in `logs/` below it.
    pub state: PathBuf,
    /// A real folder below `/nix/var/nix/gcroots` (of that store): a link to a folder would not protect.
    pub roots: PathBuf,
    /// Resident bytes of one evaluating process.
    pub evaluation_memory: u64,
    /// Wall time of one evaluating process.
    pub evaluation_wall: Duration,
    /// Evaluating processes at the same time.
    pub evaluations: usize,
    /// Processes that build at the same time, each at most [`GROUP_MAX`] derivations.
    pub builds: usize,
    /// Bytes above which the store of evaluations for a hub elsewhere is collected.
    pub evaluation_store_max: u64,
    /// A build that says nothing for so long is ended.
    pub build_silence: Duration,
    /// The key that signs store paths.
    pub signing_key: PathBuf,
    /// During a rotation all that sign, that one too; empty otherwise.
    pub ring: SigningRing,
}

/// Keys that all sign, each file with its public half. Shared, so that a rotation begins and ends while we run.
pub type SigningRing = Arc<std::sync::RwLock<Vec<(PathBuf, String)>>>;

/// The Nix edge: `Evaluator`, `Builder` and `Publisher`.
#[derive(Debug, Clone)]
pub struct Nix {
    settings: Arc<NixSettings>,
    evaluating: Arc<tokio::sync::Semaphore>,
    building: Arc<tokio::sync::Semaphore>,
    /// As Nix tells it; empty where nobody asked.
    version: String,
    /// The hub, where it is another machine.
    hub: Option<hub::Hub>,
    machines: Arc<machines::Machines>,
    caches: Arc<caches::Caches>,
    /// What a remote hub was last told of its builders, and its store's URL with that.
    told: Arc<tokio::sync::Mutex<Option<(String, String)>>>,
    /// One change of the hub's roots at a time.
    roots: Arc<tokio::sync::Mutex<()>>,
    /// Builds that are wanted at the same moment.
    joint: Arc<joint::Joint>,
    /// The store that evaluations write to is there.
    opened: Arc<tokio::sync::OnceCell<()>>,
    /// When the store of evaluations was last measured.
    looked: Arc<std::sync::Mutex<Option<std::time::Instant>>>,
}

impl Nix {
    /// Starts nothing yet.
    #[must_use]
    pub fn new(settings: NixSettings) -> Self {
        Self {
            building: Arc::new(tokio::sync::Semaphore::new(settings.builds.max(1))),
            evaluating: Arc::new(tokio::sync::Semaphore::new(settings.evaluations.max(1))),
            hub: settings.store.as_deref().and_then(hub::Hub::parse),
            settings: Arc::new(settings),
            version: String::new(),
            machines: Arc::default(),
            caches: Arc::default(),
            told: Arc::default(),
            roots: Arc::default(),
            joint: Arc::default(),
            opened: Arc::default(),
            looked: Arc::default(),
        }
    }

    /// `nix ARGS`, in our store and environment.
    fn spec(&self, args: Vec<OsString>, limits: Limits) -> ExecSpec {
        let mut spec = ExecSpec::new(self.settings.program.clone(), args);
        if let Some(store) = &self.settings.store {
            spec.args.extend(["--store".into(), store.into()]);
        }
        spec.env.clone_from(&self.settings.env);
        spec.env
            .insert("NIX_CONFIG".to_owned(), self.config().into());
        spec.env
            .insert("NIX_SSHOPTS".to_owned(), hub::SSH_OPTIONS.into());
        spec.limits = limits;
        spec
    }

    /// Files of all keys that sign, with their public halves where those are known.
    fn signing_keys(&self) -> Vec<(PathBuf, Option<String>)> {
        let ring = self.settings.ring.read().unwrap_or_else(|e| e.into_inner());
        if ring.is_empty() {
            return vec![(self.settings.signing_key.clone(), None)];
        }
        ring.iter()
            .map(|(f, p)| (f.clone(), Some(p.clone())))
            .collect()
    }

    fn config(&self) -> String {
        format!(
            "extra-experimental-features = nix-command flakes\naccept-flake-config = false\nwarn-dirty = false\n\
             builders-use-substitutes = true\nconnect-timeout = 5\nstalled-download-timeout = 30\nfallback = true\n{}",
            self.settings.config
        )
    }

    async fn ask<const N: usize>(&self, args: [&str; N]) -> Result<Exit, ExecError> {
        let args = args.iter().map(OsString::from).collect();
        let limits = Limits {
            wall: QUESTION_WALL,
            ..Limits::default()
        };
        exec::run(&self.spec(args, limits)).await
    }

    /// Asks the program for its version, which is part of what an evaluation depends on. An error says that there is
    /// no such program.
    pub async fn with_version(mut self) -> Result<Self, ExecError> {
        let mut spec = self.spec(vec!["--version".into()], Limits::default());
        spec.args.truncate(1);
        self.version = exec::run(&spec).await?.out_text();
        Ok(self)
    }
}
