//! Nix: evaluate, build, publish. A host's worker never calls these; the pipeline does, for the wants of many.

use async_trait::async_trait;
use futures::stream::LocalBoxStream;
use serde::{Deserialize, Serialize};
use trueup_schema::kind::{ResolvedBuilder, ResolvedCache};
use trueup_schema::{DrvPath, ErrorClass, HostName, StorePath, Timestamp};

use super::Tree;

/// One host's attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvalWant {
    /// For whom.
    pub host: HostName,
    /// Flake attribute (below the flake's root) of the toplevel, or attribute in `file`.
    pub attribute: String,
    /// A Nix file relative to the tree's root; `None`: the flake.
    pub file: Option<String>,
}

/// What an evaluation found. Kept in the db under its opaque key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evaluated {
    /// What is to be built.
    pub drv: DrvPath,
    /// What it will be.
    pub out: StorePath,
    /// The evaluator's own key (commit, lock, host, attribute, Nix version, settings that matter).
    pub key: String,
    /// Greatest resident set in bytes, of the process.
    pub peak_rss: u64,
    /// User time in milliseconds.
    pub user_time_ms: u64,
    /// Warnings that the evaluation printed.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Why a host could not be evaluated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvalFailure {
    /// Who has to act: `Desired` for an error of Nix code, `Transient` for memory, time and the like.
    pub class: ErrorClass,
    /// One sentence.
    pub message: String,
    /// Nix's own trace, bounded.
    pub trace: String,
}

/// Can a new commit change this host?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Validity {
    /// Proven: the record holds for the tree as well.
    Valid,
    /// Not proven: evaluate.
    Unknown {
        /// Why, for people.
        why: String,
    },
}

/// The port.
pub trait Evaluator {
    /// Evaluates each want; results come one by one as they are found, in any order, one for each want.
    fn evaluate(
        &self,
        tree: &Tree,
        wants: Vec<EvalWant>,
    ) -> LocalBoxStream<'static, (HostName, Result<Evaluated, EvalFailure>)>;
    /// Whether a record still holds for `tree`.
    fn still_valid(&self, record: &Evaluated, tree: &Tree) -> Validity;
}

/// Live progress of one derivation wanted by us.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildProgress {
    /// Derivations and copies done.
    pub done: u64,
    /// Of how many.
    pub expected: u64,
    /// What is being built now.
    pub current: Vec<String>,
}

/// Why a derivation failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildFailure {
    /// `Desired` when a builder said no, `Transient` for disk, network and the like.
    pub class: ErrorClass,
    /// Which derivation failed (may be a dependency of the wanted one).
    pub drv: String,
    /// One sentence.
    pub message: String,
    /// Its last lines.
    pub log_tail: Vec<String>,
}

/// What a build says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildUpdate {
    /// It goes on.
    Progress(BuildProgress),
    /// It ended.
    Done(Result<StorePath, BuildFailure>),
}

/// What is known of a machine that builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MachineState {
    /// Not asked yet.
    Unknown,
    /// It logs us in and its Nix answers.
    Ready,
    /// It does not: builds go elsewhere until it does.
    Lost,
}

/// A machine that builds, as last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineStatus {
    /// Its manifest's name.
    pub name: String,
    /// Whether it is used.
    pub state: MachineState,
    /// What it said, or why it does not answer.
    pub message: String,
    /// When the state began.
    pub since: Timestamp,
    /// Derivations that it builds for us now, by name.
    pub building: Vec<String>,
}

/// The port. Every build begins in the hub's store.
#[async_trait(?Send)]
pub trait Builder {
    /// Roots what an evaluation found, under `root` (a name: host and goal), so that no collection of garbage takes the
    /// derivation while its build waits. What can't be rooted is made again by the next evaluation.
    async fn root(&self, drv: &DrvPath, out: &StorePath, root: &str);
    /// Builds `drv` into `out` and roots it under `root` (a name: host and goal). The last update is `Done`.
    fn build(
        &self,
        drv: &DrvPath,
        out: &StorePath,
        root: &str,
    ) -> LocalBoxStream<'static, BuildUpdate>;
    /// Is it there and valid already?
    async fn is_valid(&self, path: &StorePath) -> bool;
    /// Keeps those of our roots that lead to these outputs (and to the derivations beside them), drops our others. Does
    /// not pause in between, so that no build can begin meanwhile; or sees to it that roots made meanwhile stay.
    async fn keep_roots(&self, keep: &[StorePath]);
    /// From now on builds may be handed to these machines.
    fn use_machines(&self, machines: Vec<ResolvedBuilder>);
    /// What is known of the machines: all of them, whenever that changes. They are asked for as long as this is read.
    fn machines(&self) -> LocalBoxStream<'static, Vec<MachineStatus>>;
}

/// Why a closure was not published.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// Signing failed.
    #[error("signing {path}: {why}")]
    Sign {
        /// Which.
        path: StorePath,
        /// Why.
        why: String,
    },
    /// A cache did not take it. No host waits for a cache that it doesn't need.
    #[error("copying {path} to {cache}: {why}")]
    Cache {
        /// Which.
        path: StorePath,
        /// Where.
        cache: String,
        /// Why.
        why: String,
    },
}

/// The port.
#[async_trait(?Send)]
pub trait Publisher {
    /// Signs the closure in the hub's store; hosts refuse unsigned paths. Safe to repeat.
    async fn sign(&self, path: &StorePath) -> Result<(), PublishError>;
    /// Copies the closure to a cache. Safe to repeat.
    async fn push(&self, path: &StorePath, cache: &ResolvedCache) -> Result<(), PublishError>;
}
