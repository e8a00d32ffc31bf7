//! Sets a profile as `nix-env --profile P --set PATH` does: `P-N-link` is a generation, `P` a link to one of them, and who
//! changes it holds `P.lock`. By ourselves, since between confirmation and commit nothing may need a program that has to
//! start, and because Nix leaves it to the kernel when a generation reaches the disk, and a power cut comes before.
//! (Nix: `src/libstore/profiles.cc`, `pathlocks.cc`.)

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use trueup_schema::StorePath;

use crate::exec;
use crate::files::{self, FileError};

/// Somebody else who changes the profile may take so long.
const LOCK_LIMIT: Duration = Duration::from_secs(120);
/// `nix-env`, for old generations.
const TRIM_LIMIT: Duration = Duration::from_secs(300);
/// Between two tries to lock.
const LOOK: Duration = Duration::from_millis(20);

/// Makes `path` the profile's newest generation, unless it is that already, and the profile a link to it.
pub fn set(profile: &Path, path: &StorePath) -> Result<(), FileError> {
    let dir = profile.parent().unwrap_or(Path::new("/"));
    let fail = FileError::write(profile);
    fs::create_dir_all(dir).map_err(&fail)?;
    let lock = Lock::take(profile, LOCK_LIMIT).map_err(&fail)?;
    let newest = generations(profile).map_err(&fail)?.into_iter().max();
    let at = |number: u64| PathBuf::from(format!("{}-{number}-link", profile.display()));
    let number = match newest {
        Some(last) if fs::read_link(at(last)).is_ok_and(|to| to == Path::new(path.as_str())) => {
            last
        }
        newest => {
            let next = newest.unwrap_or(0) + 1;
            files::link(Path::new(path.as_str()), &at(next))?;
            next
        }
    };
    let generation = at(number);
    let name = generation.file_name().unwrap_or_default();
    files::link(Path::new(name), profile)?;
    lock.release();
    Ok(())
}

/// Has `nix-env` take the oldest generations away, all but so many. What fails is told: they are in nobody's way.
pub fn trim(profile: &Path, keep: u32) {
    const LEAST: u32 = 2;
    let keep = keep.max(LEAST);
    let count = generations(profile).map_or(0, |all| all.len());
    if count > keep as usize {
        let (profile, spec) = (profile.to_string_lossy(), format!("+{keep}"));
        let args = ["-p", &*profile, "--delete-generations", &spec];
        if let Err(e) = exec::tool_ok("nix-env", &args, TRIM_LIMIT) {
            eprintln!("trueup-agent: old generations: {e}");
        }
    }
}

fn generations(profile: &Path) -> io::Result<Vec<u64>> {
    let dir = profile.parent().unwrap_or(Path::new("/"));
    let base = profile.file_name().unwrap_or_default();
    let number = |name: &OsStr| -> Option<u64> {
        let rest = name.to_str()?.strip_prefix(base.to_str()?)?;
        rest.strip_prefix('-')?.strip_suffix("-link")?.parse().ok()
    };
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        all.extend(number(&entry?.file_name()));
    }
    Ok(all)
}

/// Nix' own lock of a profile.
struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    fn take(profile: &Path, limit: Duration) -> io::Result<Self> {
        let path = PathBuf::from(format!("{}.lock", profile.display()));
        let begun = Instant::now();
        loop {
            let mut open = OpenOptions::new();
            let file = open.read(true).append(true).create(true).mode(0o600);
            let file = file.open(&path)?;
            match file.try_lock() {
                // Whoever takes the file away writes into it first: then it is nobody's lock any more.
                Ok(()) if file.metadata()?.len() == 0 => return Ok(Self { file, path }),
                Ok(()) => {}
                Err(TryLockError::Error(e)) => return Err(e),
                Err(TryLockError::WouldBlock) if begun.elapsed() > limit => {
                    let what = format!("somebody holds {} for too long", path.display());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, what));
                }
                Err(TryLockError::WouldBlock) => thread::sleep(LOOK),
            }
        }
    }

    /// As Nix does; a file that is left behind would do no harm.
    fn release(mut self) {
        let _gone = fs::remove_file(&self.path);
        let _told = self.file.write_all(b"d");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "/nix/store/00000000000000000000000000000000-a";
    const B: &str = "/nix/store/11111111111111111111111111111111-b";

    fn path(of: &str) -> StorePath {
        of.parse().expect("a path")
    }

    fn read(at: &Path) -> String {
        let to = fs::read_link(at).expect("a link");
        to.to_str().expect("text").to_owned()
    }

    #[test]
    fn each_new_closure_is_a_generation_and_the_same_is_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let profile = dir.path().join("profiles/system");
        for (of, link) in [
            (A, "system-1-link"),
            (A, "system-1-link"),
            (B, "system-2-link"),
        ] {
            set(&profile, &path(of)).expect("set");
            assert_eq!(read(&profile), link);
            assert_eq!(read(&profile.with_file_name(link)), of);
        }
        // After a person went back, the newest generation is still the one that a set compares with.
        files::link(Path::new("system-1-link"), &profile).expect("linked");
        set(&profile, &path(B)).expect("set");
        assert_eq!(read(&profile), "system-2-link");
        set(&profile, &path(A)).expect("set");
        assert_eq!(read(&profile), "system-3-link");
        let mut left: Vec<_> = fs::read_dir(profile.parent().expect("one"))
            .expect("read")
            .map(|e| e.expect("one").file_name().into_string().expect("text"))
            .collect();
        left.sort();
        assert_eq!(
            left,
            ["system", "system-1-link", "system-2-link", "system-3-link"]
        );
    }

    #[test]
    fn another_profiles_generations_are_not_counted() {
        let dir = tempfile::tempdir().expect("a folder");
        for other in ["system-profiles-9-link", "system-x-link", "other-7-link"] {
            files::link(Path::new(A), &dir.path().join(other)).expect("linked");
        }
        let profile = dir.path().join("system");
        set(&profile, &path(A)).expect("set");
        assert_eq!(read(&profile), "system-1-link");
    }

    #[test]
    fn who_holds_nixs_lock_is_waited_for() {
        let dir = tempfile::tempdir().expect("a folder");
        let profile = dir.path().join("system");
        let held = Lock::take(&profile, LOCK_LIMIT).expect("taken");
        let refused = Lock::take(&profile, Duration::ZERO).err().map(|e| e.kind());
        assert_eq!(refused, Some(io::ErrorKind::TimedOut));
        let waits = thread::spawn({
            let profile = profile.clone();
            move || set(&profile, &path(A))
        });
        assert!(fs::read_link(&profile).is_err());
        // Whoever waits has the file open that is taken away here, and must not believe in it.
        held.release();
        waits.join().expect("ended").expect("set");
        assert_eq!(read(&profile), "system-1-link");
    }
}
