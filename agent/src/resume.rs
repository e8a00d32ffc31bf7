//! After a reboot: which system came up decides how the open record is closed. Nothing is activated here.

use trueup_core::agent::{End, Event, Phase, State};
use trueup_schema::status::Outcome;
use trueup_schema::wire::Stage;

use crate::component::{self, Context};
use crate::files::{self, Layout};
use crate::journal::{self, Journal, JournalError};
use crate::{AgentError, activate, reboot};

/// Writes down that the host booted anew, if it did since the attempt began.
pub fn note_reboot(layout: &Layout, journal: &mut Journal) -> Result<(), AgentError> {
    let order = journal.state.accepted.order;
    let Some(read) = journal::read(layout, order)? else {
        return Ok(());
    };
    let boot_id = journal::boot_id();
    let open = !matches!(journal.state.phase, Phase::Ended | Phase::Rebooted);
    if open && read.boot_id != boot_id {
        journal.append(layout, Event::Rebooted { boot_id })?;
    }
    Ok(())
}

/// Closes what a reboot left open. Called at boot and at each contact.
pub fn close_if_rebooted(layout: &Layout) -> Result<(), AgentError> {
    let Some(order) = journal::orders(layout).pop() else {
        return Ok(());
    };
    // What another agent wrote is its units' to end.
    let Ok(Some(read)) = journal::read_known(layout, order)? else {
        return Ok(());
    };
    if read.state.phase == Phase::Ended
        || read.boot_id == journal::boot_id() && read.state.phase != Phase::Rebooted
    {
        return Ok(());
    }
    if has_come_up(&read.state) || awaits_boot(&read.state) && is_up(&read.state) {
        // It is judged and confirmed like any other, so in a unit that outlives whoever looks.
        return crate::offer::start_once(layout, order);
    }
    match activate::run(layout, order) {
        Err(AgentError::Journal(JournalError::Locked(_))) => Ok(()),
        other => other,
    }
}

fn awaits_boot(state: &State) -> bool {
    state.phase == Phase::Rebooting
}

fn is_up(state: &State) -> bool {
    state
        .boot
        .as_ref()
        .is_some_and(|set| reboot::is_up(&set.closure))
}

/// It was rebooted to boot a closure, and that is what runs.
#[must_use]
pub fn has_come_up(state: &State) -> bool {
    state.phase == Phase::Rebooted && state.cut_in == Some(Phase::Rebooting) && is_up(state)
}

/// How an attempt that a reboot cut short ended; what it had set is set back where it does not last.
pub fn after_reboot(ctx: &Context, state: State) -> Result<End, AgentError> {
    let cut_in = state.cut_in.unwrap_or(Phase::Accepted);
    let recorded = state.recorded.clone().unwrap_or_default();
    let mut parts = component::all(&ctx.intent)?;
    // Asked before it is cleared.
    let once = state.boot.as_ref().and_then(|set| set.once.as_deref());
    let tried = reboot::was_tried(recorded.loader.as_deref(), once);
    if (Phase::ProfileSet..=Phase::BootAsked).contains(&cut_in) {
        let mut lasts = true;
        for (_, part) in &parts {
            lasts &= part.observe(&ctx.layout)?.lasting;
        }
        if lasts {
            return Ok(End {
                message: Some("a power cut came after the commit".to_owned()),
                ..End::of(Outcome::Succeeded)
            });
        }
    }
    for (_, part) in parts.iter_mut().rev() {
        if (Phase::Committing..=Phase::BootAsked).contains(&cut_in) {
            part.uncommit(ctx, &recorded)?;
        }
        if state.touched() > 0 {
            part.after_power_cut(ctx, &recorded)?;
        }
    }
    let running = files::store_path(files::CURRENT);
    let name = running.as_ref().map_or("an unknown system", |p| p.name());
    let mut end = End {
        stage: Some(stage_of(cut_in)),
        message: Some(format!(
            "the host booted anew {}; {name} runs",
            when(cut_in)
        )),
        ..End::of(Outcome::Interrupted)
    };
    if cut_in == Phase::Rebooting
        && let Some(set) = &state.boot
    {
        did_not_come_up(&mut end, tried, set.closure.name(), name);
    }
    if cut_in == Phase::RollingBack
        && let Some(fault) = state.fault
    {
        // It was going back already, and why stays true; the reboot has done what was left.
        end.stage = Some(fault.stage);
        end.evidence = fault.evidence;
        end.component = fault.component;
        let how = if state.came_up {
            "rebooted into what was booted before"
        } else if state.last_resort {
            "rebooted as a last resort"
        } else {
            "the host booted anew on the way back"
        };
        end.message = Some(format!("{}; {how}", fault.message));
        end.outcome = Outcome::RolledBack;
    }
    let before = recorded.fallback.as_ref().or(recorded.running.as_ref());
    if running.as_ref() != before && before.is_some() && running.is_some() {
        end.differs
            .push("another system runs than before the attempt".to_owned());
        if end.outcome == Outcome::RolledBack {
            end.outcome = Outcome::RolledBackPartial;
        }
    }
    Ok(end)
}

/// The host was to boot a closure, and another one runs.
fn did_not_come_up(end: &mut End, tried: Option<bool>, closure: &str, runs: &str) {
    let (outcome, evidence, why) = match tried {
        Some(true) => (
            Outcome::RolledBack,
            true,
            "was booted once and did not come up",
        ),
        Some(false) => (
            Outcome::Failed,
            false,
            "was to be booted once, and the loader did not",
        ),
        None => (
            Outcome::RolledBack,
            false,
            "was the boot default, and something else was booted",
        ),
    };
    end.outcome = outcome;
    end.evidence = evidence;
    end.message = Some(format!("{closure} {why}; {runs} runs"));
}

fn stage_of(phase: Phase) -> Stage {
    match phase {
        Phase::Accepted => Stage::Preflight,
        Phase::Staged => Stage::Record,
        Phase::Recorded => Stage::Arm,
        Phase::Armed | Phase::Applying => Stage::Activate,
        Phase::Rebooting => Stage::Boot,
        Phase::Awaiting => Stage::Confirm,
        Phase::Committing => Stage::Profile,
        Phase::ProfileSet | Phase::BootAsked => Stage::Boot,
        Phase::RollingBack | Phase::Rebooted | Phase::Ended => Stage::RollBack,
    }
}

fn when(phase: Phase) -> &'static str {
    match phase {
        Phase::Accepted | Phase::Staged | Phase::Recorded | Phase::Armed => {
            "before anything was touched"
        }
        Phase::Applying => "while it activated",
        Phase::Rebooting => "to bring what only a reboot brings",
        Phase::Awaiting => "while the confirmation was awaited",
        Phase::Committing => "before the profile was set",
        Phase::ProfileSet | Phase::BootAsked => "between profile and boot entry",
        Phase::RollingBack | Phase::Rebooted | Phase::Ended => "on the way back",
    }
}
