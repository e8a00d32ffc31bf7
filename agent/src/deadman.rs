//! The dead-man: two lines that bring the host back when nobody else does. A process that waits for the absolute
//! deadline with all it needs in memory, and behind it a timer of systemd. A file decides who acts: whoever renames
//! `armed-<attempt>` first; who gets ENOENT has lost and touches nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::time::{ClockId, clock_gettime};
use trueup_core::agent::{End, Event, Fault, Phase};
use trueup_schema::status::Outcome;
use trueup_schema::wire::{Order, Stage};

use crate::exec;
use crate::files::{self, Layout};
use crate::journal::{self, Journal, JournalError};
use crate::plant::{self, Bug};
use crate::units::{Setting, Stand, Transient};
use crate::{AgentError, activate, memory, units};

/// The agent itself acts at the deadline, the first line so much later.
pub const BEHIND: Duration = Duration::from_secs(if cfg!(feature = "planted") { 3 } else { 15 });
/// The second line again so much later.
const SECOND: Duration = Duration::from_secs(15);
/// What the first line asks for, so that memory pressure takes everything else first.
const OOM_SCORE: i32 = -1000;
/// How often the waiting process looks.
const LOOK: Duration = Duration::from_millis(200);
/// A roll-back by another process of ours may take so long before it is taken over.
const TAKE_OVER: Duration = Duration::from_secs(600);
/// Stopping the activation's unit: its own TimeoutStopSec is 5 s.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// The activation's unit, without what it is.
#[must_use]
pub fn activation_name(order: Order) -> String {
    format!("trueup-activate-{order}")
}

/// The activation's unit.
#[must_use]
pub fn activation_unit(order: Order) -> String {
    format!("{}.service", activation_name(order))
}

/// Brings the first line that stands forward to `deadline`, at once and without systemd: it looks for an earlier time at
/// each look. Later times it does not take, so a line that was armed for one is needed besides.
pub fn bring_forward(layout: &Layout, order: Order, deadline: u64) -> Result<(), AgentError> {
    let fire = deadline.saturating_add(journal::nanos(BEHIND));
    Ok(files::note(
        &forward(layout, order),
        &(journal::boot_id(), fire),
    )?)
}

fn forward(layout: &Layout, order: Order) -> PathBuf {
    layout.attempt(order).join("deadline")
}

/// [`arm`], unless it was done for this deadline: who goes on after a crash must not have to know.
pub fn arm_once(layout: &Layout, order: Order, deadline: u64) -> Result<(), AgentError> {
    let note = layout.attempt(order).join("armed-for");
    if files::noted(&note) != Some(deadline) {
        arm(layout, order, deadline)?;
        files::note(&note, &deadline)?;
    }
    Ok(())
}

/// Arms both lines for `deadline` (ns of boot time), reads them back, and then takes older ones away.
pub fn arm(layout: &Layout, order: Order, deadline: u64) -> Result<(), AgentError> {
    let claim = layout.claim("armed", order);
    let decided = ["disarmed", "fired"]
        .iter()
        .any(|k| layout.claim(k, order).exists());
    if !claim.exists() && !decided {
        files::note(&claim, &())?;
    }
    if plant::is(Bug::DeadManOff) {
        return Ok(());
    }
    let older = names(layout, order);
    let tag = crate::nonce()[..8].to_owned();
    let first = format!("trueup-deadman-{order}-{tag}");
    let second = format!("trueup-deadman2-{order}-{tag}");
    let mut all = older.clone();
    all.extend([format!("{first}.service"), format!("{second}.timer")]);
    files::note(&layout.attempt(order).join("deadmen"), &all)?;

    let agent = crate::own_path()?;
    let agent = agent.to_string_lossy();
    let log = layout.attempt(order).join("deadman.log");
    let log = log.to_string_lossy();
    let fire = deadline.saturating_add(journal::nanos(BEHIND));
    let (order_text, boot, fire_text) = (order.to_string(), journal::boot_id(), fire.to_string());
    let command = [
        &*agent,
        "deadman",
        "--order",
        &order_text,
        "--boot-id",
        &boot,
        "--deadline",
        &fire_text,
    ];
    let both = [
        Setting::Bool("DefaultDependencies", false),
        Setting::Bool("IgnoreOnIsolate", true),
        Setting::Signed("OOMScoreAdjust", OOM_SCORE),
        Setting::Append("StandardOutput", &log),
        Setting::Append("StandardError", &log),
    ];
    let waits = [
        Setting::Text("Type", "exec"),
        Setting::Text("Restart", "on-failure"),
        Setting::Micros("RestartSec", 0),
        Setting::Micros("StartLimitIntervalSec", 0),
        Setting::Text("KillMode", "mixed"),
        Setting::Bool("SendSIGHUP", false),
    ];
    let waits = [waits.as_slice(), &both].concat();
    let acts = [[Setting::Text("Type", "oneshot")].as_slice(), &both].concat();
    let last = fire.saturating_add(journal::nanos(SECOND));
    let timer = [
        Setting::OnStartup(on_startup_us(layout, last)?),
        Setting::Micros("AccuracySec", 100_000),
        Setting::Bool("RemainAfterElapse", false),
        Setting::Bool("DefaultDependencies", false),
        Setting::Bool("IgnoreOnIsolate", true),
    ];
    let lines = [
        Transient {
            name: &first,
            service: &waits,
            timer: &[],
            command: &command,
        },
        Transient {
            name: &second,
            service: &acts,
            timer: &timer,
            command: &command,
        },
    ];
    read_back(layout, order, &units::start_all(&lines)?)?;
    if !older.is_empty() {
        stop(&older);
        let new = lines.map(|line| line.unit());
        files::note(&layout.attempt(order).join("deadmen"), &new)?;
    }
    Ok(())
}

