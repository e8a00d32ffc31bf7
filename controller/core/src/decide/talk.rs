//! How a decision is put into words, and when the host is looked at next. Decides nothing about what is delivered.

use trueup_schema::status::{Phase, Reason, Truth};
use trueup_schema::wire::Hold;
use trueup_schema::{ErrorClass, Timestamp};

use super::{Decision, HELD_LOOK, MISSES, Step};
use crate::backoff;
use crate::conditions::{State, Verdict};
use crate::host::{HostView, Problem};
use crate::way;

/// The view's suspension, if it holds now.
#[must_use]
pub fn suspended(view: &HostView<'_>, now: Timestamp) -> Option<String> {
    if view.manifest.suspend {
        return Some("suspended in Git (spec.suspend)".to_owned());
    }
    let s = view
        .suspension
        .filter(|s| s.until.is_none_or(|until| until > now))?;
    let until = s.until.map_or(String::new(), |u| format!(", until {u}"));
    Some(format!("suspended by {}: {}{until}", s.by.name, s.reason))
}

/// The view, the time, and the words for them.
pub(super) struct Talk<'a, 'v> {
    pub view: &'a HostView<'v>,
    pub now: Timestamp,
    pub seed: u64,
}

/// Who holds a host there, why and until when.
pub(super) fn held(hold: &Hold) -> String {
    format!(
        "held on the host by {}: {}, until {}; sooner: `trueup-agent release` there",
        hold.by, hold.reason, hold.until
    )
}

impl Talk<'_, '_> {
    /// The hold that a person laid on the host, there, while it lasts.
    pub fn hold(&self) -> Option<&Hold> {
        let report = self.view.memory.report.as_ref()?;
        report.hold.as_ref().filter(|h| h.until > self.now)
    }
    pub fn say(
        &self,
        phase: Phase,
        state: State,
        reason: Reason,
        message: impl Into<String>,
    ) -> Verdict {
        let m = self.view.memory;
        let reachable = if m.misses >= MISSES {
            Truth::False
        } else if m.report.is_some() {
            Truth::True
        } else {
            Truth::Unknown
        };
        let debt = m.report.as_ref().map(|r| &r.running.reboot_required);
        Verdict {
            phase,
            detail: None,
            state,
            reason,
            message: message.into(),
            reachable,
            drifted: None,
            reboot_required: debt
                .filter(|d| !d.is_empty())
                .map(|d| way::debt(self.view.manifest, d, self.now)),
            suspended: suspended(self.view, self.now),
            held: self.hold().map(held),
        }
    }
    pub fn working(&self, phase: Phase, message: impl Into<String>) -> Verdict {
        self.say(phase, State::Progressing, Reason::Progressing, message)
    }
    pub fn problem(&self, phase: Phase, p: &Problem) -> Verdict {
        let state = if p.retry_at.is_some() {
            State::Retrying
        } else {
            State::Stalled
        };
        let phase = if state == State::Stalled {
            Phase::Stalled
        } else {
            phase
        };
        self.say(phase, state, p.reason, p.message.clone())
    }
    /// When the host is to be observed next: back-off, else the interval after the last contact.
    fn next_look(&self) -> Timestamp {
        let m = self.view.memory;
        let interval = self
            .view
            .report_interval
            .min(self.view.manifest.drift.interval.get());
        let interval = match self.hold() {
            Some(_) => interval.min(HELD_LOOK),
            None => interval,
        };
        let tried = m.tried_at.unwrap_or(Timestamp::UNIX_EPOCH);
        let regular = tried + backoff::jitter(interval, self.seed);
        m.not_before.map_or(regular, |n| n.max(tried))
    }
    /// Observe if due, else wait for it.
    pub fn look_or_wait(&self, verdict: Verdict) -> Decision {
        self.look_or_wait_until(verdict, None)
    }
    pub fn look_or_wait_until(&self, verdict: Verdict, until: Option<Timestamp>) -> Decision {
        let next = self.next_look();
        let step = if next <= self.now || self.nudged() {
            Step::Observe
        } else {
            let until = until
                .filter(|u| *u > self.now)
                .map_or(next, |u| u.min(next));
            Step::Wait { until }
        };
        Decision { step, verdict }
    }
    /// A person asked, and the host was not contacted since.
    pub fn nudged(&self) -> bool {
        let tried = self.view.memory.tried_at;
        self.view
            .nudge
            .is_some_and(|n| tried.is_none_or(|t| t < n.requested_at))
    }
}

/// The host did not answer when it was asked last.
pub(super) fn unreachable(t: &Talk<'_, '_>, why: &str) -> Verdict {
    let m = t.view.memory;
    // What time cannot mend (host key, login) needs a person; it is tried all the same, slowly.
    let stalled = m
        .last_error
        .as_ref()
        .is_some_and(|p| p.class == ErrorClass::Host);
    let (phase, state) = match (m.misses >= MISSES, stalled) {
        (true, true) => (Phase::Stalled, State::Stalled),
        (true, false) => (Phase::Unreachable, State::Retrying),
        (false, _) => (Phase::Pending, State::Retrying),
    };
    let since = m
        .unreachable_since
        .map_or(String::new(), |s| format!(" (since {s})"));
    // It answers, and lacks something: not to be called unreachable.
    let reason = m
        .last_error
        .as_ref()
        .filter(|_| stalled)
        .map_or(Reason::Unreachable, |p| p.reason);
    t.say(phase, state, reason, format!("{why}{since}"))
}
