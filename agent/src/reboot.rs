//! A closure by way of a reboot: it is booted once, while the boot default stays what was booted before, so that a kernel
//! that does not come up is gone after a power cycle. Sets and takes back; who confirms, and when, is the machine's.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use trueup_core::agent::{BootSet, Recorded};
use trueup_schema::status::Outcome;
use trueup_schema::wire::{Stage, SystemGoal};
use trueup_schema::{Digest, StorePath};

use crate::component::{Context, Refusal};
use crate::exec::{self, ExecError};
use crate::files::{self, Layout};
use crate::oneshot::{self, OneShot};
use crate::{AgentError, boot, journal, memory, preflight, profile, system, units};

/// The loader lists a closure only as a generation of a profile: this one is for candidates.
const PROFILE: &str = "/nix/var/nix/profiles/system-profiles/trueup";
/// A boot script.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// A reboot that systemd was asked for takes no longer; then the kernel is asked.
const REBOOT_LIMIT: Duration = Duration::from_secs(60);
/// Followers say "rebooting" before they are cut off.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Is the boot over? Looked at so often.
const LOOK: Duration = Duration::from_millis(250);
/// There while a closure waits to be booted by a person.
const PENDING: &str = "boot-pending";
/// The module's unit that goes on with an attempt after a boot.
const RESUME_UNIT: &str = "etc/systemd/system/trueup-resume.service";

/// A closure that the next reboot tries, whoever makes it.
#[derive(Debug, Serialize, Deserialize)]
struct Pending {
    closure: StorePath,
    digest: Digest,
    boot_id: String,
    once: Option<String>,
    fallback: Option<StorePath>,
}

/// Does only a reboot bring this closure?
#[must_use]
pub fn is_needed(closure: &StorePath) -> bool {
    let (booted, top) = (Path::new(files::BOOTED), Path::new(closure.as_str()));
    !preflight::reboot_required(booted, top).is_empty() || preflight::forbids_switch(top)
}

/// Does this goal go by a reboot? Asked before anything is touched, and written down: the answer changes with the reboot.
#[must_use]
pub fn is_the_way(goal: &SystemGoal) -> bool {
    use trueup_schema::wire::Mode;
    match goal.mode {
        Mode::Boot => true,
        Mode::Switch => goal.may_reboot && is_needed(&goal.closure),
        Mode::Test | Mode::DryActivate => false,
    }
}

/// It was booted, and it runs.
#[must_use]
pub fn is_up(closure: &StorePath) -> bool {
    let runs = |link| files::store_path(link).as_ref() == Some(closure);
    runs(files::BOOTED) && runs(files::CURRENT)
}

/// Is nothing there that goes on with the attempt after the boot, unless somebody comes?
#[must_use]
pub fn is_unwatched(closure: &StorePath) -> bool {
    !Path::new(closure.as_str()).join(RESUME_UNIT).exists()
}

/// What a power cycle is to boot meanwhile: the boot default, if its kernel is the one that was booted; else the newest
/// generation of which that is true; else what was booted.
#[must_use]
pub fn fallback(candidate: &StorePath) -> Option<StorePath> {
    let booted = files::store_path(files::BOOTED).filter(|b| b != candidate);
    let default = boot::detect().closure.filter(|d| d != candidate);
    let proven = |top: &StorePath| {
        let (booted, top) = (Path::new(files::BOOTED), Path::new(top.as_str()));
        top != Path::new(candidate.as_str())
            && booted.exists()
            && preflight::reboot_required(booted, top).is_empty()
    };
    match default {
        Some(default) if booted.is_none() || proven(&default) => Some(default),
        _ => generations().into_iter().find(proven).or(booted),
    }
}

/// Closures of the system profile, the newest generation first.
fn generations() -> Vec<StorePath> {
    let dir = Path::new(files::PROFILE).parent().unwrap_or(Path::new("/"));
    let number = |name: &String| -> Option<u64> {
        let number = name.strip_prefix("system-")?.strip_suffix("-link")?;
        number.parse().ok()
    };
    let names = boot::dir_names(dir);
    let mut found: Vec<(u64, &String)> =
        names.iter().filter_map(|n| Some((number(n)?, n))).collect();
    found.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
    let closures = found
        .iter()
        .filter_map(|(_, name)| files::store_path(dir.join(name)));
    closures.collect()
}