/// Do both stand? `OOMScoreAdjust=` is dropped without a word where `CAP_SYS_RESOURCE` is missing: told, no failure.
fn read_back(layout: &Layout, order: Order, stand: &Stand) -> Result<(), AgentError> {
    // A service that does not fork and a timer: both are `active` at once, or something is wrong.
    if stand.states != ["active", "active"] {
        return Err(AgentError::NotArmed(stand.states.join(", ")));
    }
    let score = files::text(format!("/proc/{}/oom_score_adj", stand.pid));
    if score != OOM_SCORE.to_string() {
        let text = format!(
            "the dead-man is not protected from the OOM killer: its oom_score_adj is {score}, {OOM_SCORE} was asked for"
        );
        let _told = files::note(&layout.attempt(order).join("warnings"), &[text]);
    }
    Ok(())
}

/// What was found while arming.
#[must_use]
pub fn warnings(layout: &Layout, order: Order) -> Vec<String> {
    files::noted(&layout.attempt(order).join("warnings")).unwrap_or_default()
}

/// systemd counts OnStartupSec from the start of userspace, in monotonic time: an absolute deadline that no
/// daemon-reload moves.
fn on_startup_us(layout: &Layout, deadline: u64) -> Result<u64, AgentError> {
    let userspace = userspace(layout)?;
    let t = clock_gettime(ClockId::Monotonic);
    let mono = t.tv_sec.unsigned_abs() * 1_000_000 + t.tv_nsec.unsigned_abs() / 1_000;
    let left = deadline.saturating_sub(journal::boottime()) / 1_000;
    Ok(mono.saturating_sub(userspace).saturating_add(left))
}

/// When userspace started, in monotonic microseconds: the same for a whole boot, so systemd is asked once in it.
fn userspace(layout: &Layout) -> Result<u64, AgentError> {
    let (note, boot) = (layout.file("userspace"), journal::boot_id());
    let kept: Option<(String, u64)> = files::noted(&note);
    if let Some((_, at)) = kept.filter(|(of, _)| *of == boot) {
        return Ok(at);
    }
    let args = ["show", "--property=UserspaceTimestampMonotonic", "--value"];
    let text = exec::tool_ok("systemctl", &args, units::SYSTEMCTL_LIMIT)?;
    let at: u64 = text.trim().parse().unwrap_or(0);
    files::note(&note, &(boot, at))?;
    Ok(at)
}

fn names(layout: &Layout, order: Order) -> Vec<String> {
    files::noted(&layout.attempt(order).join("deadmen")).unwrap_or_default()
}

fn stop(names: &[String]) {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    // Timers first: where a dead-man stops its own service, the rest of the list may no longer be heard.
    names.sort_by_key(|name| !name.ends_with(".timer"));
    // Best effort: the file has decided already.
    if !names.is_empty() {
        units::stop_soon(&names);
    }
}

