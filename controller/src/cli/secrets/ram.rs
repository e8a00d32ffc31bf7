//! A folder in memory for a file that an editor shows: mode 0700, on tmpfs or ramfs, gone on every way out. Where no
//! such file system is, there is no folder: plain text never touches a disk.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::Failure;

/// `f_type` of the file systems that live in memory: tmpfs and ramfs (linux/magic.h).
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// Removed when dropped.
#[derive(Debug)]
pub(super) struct RamDir(PathBuf);

impl RamDir {
    /// Makes one in the first place that is in memory and ours to write.
    pub fn create() -> Result<Self, Failure> {
        let uid = rustix::process::getuid().as_raw();
        let mut places: Vec<PathBuf> = vec![format!("/run/user/{uid}").into(), "/dev/shm".into()];
        places.extend(std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from));
        Self::create_in(&places)
    }

    fn create_in(places: &[PathBuf]) -> Result<Self, Failure> {
        for place in places.iter().filter(|place| is_in_memory(place)) {
            let dir = place.join(format!("trueup-edit-{}-{}", std::process::id(), nonce()));
            if DirBuilder::new().mode(0o700).create(&dir).is_ok() {
                return Ok(Self(dir));
            }
        }
        Err(Failure::Refused(
            "there is no folder in memory to edit in (/run/user/UID, /dev/shm): plain text is not written to a disk; \
             use `trueup secrets set`, or mount a tmpfs on /dev/shm"
                .to_owned(),
        ))
    }

    /// A file of it, readable by us alone.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, Failure> {
        let path = self.0.join(name);
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        made.and_then(|mut file| file.write_all(bytes))
            .map_err(|source| Failure::File {
                what: "writing",
                path: path.clone(),
                source,
            })?;
        Ok(path)
    }
}

impl Drop for RamDir {
    fn drop(&mut self) {
        // Editors leave copies and swap files beside the file. Overwritten first: a freed page is not cleared at once.
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let path = entry.path();
            if let Ok(meta) = fs::symlink_metadata(&path)
                && meta.is_file()
                && let Ok(mut file) = OpenOptions::new().write(true).open(&path)
            {
                let length = usize::try_from(meta.len()).unwrap_or(0);
                let _best_effort =
                    file.write_all(&vec![0; length.min(trueup_secrets::INPUT_BYTES_MAX)]);
            }
        }
        let _best_effort = fs::remove_dir_all(&self.0);
    }
}

fn is_in_memory(place: &Path) -> bool {
    let Ok(dir) = File::open(place) else {
        return false;
    };
    // The field's width differs between machines.
    rustix::fs::fstatfs(&dir).is_ok_and(|fs| {
        #[allow(clippy::unnecessary_cast)]
        let kind = fs.f_type as i64;
        IN_MEMORY.contains(&(kind & 0xffff_ffff))
    })
}

fn nonce() -> u64 {
    use std::io::Read as _;
    let mut bytes = [0; 8];
    let _best_effort = File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_on_a_disk_is_refused() {
        let refused = RamDir::create_in(&["/".into(), "/nowhere".into()]);
        assert!(refused.is_err() || is_in_memory(Path::new("/")));
        assert!(!is_in_memory(Path::new("/nowhere")));
        assert!(!is_in_memory(Path::new("/proc")));
    }

    #[test]
    fn nothing_is_left_of_it() {
        let Ok(dir) = RamDir::create() else {
            eprintln!("skipped: this machine has no folder in memory");
            return;
        };
        let path = dir.write("a.yaml", b"x").unwrap();
        fs::write(dir.0.join(".a.yaml.swp"), "x").unwrap();
        let root = dir.0.clone();
        drop(dir);
        assert!(!path.exists() && !root.exists());
    }
}
