//! The trunk by git2: a bare mirror of one branch, trees exported from it, manifests read from it. It never follows a
//! rewritten history by itself: it only says whether a head follows the accepted one.

mod export;
mod local;
mod remote;
mod same;
mod wake;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{LocalBoxStream, StreamExt as _};
use git2::{Oid, Repository};
use trueup_engine::ports::{Head, Opened, Source, SourceError, Tree};
use trueup_schema::kind::FleetManifests;
use trueup_schema::wire::Goal;
use trueup_schema::{HostName, Revision, Timestamp};

pub use export::Bounds;
pub use local::Local;
pub use remote::Credentials;

/// A file of the revision, by its path from the root; `None` when it is not there.
pub type ReadFile<'a> = &'a dyn Fn(&str) -> Option<Vec<u8>>;

/// Reads the manifests of a revision: `(path, bytes)` of each file, with the files that they name, to what holds or all
/// problems.
pub type ReadManifests = fn(&[(String, Vec<u8>)], ReadFile<'_>) -> Result<Desired, Vec<String>>;

/// What a revision wants.
#[derive(Debug, Clone)]
pub struct Desired {
    /// Its manifests.
    pub fleet: FleetManifests,
    /// The goal `secrets` of each host.
    pub secrets: BTreeMap<HostName, Goal>,
}

/// A fetch takes no longer.
const FETCH_WALL: Duration = Duration::from_secs(300);
/// The subject of a commit, for people.
const SUBJECT_CHARS: usize = 200;

/// From where, and to where.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// `file://…` or a path, `ssh://…` or `user@host:path`, `https://…`.
    pub url: String,
    /// The trunk.
    pub branch: String,
    /// Folder of the manifests in the repository.
    pub fleet: String,
    /// Where mirror and trees are kept.
    pub state: PathBuf,
    /// How to log in.
    pub credentials: Credentials,
    /// How large a revision may be.
    pub bounds: Bounds,
    /// How manifests are read.
    pub read: ReadManifests,
}

/// The source on git2. Its blocking work is done on threads, one piece at a time.
#[derive(Debug, Clone)]
pub struct GitSource {
    settings: Arc<SourceSettings>,
    /// Held by the thread that works with the mirror. One that hangs on a dead connection (libgit2 waits for ever) is
    /// left behind with its lock, and the next gets a new one: refs are safe by libgit2's own lock files.
    mirror: Arc<Mutex<Arc<Mutex<()>>>>,
}

impl GitSource {
    /// Touches nothing yet.
    #[must_use]
    pub fn new(settings: SourceSettings) -> Self {
        Self {
            settings: Arc::new(settings),
            mirror: Arc::default(),
        }
    }

    /// `work` on a thread, alone with the mirror.
    async fn blocking<T: Send + 'static>(
        &self,
        wall: Duration,
        timed_out: impl FnOnce(String) -> SourceError,
        work: impl FnOnce(&SourceSettings) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let settings = self.settings.clone();
        let mirror = self
            .mirror
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .clone();
        let task = tokio::task::spawn_blocking(move || {
            // A panic of an earlier piece left nothing half done that libgit2 would not notice.
            let _alone = mirror.lock().unwrap_or_else(|e| e.into_inner());
            work(&settings)
        });
        match tokio::time::timeout(wall, task).await {
            Ok(Ok(result)) => result,
            Ok(Err(e)) => Err(timed_out(format!("the thread ended: {e}"))),
            Err(_) => {
                *self.mirror.lock().unwrap_or_else(|e| e.into_inner()) = Arc::default();
                Err(timed_out(format!(
                    "no answer within {} s: is the Git host up and reachable from here?",
                    wall.as_secs()
                )))
            }
        }
    }

    /// Does a commit exist here? For `source accept`.
    pub async fn knows(&self, revision: &Revision) -> Result<bool, SourceError> {
        let sha1 = revision.sha1().to_owned();
        let url = remote::shown(&self.settings.url);
        let fault = move |why| SourceError::Fetch { url, why };
        self.blocking(FETCH_WALL, fault.clone(), move |settings| {
            let repo = mirror(settings)?;
            let oid = Oid::from_str(&sha1).map_err(|e| fault(e.message().to_owned()))?;
            Ok(repo.find_commit(oid).is_ok())
        })
        .await
    }
}