/// Takes the right to act away from the dead-man. `false`: it has fired.
pub fn disarm(layout: &Layout, order: Order) -> Result<bool, AgentError> {
    decide(layout, order, "disarmed")
}

/// Takes the right to roll back. `false`: it is disarmed.
pub fn fire(layout: &Layout, order: Order) -> Result<bool, AgentError> {
    decide(layout, order, "fired")
}

fn decide(layout: &Layout, order: Order, as_what: &str) -> Result<bool, AgentError> {
    let to = layout.claim(as_what, order);
    Ok(files::claim(&layout.claim("armed", order), &to)? || to.exists())
}

/// Takes away what an ended attempt left: the process, the timer, the claim.
pub fn clean(layout: &Layout, order: Order) {
    for kind in ["armed", "disarmed", "fired"] {
        let _gone = fs::remove_file(layout.claim(kind, order));
    }
    stop(&names(layout, order));
}

/// The verb `deadman`: waits, and acts if nobody decided before.
pub fn wait_and_act(
    layout: &Layout,
    order: Order,
    boot: &str,
    deadline: u64,
) -> Result<(), AgentError> {
    // All that is needed stays in memory; where that is not allowed it works none the less.
    let _best_effort = mlockall(MlockAllFlags::CURRENT);
    if journal::boot_id() != boot {
        return Ok(()); // another boot: resume closes the record
    }
    let (armed, fired) = (layout.claim("armed", order), layout.claim("fired", order));
    let sooner = forward(layout, order);
    loop {
        if !armed.exists() && !fired.exists() {
            return Ok(());
        }
        let now = journal::boottime();
        // What can't be read brings nothing forward: the deadline that is in memory stands.
        let told: Option<(String, u64)> = files::noted(&sooner);
        let told = told.filter(|(of, _)| of == boot);
        let deadline = told.map_or(deadline, |(_, at)| at.min(deadline));
        if now >= deadline {
            break;
        }
        thread::sleep(LOOK.min(Duration::from_nanos(deadline - now)));
    }
    act(layout, order, &armed, &fired)
}

fn act(layout: &Layout, order: Order, armed: &Path, fired: &Path) -> Result<(), AgentError> {
    let won = files::claim(armed, fired)?;
    if !won && !fired.exists() {
        return Ok(()); // disarmed
    }
    if !won {
        // Somebody is on the way back already: let them, as long as they live.
        let until = journal::boottime() + journal::nanos(TAKE_OVER);
        while journal::boottime() < until {
            match Journal::open(layout, order) {
                Err(JournalError::Locked(_)) => thread::sleep(LOOK),
                _ => break,
            }
        }
    }
    let unit = activation_unit(order);
    if let Err(e) = units::systemctl(&["stop", "--quiet"], &[&unit], STOP_LIMIT) {
        eprintln!("trueup-agent: stopping {unit}: {e}"); // not loaded any more is fine
    }
    let mut journal = open_when_free(layout, order)?;
    let phase = journal.state.phase;
    let ctx = activate::context(layout, order)?;
    match phase {
        Phase::Ended => return Ok(()),
        Phase::Accepted | Phase::Staged | Phase::Recorded => {
            let end = End {
                stage: Some(Stage::Arm),
                message: Some("the agent is gone, before anything was touched".to_owned()),
                ..End::of(Outcome::Interrupted)
            };
            memory::conclude(&ctx, phase, &end)?;
            journal.append(layout, Event::Ended(end))?;
        }
        Phase::Armed | Phase::Applying | Phase::Awaiting => {
            journal.append(layout, Event::RollingBack(unattended(phase)))?;
        }
        _ => {}
    }
    activate::drive(&ctx, &mut journal)
}

fn unattended(phase: Phase) -> Fault {
    let (stage, what) = match phase {
        Phase::Awaiting => (
            Stage::Confirm,
            "nobody confirmed, and the agent that waited is gone",
        ),
        _ => (
            Stage::Activate,
            "the agent that activated is gone or did not end in time",
        ),
    };
    Fault::new(stage, format!("the dead-man acted: {what}"))
}

fn open_when_free(layout: &Layout, order: Order) -> Result<Journal, AgentError> {
    let until = journal::boottime() + journal::nanos(STOP_LIMIT);
    loop {
        match Journal::open(layout, order) {
            Err(JournalError::Locked(_)) if journal::boottime() < until => thread::sleep(LOOK),
            other => return Ok(other?),
        }
    }
}
