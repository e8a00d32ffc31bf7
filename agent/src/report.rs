//! What the host says of itself: the whole state each time.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use trueup_core::agent::{Phase, State};
use trueup_schema::Timestamp;
use trueup_schema::wire::{
    Activation, AgentInfo, AttemptReport, AttemptState, BootReport, ComponentReport, FORMAT, Hold,
    Identity, Intent, MODES_V1, Order, Report, Running, SECRETS_V1, SYSTEM_V1, WITNESS_V1,
};

use crate::files::{self, Layout};
use crate::units::seen::{self, Seen};
use crate::{
    AgentError, boot, component, deadman, hostkeys, journal, memory, preflight, reboot, resume,
    secrets, witness,
};

/// What this program understands.
#[cfg(not(feature = "planted"))]
pub const UNDERSTANDS: [&str; 4] = [SYSTEM_V1, SECRETS_V1, MODES_V1, WITNESS_V1];
/// What this program understands.
#[cfg(feature = "planted")]
pub const UNDERSTANDS: [&str; 5] = [
    SYSTEM_V1,
    SECRETS_V1,
    MODES_V1,
    WITNESS_V1,
    crate::second::SECOND_V1,
];
/// More differences are not told.
const MAX_WARNINGS: usize = 16;
/// So many numbers of reports are given without waiting for the disk.
const AHEAD: u64 = 256;
/// More host keys are not told.
const MAX_HOST_KEYS: usize = 16;

/// Takes a report.
pub fn take(layout: &Layout) -> Result<Report, AgentError> {
    take_with(layout, seen::look(layout))
}

/// Takes one in the middle of an attempt, or at its end: of units it tells what the attempt itself saw of them last.
pub fn take_of_attempt(layout: &Layout) -> Result<Report, AgentError> {
    take_with(layout, seen::last(layout))
}

fn take_with(layout: &Layout, seen: Seen) -> Result<Report, AgentError> {
    let orders = journal::orders(layout);
    let mut warnings = Vec::new();
    let read = match orders.last() {
        Some(order) => journal::read_known(layout, *order)?.unwrap_or_else(|newer| {
            warnings.push(newer);
            None
        }),
        None => None,
    };
    let intent: Option<Intent> = match orders.last() {
        Some(order) => files::read_json(&layout.attempt(*order).join("intent.json"))?,
        None => None,
    };
    let attempt = read
        .as_ref()
        .map(|r| attempt(&r.state, r.timeline.clone(), intent.as_ref()));
    let secrets = secrets(layout)?;
    for what in secrets.differs.iter().take(MAX_WARNINGS) {
        warnings.push(format!("secrets: {what}"));
    }
    let loader = boot::detect();
    if loader.closure.is_none() {
        warnings.push(format!(
            "the boot default can't be read back ({} loader)",
            loader.loader
        ));
    }
    if loader.loader == "init-link" {
        warnings.push(
            "the boot default is a link that every activation moves: until the agent has put it back, a power cut boots \
             the candidate unconfirmed"
                .to_owned(),
        );
    }
    if let Some(order) = orders.last() {
        warnings.extend(deadman::warnings(layout, *order));
    }
    let awaited = read.as_ref().and_then(|r| r.state.boot.as_ref());
    if let Some(set) = awaited.filter(|set| reboot::is_unwatched(&set.closure)) {
        warnings.push(format!(
            "{} has no trueup-resume.service (the agent's module): after a reboot into it nothing goes back by itself \
             until somebody gets in or the power is cycled",
            set.closure.name()
        ));
    }
    if crate::own_store_path().is_none() {
        warnings.push(
            "the agent does not run from the store: nothing protects it from being removed"
                .to_owned(),
        );
    }
    Ok(Report {
        format: FORMAT,
        host: intent.as_ref().map(|i| i.host.clone()),
        identity: identity(),
        boot_id: journal::boot_id(),
        sequence: next_sequence(layout)?,
        taken_at: Timestamp::now(),
        in_reply_to: attempt.as_ref().map(|a| a.order),
        greatest: greatest(layout)?,
        agent: AgentInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            path: crate::own_store_path(),
            understands: UNDERSTANDS.iter().map(|s| (*s).to_owned()).collect(),
        },
        running: running(seen.failed, loader, attempt.as_ref()),
        components: components(layout, intent.as_ref(), &secrets)?,
        attempt,
        watches: witness::report(layout),
        other_managers: seen.managers,
        keys: Some(crate::trust::report(layout)),
        hold: hold(layout)?,
        warnings,
    })
}

