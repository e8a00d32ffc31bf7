//! After a reboot: which system came up decides how the open record is closed. Nothing is activated here.

use std::path::Path;

use trueup_core::agent::{End, Event, Phase, State};
use trueup_schema::status::Outcome;
use trueup_schema::wire::Stage;

use crate::component::Context;
use crate::files::{self, Layout};
use crate::journal::{self, Journal, JournalError};
use crate::{AgentError, activate, boot, system};

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
    let Some(read) = journal::read(layout, order)? else {
        return Ok(());
    };
    if read.state.phase == Phase::Ended
        || read.boot_id == journal::boot_id() && read.state.phase != Phase::Rebooted
    {
        return Ok(());
    }
    match activate::run(layout, order) {
        Err(AgentError::Journal(JournalError::Locked(_))) => Ok(()),
        other => other,
    }
}

/// How an attempt that a reboot cut short ended.
pub fn after_reboot(ctx: &Context, state: State) -> Result<End, AgentError> {
    let cut_in = state.cut_in.unwrap_or(Phase::Accepted);
    let recorded = state.recorded.unwrap_or_default();
    let target = activate::system_goal(ctx).map(|g| system::target(&g));
    let wanted = target.as_deref().and_then(files::store_path);
    let closure = activate::system_goal(ctx).map(|g| g.closure);
    let running = files::store_path(files::CURRENT);
    let default = boot::detect().closure;
    let committed = cut_in >= Phase::ProfileSet
        && cut_in <= Phase::BootAsked
        && wanted.is_some()
        && running == wanted
        && (default.is_none() || default == closure);
    let mut end = End {
        outcome: Outcome::Succeeded,
        stage: None,
        message: None,
        evidence: false,
        differs: Vec::new(),
        restart_debt: Vec::new(),
    };
    if committed {
        end.message = Some("a power cut came after the commit".to_owned());
        return Ok(end);
    }
    end.outcome = Outcome::Interrupted;
    end.stage = Some(stage_of(cut_in));
    end.message = Some(format!(
        "the host booted anew {}; {} runs",
        when(cut_in),
        running.as_ref().map_or("an unknown system", |p| p.name())
    ));
    let profile = files::store_path(files::PROFILE);
    if let Some(old) = &recorded.profile
        && cut_in >= Phase::Committing
        && profile == closure
        && profile.as_ref() != Some(old)
    {
        system::set_profile(old)?;
    }
    if running != recorded.running && Path::new(files::CURRENT).exists() {
        end.differs
            .push("another system runs than before the attempt".to_owned());
    }
    Ok(end)
}

fn stage_of(phase: Phase) -> Stage {
    match phase {
        Phase::Accepted => Stage::Preflight,
        Phase::Staged => Stage::Record,
        Phase::Recorded => Stage::Arm,
        Phase::Armed | Phase::Applying => Stage::Activate,
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
        Phase::Awaiting => "while the confirmation was awaited",
        Phase::Committing => "before the profile was set",
        Phase::ProfileSet | Phase::BootAsked => "between profile and boot entry",
        Phase::RollingBack | Phase::Rebooted | Phase::Ended => "on the way back",
    }
}