fn refuse(outcome: Outcome, message: String) -> Refusal {
    Refusal {
        outcome,
        stage: Stage::Boot,
        message,
        evidence: false,
    }
}

fn failed(message: impl std::fmt::Display) -> Refusal {
    refuse(Outcome::Failed, message.to_string())
}

/// Makes the loader boot the closure next. Nothing else changes; what was set is taken back where it does not come to that.
pub fn prepare(ctx: &Context, goal: &SystemGoal, recorded: &Recorded) -> Result<BootSet, Refusal> {
    let set = |once| BootSet {
        closure: goal.closure.clone(),
        once,
        boot_id: journal::boot_id(),
    };
    if is_up(&goal.closure) {
        return Ok(set(None));
    }
    let loader = recorded.loader.as_deref().unwrap_or("unknown");
    let made = match oneshot::of(loader) {
        Ok(can) => once(ctx, goal, recorded, can).map(Some),
        Err(why) if !goal.unconfirmed_boot => {
            return Err(refuse(
                Outcome::RebootRequired,
                format!(
                    "NoOneShot: {why}, so a kernel that does not come up would stay the boot default; \
                     `activation.unconfirmedBoot: allow` takes that risk, or reboot it by hand"
                ),
            ));
        }
        Err(_) => as_default(ctx, goal).map(|()| None),
    };
    let entry = match made {
        Ok(entry) => entry,
        Err(why) => {
            take_back(ctx, goal, recorded, recorded.boot_default.as_ref());
            return Err(failed(why));
        }
    };
    if goal.may_reboot {
        return Ok(set(entry));
    }
    let pending = Pending {
        closure: goal.closure.clone(),
        digest: trueup_schema::wire::system_digest(&goal.closure, goal.specialisation.as_deref()),
        boot_id: journal::boot_id(),
        once: entry.clone(),
        fallback: recorded.fallback.clone(),
    };
    files::write_json(&ctx.layout.file(PENDING), &pending).map_err(failed)?;
    let how = entry.map_or("is the boot default".to_owned(), |e| {
        format!("is booted once, by {e}, at the next reboot")
    });
    Err(refuse(
        Outcome::RebootRequired,
        format!(
            "{} {how}; trueup may not reboot the host, so somebody has to",
            goal.closure.name()
        ),
    ))
}

/// Lists the closure beside the others, with the default where it was or on what was booted; then it is to be booted once.
fn once(
    ctx: &Context,
    goal: &SystemGoal,
    recorded: &Recorded,
    can: OneShot,
) -> Result<String, String> {
    let Some(fallback) = &recorded.fallback else {
        return Err("nothing is known that a power cycle could go back to".to_owned());
    };
    profile::set(Path::new(PROFILE), &goal.closure).map_err(|e| e.to_string())?;
    write_entries(ctx, fallback)?;
    let default = boot::detect().closure;
    if default.as_ref() != Some(fallback) {
        return Err(format!(
            "the boot default is {}, and {fallback} has to be: is it still a generation?",
            default.map_or("not known".to_owned(), |d| d.to_string())
        ));
    }
    let entry = oneshot::entry(can, &goal.closure)
        .ok_or_else(|| format!("the loader lists no entry for {}", goal.closure))?;
    oneshot::set(can, &entry)?;
    rustix::fs::sync();
    Ok(entry)
}

/// Makes the closure the boot default before anybody has seen it boot.
fn as_default(ctx: &Context, goal: &SystemGoal) -> Result<(), String> {
    system::set_profile(&goal.closure).map_err(|e| e.to_string())?;
    write_entries(ctx, &goal.closure)?;
    let default = boot::detect().closure;
    if default.as_ref().is_some_and(|d| *d != goal.closure) {
        return Err(format!("`boot` left the boot default at {default:?}"));
    }
    Ok(())
}

