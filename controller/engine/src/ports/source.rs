//! The trunk.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use futures::stream::LocalBoxStream;
use trueup_schema::kind::FleetManifests;
use trueup_schema::wire::Goal;
use trueup_schema::{ErrorClass, HostName, Revision, Timestamp};

/// What a fetch saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The trunk's newest commit.
    pub revision: Revision,
    /// Is it a descendant of the last accepted one?
    pub follows: bool,
    /// Author, for people.
    pub author: String,
    /// First line of its message.
    pub subject: String,
    /// When it was committed.
    pub at: Timestamp,
}

/// A checked-out revision: an opaque handle for the evaluator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Which commit.
    pub revision: Revision,
    /// Where its files lie, read-only.
    pub path: PathBuf,
}

/// A revision, read.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Its files.
    pub tree: Tree,
    /// Its manifests, resolved.
    pub fleet: FleetManifests,
    /// The goal `secrets` of each host: ciphertext, never more.
    pub secrets: BTreeMap<HostName, Goal>,
    /// What evaluations can depend on, as one value: equal in two revisions that differ in encrypted files only, where no
    /// Nix file reads those. `None`: in any file.
    pub same_closures: Option<String>,
}

/// Why a revision could not be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    /// The remote did not answer or refused us.
    #[error("fetching {url}: {why}")]
    Fetch {
        /// From where, without credentials.
        url: String,
        /// What it said, and what to do.
        why: String,
    },
    /// The branch is not there.
    #[error("{url} has no branch `{branch}`")]
    NoBranch {
        /// Where.
        url: String,
        /// Which.
        branch: String,
    },
    /// Checking out failed.
    #[error("checking out {revision}: {why}")]
    Checkout {
        /// Which.
        revision: Revision,
        /// Why.
        why: String,
    },
    /// Its files are such as trueup does not take: too many, too large, submodules, links out of it. A commit mends it.
    #[error("the files of {revision}: {why}")]
    BadTree {
        /// Which.
        revision: Revision,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Its manifests are wrong: each problem rendered for people.
    #[error("{} of {revision}:\n{}", problems.len(), problems.join("\n"))]
    BadManifests {
        /// Which.
        revision: Revision,
        /// All of them, plain text.
        problems: Vec<String>,
    },
}

impl SourceError {
    /// Who has to act.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Fetch { .. } | Self::Checkout { .. } => ErrorClass::Transient,
            Self::NoBranch { .. } | Self::BadTree { .. } | Self::BadManifests { .. } => {
                ErrorClass::Desired
            }
        }
    }
}

/// The port.
#[async_trait(?Send)]
pub trait Source {
    /// Fetches and says what the trunk's head is, relative to the last accepted revision.
    async fn fetch(&self, accepted: Option<&Revision>) -> Result<Head, SourceError>;
    /// Checks a revision out and reads its manifests. The tree stays until `forget`.
    async fn open(&self, revision: &Revision) -> Result<Opened, SourceError>;
    /// The tree is no longer needed.
    async fn forget(&self, revision: &Revision);
    /// Yields when the trunk may have moved (a local repository's files changed, a webhook came). May be silent.
    fn wakes(&self) -> LocalBoxStream<'static, ()>;
}
