//! The verb `leave`: takes away what is trueup's on this host, and nothing else. What runs is not touched, no unit is
//! restarted, no generation goes. Afterwards the host is a plain NixOS that any tool may change. Safe to repeat and to be
//! cut off: the state, by which the rest is known, goes last.

use std::fs;
use std::path::Path;

use trueup_core::agent::Phase;
use trueup_schema::wire::Farewell;

use crate::exec;
use crate::files::{self, Layout};
use crate::secrets::{Generation, Places};
use crate::{AgentError, journal, units};

/// Units of attempts that have ended, if any is still loaded: none of them does anything any more.
const OURS: &str = "trueup-*";
/// Where systemd keeps units that no file of a system names.
const TRANSIENT: &str = "/run/systemd/transient";
/// Names that are told of at most.
const NAMED: usize = 8;

/// Takes it away. Refused while an attempt is under way: that has to end, or to go back, first.
pub fn leave(layout: &Layout) -> Result<Farewell, AgentError> {
    let mut farewell = Farewell::default();
    if !layout.root.exists() && !Path::new(files::ROOTS).exists() {
        return Ok(farewell);
    }
    attempts_have_ended(layout)?;
    let guards = stop_guards()?;
    if !guards.is_empty() {
        farewell
            .removed
            .push(format!("the units {}", guards.join(", ")));
    }
    keep_what_runs(&mut farewell);
    secrets(&mut farewell);
    roots(&mut farewell)?;
    state(layout, &mut farewell)?;
    Ok(farewell)
}

fn attempts_have_ended(layout: &Layout) -> Result<(), AgentError> {
    let Some(order) = journal::orders(layout).pop() else {
        return Ok(());
    };
    let read = journal::read(layout, order)?;
    match read.map(|r| r.state.phase) {
        None | Some(Phase::Ended) => Ok(()),
        Some(phase) => Err(AgentError::Busy {
            order,
            phase: format!("{phase:?}"),
        }),
    }
}

/// What an attempt may have left loaded, though it has ended: transient units of ours. Those of a module are the system's.
fn stop_guards() -> Result<Vec<String>, AgentError> {
    let args = [
        "list-units",
        "--all",
        "--plain",
        "--no-legend",
        "--type=timer,service",
        OURS,
    ];
    let listed = exec::tool_ok("systemctl", &args, units::SYSTEMCTL_LIMIT)?;
    let names = listed.lines().filter_map(|l| l.split_whitespace().next());
    let ours: Vec<&str> = names
        .filter(|n| Path::new(TRANSIENT).join(n).exists())
        .collect();
    if !ours.is_empty() {
        units::systemctl(&["stop", "--quiet"], &ours, units::SYSTEMCTL_LIMIT)?;
    }
    Ok(ours.into_iter().map(str::to_owned).collect())
}

/// What runs is rooted by the profile, or by `/run/current-system`; told of where it would be gone after the next boot.
fn keep_what_runs(farewell: &mut Farewell) {
    let (running, profile) = (
        files::store_path(files::CURRENT),
        files::store_path(files::PROFILE),
    );
    if let (Some(running), Some(profile)) = (running, profile)
        && running != profile
    {
        farewell.stays.push(format!(
            "{} runs, and {} is what boots",
            running.short(),
            profile.short()
        ));
    }
}

/// Plain text stays in memory until the next boot, since what runs may read it again; nothing brings it back then.
fn secrets(farewell: &mut Farewell) {
    let Ok(Some(generation)) = Generation::current(&Places::default()) else {
        return;
    };
    let all = generation.entries.iter();
    let names: Vec<String> = all.map(|e| e.name.display().to_string()).collect();
    if names.is_empty() {
        return;
    }
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    farewell.stays.push(format!(
        "{} secrets in memory, and the links to them, until the next boot ({}{more}); nothing brings them back then",
        names.len(),
        names[..names.len().min(NAMED)].join(", ")
    ));
}

/// Links of ours; a hub that is a host too has its own beside them, and those stay.
fn roots(farewell: &mut Farewell) -> Result<(), AgentError> {
    let dir = Path::new(files::ROOTS);
    let mut count = 0_u32;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_ours(&name) {
            let path = entry.path();
            let gone = fs::remove_file(&path);
            gone.map_err(|source| files::FileError::Write { path, source })?;
            count += 1;
        }
    }
    if count > 0 {
        farewell.removed.push(format!(
            "{count} roots of the garbage collector ({})",
            dir.display()
        ));
    }
    // Only where nothing else is in it.
    let _others = fs::remove_dir(dir);
    Ok(())
}

fn is_ours(name: &str) -> bool {
    let kinds = ["agent-", "candidate-", "recorded-", "wanted-"];
    name == "agent" || kinds.iter().any(|kind| name.starts_with(kind))
}

fn state(layout: &Layout, farewell: &mut Farewell) -> Result<(), AgentError> {
    if remove(&layout.root)? {
        farewell
            .removed
            .push(format!("its state ({})", layout.root.display()));
    }
    Ok(())
}

/// A folder with all in it, lasting; `false`: it was not there.
fn remove(dir: &Path) -> Result<bool, AgentError> {
    match fs::remove_dir_all(dir) {
        Ok(()) => {
            if let Some(parent) = dir.parent() {
                files::sync_dir(parent)?;
            }
            Ok(true)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(files::FileError::Write {
            path: dir.to_owned(),
            source,
        }
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_of_a_hub_are_not_the_agents() {
        for ours in [
            "agent",
            "agent-1-2",
            "candidate-1-2.x",
            "recorded-1-2",
            "wanted-x",
        ] {
            assert!(is_ours(ours), "{ours}");
        }
        for other in ["hub-web-1-x", "agents", "kept"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
