//! Commits to files: the tree for the evaluator, and the bytes of the manifests. Files come from Git's objects as they
//! are: no filter, no attribute, no checkout hook of the repository has a say.

use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use git2::{ObjectType, Oid, Repository};
use trueup_engine::ports::SourceError;
use trueup_schema::Revision;

use super::SourceSettings;

/// Manifests of a revision; the reader has bounds of its own within this.
const MANIFESTS_MAX: usize = 10_000;
/// Bytes of one manifest that are taken at all.
const MANIFEST_BYTES: usize = 16 << 20;

/// A pointer of Git LFS has this for its first line, and three lines in all.
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/v1\n";
/// A pointer is not longer.
const LFS_POINTER_MAX: usize = 1024;

/// How large a revision may be.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Files and folders of a tree.
    pub files: usize,
    /// Bytes of a tree.
    pub bytes: u64,
    /// Folders within folders.
    pub depth: usize,
    /// Bytes that one fetch may bring.
    pub fetch: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            files: 200_000,
            bytes: 4 << 30,
            depth: 64,
            fetch: 4 << 30,
        }
    }
}

/// Bytes of a file that a manifest names.
const FILE_BYTES: usize = 16 << 20;

/// Where a revision's tree lies: in this boot's folder. A tree is a copy that can be made again, so none is synced to the
/// disk (which may take seconds while others write); instead none is believed that a power cut may have torn.
pub(super) fn place(settings: &SourceSettings, revision: &Revision) -> PathBuf {
    trees(settings).join(boot()).join(revision.sha1())
}

fn trees(settings: &SourceSettings) -> PathBuf {
    settings.state.join("trees")
}

fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned())
}

