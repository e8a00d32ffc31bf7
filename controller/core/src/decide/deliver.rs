//! The way from a goal that does not run, or no longer, to one that is offered; and all that may stand in it.

use std::time::Duration;

use trueup_schema::kind::{Delivery, DriftPolicy};
use trueup_schema::status::{Outcome, Phase, Reason};
use trueup_schema::wire::{Mode, Report};
use trueup_schema::{Digest, Timestamp};

use super::talk::{Talk, held};
use super::{Decision, MAX_CORRECTIONS, MAX_TRIES, Runs, Step, has_secrets};
use crate::conditions::{State, Verdict};
use crate::host::{ClosureStage, HostView, Wanted, Work};
use crate::way::{self, Way};

const HOUR: Duration = Duration::from_secs(3600);

/// The confirmed goal is the wanted one, and the host differs.
pub(super) fn drift(t: &Talk<'_, '_>, wanted: &Wanted, report: &Report, what: &str) -> Decision {
    let show = |phase, state, message: String| {
        let mut v = t.say(phase, state, Reason::Drifted, message);
        v.drifted = Some(what.to_owned());
        v
    };
    let m = t.view.memory;
    let policy = t.view.manifest.drift.policy;
    let asked = m.retry || m.correct;
    if policy != DriftPolicy::Correct && !asked {
        let hint = format!(
            "{what}; left as it is (drift.policy). Keep it: `trueup-agent hold` on the host. Undo it: `trueup reconcile --host {}`",
            t.view.manifest.name
        );
        return t.look_or_wait(show(Phase::Stalled, State::Stalled, hint));
    }
    let recent: Vec<Timestamp> = m
        .corrections
        .iter()
        .copied()
        .filter(|c| *c + HOUR > t.now)
        .collect();
    if recent.len() >= MAX_CORRECTIONS && !asked {
        let until = recent[0] + HOUR;
        let message = format!(
            "{what}; corrected {} times within an hour: somebody or something fights it",
            recent.len()
        );
        return t.look_or_wait_until(show(Phase::Stalled, State::Stalled, message), Some(until));
    }
    let mut d = deliver(t, wanted, report, Some(what));
    d.verdict.drifted = Some(what.to_owned());
    d
}

/// Secrets that a host lacks, or that somebody changed there: delivered alone, since what runs needs nothing. Whoever
/// deletes a secret repairs nothing by it, so these are put right also where other drift is only told.
pub(super) fn secrets(
    t: &Talk<'_, '_>,
    wanted: &Wanted,
    digest: &Digest,
    report: &Report,
    drifted: Option<&str>,
) -> Decision {
    let m = t.view.memory;
    let asked = m.retry || m.correct;
    if let Some(what) = drifted.filter(|_| !asked) {
        let recent = m.corrections.iter().filter(|c| **c + HOUR > t.now).count();
        let ignored = t.view.manifest.drift.policy == DriftPolicy::Ignore;
        if ignored || recent >= MAX_CORRECTIONS {
            let why = if ignored {
                "drift.policy"
            } else {
                "corrected too often within an hour"
            };
            let message = format!("{what}; left as it is ({why})");
            let mut v = t.say(Phase::Stalled, State::Stalled, Reason::Drifted, message);
            v.drifted = Some(what.to_owned());
            return t.look_or_wait(v);
        }
    }
    let alone = Wanted {
        digest: digest.clone(),
        ..wanted.clone()
    };
    let mut d = deliver_what_is_there(t, &alone, report, drifted);
    if matches!(d.step, Step::Ask { .. }) {
        d.verdict.message = "delivering secrets".to_owned();
    }
    d.verdict.drifted = drifted.map(str::to_owned);
    d
}

