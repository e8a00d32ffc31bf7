//! Which units a new generation concerns, and what is done to them: restarted or reloaded only when a secret of theirs
//! differs in content, owner or mode.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use trueup_core::agent::Fault;
use trueup_schema::wire::{FailedUnits, FailedUnitsPolicy, Stage};

use super::{Generation, NAME};
use crate::component::Context;
use crate::units::seen;
use crate::{AgentError, exec, files, judge as judging, units};

/// A restart may take as long as a unit's own start limit.
const RESTART_LIMIT: Duration = Duration::from_secs(120);
/// The running closure's activation script.
const ACTIVATE_LIMIT: Duration = Duration::from_secs(300);
/// Makes users where an activation does not (`services.userborn`). systemd-sysusers never changes a password that is set.
const USERBORN: &str = "userborn.service";
/// Where switch-to-configuration looks for what an activation asks for.
const LISTS: &str = "/run/nixos";

/// What a generation means for units.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub restart: BTreeSet<String>,
    pub reload: BTreeSet<String>,
    /// A password's secret: users are to be made anew.
    pub users: bool,
}

/// From one generation to another. A secret that went away asks for nothing.
pub(super) fn changes(old: Option<&Generation>, new: &Generation) -> Changes {
    let mut changes = Changes::default();
    for entry in &new.entries {
        let before = old.and_then(|g| g.entries.iter().find(|e| e.name == entry.name));
        if before.is_some_and(|b| b.is_same(entry)) {
            continue;
        }
        changes.restart.extend(entry.restart.iter().cloned());
        changes.reload.extend(entry.reload.iter().cloned());
        changes.users |= entry.is_for_users();
    }
    changes
        .reload
        .retain(|unit| !changes.restart.contains(unit));
    changes
}

fn before_file(ctx: &Context) -> std::path::PathBuf {
    ctx.layout.attempt(ctx.order()).join("secrets-units.json")
}

/// Units as they are before anything changes.
pub(super) fn remember(ctx: &Context) -> Result<(), AgentError> {
    Ok(files::write_json(&before_file(ctx), &units::snapshot()?)?)
}

/// Tells the switch that follows: it knows which units its closure has, and when.
pub(super) fn leave_to_switch(changes: &Changes) -> Result<(), AgentError> {
    let mut changes = changes.clone();
    if changes.users
        && units::states()?
            .get(USERBORN)
            .is_some_and(units::Unit::is_up)
    {
        changes.restart.insert(USERBORN.to_owned());
    }
    for (list, names) in [("restart", &changes.restart), ("reload", &changes.reload)] {
        if names.is_empty() || !Path::new(LISTS).is_dir() {
            continue;
        }
        let path = Path::new(LISTS).join(format!("activation-{list}-list"));
        let text: String = names.iter().map(|name| format!("{name}\n")).collect();
        let written = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|source| files::FileError::Write { path, source })?;
    }
    Ok(())
}

/// Restarts and reloads, now. Units that a person stopped stay stopped.
pub(super) fn act(ctx: &Context, changes: &Changes) -> Result<(), Fault> {
    let fault = |message: String, names: &[&str]| Fault {
        component: Some(NAME.parse().expect("a DNS label")),
        stage: Stage::Activate,
        message,
        evidence: true,
        failed_units: names
            .iter()
            .map(|name| trueup_schema::wire::FailedUnit {
                name: (*name).to_owned(),
                state: "failed".to_owned(),
                why: "it did not come up with the new secrets".to_owned(),
                log: units::log(name),
            })
            .collect(),
    };
    if changes.users {
        let log = ctx.layout.attempt(ctx.order()).join("users.log");
        let program = Path::new(files::CURRENT).join("activate");
        let file = OpenOptions::new().append(true).create(true).open(&log);
        let ran = file.map_err(|e| e.to_string()).and_then(|file| {
            exec::run_logged(&program, &[], &[], &file, ACTIVATE_LIMIT).map_err(|e| e.to_string())
        });
        if ran != Ok(Some(0)) {
            let message = format!(
                "a secret for users changed, and the running closure's activation failed ({ran:?})"
            );
            return Err(fault(message, &[]));
        }
    }
    if !changes.users && changes.restart.is_empty() && changes.reload.is_empty() {
        return Ok(());
    }
    let all = units::states().map_err(|e| fault(e.to_string(), &[]))?;
    if changes.users && all.get(USERBORN).is_some_and(units::Unit::is_up) {
        // First, and alone: units of users start behind it.
        units::systemctl(&["restart"], &[USERBORN], RESTART_LIMIT).map_err(|error| {
            let message = format!("a secret for users changed, and users were not made: {error}");
            fault(message, &[USERBORN])
        })?;
    }
    let up = |name: &&str| {
        all.get(*name)
            .is_some_and(|u| u.is_up() || u.active == "failed" || u.sub == "auto-restart")
    };
    let restart: Vec<&str> = changes
        .restart
        .iter()
        .map(String::as_str)
        .filter(up)
        .collect();
    let reload: Vec<&str> = changes
        .reload
        .iter()
        .map(String::as_str)
        .filter(up)
        .collect();
    for (verb, names) in [("restart", restart), ("reload-or-restart", reload)] {
        if names.is_empty() {
            continue;
        }
        if let Err(error) = units::systemctl(&[verb], &names, RESTART_LIMIT) {
            let failed: Vec<&str> = names
                .into_iter()
                .filter(|name| {
                    units::systemctl(&["is-failed", "--quiet"], &[name], units::SYSTEMCTL_LIMIT)
                        .is_ok()
                })
                .collect();
            let message = format!("units of changed secrets did not {verb}: {error}");
            return Err(fault(message, &failed));
        }
    }
    Ok(())
}

/// Units of these secrets that are worse off than before.
pub(super) fn judge(ctx: &Context, now: &Generation) -> Result<Option<Fault>, AgentError> {
    let before: units::Units = files::read_json(&before_file(ctx))?.unwrap_or_default();
    let policy = FailedUnits {
        policy: FailedUnitsPolicy::Rollback,
        ignore: Vec::new(),
    };
    let mine: BTreeSet<&String> = now
        .entries
        .iter()
        .flat_map(|e| e.restart.iter().chain(&e.reload))
        .collect();
    let there = units::for_judging()?;
    seen::keep(&ctx.layout, &there);
    let mut harmed = judging::harmed(&before, &there, &policy);
    harmed.retain(|unit| mine.contains(&unit.name));
    if harmed.is_empty() {
        return Ok(None);
    }
    for unit in &mut harmed {
        unit.log = units::log(&unit.name);
    }
    let names: Vec<&str> = harmed.iter().map(|u| u.name.as_str()).collect();
    Ok(Some(Fault {
        component: Some(NAME.parse().expect("a DNS label")),
        stage: Stage::Judge,
        message: format!("harmed by the new secrets: {}", names.join(", ")),
        evidence: true,
        failed_units: harmed,
    }))
}
