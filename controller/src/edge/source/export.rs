//! Commits to files: the tree for the evaluator, and the bytes of the manifests. Files come from Git's objects as they
//! are: no filter, no attribute, no checkout hook of the repository has a say.

use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use git2::{ObjectType, Oid, Repository};
use trueup_engine::ports::SourceError;
use trueup_schema::Revision;

use super::SourceSettings;

/// Files of a tree.
const FILES_MAX: usize = 200_000;
/// Bytes of a tree.
const BYTES_MAX: u64 = 4 << 30;
/// Folders within folders.
const DEPTH_MAX: usize = 64;
/// Manifests of a revision; the reader has bounds of its own within this.
const MANIFESTS_MAX: usize = 10_000;
/// Bytes of one manifest that are taken at all.
const MANIFEST_BYTES: usize = 16 << 20;

/// Where a revision's tree lies.
pub(super) fn place(settings: &SourceSettings, revision: &Revision) -> PathBuf {
    settings.state.join("trees").join(revision.sha1())
}

fn fail<E: std::fmt::Display>(revision: &Revision) -> impl Fn(E) -> SourceError {
    move |why| SourceError::Checkout {
        revision: revision.clone(),
        why: why.to_string(),
    }
}

fn root<'r>(
    repo: &'r Repository,
    revision: &Revision,
) -> Result<(git2::Tree<'r>, i64), git2::Error> {
    let commit = repo.find_commit(Oid::from_str(revision.sha1())?)?;
    Ok((commit.tree()?, commit.time().seconds()))
}

/// All YAML files below the folder of manifests, sorted by path.
pub(super) fn manifests(
    settings: &SourceSettings,
    repo: &Repository,
    revision: &Revision,
) -> Result<Vec<(String, Vec<u8>)>, SourceError> {
    let err = fail::<git2::Error>(revision);
    let (tree, _) = root(repo, revision).map_err(&err)?;
    let folder = settings.fleet.trim_matches('/');
    let below = tree
        .get_path(Path::new(folder))
        .and_then(|e| e.to_object(repo))
        .and_then(|o| o.peel_to_tree());
    let Ok(below) = below else {
        return Err(SourceError::BadManifests {
            revision: revision.clone(),
            problems: vec![format!(
                "there is no folder `{folder}/`: make it, with a YAML file that has `kind: Fleet`"
            )],
        });
    };
    let mut found = Vec::new();
    collect(repo, &below, folder, 0, &mut found).map_err(&err)?;
    found.sort();
    Ok(found)
}

fn collect(
    repo: &Repository,
    tree: &git2::Tree<'_>,
    at: &str,
    depth: usize,
    found: &mut Vec<(String, Vec<u8>)>,
) -> Result<(), git2::Error> {
    for entry in tree {
        let name = String::from_utf8_lossy(entry.name_bytes()).into_owned();
        let path = format!("{at}/{name}");
        match entry.kind() {
            Some(ObjectType::Tree) if depth < DEPTH_MAX => {
                let sub = entry.to_object(repo)?.peel_to_tree()?;
                collect(repo, &sub, &path, depth + 1, found)?;
            }
            // A link is not followed: what it names is read where it is, or lies outside.
            Some(ObjectType::Blob)
                if (name.ends_with(".yaml") || name.ends_with(".yml"))
                    && entry.filemode() != 0o120_000 =>
            {
                if found.len() == MANIFESTS_MAX {
                    return Err(git2::Error::from_str("more than 10000 manifests"));
                }
                let blob = entry.to_object(repo)?.peel_to_blob()?;
                let bytes = blob.content();
                found.push((path, bytes[..bytes.len().min(MANIFEST_BYTES)].to_vec()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Exports a tree, whole or not at all: written beside its place and renamed. Safe to repeat.
pub(super) fn tree(
    settings: &SourceSettings,
    repo: &Repository,
    revision: &Revision,
) -> Result<PathBuf, SourceError> {
    let place = place(settings, revision);
    if place.is_dir() {
        return Ok(place);
    }
    let io = fail::<std::io::Error>(revision);
    let (tree, time) = root(repo, revision).map_err(fail::<git2::Error>(revision))?;
    let new = place.with_extension("new");
    if new.exists() {
        std::fs::remove_dir_all(&new).map_err(&io)?;
    }
    std::fs::create_dir_all(&new).map_err(&io)?;
    let mut writer = Writer {
        repo,
        files: 0,
        bytes: 0,
    };
    writer
        .folder(&tree, &new, 0)
        .map_err(|why| fail::<String>(revision)(why))?;
    stamp(&new, time).map_err(&io)?;
    std::fs::rename(&new, &place).map_err(&io)?;
    Ok(place)
}

/// The commit's time as the folder's: the evaluator gives it to the flake as `lastModified`. And on the disk, all of it.
fn stamp(folder: &Path, time: i64) -> std::io::Result<()> {
    let dir = std::fs::File::open(folder)?;
    let seconds = u64::try_from(time).unwrap_or(0);
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    dir.set_modified(time)?;
    Ok(rustix::fs::syncfs(&dir)?)
}

struct Writer<'r> {
    repo: &'r Repository,
    files: usize,
    bytes: u64,
}

impl Writer<'_> {
    fn folder(&mut self, tree: &git2::Tree<'_>, at: &Path, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err(format!("{}: folders are nested too deep", at.display()));
        }
        for entry in tree {
            let name = std::str::from_utf8(entry.name_bytes())
                .map_err(|_| format!("a name in {} is not UTF-8", at.display()))?;
            if name.is_empty() || name == "." || name == ".." || name.contains('/') {
                return Err(format!("`{name}` is no name of a file"));
            }
            self.files += 1;
            if self.files > FILES_MAX {
                return Err(format!("more than {FILES_MAX} files"));
            }
            self.entry(&entry, &at.join(name), depth)
                .map_err(|e| format!("{name}: {e}"))?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        entry: &git2::TreeEntry<'_>,
        path: &Path,
        depth: usize,
    ) -> Result<(), String> {
        let git = |e: git2::Error| e.message().to_owned();
        let io = |e: std::io::Error| e.to_string();
        match entry.kind() {
            Some(ObjectType::Tree) => {
                std::fs::create_dir(path).map_err(io)?;
                let sub = entry
                    .to_object(self.repo)
                    .and_then(|o| o.peel_to_tree())
                    .map_err(git)?;
                self.folder(&sub, path, depth + 1)
            }
            Some(ObjectType::Blob) => {
                let blob = entry
                    .to_object(self.repo)
                    .and_then(|o| o.peel_to_blob())
                    .map_err(git)?;
                self.bytes += blob.size() as u64;
                if self.bytes > BYTES_MAX {
                    return Err(format!("the tree is larger than {BYTES_MAX} bytes"));
                }
                write_blob(blob.content(), entry.filemode(), path).map_err(io)
            }
            _ => Err("submodules are not supported yet: make it an input of the flake".to_owned()),
        }
    }
}

fn write_blob(content: &[u8], mode: i32, path: &Path) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::ffi::OsStrExt as _;
    if mode == 0o120_000 {
        return symlink(std::ffi::OsStr::from_bytes(content), path);
    }
    let mode = if mode & 0o100 == 0 { 0o444 } else { 0o555 };
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(content)
}
