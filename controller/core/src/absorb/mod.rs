//! What a report, a failed contact or a reply to an offer changes in what is remembered. Pure: the caller commits the
//! memory, the notes (as events) and the release of the claim in one transaction.

mod reply;

use trueup_schema::status::{Outcome, Reason, Severity};
use trueup_schema::wire::{AttemptReport, AttemptState, Mode, Order, Report, Stage};
use trueup_schema::{Digest, ErrorClass, Timestamp};

pub use reply::{replied, unwitnessed};

use crate::backoff;
use crate::decide::MISSES;
use crate::host::{Claim, Ended, MAX_REMEMBERED, Memory, Problem, Tries};
use crate::way;

/// Windows without a confirming connection, after which the goal itself is at fault.
pub const MAX_UNCONFIRMED: u32 = 2;

/// Something that happened, for an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// How much it matters.
    pub severity: Severity,
    /// What.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

fn note(severity: Severity, reason: Reason, message: impl Into<String>) -> Note {
    Note {
        severity,
        reason,
        message: message.into(),
    }
}

/// What follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// Events.
    pub notes: Vec<Note>,
    /// The claim's outcome was observed: give it back.
    pub release: bool,
}

/// Is this report older than the one that is known? Streams may deliver late.
#[must_use]
pub fn is_stale(memory: &Memory, report: &Report) -> bool {
    memory
        .report
        .as_ref()
        .is_some_and(|r| r.identity == report.identity && report.sequence < r.sequence)
}

/// A report came.
pub fn reported(
    m: &mut Memory,
    report: Report,
    claim: Option<&Claim>,
    now: Timestamp,
    seed: u64,
) -> Effects {
    let mut out = Effects::default();
    if m.misses >= MISSES {
        out.notes
            .push(note(Severity::Info, Reason::Reachable, "answers again"));
    }
    m.misses = 0;
    m.unreachable_since = None;
    m.last_error = None;
    m.not_before = None;
    m.seen_at = Some(now);
    m.tried_at = Some(now);
    if let (Some(claim), Some(a)) = (claim, &report.attempt)
        && a.order == claim.order
    {
        if a.state != AttemptState::Offered {
            begun(m, claim, now, &mut out);
        }
        let before = m.report.as_ref().and_then(|r| r.attempt.as_ref());
        rebooted(a, before.filter(|b| b.order == a.order), &report, &mut out);
        if a.state == AttemptState::Rebooting {
            m.rebooting_since.get_or_insert(now);
        } else {
            m.rebooting_since = None;
        }
        if a.state == AttemptState::Ended {
            ended(m, claim, a, &report, now, seed, &mut out);
        } else {
            let before = m.report.as_ref().and_then(|r| r.attempt.as_ref());
            let was = before.filter(|b| b.order == a.order).map(|b| b.state);
            if a.state == AttemptState::AwaitingConfirmation && was != Some(a.state) {
                let text = "activated; waits for a new connection";
                out.notes
                    .push(note(Severity::Info, Reason::AwaitingConfirmation, text));
            }
            if !a.waiting_jobs.is_empty() && before.is_none_or(|b| b.waiting_jobs.is_empty()) {
                let text = format!(
                    "the activation takes long; it waits for {}",
                    a.waiting_jobs.join(", ")
                );
                out.notes
                    .push(note(Severity::Warning, Reason::ActivationOverdue, text));
            }
        }
    }
    if claim.is_none() {
        ended_unknown(m, &report, now, &mut out);
    }
    // The host has begun what we do not know of: our database was lost. Go above it, in a new term.
    if let Some(greatest) = report.greatest
        && greatest > m.order
    {
        m.order = Order {
            term: greatest.term + 1,
            serial: 0,
        };
        // What our database says it was on its way to is older than what it did since.
        m.course = None;
    }
    if let Some(before) = m.report.as_ref().map(|r| &r.running.profile)
        && *before != report.running.profile
    {
        m.ran_before.clone_from(before);
    }
    m.report = Some(report);
    out
}