/// Secrets that hurt the host, of a goal that needs them: what runs with them would not run without, so it waits too.
pub(super) fn with_secrets_that_hurt(
    t: &Talk<'_, '_>,
    system: &Wanted,
    report: &Report,
) -> Option<Decision> {
    let wanted = t.view.secrets.filter(|_| !t.view.memory.retry)?;
    let missing = has_secrets(report, Some(wanted)) == Runs::Other;
    let alone = Wanted {
        digest: wanted.digest.clone(),
        ..system.clone()
    };
    let verdict = missing.then(|| not_again(t, &alone, report, false))??;
    (verdict.reason == Reason::Quarantined).then(|| t.look_or_wait(verdict))
}

/// [`deliver`], of a goal whose closure the host runs or does not need: nothing is built for it.
pub(super) fn deliver_what_is_there(
    t: &Talk<'_, '_>,
    wanted: &Wanted,
    report: &Report,
    drifted: Option<&str>,
) -> Decision {
    let view = HostView {
        closure: &Work::Done(()),
        ..t.view.clone()
    };
    let t = Talk { view: &view, ..*t };
    deliver(&t, wanted, report, drifted)
}

/// The way from a goal that does not run to one that is offered.
pub(super) fn deliver(
    t: &Talk<'_, '_>,
    wanted: &Wanted,
    report: &Report,
    drifted: Option<&str>,
) -> Decision {
    let (view, m) = (t.view, t.view.memory);
    if !m.retry
        && let Some(verdict) = not_again(t, wanted, report, drifted.is_some())
    {
        let until = m.tries.get(&wanted.digest).map(|t| t.not_before);
        let until = until.or(way::opens(view.manifest, t.now));
        return t.look_or_wait_until(verdict, until);
    }
    if view.manifest.delivery != Delivery::Push {
        let message = format!(
            "{} is not delivered: spec.delivery is not push",
            wanted.closure.short()
        );
        return t.look_or_wait(t.say(Phase::Held, State::Resting, Reason::Held, message));
    }
    match view.closure {
        Work::None => {
            let (phase, word) = match view.rollback {
                Some(_) => (Phase::Copying, "looking for"),
                None => (Phase::Building, "building"),
            };
            let verdict = t.working(phase, format!("{word} {}", wanted.closure.short()));
            return Decision {
                step: Step::WantClosure,
                verdict,
            };
        }
        Work::Running(detail) => {
            let (phase, word) = match view.closure_stage {
                _ if view.rollback.is_some() => (Phase::Copying, "looking for"),
                ClosureStage::Building => (Phase::Building, "building"),
                ClosureStage::Publishing => (Phase::Publishing, "signing"),
            };
            let mut verdict = t.working(phase, format!("{word} {}", wanted.closure.short()));
            verdict.detail.clone_from(detail);
            return t.look_or_wait(verdict);
        }
        Work::Failed(p) => return t.look_or_wait_until(t.problem(Phase::Building, p), p.retry_at),
        Work::Done(()) => {}
    }
    if let Some(hold) = t.hold() {
        let mut verdict = t.say(Phase::Held, State::Resting, Reason::Held, held(hold));
        verdict.detail = Some(format!("by {}", hold.by));
        return t.look_or_wait_until(verdict, Some(hold.until));
    }
    if !view.waits_for.is_empty() {
        let names: Vec<&str> = view.waits_for.iter().map(|h| h.as_str()).collect();
        let message = format!("waits for {}", names.join(", "));
        let verdict = t.say(
            Phase::Held,
            State::Progressing,
            Reason::DependencyNotReady,
            message,
        );
        return t.look_or_wait(verdict);
    }
    if let Some((digest, paths)) = &m.needs
        && *digest == wanted.digest
        && !paths.is_empty()
    {
        let verdict = t.working(
            Phase::Copying,
            format!("copying {}", wanted.closure.short()),
        );
        if m.not_before.is_some_and(|n| n > t.now) {
            return t.look_or_wait(verdict);
        }
        return Decision {
            step: Step::Copy(paths.clone()),
            verdict,
        };
    }
    if let Some(n) = m.not_before.filter(|n| *n > t.now) {
        let why = m
            .last_error
            .as_ref()
            .map_or("waits to try again", |p| p.message.as_str());
        let verdict = t.say(
            Phase::Pending,
            State::Retrying,
            Reason::ProgressingWithRetry,
            why,
        );
        return Decision {
            step: Step::Wait { until: n },
            verdict,
        };
    }
    if let Some(why) = view.denied {
        let verdict = t.say(
            Phase::Held,
            State::Progressing,
            Reason::BudgetExhausted,
            why,
        );
        return t.look_or_wait(verdict);
    }
    let text = match view.rollback {
        Some(b) => format!(
            "going back to {}, for {}",
            wanted.closure.short(),
            b.rollback.by.name
        ),
        None => format!("delivering {}", wanted.closure.short()),
    };
    let verdict = t.working(Phase::Activating, text);
    Decision {
        step: Step::Ask {
            correction: drifted.is_some(),
        },
        verdict,
    }
}

