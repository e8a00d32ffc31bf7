//! Files that survive a power cut: temp, write, fdatasync, rename, fsync of the folder. And where they lie.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use trueup_schema::StorePath;
use trueup_schema::wire::Order;

/// The one place that every NixOS host keeps.
pub const STATE: &str = "/nix/var/trueup";
/// Roots of the garbage collector. A real folder: as a link it would protect nothing.
pub const ROOTS: &str = "/nix/var/nix/gcroots/trueup";
/// The system profile.
pub const PROFILE: &str = "/nix/var/nix/profiles/system";
/// What runs.
pub const CURRENT: &str = "/run/current-system";
/// What was booted.
pub const BOOTED: &str = "/run/booted-system";
/// A state file is never larger.
pub const MAX_FILE: u64 = 4 << 20;

/// What failed at a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Reading.
    #[error("can't read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Writing.
    #[error("can't write {path}: {source}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not what we wrote.
    #[error("{path} is not as this agent writes it: {message}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

impl FileError {
    pub(crate) fn write(path: &Path) -> impl Fn(std::io::Error) -> Self + '_ {
        move |source| Self::Write {
            path: path.to_owned(),
            source,
        }
    }
    fn read(path: &Path) -> impl Fn(std::io::Error) -> Self + '_ {
        move |source| Self::Read {
            path: path.to_owned(),
            source,
        }
    }
}

/// Where the state lies.
#[derive(Debug, Clone)]
pub struct Layout {
    /// [`STATE`], or a test's folder.
    pub root: PathBuf,
}

impl Default for Layout {
    fn default() -> Self {
        Self { root: STATE.into() }
    }
}

impl Layout {
    /// One attempt's journal.
    #[must_use]
    pub fn journal(&self, order: Order) -> PathBuf {
        self.root.join("journal").join(order.to_string())
    }
    /// What belongs to one attempt.
    #[must_use]
    pub fn attempt(&self, order: Order) -> PathBuf {
        self.root.join("attempts").join(order.to_string())
    }
    /// A file of the state.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
    /// The file that decides between disarming and firing.
    #[must_use]
    pub fn claim(&self, kind: &str, order: Order) -> PathBuf {
        self.root.join(format!("{kind}-{order}"))
    }
    /// Makes the folders.
    pub fn create(&self) -> Result<(), FileError> {
        let dirs = ["journal", "attempts", "keys"].map(|dir| self.root.join(dir));
        if dirs.iter().all(|dir| dir.is_dir()) {
            return Ok(());
        }
        for path in dirs {
            fs::create_dir_all(&path).map_err(FileError::write(&path))?;
        }
        sync_dir(&self.root)
    }
}

/// Makes renames and new names in a folder last.
pub fn sync_dir(dir: &Path) -> Result<(), FileError> {
    let file = File::open(dir).map_err(FileError::write(dir))?;
    file.sync_all().map_err(FileError::write(dir))
}

/// Writes a whole file so that after a power cut the old or the new content is there.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_whole(path, bytes, true)?;
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}

fn write_whole(path: &Path, bytes: &[u8], lasts: bool) -> Result<(), FileError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".tmp{}", std::process::id()));
    let temp = dir.join(name);
    let fail = FileError::write(path);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temp)
        .map_err(&fail)?;
    file.write_all(bytes).map_err(&fail)?;
    if lasts {
        file.sync_data().map_err(&fail)?;
    }
    fs::rename(&temp, path).map_err(&fail)
}

/// Writes a value.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), FileError> {
    write_atomic(path, &json(path, value)?)
}

fn json<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>, FileError> {
    serde_json::to_vec(value).map_err(|e| FileError::Parse {
        path: path.to_owned(),
        message: e.to_string(),
    })
}

