//! Encrypted files on disk: read with a bound, replaced as a whole (temp, fsync, rename, fsync of the folder) or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Failure;

/// `-` is standard input.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let fail = |source| Failure::File {
        what: "reading",
        path: path.to_owned(),
        source,
    };
    let limit = trueup_secrets::INPUT_BYTES_MAX as u64 + 1;
    let mut bytes = Zeroizing::new(Vec::new());
    if path == Path::new("-") {
        std::io::stdin().take(limit).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| {
            // Without growing: no stale half of a plain text stays in memory.
            let size = file.metadata().map_or(0, |meta| meta.len().min(limit));
            bytes.reserve(usize::try_from(size).unwrap_or(0) + 1);
            file.take(limit).read_to_end(&mut bytes)
        })
    }
    .map_err(fail)?;
    if bytes.len() as u64 == limit {
        return Err(Failure::Refused(format!(
            "{} is larger than {} bytes",
            path.display(),
            trueup_secrets::INPUT_BYTES_MAX
        )));
    }
    Ok(bytes)
}

/// Replaces a file, keeping its mode. `before`: what it was read as; a file that changed meanwhile is not overwritten.
pub(super) fn replace(path: &Path, bytes: &[u8], before: Option<&[u8]>) -> Result<(), Failure> {
    let fail = |source| Failure::File {
        what: "writing",
        path: path.to_owned(),
        source,
    };
    // A link stays a link: what it points to is replaced.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(before) = before
        && read(&target)?.as_slice() != before
    {
        return Err(Failure::Refused(format!(
            "{} was changed by somebody else meanwhile; nothing was written: do it again",
            path.display()
        )));
    }
    let temp = temp_beside(&target);
    let written = (|| {
        let mode = fs::metadata(&target).map_or(0o644, |meta| meta.permissions().mode() & 0o7777);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temp)?;
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&temp, &target)?;
        File::open(folder(&target))?.sync_all()
    })();
    if written.is_err() {
        let _never_made = fs::remove_file(&temp);
    }
    written.map_err(fail)
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn temp_beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.trueup-{}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_keeps_its_mode_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        replace(&path, b"new", Some(b"old")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o640
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_changed_meanwhile_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        fs::write(&path, "somebody else's").unwrap();
        assert!(replace(&path, b"new", Some(b"old")).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"somebody else's");
    }

    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "old").unwrap();
        let link = dir.path().join("b");
        std::os::unix::fs::symlink("a", &link).unwrap();
        replace(&link, b"new", None).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"new");
    }
}