/// Why a goal is not tried (again) now, if so.
pub(super) fn not_again(
    t: &Talk<'_, '_>,
    wanted: &Wanted,
    report: &Report,
    correcting: bool,
) -> Option<Verdict> {
    let (m, digest) = (t.view.memory, &wanted.digest);
    let way = Way::now(t.view.manifest, report, wanted, t.now);
    let host = &t.view.manifest.name;
    // Digests of different components differ.
    let there = report
        .components
        .iter()
        .any(|c| c.quarantined.contains(digest));
    if there || m.quarantined.contains_key(digest) {
        let why = m
            .quarantined
            .get(digest)
            .map_or("the host says so", String::as_str);
        let message = format!(
            "not tried again until the trunk changes it, or `trueup reconcile --host {host} --retry`: {why}"
        );
        return Some(t.say(Phase::Stalled, State::Stalled, Reason::Quarantined, message));
    }
    if let Some((_, p)) = m.refused.as_ref().filter(|(d, _)| d == digest) {
        return Some(t.problem(Phase::Stalled, p));
    }
    if let Some(e) = m
        .ended
        .as_ref()
        .filter(|e| e.digest == *digest && !correcting)
    {
        match e.outcome {
            Outcome::Skipped if way.mode == Mode::DryActivate && e.way.mode == way.mode => {
                let (phase, state) = (Phase::Held, State::Resting);
                return Some(t.say(phase, state, Reason::DryActivated, e.message.clone()));
            }
            // Until somebody reboots it, or it may be rebooted.
            Outcome::RebootRequired
                if e.way == way && e.boot_id.as_ref().is_none_or(|b| *b == report.boot_id) =>
            {
                let mut v = t.say(
                    Phase::Stalled,
                    State::Stalled,
                    Reason::RebootRequired,
                    e.message.clone(),
                );
                v.reboot_required.get_or_insert_with(|| e.message.clone());
                return Some(v);
            }
            Outcome::Superseded
                if t.view.manifest.drift.policy != DriftPolicy::Correct && !m.correct =>
            {
                let mut v = t.say(
                    Phase::Stalled,
                    State::Stalled,
                    Reason::Superseded,
                    e.message.clone(),
                );
                v.drifted = Some(e.message.clone());
                return Some(v);
            }
            _ => {}
        }
    }
    let tries = m.tries.get(digest)?;
    let why = m
        .ended
        .as_ref()
        .map_or("the last attempt failed", |e| e.message.as_str());
    if tries.count >= MAX_TRIES {
        let message = format!(
            "tried {} times: {why}; `trueup reconcile --host {host} --retry` tries again",
            tries.count
        );
        return Some(t.say(Phase::Stalled, State::Stalled, Reason::Failed, message));
    }
    if tries.not_before > t.now {
        return Some(t.say(
            Phase::Pending,
            State::Retrying,
            Reason::ProgressingWithRetry,
            why,
        ));
    }
    None
}