/// Writes a value that counts in this boot only: another process reads the old or the new one, and nobody waits for the
/// disk. After a power cut it may be neither: who reads it then must bear that, see [`noted`].
pub fn note<T: Serialize>(path: &Path, value: &T) -> Result<(), FileError> {
    write_whole(path, &json(path, value)?, false)
}

/// [`write_json`] where it is to outlast this boot, else [`note`].
pub fn write_or_note<T: Serialize>(path: &Path, value: &T, lasting: bool) -> Result<(), FileError> {
    if lasting {
        write_json(path, value)
    } else {
        note(path, value)
    }
}

/// What was noted; `None` also when it is damaged.
pub fn noted<T: DeserializeOwned>(path: &Path) -> Option<T> {
    read_json(path).ok().flatten()
}

/// Reads a file of bounded length; `None` when it isn't there.
pub fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let file = match File::open(path) {
        Ok(f) => f,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(FileError::read(path)(e)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE)
        .read_to_end(&mut bytes)
        .map_err(FileError::read(path))?;
    Ok(Some(bytes))
}

/// Reads a value; `None` when it isn't there.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FileError> {
    let Some(bytes) = read_bounded(path)? else {
        return Ok(None);
    };
    let value = serde_json::from_slice(&bytes).map_err(|e| FileError::Parse {
        path: path.to_owned(),
        message: e.to_string(),
    })?;
    Ok(Some(value))
}

/// A small text file, trimmed; empty when it can't be read.
#[must_use]
pub fn text(path: impl AsRef<Path>) -> String {
    let bytes = read_bounded(path.as_ref()).ok().flatten();
    String::from_utf8_lossy(&bytes.unwrap_or_default())
        .trim()
        .to_owned()
}

/// Follows links to a store path; a path below one (a specialisation) gives `None` here.
#[must_use]
pub fn store_path(link: impl AsRef<Path>) -> Option<StorePath> {
    let real = fs::canonicalize(link).ok()?;
    real.to_str()?.parse().ok()
}

/// Puts a link in place, atomically and lasting.
pub fn link(target: &Path, at: &Path) -> Result<(), FileError> {
    relink(target, at)?;
    sync_dir(at.parent().unwrap_or(Path::new("/")))
}

/// Roots a store path: from now on no collection of garbage takes it. It lasts with the folder, see [`sync_dir`].
pub fn root(target: &Path, at: &Path) -> Result<(), FileError> {
    if fs::read_link(at).is_ok_and(|to| to == target) {
        return Ok(());
    }
    relink(target, at)
}

fn relink(target: &Path, at: &Path) -> Result<(), FileError> {
    let fail = FileError::write(at);
    let dir = at.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).map_err(&fail)?;
    let mut temp = at.as_os_str().to_owned();
    temp.push(format!(".tmp{}", std::process::id()));
    let temp = PathBuf::from(temp);
    let _old = fs::remove_file(&temp);
    std::os::unix::fs::symlink(target, &temp).map_err(&fail)?;
    fs::rename(&temp, at).map_err(&fail)
}

/// Renames `from` to `to`, lasting. `false`: somebody else did it first.
pub fn claim(from: &Path, to: &Path) -> Result<bool, FileError> {
    match fs::rename(from, to) {
        Ok(()) => {
            sync_dir(to.parent().unwrap_or(Path::new("/")))?;
            Ok(true)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(FileError::write(to)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_of_two_claims_wins() {
        let dir = tempfile::tempdir().expect("a folder");
        let armed = dir.path().join("armed");
        fs::write(&armed, "").expect("written");
        assert!(claim(&armed, &dir.path().join("disarmed")).expect("renamed"));
        assert!(!claim(&armed, &dir.path().join("fired")).expect("asked"));
    }

    #[test]
    fn a_link_replaces_the_one_before() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = dir.path().join("sub/link");
        link(Path::new("/a"), &at).expect("made");
        link(Path::new("/b"), &at).expect("replaced");
        assert_eq!(fs::read_link(&at).expect("read"), Path::new("/b"));
    }
}