/// The hold on this host, if it still lasts.
pub fn hold(layout: &Layout) -> Result<Option<Hold>, AgentError> {
    let hold: Option<Hold> = files::read_json(&layout.file("hold.json"))?;
    Ok(hold.filter(|h| h.until > Timestamp::now()))
}

/// The greatest order that was ever begun here.
pub fn greatest(layout: &Layout) -> Result<Option<Order>, AgentError> {
    Ok(files::read_json(&layout.file("greatest"))?)
}

/// Who this machine is.
#[must_use]
pub fn identity() -> Identity {
    let usual = ["ed25519", "ecdsa", "rsa"];
    let usual = usual.map(|kind| format!("/etc/ssh/ssh_host_{kind}_key").into());
    let mut host_keys = public_halves(&usual);
    if host_keys.is_empty() {
        host_keys = public_halves(&hostkeys::of_sshd());
    }
    Identity {
        machine_id: files::text("/etc/machine-id"),
        host_keys,
    }
}

/// Of what lies beside these private keys.
fn public_halves(private: &[PathBuf]) -> Vec<String> {
    let half = |path: &PathBuf| {
        let mut beside = path.clone().into_os_string();
        beside.push(".pub");
        let text = files::text(PathBuf::from(beside));
        let mut words = text.split_whitespace();
        Some(format!("{} {}", words.next()?, words.next()?))
    };
    let halves = private.iter().filter_map(half);
    halves.take(MAX_HOST_KEYS).collect()
}

/// Numbers only grow, also over a power cut: what is on the disk is above those that were given, and a boot begins there.
fn next_sequence(layout: &Layout) -> Result<u64, AgentError> {
    let lock = layout.file("sequence.lock");
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock);
    let file: File = opened.map_err(|source| files::FileError::Write { path: lock, source })?;
    let _best_effort = flock(&file, FlockOperation::LockExclusive);
    let (path, note) = (layout.file("sequence"), layout.file("sequence-now"));
    let (bound, boot) = (files::noted::<u64>(&path).unwrap_or(0), journal::boot_id());
    let last = files::noted::<(String, u64)>(&note).filter(|(of, _)| *of == boot);
    let next = last.map_or(bound, |(_, number)| number) + 1;
    if next > bound {
        files::write_json(&path, &(next + AHEAD - 1))?;
    }
    files::note(&note, &(boot, next))?;
    Ok(next)
}

fn running(
    failed_units: Vec<String>,
    loader: boot::BootDefault,
    attempt: Option<&AttemptReport>,
) -> Running {
    let running = files::store_path(files::CURRENT);
    let profile = files::store_path(files::PROFILE);
    let top = profile
        .as_ref()
        .map_or(files::PROFILE.to_owned(), ToString::to_string);
    let cut = attempt.is_some_and(|a| matches!(a.state, AttemptState::Activating));
    Running {
        specialisation: specialisation(),
        reboot_required: preflight::reboot_required(Path::new(files::BOOTED), Path::new(&top)),
        running,
        profile,
        booted: files::store_path(files::BOOTED),
        boot_default: loader.closure,
        loader: loader.loader.to_owned(),
        activation: if cut {
            Activation::Partial
        } else {
            Activation::Complete
        },
        failed_units,
    }
}

/// The name under which the profile's closure has what runs as a specialisation.
fn specialisation() -> Option<String> {
    let running = std::fs::canonicalize(files::CURRENT).ok()?;
    let dir = std::fs::read_dir(Path::new(files::PROFILE).join("specialisation")).ok()?;
    dir.flatten()
        .find(|e| std::fs::canonicalize(e.path()).ok().as_ref() == Some(&running))
        .and_then(|e| e.file_name().into_string().ok())
}

/// What is in memory, against what was committed.
fn secrets(layout: &Layout) -> Result<secrets::Looked, AgentError> {
    let memory = memory::read(layout)?;
    let kept = memory.iter().find(|(name, _)| name.as_str() == "secrets");
    let confirmed = kept.and_then(|(_, kept)| kept.confirmed.as_ref());
    let places = secrets::Places::default();
    Ok(secrets::look(layout, &places, confirmed))
}

