//! Revisions of a repository on this machine, read where they are: for a plan, which has no mirror and accepts nothing.

use std::path::{Path, PathBuf};

use git2::{Oid, Repository};
use trueup_engine::ports::{Head, Opened, SourceError, Tree};
use trueup_schema::Revision;

use super::{Bounds, Credentials, Desired, ReadManifests, SourceSettings, export, head, same};

/// What the trunk is called where nobody says so.
const TRUNKS: [&str; 5] = [
    "origin/HEAD",
    "origin/main",
    "origin/master",
    "main",
    "master",
];

/// A repository and a folder of ours for the trees of its revisions.
pub struct Local {
    repo: Repository,
    settings: SourceSettings,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Local {
    /// The repository that `path` lies in.
    pub fn discover(
        path: &Path,
        fleet: &str,
        trees: PathBuf,
        read: ReadManifests,
    ) -> Result<Self, SourceError> {
        let url = path.display().to_string();
        let repo = Repository::discover(path).map_err(|e| SourceError::Fetch {
            url: url.clone(),
            why: format!("no Git repository there ({})", e.message()),
        })?;
        let branch = repo
            .head()
            .ok()
            .and_then(|h| h.shorthand().map(str::to_owned).ok())
            .unwrap_or_else(|| "HEAD".to_owned());
        let settings = SourceSettings {
            url,
            branch,
            fleet: fleet.to_owned(),
            state: trees,
            credentials: Credentials::default(),
            bounds: Bounds::default(),
            read,
        };
        Ok(Self { repo, settings })
    }

    fn fault(&self, why: impl std::fmt::Display) -> SourceError {
        SourceError::Fetch {
            url: self.settings.url.clone(),
            why: why.to_string(),
        }
    }

    /// Whatever Git understands: a branch, a tag, `HEAD~2`, a commit's first digits.
    pub fn revision(&self, spec: &str) -> Result<Head, SourceError> {
        let commit = self
            .repo
            .revparse_single(spec)
            .and_then(|o| o.peel_to_commit())
            .map_err(|e| self.fault(format!("`{spec}` is no commit here: {}", e.message())))?;
        head(&self.settings, &self.repo, commit.id(), None).map_err(|e| self.fault(e.message()))
    }

    /// Where a revision left the trunk; for one that is on the trunk, the commit before it. `None`: it has none before.
    pub fn base_of(&self, to: &Head) -> Result<Option<Head>, SourceError> {
        let git = |e: git2::Error| self.fault(e.message());
        let to = Oid::from_str(to.revision.sha1()).map_err(git)?;
        let trunk = TRUNKS.iter().find_map(|name| {
            let object = self.repo.revparse_single(name).ok()?;
            Some(object.peel_to_commit().ok()?.id())
        });
        let base = trunk.and_then(|trunk| self.repo.merge_base(trunk, to).ok());
        let base = match base {
            Some(base) if base != to => Some(base),
            _ => self.repo.find_commit(to).map_err(git)?.parent_id(0).ok(),
        };
        let base = base.map(|base| head(&self.settings, &self.repo, base, None));
        base.transpose().map_err(git)
    }

    /// Changes that are in no commit, and so in no plan.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        let mut options = git2::StatusOptions::new();
        options.include_untracked(true).include_ignored(false);
        let statuses = self.repo.statuses(Some(&mut options));
        statuses.is_ok_and(|s| !s.is_empty())
    }

    /// Its files, and its manifests resolved.
    pub fn open(&self, revision: &Revision) -> Result<Opened, SourceError> {
        let files = export::manifests(&self.settings, &self.repo, revision)?;
        let file = |name: &str| export::file(&self.repo, revision, name);
        let read = (self.settings.read)(&files, &file);
        let Desired { fleet, secrets } = read.map_err(|problems| SourceError::BadManifests {
            revision: revision.clone(),
            problems,
        })?;
        // A plan compares two revisions: where they differ in manifests and ciphertext alone, one evaluation answers for both.
        let manifests = files.iter().map(|(name, _)| name.as_str());
        let sources = fleet.secrets.values().map(|s| s.source.as_str());
        let apart = manifests.chain(sources).collect();
        let same_closures = same::closures(&self.repo, revision, &apart);
        let path = export::tree(&self.settings, &self.repo, revision)?;
        Ok(Opened {
            tree: Tree {
                revision: revision.clone(),
                path,
            },
            fleet,
            secrets,
            same_closures,
        })
    }
}