/// An attempt that no claim is held for, and that was seen to go on, ended: the database is older than it.
fn ended_unknown(m: &mut Memory, report: &Report, now: Timestamp, out: &mut Effects) {
    let Some(a) = report
        .attempt
        .as_ref()
        .filter(|a| a.state == AttemptState::Ended)
    else {
        return;
    };
    let before = m.report.as_ref().and_then(|r| r.attempt.as_ref());
    let went_on = before.is_some_and(|b| b.order == a.order && b.state != AttemptState::Ended);
    let system = a.goals.iter().find(|(name, _)| name.as_str() == "system");
    let Some((_, digest)) = system.or(a.goals.iter().next()).filter(|_| went_on) else {
        return;
    };
    let outcome = a.outcome.unwrap_or(Outcome::Failed);
    let message = a.message.clone().unwrap_or_else(|| outcome.to_string());
    let (severity, reason) = told(outcome);
    out.notes.push(note(
        severity,
        reason,
        format!("{message}; begun by an earlier database"),
    ));
    m.attempted_revision = Some(a.revision.clone());
    if matches!(outcome, Outcome::Succeeded | Outcome::Skipped) {
        m.applied_revision = Some(a.revision.clone());
    }
    m.ended = Some(Ended {
        order: a.order,
        revision: a.revision.clone(),
        digest: digest.clone(),
        outcome,
        stage: a.stage,
        message,
        at: now,
        way: Default::default(),
        boot_id: Some(report.boot_id.clone()),
    });
}

fn told(outcome: Outcome) -> (Severity, Reason) {
    match outcome {
        Outcome::Succeeded => (Severity::Info, Reason::Succeeded),
        Outcome::Skipped => (Severity::Info, Reason::Skipped),
        Outcome::RebootRequired => (Severity::Warning, Reason::RebootRequired),
        Outcome::RolledBack | Outcome::RolledBackPartial => (Severity::Error, Reason::RolledBack),
        Outcome::RollbackFailed => (Severity::Error, Reason::RollbackFailed),
        Outcome::BootNotCommitted => (Severity::Error, Reason::BootNotCommitted),
        Outcome::Superseded => (Severity::Warning, Reason::Superseded),
        Outcome::Interrupted => (Severity::Warning, Reason::Interrupted),
        Outcome::Unreachable => (Severity::Warning, Reason::Unreachable),
        Outcome::Failed => (Severity::Error, Reason::Failed),
    }
}

/// The reboot of an attempt, told when it begins and when it is over.
fn rebooted(a: &AttemptReport, before: Option<&AttemptReport>, report: &Report, out: &mut Effects) {
    let Some(boot) = &a.boot else { return };
    let known = before.and_then(|b| b.boot.as_ref());
    if known.is_none() && a.state == AttemptState::Rebooting {
        let how = boot.once.as_ref().map_or_else(
            || "it is the boot default, unconfirmed".to_owned(),
            |entry| format!("once, by {entry}"),
        );
        let closure = a.closure.as_ref().map_or_else(String::new, |c| c.short());
        let text = format!("reboots into {closure}: {how}");
        out.notes
            .push(note(Severity::Info, Reason::RebootStarted, text));
    }
    if boot.came_up && !known.is_some_and(|b| b.came_up) {
        let text = format!("came up; boot {} after {}", report.boot_id, boot.from);
        out.notes.push(note(Severity::Info, Reason::Rebooted, text));
    }
}

/// The host began this claim's attempt, by its reply or, if that was lost, by its first report. Counts once.
fn begun(m: &mut Memory, claim: &Claim, now: Timestamp, out: &mut Effects) {
    if m.begun == Some(claim.order) {
        return;
    }
    m.begun = Some(claim.order);
    m.attempted_revision = Some(claim.revision.clone());
    m.needs = None;
    m.retry = false;
    if claim.correction {
        m.corrections.push(now);
    }
    let text = format!("activating {}", claim.closure.short());
    out.notes
        .push(note(Severity::Info, Reason::ActivationStarted, text));
}

