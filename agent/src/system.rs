//! The `system` component: a NixOS closure, by its own `switch-to-configuration`. Judged by links, lists and units.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use trueup_core::agent::{Fault, Recorded};
use trueup_schema::StorePath;
use trueup_schema::status::Outcome;
use trueup_schema::wire::{
    Activation, FailedUnit, FailedUnitsPolicy, Goal, OnTimeout, Stage, SystemGoal,
};

use crate::component::{Applied, Committed, Component, Context, Refusal, Verified};
use crate::exec::{self, ExecError};
use crate::files::{self, FileError, Layout};
use crate::units::{self, Unit, Units};
use crate::{AgentError, boot, health, judge, preflight};

/// Exit code of a held lock.
const LOCKED: i32 = 11;
/// Exit code of another init interface.
const OTHER_INIT: i32 = 100;
/// A held lock is waited for so often …
const LOCK_TRIES: u32 = 30;
/// … so long each.
const LOCK_PAUSE: Duration = Duration::from_secs(1);
/// The way back, one run of it.
const REVERT_LIMIT: Duration = Duration::from_secs(600);
/// `nix-env` and the boot script.
const COMMIT_LIMIT: Duration = Duration::from_secs(300);
/// How often the activation is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// The link is read again so long after the way back: an orphan may move it.
const CALM: Duration = Duration::from_millis(1500);
/// Names in differences are cut here.
const MAX_NAMED: usize = 32;

/// See the module.
#[derive(Debug)]
pub struct SystemComponent {
    goal: SystemGoal,
}

/// What runs when the goal is in effect: the closure, or its specialisation.
#[must_use]
pub fn target(goal: &SystemGoal) -> PathBuf {
    let top = PathBuf::from(goal.closure.as_str());
    match &goal.specialisation {
        Some(name) if !name.contains('/') && !name.starts_with('.') => {
            let below = top.join("specialisation").join(name);
            fs::canonicalize(&below).unwrap_or(below)
        }
        _ => top,
    }
}

/// Sets the system profile.
pub fn set_profile(path: &StorePath) -> Result<(), ExecError> {
    exec::tool_ok(
        "nix-env",
        &["-p", files::PROFILE, "--set", path.as_str()],
        COMMIT_LIMIT,
    )
    .map(|_| ())
}

/// The record of units, for judging and for the way back.
fn units_file(ctx: &Context) -> PathBuf {
    ctx.layout.attempt(ctx.order()).join("units.json")
}

fn recorded_units(ctx: &Context) -> Result<Units, AgentError> {
    Ok(files::read_json(&units_file(ctx))?.unwrap_or_default())
}

fn log_file(layout: &Layout, ctx: &Context, name: &str) -> Result<File, FileError> {
    let path = layout.attempt(ctx.order()).join(name);
    let opened = OpenOptions::new().append(true).create(true).open(&path);
    opened.map_err(|source| FileError::Write { path, source })
}

const ENV: [(&str, &str); 2] = [
    (
        "LOCALE_ARCHIVE",
        "/run/current-system/sw/lib/locale/locale-archive",
    ),
    ("NIXOS_INSTALL_BOOTLOADER", "0"),
];

impl SystemComponent {
    /// From its goal.
    pub fn new(goal: &Goal) -> Result<Self, AgentError> {
        let goal =
            serde_json::from_value(goal.body.clone()).map_err(|e| AgentError::Component {
                component: "system".to_owned(),
                message: e.to_string(),
            })?;
        Ok(Self { goal })
    }

    fn target(&self) -> PathBuf {
        target(&self.goal)
    }

    fn runs(&self) -> bool {
        fs::canonicalize(files::CURRENT).ok() == Some(self.target())
    }

    /// Runs `test` to its end, however long, telling once each limit; `None`: stopped at the limit.
    fn test(
        &self,
        ctx: &Context,
        overdue: &mut dyn FnMut(Vec<String>) -> Result<(), AgentError>,
    ) -> Result<Option<i32>, AgentError> {
        let log = log_file(&ctx.layout, ctx, "activate.log")?;
        let program = self.target().join("bin/switch-to-configuration");
        let mut child = exec::start(&program, &["test"], &ENV, &log)?;
        let limit = Duration::from_secs(self.goal.activation_timeout_secs);
        let mut begun = Instant::now();
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Ok(Some(status.code().unwrap_or(-1))),
                Ok(None) => {}
                Err(_) => return Ok(Some(-1)),
            }
            if begun.elapsed() >= limit {
                overdue(units::jobs())?;
                if self.goal.on_timeout == OnTimeout::Rollback {
                    return Ok(None);
                }
                begun = Instant::now();
            }
            thread::sleep(LOOK);
        }
    }

    fn said(&self, ctx: &Context, what: &str) -> bool {
        files::text(ctx.layout.attempt(ctx.order()).join("activate.log")).contains(what)
    }
}

