//! Ciphertext that stays on the host, so that a reboot needs no network: written at the commit, read by the early unit.

use std::path::Path;

use serde::{Deserialize, Serialize};
use trueup_schema::Digest;
use trueup_schema::wire::SecretsGoal;

use super::{Generation, Places, SecretsError, links, memory, open};
use crate::files::{self, FileError, Layout};

/// Below the state folder.
const FILE: &str = "secrets.json";
/// In an attempt's folder: what was kept before it.
const ASIDE: &str = "secrets-kept.json";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    digest: Digest,
    goal: SecretsGoal,
}

/// What was committed stays; the last one goes.
pub(super) fn keep(layout: &Layout, digest: &Digest, goal: &SecretsGoal) -> Result<(), FileError> {
    let kept = Kept {
        digest: digest.clone(),
        goal: goal.clone(),
    };
    files::write_json(&layout.file(FILE), &kept)
}

/// What is kept before an attempt, beside it.
pub(super) fn set_aside(layout: &Layout, attempt: &Path) -> Result<(), FileError> {
    match files::read_bounded(&layout.file(FILE))? {
        Some(bytes) => files::write_atomic(&attempt.join(ASIDE), &bytes),
        None => Ok(()),
    }
}

/// The same, back.
pub(super) fn put_back(layout: &Layout, attempt: &Path) -> Result<(), FileError> {
    match files::read_bounded(&attempt.join(ASIDE))? {
        Some(bytes) => files::write_atomic(&layout.file(FILE), &bytes),
        None => {
            let _never_kept = std::fs::remove_file(layout.file(FILE));
            files::sync_dir(&layout.root)
        }
    }
}

/// The goal that is kept.
pub(super) fn digest(layout: &Layout) -> Option<Digest> {
    let kept: Option<Kept> = files::read_json(&layout.file(FILE)).ok().flatten();
    kept.map(|k| k.digest)
}

/// Brings back after a reboot what was committed, before units and users need it. No unit is touched. With `for_users`
/// only what users need: nobody else is there yet. Safe to repeat, and in the middle of an attempt: another set than the
/// kept one is newer.
pub fn restore(layout: &Layout, places: &Places, for_users: bool) -> Result<usize, SecretsError> {
    if let (Some(now), Some(kept)) = (Generation::current(places)?, digest(layout))
        && now.digest != kept
    {
        return Ok(now.entries.len());
    }
    bring_back(layout, places, for_users)
}

/// The same, whatever is there.
pub(super) fn bring_back(
    layout: &Layout,
    places: &Places,
    for_users: bool,
) -> Result<usize, SecretsError> {
    let kept: Option<Kept> = files::read_json(&layout.file(FILE))?;
    let Some(mut kept) = kept.filter(|k| !k.goal.is_empty()) else {
        return Ok(0);
    };
    if for_users {
        kept.goal.secrets.retain(|s| s.needed_for_users);
        kept.goal.templates.clear();
        if kept.goal.secrets.is_empty() {
            return Ok(0);
        }
    }
    if let Some(now) = Generation::current(places)?
        && now.digest == kept.digest
        && now.entries.len() >= kept.goal.secrets.len() + kept.goal.templates.len()
        && now.differences(places).is_empty()
    {
        return Ok(now.entries.len());
    }
    let opened = open(&kept.goal, &kept.digest, for_users)?;
    links::free(places, &opened)?;
    memory::ready(places)?;
    let old = Generation::current(places)?;
    let new = opened.write(places)?;
    memory::switch(places, new.number)?;
    if !for_users {
        links::place(places, old.as_ref(), &new)?;
    }
    memory::prune(places)?;
    Ok(new.entries.len())
}