/// Which of the attempt's goals is at fault: the host says so by what it will not take again. One that does not say (an
/// older agent, or a window without contact, of which only we know how often) means the claim's.
fn blamed(claim: &Claim, report: &Report) -> Digest {
    let there = |digest: &Digest| {
        let mut all = report.components.iter();
        all.any(|c| c.quarantined.contains(digest))
    };
    match &claim.secrets {
        Some(secrets) if !there(&claim.digest) && there(secrets) => secrets.clone(),
        _ => claim.digest.clone(),
    }
}

fn ended(
    m: &mut Memory,
    claim: &Claim,
    a: &AttemptReport,
    report: &Report,
    now: Timestamp,
    seed: u64,
    out: &mut Effects,
) {
    out.release = true;
    // The same end is reported many times; it counts once.
    if m.ended.as_ref().is_some_and(|e| e.order == a.order) {
        return;
    }
    let mut outcome = a.outcome.unwrap_or(Outcome::Failed);
    let mut message = a.message.clone().unwrap_or_else(|| outcome.to_string());
    if let (Some(boot), Outcome::Succeeded) = (&a.boot, outcome)
        && let Err(why) = way::verify(boot, report, &claim.closure)
    {
        outcome = Outcome::Failed;
        message = why;
    }
    let dry = outcome == Outcome::Skipped && claim.way.mode == Mode::DryActivate;
    if !a.failed_units.is_empty() {
        let names: Vec<&str> = a
            .failed_units
            .iter()
            .take(8)
            .map(|u| u.name.as_str())
            .collect();
        message = format!("{message} (units: {})", names.join(", "));
    }
    let digest = claim.digest.clone();
    let (severity, reason) = if dry {
        (Severity::Info, Reason::DryActivated)
    } else {
        told(outcome)
    };
    out.notes.push(note(severity, reason, message.clone()));
    match outcome {
        Outcome::Skipped if dry => {}
        Outcome::Succeeded | Outcome::Skipped => {
            m.applied_revision = Some(claim.applies().clone());
            m.tries.remove(&digest);
            m.quarantined.remove(&digest);
            if claim.correction {
                let text = format!("runs {} again", claim.closure.short());
                out.notes
                    .push(note(Severity::Info, Reason::DriftCorrected, text));
            }
        }
        Outcome::RebootRequired | Outcome::Superseded => {}
        _ => {
            let fault = match (a.evidence, a.stage) {
                (true, _) => Fault::Goal,
                (false, Some(Stage::Confirm)) => Fault::Window,
                (false, _) => Fault::None,
            };
            failed(m, fault, &blamed(claim, report), &message, now, seed, out);
        }
    }
    m.ended = Some(Ended {
        order: a.order,
        revision: claim.revision.clone(),
        digest,
        outcome,
        stage: a.stage,
        message,
        at: now,
        way: claim.way,
        boot_id: Some(report.boot_id.clone()),
    });
    m.needs = None;
}

/// The host answered what it was asked: a report that tells of everything that was sent before. `machine_id`: of the host that
/// was adopted.
pub fn answered(
    m: &mut Memory,
    report: Report,
    claim: Option<&Claim>,
    machine_id: Option<&str>,
    now: Timestamp,
    seed: u64,
) -> Effects {
    let mut out = reported(m, report, claim, now, seed);
    m.answered_at = Some(now);
    if let Some(claim) = claim {
        forgotten(m, claim, machine_id, now, seed, &mut out);
    }
    out
}