/// Trees of other boots go.
fn sweep(settings: &SourceSettings) -> std::io::Result<()> {
    let keep = boot();
    for entry in std::fs::read_dir(trees(settings))? {
        let entry = entry?;
        if entry.file_name() != *keep {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn fail<E: std::fmt::Display>(revision: &Revision) -> impl Fn(E) -> SourceError {
    move |why| SourceError::Checkout {
        revision: revision.clone(),
        why: why.to_string(),
    }
}

/// The revision is at fault, not this machine.
fn bad<E: std::fmt::Display>(revision: &Revision) -> impl Fn(E) -> SourceError {
    move |why| SourceError::BadTree {
        revision: revision.clone(),
        why: why.to_string(),
    }
}

/// One file's bytes; links are not followed.
pub(super) fn file(repo: &Repository, revision: &Revision, name: &str) -> Option<Vec<u8>> {
    let (tree, _) = root(repo, revision).ok()?;
    let entry = tree.get_path(Path::new(name)).ok()?;
    let blob = entry.to_object(repo).ok()?.peel_to_blob().ok()?;
    let small = blob.size() <= FILE_BYTES && entry.filemode() != 0o120_000;
    small.then(|| blob.content().to_vec())
}

pub(super) fn root<'r>(
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
    let depth = settings.bounds.depth;
    collect(repo, &below, folder, depth, &mut found).map_err(bad(revision))?;
    found.sort();
    Ok(found)
}

fn collect(
    repo: &Repository,
    tree: &git2::Tree<'_>,
    at: &str,
    depth: usize,
    found: &mut Vec<(String, Vec<u8>)>,
) -> Result<(), String> {
    let git = |e: git2::Error| e.message().to_owned();
    let Some(deeper) = depth.checked_sub(1) else {
        return Err(format!("{at}: folders are nested too deep"));
    };
    for entry in tree {
        let name = String::from_utf8_lossy(entry.name_bytes()).into_owned();
        let path = format!("{at}/{name}");
        match entry.kind() {
            Some(ObjectType::Tree) => {
                let sub = entry.to_object(repo).and_then(|o| o.peel_to_tree());
                collect(repo, &sub.map_err(git)?, &path, deeper, found)?;
            }
            // A link is not followed: what it names is read where it is, or lies outside.
            Some(ObjectType::Blob)
                if (name.ends_with(".yaml") || name.ends_with(".yml"))
                    && entry.filemode() != 0o120_000 =>
            {
                if found.len() == MANIFESTS_MAX {
                    return Err(format!("{at}: more than {MANIFESTS_MAX} manifests"));
                }
                if size(repo, entry.id())? > MANIFEST_BYTES as u64 {
                    return Err(format!("{path} is larger than {MANIFEST_BYTES} bytes"));
                }
                let blob = entry.to_object(repo).and_then(|o| o.peel_to_blob());
                found.push((path, blob.map_err(git)?.content().to_vec()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Of an object, without reading it.
fn size(repo: &Repository, id: Oid) -> Result<u64, String> {
    repo.odb()
        .and_then(|odb| odb.read_header(id))
        .map(|(size, _)| size as u64)
        .map_err(|e| e.message().to_owned())
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
    sweep(settings).map_err(&io)?;
    let mut writer = Writer {
        repo,
        bounds: settings.bounds,
        files: 0,
        bytes: 0,
    };
    if let Err(fault) = writer.folder(&tree, &new, "", 0) {
        let _next_start_does_it = std::fs::remove_dir_all(&new);
        return Err(match fault {
            Fault::Tree(why) => bad(revision)(why),
            Fault::Here(why) => fail::<String>(revision)(why),
        });
    }
    stamp(&new, time).map_err(&io)?;
    std::fs::rename(&new, &place).map_err(&io)?;
    Ok(place)
}

/// The commit's time as the folder's: the evaluator gives it to the flake as `lastModified`.
fn stamp(folder: &Path, time: i64) -> std::io::Result<()> {
    let dir = std::fs::File::open(folder)?;
    let seconds = u64::try_from(time).unwrap_or(0);
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    dir.set_modified(time)
}

/// Whose fault it is that a tree was not written.
enum Fault {
    Tree(String),
    Here(String),
}

struct Writer<'r> {
    repo: &'r Repository,
    bounds: Bounds,
    files: usize,
    bytes: u64,
}

impl Writer<'_> {
    /// `inside` is where we are in the tree, for people and for links.
    fn folder(
        &mut self,
        tree: &git2::Tree<'_>,
        at: &Path,
        inside: &str,
        depth: usize,
    ) -> Result<(), Fault> {
        if depth > self.bounds.depth {
            let max = self.bounds.depth;
            return Err(Fault::Tree(format!(
                "{inside}: folders are nested deeper than {max}"
            )));
        }
        for entry in tree {
            let name = std::str::from_utf8(entry.name_bytes())
                .map_err(|_| Fault::Tree(format!("a name in `{inside}` is not UTF-8")))?;
            if !is_name(name) {
                return Err(Fault::Tree(format!(
                    "`{}` in `{inside}` is no name of a file",
                    name.escape_debug()
                )));
            }
            self.files += 1;
            if self.files > self.bounds.files {
                let max = self.bounds.files;
                return Err(Fault::Tree(format!("there are more than {max} files")));
            }
            let path = match inside {
                "" => name.to_owned(),
                _ => format!("{inside}/{name}"),
            };
            self.entry(&entry, &at.join(name), &path, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        entry: &git2::TreeEntry<'_>,
        at: &Path,
        path: &str,
        depth: usize,
    ) -> Result<(), Fault> {
        // The mirror is ours, and whole: a fault of it is none of the revision's.
        let git = |e: git2::Error| Fault::Here(format!("{path}: {}", e.message()));
        let io = |e: std::io::Error| Fault::Here(format!("{path}: {e}"));
        match entry.kind() {
            Some(ObjectType::Tree) => {
                std::fs::create_dir(at).map_err(io)?;
                let sub = entry
                    .to_object(self.repo)
                    .and_then(|o| o.peel_to_tree())
                    .map_err(git)?;
                self.folder(&sub, at, path, depth + 1)
            }
            Some(ObjectType::Blob) => {
                let size = size(self.repo, entry.id()).map_err(Fault::Here)?;
                self.bytes = self.bytes.saturating_add(size);
                if self.bytes > self.bounds.bytes {
                    let max = self.bounds.bytes;
                    return Err(Fault::Tree(format!(
                        "together they are larger than {max} bytes, at {path}"
                    )));
                }
                let blob = entry
                    .to_object(self.repo)
                    .and_then(|o| o.peel_to_blob())
                    .map_err(git)?;
                check_blob(blob.content(), entry.filemode(), path).map_err(Fault::Tree)?;
                write_blob(blob.content(), entry.filemode(), at).map_err(io)
            }
            _ => Err(Fault::Tree(format!(
                "{path} is a submodule, and those are not fetched: make it an input of the flake, or commit its files"
            ))),
        }
    }
}

/// Names that a folder may have; Git allows no others, but the objects come from elsewhere.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !matches!(name, "." | "..") && !name.contains(['/', '\0'])
}

/// What would be something else on the disk than its author meant.
fn check_blob(content: &[u8], mode: i32, path: &str) -> Result<(), String> {
    if mode == 0o120_000 {
        let target = std::str::from_utf8(content).ok();
        return match target.filter(|t| stays_inside(path, t)) {
            Some(_) => Ok(()),
            None => Err(format!(
                "{path} is a link to `{}`, which is outside of the repository: commit the file itself",
                String::from_utf8_lossy(content).escape_debug()
            )),
        };
    }
    if content.len() <= LFS_POINTER_MAX && content.starts_with(LFS) {
        return Err(format!(
            "{path} is kept in Git LFS, and only its pointer is here: take it out of LFS (`git lfs migrate export \
             --include={path}`), or fetch it in Nix by its hash"
        ));
    }
    Ok(())
}

/// Does a link at `path` (relative to the tree) that names `target` end within the tree?
fn stays_inside(path: &str, target: &str) -> bool {
    if target.is_empty() || target.starts_with('/') || target.contains('\0') {
        return false;
    }
    let mut depth = path.matches('/').count();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => match depth.checked_sub(1) {
                Some(up) => depth = up,
                None => return false,
            },
            _ => depth += 1,
        }
    }
    true
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_may_name_what_is_in_the_tree_only() {
        for (path, target) in [
            ("a", "b"),
            ("a/b", "../c"),
            ("a/b", "./x/../../c"),
            ("a", "no/such"),
        ] {
            assert!(stays_inside(path, target), "{path} -> {target}");
        }
        for (path, target) in [
            ("a", "../b"),
            ("a/b", "../../c"),
            ("a", "/etc/passwd"),
            ("a", ""),
            ("a", "x/../../y"),
        ] {
            assert!(!stays_inside(path, target), "{path} -> {target}");
        }
    }

    proptest::proptest! {
        /// What the check says of a path is what the file system does with it.
        #[test]
        fn a_link_that_passes_never_leaves_its_tree(
            path in "[ab]{1,2}(/[ab]{1,2}){0,3}", target in "/?((\\.\\.|\\.|[ab])/){0,6}(\\.\\.|[ab])"
        ) {
            let base = Path::new("/r/o/o/t");
            let mut at = base.join(&path);
            at.pop();
            for part in Path::new(&target).components() {
                match part {
                    std::path::Component::ParentDir => { at.pop(); }
                    std::path::Component::CurDir => {}
                    other => at.push(other),
                }
                let inside = at.starts_with(base);
                if !inside {
                    assert!(!stays_inside(&path, &target), "{path} -> {target}");
                }
            }
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, mode: i32, path: String) {
            let _any = check_blob(&bytes, mode, &path);
            let _any = check_blob(&bytes, 0o120_000, &path);
        }
    }
}