fn fault(stage: Stage, message: String, evidence: bool) -> Applied {
    Applied::Faulty(Fault {
        stage,
        message,
        evidence,
        failed_units: Vec::new(),
    })
}

fn untouched(outcome: Outcome, message: &str, evidence: bool) -> Applied {
    Applied::Untouched(Refusal {
        outcome,
        stage: Stage::Activate,
        message: message.to_owned(),
        evidence,
    })
}

impl Component for SystemComponent {
    fn stage(&mut self, _ctx: &Context) -> Result<(), Refusal> {
        preflight::check(&self.goal, &self.target())
    }

    fn record(&mut self, ctx: &Context, into: &mut Recorded) -> Result<(), AgentError> {
        let order = ctx.order();
        let roots = Path::new(files::ROOTS);
        files::link(
            Path::new(self.goal.closure.as_str()),
            &roots.join(format!("candidate-{order}")),
        )?;
        let running = fs::canonicalize(files::CURRENT).ok();
        if let Some(path) = &running {
            files::link(path, &roots.join(format!("recorded-{order}")))?;
        }
        if let Some(own) = crate::own_store_path() {
            files::link(
                Path::new(own.as_str()),
                &roots.join(format!("agent-{order}")),
            )?;
        }
        into.running = running.and_then(|p| p.to_str()?.parse().ok());
        into.profile = files::store_path(files::PROFILE);
        into.boot_default = boot::detect().closure;
        files::write_json(&units_file(ctx), &units::snapshot()?)?;
        Ok(())
    }

    fn apply(
        &mut self,
        ctx: &Context,
        overdue: &mut dyn FnMut(Vec<String>) -> Result<(), AgentError>,
    ) -> Result<Applied, AgentError> {
        let target = self.target();
        let mut code = Some(LOCKED);
        for try_no in 0..LOCK_TRIES {
            filter_lists(&target);
            code = self.test(ctx, overdue)?;
            if code != Some(LOCKED) || self.runs() {
                break;
            }
            if try_no + 1 < LOCK_TRIES {
                thread::sleep(LOCK_PAUSE);
            }
        }
        let there = self.runs();
        Ok(match code {
            None => {
                let secs = self.goal.activation_timeout_secs;
                fault(
                    Stage::Activate,
                    format!("the activation did not end within {secs} s"),
                    true,
                )
            }
            Some(LOCKED) if !there => {
                untouched(Outcome::Failed, "another switch holds the lock", false)
            }
            Some(OTHER_INIT) if !there => untouched(
                Outcome::RebootRequired,
                "the init interface differs: only a reboot brings it",
                false,
            ),
            Some(_) if !there && self.said(ctx, "Pre-switch checks failed") => untouched(
                Outcome::Failed,
                "the closure's pre-switch checks refused",
                true,
            ),
            Some(code) if !there => fault(
                Stage::Activate,
                format!("the closure did not become the running one (exit {code})"),
                true,
            ),
            Some(_) if self.said(ctx, "Failed to run activate script") => fault(
                Stage::Activate,
                "the activation script failed".to_owned(),
                true,
            ),
            Some(1 | 101 | -1) => fault(
                Stage::Activate,
                "switch-to-configuration ended half-way".to_owned(),
                true,
            ),
            Some(_) => {
                let before = recorded_units(ctx)?;
                restart_changed_sockets(&before, &units::snapshot()?);
                Applied::Done(Activation::Complete)
            }
        })
    }

    fn judge(&mut self, ctx: &Context) -> Result<Option<Fault>, AgentError> {
        let before = recorded_units(ctx)?;
        let mut harmed = judge::harmed(&before, &units::snapshot()?, &self.goal.failed_units);
        if harmed.is_empty() || self.goal.failed_units.policy == FailedUnitsPolicy::Report {
            let said = health::failing(&self.goal.health, &self.target());
            return Ok(said.map(|message| Fault {
                stage: Stage::Judge,
                message,
                evidence: true,
                failed_units: Vec::new(),
            }));
        }
        harmed.truncate(MAX_NAMED);
        for unit in &mut harmed {
            unit.log = units::log(&unit.name);
        }
        let names: Vec<&str> = harmed
            .iter()
            .map(|u: &FailedUnit| u.name.as_str())
            .collect();
        Ok(Some(Fault {
            stage: Stage::Judge,
            message: format!("harmed by it: {}", names.join(", ")),
            evidence: true,
            failed_units: harmed,
        }))
    }