/// Opens the bare mirror, or makes it.
fn mirror(settings: &SourceSettings) -> Result<Repository, SourceError> {
    let path = settings.state.join("mirror.git");
    Repository::open_bare(&path)
        .or_else(|_| Repository::init_bare(&path))
        .map_err(|e| SourceError::Fetch {
            url: remote::shown(&settings.url),
            why: format!("the mirror {}: {}", path.display(), e.message()),
        })
}

fn head(
    settings: &SourceSettings,
    repo: &Repository,
    oid: Oid,
    accepted: Option<&Revision>,
) -> Result<Head, git2::Error> {
    let commit = repo.find_commit(oid)?;
    let revision = Revision::new(&settings.branch, &oid.to_string())
        .map_err(|e| git2::Error::from_str(&e.to_string()))?;
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        text.chars()
            .filter(|c| !c.is_control())
            .take(SUBJECT_CHARS)
            .collect::<String>()
    };
    let subject = commit.message_bytes().split(|b| *b == b'\n').next();
    Ok(Head {
        follows: follows(repo, oid, accepted),
        author: text(commit.author().name_bytes()),
        subject: text(subject.unwrap_or_default()),
        at: Timestamp::from_second(commit.time().seconds()).unwrap_or_default(),
        revision,
    })
}

/// A head that does not have the accepted commit behind it, or whose accepted commit is unknown here, does not follow.
fn follows(repo: &Repository, head: Oid, accepted: Option<&Revision>) -> bool {
    let Some(accepted) = accepted else {
        return true;
    };
    match Oid::from_str(accepted.sha1()) {
        Ok(old) => old == head || repo.graph_descendant_of(head, old).unwrap_or(false),
        Err(_) => false,
    }
}

#[async_trait(?Send)]
impl Source for GitSource {
    async fn fetch(&self, accepted: Option<&Revision>) -> Result<Head, SourceError> {
        let accepted = accepted.cloned();
        let url = remote::shown(&self.settings.url);
        let fault = move |why| SourceError::Fetch { url, why };
        self.blocking(FETCH_WALL, fault.clone(), move |settings| {
            let repo = mirror(settings)?;
            let oid = remote::fetch(settings, &repo, FETCH_WALL)?;
            head(settings, &repo, oid, accepted.as_ref()).map_err(|e| fault(e.message().to_owned()))
        })
        .await
    }

    async fn open(&self, revision: &Revision) -> Result<Opened, SourceError> {
        let wanted = revision.clone();
        let timed_out = {
            let revision = revision.clone();
            move |why| SourceError::Checkout { revision, why }
        };
        self.blocking(FETCH_WALL, timed_out, move |settings| {
            let repo = mirror(settings)?;
            let files = export::manifests(settings, &repo, &wanted)?;
            let file = |name: &str| export::file(&repo, &wanted, name);
            let read = (settings.read)(&files, &file);
            let Desired { fleet, secrets } =
                read.map_err(|problems| SourceError::BadManifests {
                    revision: wanted.clone(),
                    problems,
                })?;
            let sources = fleet.secrets.values().map(|s| s.source.as_str()).collect();
            let same_closures = same::closures(&repo, &wanted, &sources);
            let path = export::tree(settings, &repo, &wanted)?;
            Ok(Opened {
                tree: Tree {
                    revision: wanted,
                    path,
                },
                fleet,
                secrets,
                same_closures,
            })
        })
        .await
    }

    async fn forget(&self, revision: &Revision) {
        let path = export::place(&self.settings, revision);
        let gone = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(path)).await;
        if let Ok(Err(e)) = gone
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%revision, error = %e, "a tree was not removed");
        }
    }

    fn wakes(&self) -> LocalBoxStream<'static, ()> {
        match remote::local_path(&self.settings.url) {
            Some(path) => wake::local(&path),
            // Others are polled, nudged, or tell us by a webhook.
            None => futures::stream::pending().boxed_local(),
        }
    }
}