/// The closure's own `boot`: it writes an entry for each generation, and the default if it is one itself.
fn write_entries(ctx: &Context, top: &StorePath) -> Result<(), String> {
    let program = Path::new(top.as_str()).join("bin/switch-to-configuration");
    let log = system::log_file(ctx, "boot.log").map_err(|e| e.to_string())?;
    let mut env = system::ENV.to_vec();
    env.push(("NIXOS_NO_CHECK", "1"));
    let code = exec::run_logged(&program, &["boot"], &env, &log, BOOT_LIMIT);
    match code.map_err(|e: ExecError| e.to_string())? {
        Some(0) => Ok(()),
        code => Err(format!("`{} boot` ended with {code:?}", top.name())),
    }
}

/// Takes away what [`prepare`] set: `to` is the boot default, and nothing is booted once. As far as that goes; what differs
/// afterwards is read and told by whoever asks.
pub fn take_back(ctx: &Context, goal: &SystemGoal, recorded: &Recorded, to: Option<&StorePath>) {
    let told = |what: &str, e: &dyn std::fmt::Display| eprintln!("trueup-agent: {what}: {e}");
    if let Ok(can) = oneshot::of(recorded.loader.as_deref().unwrap_or("unknown"))
        && let Err(e) = oneshot::clear(can)
    {
        told("clearing the entry that is booted once", &e);
    }
    oneshot::forget_profile(Path::new(PROFILE));
    let Some(to) = to else { return };
    let profile = files::store_path(files::PROFILE);
    if profile.as_ref() == Some(&goal.closure) && *to != goal.closure {
        let back = recorded.profile.as_ref().filter(|p| **p != goal.closure);
        if let Err(e) = system::set_profile(back.unwrap_or(to)) {
            told("setting the profile back", &e);
        }
    }
    if let Err(e) = write_entries(ctx, to) {
        told("writing the boot entries", &e);
    }
}

/// The loader is to list the candidate as a generation only.
pub fn forget() {
    oneshot::forget_profile(Path::new(PROFILE));
}

/// Was the entry booted? Told by the loader, which forgets it then. `None`: there was none.
#[must_use]
pub fn was_tried(loader: Option<&str>, once: Option<&str>) -> Option<bool> {
    let once = once?;
    let can = oneshot::of(loader.unwrap_or("unknown")).ok()?;
    Some(oneshot::get(can).as_deref() != Some(once))
}

/// Waits until the boot is over, as systemd sees it, but no longer than `limit`: the judge says what is missing then.
pub fn wait_for_boot(limit: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < limit {
        let args = ["is-system-running"];
        let said =
            exec::tool("systemctl").and_then(|t| exec::run(&t, &args, units::SYSTEMCTL_LIMIT));
        match said {
            Ok(out) if matches!(out.stdout.trim(), "initializing" | "starting" | "") => {
                thread::sleep(LOOK);
            }
            _ => return,
        }
    }
}

/// Asks systemd, then the kernel. Returns only if neither did it.
pub fn reboot(why: &str) {
    eprintln!("trueup-agent: {why}");
    thread::sleep(LAST_WORDS);
    rustix::fs::sync();
    if let Err(e) = exec::tool_ok("systemctl", &["reboot"], units::SYSTEMCTL_LIMIT) {
        eprintln!("trueup-agent: {e}");
    }
    thread::sleep(REBOOT_LIMIT);
    rustix::fs::sync();
    if let Err(e) = rustix::system::reboot(rustix::system::RebootCommand::Restart) {
        eprintln!("trueup-agent: the kernel does not reboot: {e}");
    }
}

/// A person rebooted the host, and it was to boot a closure once: if that did not come up, it is not tried again.
pub fn judge_pending(layout: &Layout) -> Result<(), AgentError> {
    let note = layout.file(PENDING);
    let Some(p): Option<Pending> = files::read_json(&note)? else {
        return Ok(());
    };
    if p.boot_id == journal::boot_id() {
        return Ok(());
    }
    let loader = boot::detect().loader;
    if !is_up(&p.closure) && was_tried(Some(loader), p.once.as_deref()) == Some(true) {
        memory::quarantine(layout, "system", &p.digest)?;
        forget();
    }
    let _gone = std::fs::remove_file(note);
    Ok(files::sync_dir(&layout.root)?)
}
