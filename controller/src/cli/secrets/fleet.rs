//! The fleet's repository around a file: its manifests, its Git index, its encrypted files. For `validate` and the verbs
//! that ask who may read what.

use std::path::{Path, PathBuf};

use trueup_schema::kind::FleetManifests;
use trueup_schema::manifest::{self, Problem};

use super::Failure;
use crate::secrets::{Found, Repository, goals};

/// Folders above that are searched.
const LEVELS_MAX: usize = 100;
/// A file larger than this is no encrypted file.
const FILE_MAX: u64 = trueup_secrets::INPUT_BYTES_MAX as u64;

/// A repository with manifests in `fleet/`.
#[derive(Debug)]
pub(in crate::cli) struct Fleet {
    pub root: PathBuf,
}

impl Fleet {
    /// The nearest folder at or above `start` that has manifests in `fleet/`.
    pub fn above(start: &Path) -> Option<Self> {
        let start = std::path::absolute(start).ok()?;
        let root = start
            .ancestors()
            .take(LEVELS_MAX)
            .find(|dir| has_manifests(&dir.join("fleet")))?;
        Some(Self {
            root: root.to_owned(),
        })
    }

    /// The same, as a failure where there is none.
    pub fn find(start: &Path) -> Result<Self, Failure> {
        Self::above(start).ok_or_else(|| {
            Failure::Refused(format!(
                "there is no fleet repository (a folder with manifests in `fleet/`) at or above {}; name it with --repo",
                start.display()
            ))
        })
    }

    /// Its manifests. Encrypted files are not looked into: these verbs are how they are mended.
    pub fn manifests(&self) -> Result<FleetManifests, Failure> {
        let files = crate::cli::validate::files(&self.root.join("fleet"))
            .map_err(|e| Failure::Refused(e.message))?;
        manifest::resolve(&files).map_err(|problems| {
            Failure::Refused(format!(
                "the manifests of {} are wrong: `trueup validate {}`\n{}",
                self.root.display(),
                self.root.display(),
                problems.first().map(Problem::to_string).unwrap_or_default()
            ))
        })
    }

    /// The name that manifests have for a file.
    pub fn name_of(&self, path: &Path) -> Option<String> {
        let path = std::path::absolute(path).ok()?;
        let name = path.strip_prefix(&self.root).ok()?;
        Some(name.to_string_lossy().into_owned())
    }

    /// A file as hosts would see it: what Git does not track, they never get.
    pub fn read(&self, source: &str) -> Found {
        let path = self.root.join(source);
        let small = std::fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() <= FILE_MAX);
        let Some(bytes) = small.then(|| std::fs::read(&path).ok()).flatten() else {
            return Found::Missing;
        };
        if self.tracks(&path) {
            Found::File(bytes)
        } else {
            Found::Untracked
        }
    }

    /// In Git's index. A folder that is no repository tracks everything.
    fn tracks(&self, path: &Path) -> bool {
        let Ok(repo) = git2::Repository::discover(&self.root) else {
            return true;
        };
        let (Some(workdir), Ok(index)) = (repo.workdir(), repo.index()) else {
            return true;
        };
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let workdir = workdir
            .canonicalize()
            .unwrap_or_else(|_| workdir.to_owned());
        real.strip_prefix(&workdir)
            .is_ok_and(|name| index.get_path(name, 0).is_some())
    }

    /// What no intent would hold, host by host.
    pub fn too_large(&self, manifests: &FleetManifests) -> Vec<String> {
        let read = |source: &str| self.read(source);
        match goals(manifests, &read) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        }
    }

    /// Manifests against encrypted files.
    pub fn check(&self, files: &[(String, Vec<u8>)]) -> Result<FleetManifests, Vec<Problem>> {
        let read = |source: &str| self.read(source);
        manifest::resolve_with(files, Some(&Repository::new(&read)))
    }
}

fn has_manifests(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|entries| {
        entries.flatten().any(|e| {
            let name = e.file_name();
            let name = name.to_string_lossy();
            name.ends_with(".yaml") || name.ends_with(".yml")
        })
    })
}
