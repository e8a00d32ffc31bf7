//! Which derivations were handed to builders. Nix forgets it: what a builder built lies in the hub's store like
//! something that fell from the sky, unsigned and not its own. Written before the result can be there, so that a crash
//! loses none. It keeps no other history.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use trueup_schema::DrvPath;

/// Below the state's folder.
pub(super) const FOLDER: &str = "built";
/// A closure is signed minutes after it was built, and then the record is of no more use.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

fn file(folder: &Path, drv: &str) -> Option<PathBuf> {
    let drv: DrvPath = drv.parse().ok()?;
    Some(folder.join(drv.as_str().strip_prefix("/nix/store/")?))
}

/// `drv` is about to be built by `machine`.
pub(super) fn record(folder: &Path, drv: &str, machine: &str) -> std::io::Result<()> {
    let Some(path) = file(folder, drv) else {
        return Ok(());
    };
    std::fs::create_dir_all(folder)?;
    let new = path.with_added_extension("new");
    std::fs::write(&new, machine)?;
    std::fs::File::open(&new)?.sync_data()?;
    std::fs::rename(new, path)
}

/// Was it?
pub(super) fn is_recorded(folder: &Path, drv: &str) -> bool {
    file(folder, drv).is_some_and(|path| path.is_file())
}

/// Drops what is old.
pub(super) fn tidy(folder: &Path, now: SystemTime) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|m| m.modified());
        let age = modified.map(|at| now.duration_since(at).unwrap_or_default());
        if age.is_ok_and(|age| age > KEPT) {
            let _gone_already = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_until_it_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let drv = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x.drv";
        assert!(!is_recorded(dir.path(), drv));
        record(dir.path(), drv, "ssh-ng://b1").unwrap();
        record(dir.path(), "../outside", "x").unwrap();
        assert!(is_recorded(dir.path(), drv));
        tidy(dir.path(), SystemTime::now());
        assert!(is_recorded(dir.path(), drv));
        tidy(dir.path(), SystemTime::now() + KEPT + KEPT);
        assert!(!is_recorded(dir.path(), drv));
    }
}