fn components(
    layout: &Layout,
    intent: Option<&Intent>,
    secrets: &secrets::Looked,
) -> Result<Vec<ComponentReport>, AgentError> {
    let memory = memory::read(layout)?;
    let report = |(name, kept): (_, memory::Kept)| {
        let goal = intent.and_then(|i| i.goals.iter().find(|g| g.component == name));
        let observed = goal.and_then(|g| {
            let found = component::of(g).ok()?.observe(layout).ok()?;
            found.in_effect.then(|| g.digest.clone())
        });
        // Known without its goal, which may be of an older intent.
        let observed = if name.as_str() == "secrets" {
            secrets.digest.clone()
        } else {
            observed
        };
        ComponentReport {
            name,
            observed,
            confirmed: kept.confirmed,
            last: kept.last,
            quarantined: kept.quarantined,
        }
    };
    Ok(memory.into_iter().map(report).collect())
}

/// Where an attempt stands, as the controller needs it.
#[must_use]
pub fn state_of(phase: Phase) -> AttemptState {
    match phase {
        Phase::Accepted | Phase::Staged | Phase::Recorded | Phase::Armed | Phase::Applying => {
            AttemptState::Activating
        }
        Phase::Rebooting => AttemptState::Rebooting,
        Phase::Awaiting => AttemptState::AwaitingConfirmation,
        Phase::Committing | Phase::ProfileSet | Phase::BootAsked => AttemptState::Committing,
        Phase::RollingBack | Phase::Rebooted => AttemptState::RollingBack,
        Phase::Ended => AttemptState::Ended,
    }
}

fn attempt(
    state: &State,
    timeline: Vec<(Timestamp, trueup_schema::wire::Stage)>,
    intent: Option<&Intent>,
) -> AttemptReport {
    let awaiting = state.phase == Phase::Awaiting;
    let left = state
        .deadline
        .as_ref()
        .map(|d| d.at.saturating_sub(journal::boottime()) / 1_000_000_000);
    let end = state.end.clone();
    let fault = state.fault.clone();
    AttemptReport {
        order: state.accepted.order,
        revision: state.accepted.revision.clone(),
        goals: state.accepted.goals.iter().cloned().collect(),
        closure: intent.and_then(|i| {
            let goal = i.goals.iter().find(|g| g.component.as_str() == "system")?;
            let body: trueup_schema::wire::SystemGoal =
                serde_json::from_value(goal.body.clone()).ok()?;
            Some(body.closure)
        }),
        state: if resume::has_come_up(state) {
            AttemptState::Rebooting
        } else {
            state_of(state.phase)
        },
        nonce: state.nonce.clone().filter(|_| awaiting),
        deadline_in_secs: left.filter(|_| awaiting),
        confirm: intent.map(|i| i.confirm.clone()),
        outcome: end.as_ref().map(|e| e.outcome),
        stage: end
            .as_ref()
            .and_then(|e| e.stage)
            .or(fault.as_ref().map(|f| f.stage)),
        message: end
            .as_ref()
            .and_then(|e| e.message.clone())
            .or(fault.as_ref().map(|f| f.message.clone())),
        evidence: end.as_ref().is_some_and(|e| e.evidence),
        failed_units: fault.map(|f| f.failed_units).unwrap_or_default(),
        restart_debt: end
            .as_ref()
            .map(|e| e.restart_debt.clone())
            .unwrap_or_default(),
        differs: end.map(|e| e.differs).unwrap_or_default(),
        waiting_jobs: state.waiting_jobs.clone(),
        boot: state.boot.as_ref().map(|set| BootReport {
            from: set.boot_id.clone(),
            once: set.once.clone(),
            fallback: state.recorded.as_ref().and_then(|r| r.fallback.clone()),
            came_up: state.came_up,
        }),
        timeline,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow_also_over_a_boot_that_lost_the_last() {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = Layout {
            root: dir.path().to_owned(),
        };
        // As the agent before wrote it.
        files::write_json(&layout.file("sequence"), &41_u64).expect("written");
        let next = || next_sequence(&layout).expect("a number");
        assert_eq!([next(), next(), next()], [42, 43, 44]);
        let note = layout.file("sequence-now");
        files::note(&note, &("another boot", 44_u64)).expect("noted");
        let after = next();
        assert!(after > 44, "{after}");
        std::fs::write(&note, "").expect("damaged");
        assert!(next() > after);
        for _ in 0..2 * AHEAD {
            next();
        }
        let bound: u64 = files::read_json(&layout.file("sequence"))
            .expect("read")
            .expect("there");
        assert!(bound >= next());
    }
}
