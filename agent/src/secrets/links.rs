//! Links outside of our folder, where people want their secrets: made, moved and taken away with them. What others put
//! there is not overwritten, but for links, which are brought back.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::record::{Entry, make_folder};
use super::{Generation, Opened, Places, SecretsError};

/// Whether each path is free, or has a link.
pub(super) fn free(_: &Places, opened: &Opened) -> Result<(), SecretsError> {
    for path in opened.items.iter().filter_map(|i| i.entry.path.as_ref()) {
        match fs::symlink_metadata(path) {
            Ok(meta) if !meta.is_symlink() => return Err(SecretsError::Occupied(path.clone())),
            _ => {}
        }
    }
    Ok(())
}

/// Where links are wanted.
pub(super) fn wanted(opened: &Opened) -> Vec<PathBuf> {
    let paths = opened.items.iter().filter_map(|i| i.entry.path.clone());
    paths.collect()
}

/// Links that are not ours and that ours will replace.
pub(super) fn others(places: &Places, opened: &Opened) -> Vec<(PathBuf, PathBuf)> {
    let paths = opened.items.iter().filter_map(|i| i.entry.path.as_ref());
    paths
        .filter_map(|path| Some((path.clone(), fs::read_link(path).ok()?)))
        .filter(|(_, target)| !target.starts_with(places.link()))
        .collect()
}

/// The new ones are there, those that only the old one had are gone.
pub(super) fn place(
    places: &Places,
    old: Option<&Generation>,
    new: &Generation,
) -> Result<(), SecretsError> {
    for entry in &new.entries {
        if let Some(path) = &entry.path {
            link(
                &Generation::through_link(places, entry),
                path,
                entry.folders,
            )?;
        }
    }
    for entry in old.into_iter().flat_map(|g| &g.entries) {
        let stays = |path| new.entries.iter().any(|e| e.path.as_ref() == Some(path));
        if let Some(path) = entry.path.as_ref().filter(|p| !stays(p)) {
            remove(places, path);
        }
    }
    Ok(())
}

/// All links of a generation go.
pub(super) fn take_away(places: &Places, generation: &Generation) {
    for path in generation
        .entries
        .iter()
        .filter_map(|e: &Entry| e.path.as_ref())
    {
        remove(places, path);
    }
}

/// Links that were replaced are put back.
pub(super) fn bring_back(replaced: &[(PathBuf, PathBuf)]) {
    for (path, target) in replaced {
        let _best_effort = put(target, path);
    }
}

/// Only if it is a link of ours.
pub(super) fn remove(places: &Places, path: &Path) {
    if fs::read_link(path).is_ok_and(|target| target.starts_with(places.link())) {
        let _gone = fs::remove_file(path);
    }
}

fn link(target: &Path, path: &Path, folders: u32) -> Result<(), SecretsError> {
    if fs::read_link(path).is_ok_and(|now| now == target) {
        return Ok(());
    }
    let above = path.ancestors().skip(1);
    let missing: Vec<_> = above.take_while(|p| !p.exists()).collect();
    for folder in missing.into_iter().rev() {
        make_folder(folder, folders)?;
    }
    put(target, path).map_err(SecretsError::file("linking", path))
}

fn put(target: &Path, path: &Path) -> std::io::Result<()> {
    let mut temp = path.as_os_str().to_owned();
    temp.push(format!(".trueup{}", std::process::id()));
    let temp = PathBuf::from(temp);
    let _old = fs::remove_file(&temp);
    symlink(target, &temp)?;
    fs::rename(&temp, path)
}
