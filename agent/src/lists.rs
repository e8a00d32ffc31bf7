//! The lists that NixOS' switch leaves in `/run/nixos`: what they may still name. They heal an interrupted switch, so only
//! names go that would wedge the next one.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::files;

/// Drops from NixOS' lists the names for which this closure has no unit: an unknown one in the reload list is exit 1
/// for ever, with services down. What is left heals an interrupted switch.
pub fn filter(closure: &Path) {
    for list in ["start-list", "restart-list", "reload-list"] {
        let path = Path::new("/run/nixos").join(list);
        let Ok(Some(bytes)) = files::read_bounded(&path) else {
            continue;
        };
        let text = String::from_utf8_lossy(&bytes);
        let names: BTreeSet<&str> = text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .collect();
        let kept: Vec<&str> = names
            .iter()
            .copied()
            .filter(|n| knows(closure, n))
            .collect();
        if kept.len() == names.len() {
            continue;
        }
        let written = if kept.is_empty() {
            fs::remove_file(&path)
        } else {
            fs::write(&path, kept.join("\n") + "\n")
        };
        if let Err(e) = written {
            eprintln!("trueup-agent: {}: {e}", path.display());
        }
    }
}

fn knows(closure: &Path, unit: &str) -> bool {
    if unit.contains('/') {
        return false;
    }
    let dir = closure.join("etc/systemd/system");
    if dir.join(unit).symlink_metadata().is_ok() {
        return true;
    }
    // An instance has the template's file; mounts and swaps come from fstab, not from files.
    if let Some((stem, rest)) = unit.split_once('@') {
        let suffix = rest.rsplit_once('.').map_or("", |(_, s)| s);
        if dir
            .join(format!("{stem}@.{suffix}"))
            .symlink_metadata()
            .is_ok()
        {
            return true;
        }
    }
    if unit.ends_with(".mount") || unit.ends_with(".swap") || unit.ends_with(".target") {
        return true;
    }
    // Units of the distribution below systemd's own folder are known to whatever runs.
    ["example/systemd/system", "lib/systemd/system"]
        .iter()
        .any(|d| {
            [closure.join("sw").join(d), Path::new("/usr").join(d)]
                .iter()
                .any(|p| p.join(unit).exists())
        })
}
