//! Garbage of the store in which evaluations for a hub elsewhere are made: each commit's files and derivations. Only what is
//! on its way to the hub is kept. The hub's own store is collected by its own machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use trueup_schema::{DrvPath, StorePath};

use super::build::{is_kept, relink, root_name};
use super::{Nix, exec};
use crate::edge::exec::Limits;

/// Below this the store is left alone: a few hundred commits' files, with the inputs that the next evaluation would
/// otherwise fetch again.
pub(crate) const STORE_MAX: u64 = 8 << 30;
/// Measuring the store walks over all its files.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// No evaluation begins meanwhile, so a commit waits for so long at most. What is left is taken the next time.
const COLLECT_WALL: Duration = Duration::from_secs(120);
/// A root that an evaluation just made, and that nobody asked to keep yet, is not dropped.
const FRESH: Duration = Duration::from_secs(3600);

impl Nix {
    fn evaluation_roots(&self) -> PathBuf {
        self.evaluation_store().join("nix/var/nix/gcroots/trueup")
    }

    /// Keeps what was found until it is in the hub's store. For a hub on this machine there is nothing to do: it is one
    /// store.
    pub(super) fn keep_for_the_hub(&self, drv: &DrvPath, out: &StorePath, root: &str) {
        if self.hub.is_none() {
            return;
        }
        let folder = self.evaluation_roots();
        let link = folder.join(format!("{}.drv", root_name(root, out)));
        let made =
            std::fs::create_dir_all(&folder).and_then(|()| relink(&link, Path::new(drv.as_str())));
        if let Err(why) = made {
            tracing::warn!(%why, %drv, "a derivation has no root until it is in the hub's store");
        }
    }

    /// Drops the roots of what nobody wants any more, and collects where it is time and nothing is evaluated.
    pub(super) fn tidy_evaluations(&self, kept: &BTreeSet<String>) {
        if self.hub.is_none() {
            return;
        }
        let now = SystemTime::now();
        let entries = std::fs::read_dir(self.evaluation_roots());
        for entry in entries.into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let made = entry.path().symlink_metadata().and_then(|m| m.modified());
            let age = made.map(|at| now.duration_since(at).unwrap_or_default());
            if !is_kept(&name, kept) && age.is_ok_and(|age| age > FRESH) {
                let _gone_already = std::fs::remove_file(entry.path());
            }
        }
        // Beside the rest: nobody waits for it.
        tokio::task::spawn_local(self.clone().collect());
    }

    async fn collect(self) {
        // All turns at once: nothing is evaluated while garbage is collected, and nothing is interrupted for it.
        let turns = u32::try_from(self.settings.evaluations.max(1)).unwrap_or(1);
        let Ok(_alone) = self.evaluating.try_acquire_many(turns) else {
            return;
        };
        {
            let mut looked = self.looked.lock().unwrap_or_else(|e| e.into_inner());
            if looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
                return;
            }
            *looked = Some(Instant::now());
        }
        let store = self.evaluation_store();
        let measured = {
            let store = store.join("nix/store");
            tokio::task::spawn_blocking(move || size(&store)).await
        };
        let size = measured.unwrap_or(0);
        if size <= self.settings.evaluation_store_max {
            return;
        }
        let limits = Limits {
            wall: COLLECT_WALL,
            ..Limits::default()
        };
        let mut spec = self.spec(vec!["store".into(), "gc".into()], limits);
        spec.args.truncate(2); // not the hub's
        spec.args.extend(["--store".into(), store.into()]);
        match exec::run(&spec).await {
            Ok(exit) if exit.ok() => {
                let said = exit.err_text();
                let freed = said.lines().last().unwrap_or_default();
                tracing::info!(size, freed, "the store of evaluations was collected");
            }
            // It goes on the next time from where it was.
            Ok(exit) => {
                tracing::warn!(why = %exit.err_text(), "the store of evaluations was not collected")
            }
            Err(why) => tracing::warn!(%why, "the store of evaluations was not collected whole"),
        }
    }
}

/// Bytes on the disk, as far as they can be read.
fn size(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut waiting = vec![folder.to_owned()];
    let mut bytes = 0;
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.path().symlink_metadata() else {
                continue;
            };
            bytes += meta.blocks() * 512;
            if meta.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    bytes
}