    fn is_ours(&self, _ctx: &Context, recorded: &Recorded) -> Result<(), String> {
        if !self.runs() {
            let now = fs::canonicalize(files::CURRENT).unwrap_or_default();
            return Err(format!(
                "somebody switched meanwhile: {} runs",
                now.display()
            ));
        }
        let profile = files::store_path(files::PROFILE);
        if profile != recorded.profile && profile.as_ref() != Some(&self.goal.closure) {
            let now = profile.map_or("nothing".to_owned(), |p| p.to_string());
            return Err(format!("somebody set the profile meanwhile: {now}"));
        }
        Ok(())
    }

    fn set_profile(&mut self, _ctx: &Context, _recorded: &Recorded) -> Result<(), AgentError> {
        Ok(set_profile(&self.goal.closure)?)
    }

    fn write_boot(&mut self, ctx: &Context, recorded: &Recorded) -> Result<Committed, AgentError> {
        trim_generations(self.goal.keep_generations);
        let top = Path::new(self.goal.closure.as_str());
        let program = top.join("bin/switch-to-configuration");
        let log = log_file(&ctx.layout, ctx, "boot.log")?;
        let code = exec::run_logged(&program, &["boot"], &ENV, &log, COMMIT_LIMIT)?;
        let now = boot::detect();
        let told = now.closure.is_some() || now.loader == "lab";
        let right = now.closure.as_ref() == Some(&self.goal.closure);
        if right || (!told && code == Some(0)) {
            let reboot_required = preflight::reboot_required(Path::new(files::BOOTED), top);
            return Ok(Committed::Done { reboot_required });
        }
        let default = now
            .closure
            .as_ref()
            .map_or("not known".to_owned(), ToString::to_string);
        if let Some(old) = &recorded.profile {
            set_profile(old)?;
        }
        let code = code.map_or("was killed at its limit".to_owned(), |c| {
            format!("ended with {c}")
        });
        Ok(Committed::Without(format!(
            "`boot` {code}, and the boot default is {default}: a power cut would not boot what runs"
        )))
    }

    fn revert(&mut self, ctx: &Context, recorded: &Recorded) -> Result<(), AgentError> {
        stop_rest_of_group();
        let Some(back) = &recorded.running else {
            return Err(AgentError::Component {
                component: "system".to_owned(),
                message: "no system ran before: nothing to go back to".to_owned(),
            });
        };
        let before = recorded_units(ctx)?;
        let during = units::snapshot().unwrap_or_default();
        let target = Path::new(back.as_str());
        let program = target.join("bin/switch-to-configuration");
        let log = log_file(&ctx.layout, ctx, "rollback.log")?;
        let mut env = ENV.to_vec();
        env.push(("NIXOS_NO_CHECK", "1"));
        for _ in 0..LOCK_TRIES {
            filter_lists(target);
            let code = exec::run_logged(&program, &["test"], &env, &log, REVERT_LIMIT)?;
            let there = files::store_path(files::CURRENT).as_ref() == Some(back);
            if there && code != Some(LOCKED) {
                break;
            }
            thread::sleep(LOCK_PAUSE);
        }
        let after = units::snapshot()?;
        restart_changed_sockets(&during, &after);
        restore_units(&before, &after);
        Ok(())
    }

    fn verify(&mut self, ctx: &Context, recorded: &Recorded) -> Result<Verified, AgentError> {
        thread::sleep(CALM);
        let running = files::store_path(files::CURRENT);
        let mut found = Verified {
            back: recorded.running.is_some() && running == recorded.running,
            ..Verified::default()
        };
        let profile = files::store_path(files::PROFILE);
        if profile != recorded.profile {
            found
                .differs
                .push("the profile is not what it was".to_owned());
        }
        let before = recorded_units(ctx)?;
        let now = units::snapshot()?;
        for (name, old) in &before {
            if units::ours(name) || !lasting(name, old) || !old.is_up() {
                continue;
            }
            let up = now.get(name).is_some_and(Unit::is_up);
            let asleep = old
                .triggered_by
                .iter()
                .any(|t| now.get(t).is_some_and(Unit::is_up));
            if !up && !asleep {
                found.differs.push(format!("{name} ran and does not"));
            }
        }
        for name in units::failed(&now) {
            if before.get(&name).is_none_or(|u| u.active != "failed") {
                found.differs.push(format!("{name} is failed"));
            }
        }
        found.differs.sort();
        found.differs.dedup();
        found.differs.truncate(MAX_NAMED);
        Ok(found)
    }
}