/// The host, asked, no longer knows of the attempt that it said it began: what it kept is lost, or it was installed anew.
/// Nothing of it goes on there, so it ended; unless another machine answered.
fn forgotten(
    m: &mut Memory,
    claim: &Claim,
    machine_id: Option<&str>,
    now: Timestamp,
    seed: u64,
    out: &mut Effects,
) {
    let Some(report) = &m.report else {
        return;
    };
    let attempt = report.attempt.as_ref().map(|a| a.order);
    if m.begun != Some(claim.order)
        || report.greatest.max(attempt) >= Some(claim.order)
        || machine_id != Some(&report.identity.machine_id)
        || m.ended.as_ref().is_some_and(|e| e.order == claim.order)
    {
        return;
    }
    let boot_id = Some(report.boot_id.clone());
    let (severity, reason) = told(Outcome::Interrupted);
    let message = "the host no longer knows of it: what its agent kept is lost".to_owned();
    out.notes.push(note(severity, reason, message.clone()));
    out.release = true;
    let digest = &claim.digest;
    failed(m, Fault::None, digest, &message, now, seed, out);
    m.rebooting_since = None;
    m.ended = Some(Ended {
        order: claim.order,
        revision: claim.revision.clone(),
        digest: claim.digest.clone(),
        outcome: Outcome::Interrupted,
        stage: None,
        message,
        at: now,
        way: claim.way,
        boot_id,
    });
}

/// What an attempt that did not end well says of its goal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It is at fault.
    Goal,
    /// A window without a confirming connection: twice, and it is.
    Window,
    /// Nothing.
    None,
}

fn failed(
    m: &mut Memory,
    fault: Fault,
    digest: &Digest,
    message: &str,
    now: Timestamp,
    seed: u64,
    out: &mut Effects,
) {
    let tries = m.tries.entry(digest.clone()).or_insert(Tries {
        count: 0,
        unconfirmed: 0,
        not_before: now,
    });
    tries.count += 1;
    if fault == Fault::Window {
        tries.unconfirmed += 1;
    }
    tries.not_before = now + backoff::delay(tries.count + 2, seed);
    if fault == Fault::Goal || tries.unconfirmed >= MAX_UNCONFIRMED {
        m.quarantined.insert(digest.clone(), message.to_owned());
        let text = format!("not tried again until the trunk changes it: {message}");
        out.notes
            .push(note(Severity::Error, Reason::Quarantined, text));
    }
    while m.tries.len() > MAX_REMEMBERED {
        m.tries.pop_first();
    }
    while m.quarantined.len() > MAX_REMEMBERED {
        // The host keeps its own list; ours only spares it the offer.
        let other = m.quarantined.keys().find(|d| *d != digest).cloned();
        m.quarantined
            .remove(&other.unwrap_or_else(|| digest.clone()));
    }
}

/// Contact failed. `hard`: the machine is at fault, not the way to it; it counts as a miss all the same.
pub fn missed(
    m: &mut Memory,
    class: ErrorClass,
    reason: Reason,
    message: &str,
    now: Timestamp,
    seed: u64,
) -> Effects {
    let mut out = Effects::default();
    m.answered_at = None;
    m.misses = m.misses.saturating_add(1);
    m.tried_at = Some(now);
    m.unreachable_since.get_or_insert(now);
    let until = now + backoff::delay(m.misses, seed);
    m.not_before = Some(until);
    m.last_error = Some(Problem {
        class,
        reason,
        message: message.to_owned(),
        retry_at: Some(until),
    });
    // Nobody answers while he reboots; that it takes too long is told otherwise.
    if m.misses == MISSES && m.rebooting_since.is_none() {
        out.notes
            .push(note(Severity::Warning, Reason::Unreachable, message));
    }
    out
}

/// The order for the next claim: above all that was allocated or begun.
#[must_use]
pub fn next_order(m: &Memory) -> Order {
    Order {
        term: m.order.term.max(1),
        serial: m.order.serial + 1,
    }
}

#[cfg(test)]
mod tests;
