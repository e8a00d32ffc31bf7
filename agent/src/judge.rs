//! Were units harmed? Judged from what systemd says before and after, never from an exit code. Pure.

use trueup_schema::wire::{FailedUnit, FailedUnits};

use crate::units::{Unit, Units, ours};

/// Automatic restarts since the switch from which on it is a loop.
const LOOP: u32 = 2;
/// Units of sessions: they come and go with people.
const NEVER: [&str; 4] = ["user@", "user-runtime-dir@", "session-", "run-user-"];

/// What was harmed, by comparing the record with now.
#[must_use]
pub fn harmed(before: &Units, now: &Units, policy: &FailedUnits) -> Vec<FailedUnit> {
    let mut found = Vec::new();
    for (name, unit) in now {
        if ours(name) || NEVER.iter().any(|p| name.starts_with(p)) || ignored(name, policy) {
            continue;
        }
        let old = before.get(name).cloned().unwrap_or_default();
        if let Some((state, why)) = harm(name, &old, unit, before, now) {
            found.push(FailedUnit {
                name: name.clone(),
                state,
                why,
                log: Vec::new(),
            });
        }
    }
    found
}

fn ignored(name: &str, policy: &FailedUnits) -> bool {
    policy.ignore.iter().any(|i| match i.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => i == name,
    })
}

fn harm(
    name: &str,
    old: &Unit,
    unit: &Unit,
    before: &Units,
    now: &Units,
) -> Option<(String, String)> {
    let told = |state: &str, why: String| Some((state.to_owned(), why));
    if unit.active == "failed" {
        if old.active == "failed" {
            return None; // it was before: not blamed
        }
        return told(
            "failed",
            format!("failed ({}), was {}", unit.result, word(old)),
        );
    }
    if unit.sub == "auto-restart" && old.sub != "auto-restart" {
        return told(
            "auto-restart",
            format!("does not stay up ({})", unit.result),
        );
    }
    if unit.restarts >= LOOP && old.restarts < LOOP && unit.restarts > old.restarts {
        return told(
            "auto-restart",
            format!("restarted {} times since the switch", unit.restarts),
        );
    }
    let service = name.ends_with(".service") && (unit.kind != "oneshot" || unit.remains);
    let stays_up = service || name.ends_with(".socket");
    let wanted = unit
        .wanted_by
        .iter()
        .any(|t| now.get(t).is_some_and(|t| t.active == "active"));
    if !stays_up || !wanted || unit.load != "loaded" || unit.active != "inactive" || unit.job {
        return None;
    }
    if unit
        .triggered_by
        .iter()
        .any(|t| now.get(t).is_some_and(Unit::is_up))
    {
        return None;
    }
    if !unit.tried {
        // Wanted, and systemd never came as far as its conditions: a dependency is missing.
        let was_so =
            before.contains_key(name) && !old.is_up() && !old.tried && old.file == unit.file;
        return if was_so {
            None
        } else {
            told(
                "inactive",
                "wanted, but could not be started: a dependency is missing".to_owned(),
            )
        };
    }
    if old.is_up() && unit.result != "success" {
        return told("inactive", format!("was up, ended with {}", unit.result));
    }
    None
}

fn word(old: &Unit) -> &str {
    if old.active.is_empty() {
        "not there"
    } else {
        &old.active
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