/// A unit that is meant to stay up.
fn lasting(name: &str, unit: &Unit) -> bool {
    let service = name.ends_with(".service") && (unit.kind != "oneshot" || unit.remains);
    let session = ["user@", "user-runtime-dir@", "session-"]
        .iter()
        .any(|p| name.starts_with(p));
    !session
        && (service
            || [".socket", ".timer", ".path"]
                .iter()
                .any(|s| name.ends_with(s)))
}

/// Starts what ran and does not (also what a person started), stops what a person had stopped.
fn restore_units(before: &Units, after: &Units) {
    for (name, old) in before {
        if units::ours(name) || !lasting(name, old) || old.load != "loaded" {
            continue;
        }
        let now = after.get(name).cloned().unwrap_or_default();
        let told = if old.is_up() && !now.is_up() {
            let asleep = old
                .triggered_by
                .iter()
                .any(|t| after.get(t).is_some_and(Unit::is_up));
            if asleep {
                Ok(())
            } else {
                units::systemctl(&["start"], &[name], REVERT_LIMIT)
            }
        } else if old.active == "inactive"
            && now.active == "active"
            && !old.triggered_by.iter().any(|t| after.contains_key(t))
        {
            units::systemctl(&["stop"], &[name], REVERT_LIMIT)
        } else {
            Ok(())
        };
        if let Err(e) = told {
            eprintln!("trueup-agent: {name}: {e}");
        }
    }
}

/// A socket whose file changed says "listening" and is deaf until it is restarted; its service must be down for that.
fn restart_changed_sockets(old: &Units, new: &Units) {
    for (name, now) in new {
        let Some(stem) = name.strip_suffix(".socket") else {
            continue;
        };
        let changed = old
            .get(name)
            .is_some_and(|o| o.is_up() && o.file != now.file && !o.file.is_empty());
        if !changed || !now.is_up() {
            continue;
        }
        let service = format!("{stem}.service");
        let _not_up = units::systemctl(&["stop"], &[&service], REVERT_LIMIT);
        if let Err(e) = units::systemctl(&["restart"], &[name], units::SYSTEMCTL_LIMIT) {
            eprintln!("trueup-agent: {name}: {e}");
        }
    }
}

/// Drops from NixOS' lists the names for which this closure has no unit: an unknown one in the reload list is exit 1
/// for ever, with services down. What is left heals an interrupted switch.
pub fn filter_lists(closure: &Path) {
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

/// Kills all but this process in its control group: an orphaned `activate` would undo the way back later.
fn stop_rest_of_group() {
    const ROUNDS: usize = 50;
    let group = |pid: &str| files::text(format!("/proc/{pid}/cgroup"));
    let line = |text: String| {
        let systemd = text
            .lines()
            .find(|l| l.contains(":name=systemd:") && !l.ends_with(":/"));
        let unified = text.lines().find(|l| l.starts_with("0::") && *l != "0::/");
        systemd.or(unified).map(str::to_owned)
    };
    let own = std::process::id().to_string();
    let Some(mine) = line(group(&own)) else {
        return;
    };
    if !mine.contains("/trueup-") {
        return; // not in a unit of ours: nobody else's processes are touched
    }
    for _ in 0..ROUNDS {
        let mut killed = false;
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == own
                || !name.bytes().all(|b| b.is_ascii_digit())
                || line(group(&name)).as_ref() != Some(&mine)
            {
                continue;
            }
            // A dead child that nobody waited for keeps its group for a moment.
            if files::text(format!("/proc/{name}/stat")).contains(") Z ") {
                continue;
            }
            if let Some(pid) = name.parse().ok().and_then(rustix::process::Pid::from_raw) {
                killed |= rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok();
            }
        }
        if !killed {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Old generations go before the boot entry is written, never after.
fn trim_generations(keep: u32) {
    const LEAST: u32 = 2;
    let keep = keep.max(LEAST);
    let dir = Path::new(files::PROFILE).parent().unwrap_or(Path::new("/"));
    let count = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| {
            let name = e.file_name().to_string_lossy().into_owned();
            name.starts_with("system-") && name.ends_with("-link")
        })
        .count();
    if count > keep as usize {
        let spec = format!("+{keep}");
        let args = ["-p", files::PROFILE, "--delete-generations", &spec];
        if let Err(e) = exec::tool_ok("nix-env", &args, COMMIT_LIMIT) {
            eprintln!("trueup-agent: old generations: {e}");
        }
    }
}
