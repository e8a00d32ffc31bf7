//! The file system in memory, the generations in it, and the one link that says which holds.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount};

use super::record::USERS;
use super::{Places, SecretsError};
use crate::files;

/// `f_type` of ramfs and tmpfs (linux/magic.h).
const RAMFS: i64 = 0x8584_58f6;
const TMPFS: i64 = 0x0102_1994;

/// Mounts the folder of generations in memory where nothing is swapped out: ramfs, else tmpfs without swap.
pub(super) fn ready(places: &Places) -> Result<(), SecretsError> {
    let dir = places.generations();
    fs::create_dir_all(&dir).map_err(SecretsError::file("making", &dir))?;
    passable(&places.root)?;
    if !places.mount || is_mounted(&dir) {
        return Ok(());
    }
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    let tries: [(&str, &std::ffi::CStr); 3] = [
        ("ramfs", c"mode=0751"),
        ("tmpfs", c"mode=0751,noswap"),
        ("tmpfs", c"mode=0751"),
    ];
    let mut why = Vec::new();
    for (n, (kind, options)) in tries.into_iter().enumerate() {
        if n == 2 && has_swap() {
            why.push("tmpfs could be swapped out to a disk".to_owned());
            continue;
        }
        match mount(kind, &dir, kind, flags, options) {
            Ok(()) => {
                return fs::set_permissions(&dir, fs::Permissions::from_mode(0o751))
                    .map_err(SecretsError::file("opening", &dir));
            }
            Err(error) => why.push(format!("{kind}: {error}")),
        }
    }
    Err(SecretsError::Mount {
        path: dir,
        why: why.join("; "),
    })
}

/// The folder above may be there already: a controller on the same machine has its socket in it. Whoever owns it could put
/// something else in the place of secrets, and who may not pass it has none of them.
fn passable(root: &Path) -> Result<(), SecretsError> {
    let meta = fs::symlink_metadata(root).map_err(SecretsError::file("looking at", root))?;
    if meta.uid() != rustix::process::geteuid().as_raw() || !meta.is_dir() {
        return Err(SecretsError::NotOurs {
            path: root.to_owned(),
            uid: meta.uid(),
        });
    }
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o022 != 0 || mode & 0o111 != 0o111 {
        fs::set_permissions(root, fs::Permissions::from_mode(0o755))
            .map_err(SecretsError::file("opening", root))?;
    }
    Ok(())
}

/// A mount of its own, in memory.
fn is_mounted(dir: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
    let own = dir
        .parent()
        .is_some_and(|above| device(above) != device(dir));
    let kind = fs::File::open(dir).ok().and_then(|file| {
        let stat = rustix::fs::fstatfs(&file).ok()?;
        #[allow(
            clippy::unnecessary_cast,
            reason = "its width differs between machines"
        )]
        let kind = stat.f_type as i64;
        Some(kind & 0xffff_ffff)
    });
    own && matches!(kind, Some(RAMFS | TMPFS))
}

/// More than the table's head.
fn has_swap() -> bool {
    files::text("/proc/swaps").lines().count() > 1
}

fn numbers(places: &Places) -> Vec<u64> {
    let entries = fs::read_dir(places.generations())
        .into_iter()
        .flatten()
        .flatten();
    let mut all: Vec<u64> = entries
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect();
    all.sort_unstable();
    all
}

/// The number that the link points to.
pub(super) fn current(places: &Places) -> Option<u64> {
    let target = fs::read_link(places.link()).ok()?;
    target.file_name()?.to_str()?.parse().ok()
}

/// A number that no generation has. What an interrupted attempt left is taken away first.
pub(super) fn next(places: &Places) -> Result<u64, SecretsError> {
    let held = current(places).unwrap_or(0);
    let greatest = numbers(places).last().copied().unwrap_or(0);
    Ok(held.max(greatest) + 1)
}

/// Lets a generation hold, in one step.
pub(super) fn switch(places: &Places, number: u64) -> Result<(), SecretsError> {
    let target = PathBuf::from("secrets.d").join(number.to_string());
    files::link(&target, &places.link())?;
    let users = PathBuf::from("secrets").join(USERS);
    let wanted = places.link().join(USERS).is_dir();
    let link = places.users_link();
    if wanted && fs::read_link(&link).ok().as_ref() != Some(&users) {
        files::link(&users, &link)?;
    } else if !wanted {
        let _not_there = fs::remove_file(&link);
    }
    Ok(())
}

/// No generation holds.
pub(super) fn forget(places: &Places) -> Result<(), SecretsError> {
    for link in [places.users_link(), places.link()] {
        match fs::remove_file(&link) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(SecretsError::file("removing", &link)(e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Takes a generation's files out of memory.
pub(super) fn remove(places: &Places, number: u64) {
    let _gone = fs::remove_dir_all(places.generations().join(number.to_string()));
}

/// All but the one that holds go.
pub(super) fn prune(places: &Places) -> Result<(), SecretsError> {
    let held = current(places);
    for number in numbers(places) {
        if Some(number) != held {
            remove(places, number);
        }
    }
    Ok(())
}
