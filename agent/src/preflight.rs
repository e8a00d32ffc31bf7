//! Asked before anything is touched: is this closure for this host, is there room, does something forbid a switch?

use std::collections::BTreeMap;
use std::path::Path;

use rustix::fs::statvfs;
use trueup_schema::status::Outcome;
use trueup_schema::wire::{Stage, SystemGoal};

use crate::component::Refusal;
use crate::{boot, files};

/// systemd refuses every reload below 16 MiB on `/run`; some more, since the switch itself writes there.
const RUN_FREE: u64 = 20 << 20;
/// Entries, and what the loader's script writes for a moment.
const BOOT_FREE: u64 = 1 << 20;
/// The journal, the log and the profile must fit.
const NIX_FREE: u64 = 32 << 20;

fn refuse(outcome: Outcome, message: String, evidence: bool) -> Refusal {
    Refusal {
        outcome,
        stage: Stage::Preflight,
        message,
        evidence,
    }
}

fn room(dir: &str, need: u64) -> Result<(), Refusal> {
    let Ok(fs) = statvfs(dir) else {
        return Ok(());
    };
    let free = fs.f_bavail.saturating_mul(fs.f_frsize);
    if free >= need {
        return Ok(());
    }
    Err(missing(dir, free, need))
}

fn missing(dir: &str, free: u64, need: u64) -> Refusal {
    let (free, need) = (free >> 10, need.div_ceil(1 << 10));
    refuse(
        Outcome::Failed,
        format!("SpaceMissing: {dir} has {free} KiB free, an activation needs {need} KiB"),
        false,
    )
}

/// The loader copies kernel and initrd of each generation: the candidate's, and the running one's for the way back.
fn room_to_boot(target: &Path) -> Result<(), Refusal> {
    let Some(dir) = boot::copies(boot::detect().loader) else {
        return Ok(());
    };
    let need = copies_needed(&dir, &[target, Path::new(files::CURRENT)]) + BOOT_FREE;
    room(&dir.to_string_lossy(), need)
}

/// Bytes of the kernels and initrds that have no copy in `dir`: a copy is named after the store path that it is of.
fn copies_needed(dir: &Path, closures: &[&Path]) -> u64 {
    let there: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    let mut lacking = BTreeMap::new();
    for closure in closures {
        for name in ["kernel", "initrd"] {
            let Ok(real) = std::fs::canonicalize(closure.join(name)) else {
                continue;
            };
            let path = real.to_string_lossy().into_owned();
            let hash = path.strip_prefix("/nix/store/").and_then(|p| p.get(..32));
            let file = real.file_name().unwrap_or_default().to_string_lossy();
            let copied =
                hash.is_some_and(|h| there.iter().any(|t| t.starts_with(h) && t.contains(&*file)));
            if !copied {
                lacking.insert(path, real.metadata().map_or(0, |m| m.len()));
            }
        }
    }
    lacking.values().sum()
}

/// All of it.
pub fn check(goal: &SystemGoal, target: &Path, by_reboot: bool) -> Result<(), Refusal> {
    let here = format!("{}-linux", std::env::consts::ARCH);
    let said = files::text(Path::new(goal.closure.as_str()).join("system"));
    for system in [goal.system.as_str(), said.as_str()] {
        if !system.is_empty() && system != here {
            return Err(refuse(
                Outcome::Failed,
                format!("WrongSystem: the closure is for {system}, this host is {here}"),
                true,
            ));
        }
    }
    if !target.join("bin/switch-to-configuration").exists() {
        return Err(refuse(
            Outcome::Failed,
            format!("{} has no bin/switch-to-configuration", target.display()),
            true,
        ));
    }
    room("/run", RUN_FREE)?;
    room("/nix", NIX_FREE)?;
    room_to_boot(target)?;
    let current = Path::new(files::CURRENT);
    if current.exists() && !by_reboot {
        let (old, new) = (
            files::text(current.join("init-interface-version")),
            files::text(target.join("init-interface-version")),
        );
        if !old.is_empty() && !new.is_empty() && old != new {
            return Err(refuse(
                Outcome::RebootRequired,
                format!(
                    "the init interface differs ({old} runs, {new} is wanted): only a reboot brings it"
                ),
                false,
            ));
        }
        let names = inhibitors(current, target);
        if !names.is_empty() {
            return Err(refuse(
                Outcome::RebootRequired,
                format!(
                    "SwitchInhibited: {} changed, and the configuration forbids to switch then",
                    names.join(", ")
                ),
                false,
            ));
        }
    }
    Ok(())
}

/// Can what runs not become this closure without a reboot?
#[must_use]
pub fn forbids_switch(target: &Path) -> bool {
    const INIT: &str = "init-interface-version";
    let current = Path::new(files::CURRENT);
    let (old, new) = (
        files::text(current.join(INIT)),
        files::text(target.join(INIT)),
    );
    let other_init = !old.is_empty() && !new.is_empty() && old != new;
    current.exists() && (other_init || !inhibitors(current, target).is_empty())
}

/// `switch-inhibitors` is a JSON object, name to value: what differs forbids the switch.
fn inhibitors(current: &Path, target: &Path) -> Vec<String> {
    let read = |p: &Path| -> serde_json::Map<String, serde_json::Value> {
        serde_json::from_str(&files::text(p.join("switch-inhibitors"))).unwrap_or_default()
    };
    let (old, new) = (read(current), read(target));
    let mut names: Vec<String> = old
        .iter()
        .filter(|(k, v)| new.get(*k) != Some(*v))
        .map(|(k, _)| k.clone())
        .chain(new.keys().filter(|k| !old.contains_key(*k)).cloned())
        .collect();
    names.sort();
    names
}

/// What only a reboot brings.
#[must_use]
pub fn reboot_required(booted: &Path, profile: &Path) -> Vec<String> {
    const PARTS: [(&str, &str); 6] = [
        ("kernel", "kernel"),
        ("initrd", "initrd"),
        ("kernel-modules", "modules"),
        ("firmware", "firmware"),
        ("systemd", "systemd"),
        ("kernel-params", "kernel-params"),
    ];
    let differs = |name: &str| {
        let (a, b) = (booted.join(name), profile.join(name));
        if name == "kernel-params" {
            return files::text(a) != files::text(b);
        }
        let real = |p| std::fs::canonicalize(p).ok();
        real(a) != real(b)
    };
    if !booted.exists() || !profile.exists() {
        return Vec::new();
    }
    PARTS
        .iter()
        .filter(|(file, _)| differs(file))
        .map(|(_, name)| (*name).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kernels_without_a_copy_need_room() {
        let dir = tempfile::tempdir().expect("a folder");
        let closure = |name: &str, size: usize| {
            let top = dir.path().join(name);
            std::fs::create_dir_all(&top).expect("made");
            std::fs::write(top.join("kernel"), vec![0; size]).expect("written");
            top
        };
        let boot = dir.path().join("copies");
        std::fs::create_dir_all(&boot).expect("made");
        let (a, b) = (closure("a", 1000), closure("b", 500));
        assert_eq!(copies_needed(&boot, &[&a, &b]), 1500);
        assert_eq!(copies_needed(&boot, &[&a, &a]), 1000);
    }
}
