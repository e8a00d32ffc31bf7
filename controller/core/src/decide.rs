//! What is to be done with one host: one step, or a wait, with the verdict that is shown. A function of the view, the
//! time and a seed (for jitter); it remembers nothing and touches nothing.

use std::time::Duration;

use trueup_schema::kind::{Confirm, Delivery, DriftPolicy};
use trueup_schema::status::{Outcome, Phase, Reason, Truth};
use trueup_schema::wire::{AttemptState, ComponentReport, Order, Report};
use trueup_schema::{Digest, ErrorClass, StorePath, Timestamp};

use crate::backoff;
use crate::conditions::{State, Verdict};
use crate::host::{ClosureStage, HostView, Problem, Wanted, Work};

/// Attempts at contact in a row that fail before a host counts as unreachable.
pub const MISSES: u32 = 3;
/// Attempts at one goal that end without evidence against it, before a person is needed.
pub const MAX_TRIES: u32 = 3;
/// Corrections of drift within an hour, before it is only told.
pub const MAX_CORRECTIONS: usize = 3;
/// How often a host is asked while an attempt runs there and no report comes by itself.
pub const FOLLOW: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_secs(3600);

/// The one thing to do now. Each is safe to repeat and to be cut off: the next decision is taken from what is then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask the host for a report.
    Observe,
    /// Record that the host is ours, with the identity that it reported (`adopt: auto`, or a person's word).
    Adopt,
    /// Put the want for an evaluation into the pipeline.
    WantEvaluation,
    /// Put the want for the closure (built and signed) into the pipeline, and open the connection meanwhile.
    WantClosure,
    /// Ask for permission to change the host.
    Ask {
        /// It corrects drift.
        correction: bool,
    },
    /// Offer the claim's intent.
    Offer,
    /// Copy what the host said it needs.
    Copy(Vec<StorePath>),
    /// Confirm the activation over a new connection.
    Confirm {
        /// Which.
        order: Order,
        /// The activation's.
        nonce: String,
        /// The host's own deadline, if it said one.
        within_secs: Option<u64>,
    },
    /// Give the claim back: its intent was not begun and no longer will be.
    Release,
    /// Nothing before `until`, unless something changes.
    Wait {
        /// Look again then, at the latest.
        until: Timestamp,
    },
}

/// A step and what is shown meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What to do.
    pub step: Step,
    /// What to show.
    pub verdict: Verdict,
}

/// The component `system` of a report.
#[must_use]
pub fn system(report: &Report) -> Option<&ComponentReport> {
    report
        .components
        .iter()
        .find(|c| c.name.as_str() == "system")
}

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

/// What a host runs, against a goal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runs {
    /// The goal, confirmed.
    Goal,
    /// The goal was confirmed, and somebody changed the host since.
    Drifted(String),
    /// Something else: the goal is still to be delivered.
    Other,
}

/// Compares a report with a goal. A specialisation of the goal's closure that a person chose is no drift.
#[must_use]
pub fn runs(report: &Report, wanted: &Wanted, specialisation: Option<&str>) -> Runs {
    let at = &report.running;
    let Some(component) = system(report) else {
        return Runs::Other;
    };
    if component.confirmed.as_ref() != Some(&wanted.digest) {
        return Runs::Other;
    }
    let chosen = specialisation.is_none() && at.specialisation.is_some();
    let same = component.observed.as_ref() == Some(&wanted.digest)
        || at.running.as_ref() == Some(&wanted.closure);
    let show = |p: &Option<StorePath>| p.as_ref().map_or("nothing".to_owned(), StorePath::short);
    let profile = at.profile.as_ref() == Some(&wanted.closure);
    if !(same || chosen && profile) {
        return Runs::Drifted(format!(
            "runs {}, should run {}",
            show(&at.running),
            wanted.closure.short()
        ));
    }
    if !profile {
        return Runs::Drifted(format!(
            "runs {}, but its profile is {}",
            wanted.closure.short(),
            show(&at.profile)
        ));
    }
    Runs::Goal
}

struct Talk<'a, 'v> {
    view: &'a HostView<'v>,
    now: Timestamp,
    seed: u64,
}

impl Talk<'_, '_> {
    fn say(
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
                .map(|d| format!("only a reboot brings {}", d.join(", "))),
            suspended: suspended(self.view, self.now),
        }
    }
    fn working(&self, phase: Phase, message: impl Into<String>) -> Verdict {
        self.say(phase, State::Progressing, Reason::Progressing, message)
    }
    fn problem(&self, phase: Phase, p: &Problem) -> Verdict {
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
        let tried = m.tried_at.unwrap_or(Timestamp::UNIX_EPOCH);
        let regular = tried + backoff::jitter(interval, self.seed);
        m.not_before.map_or(regular, |n| n.max(tried))
    }
    /// Observe if due, else wait for it.
    fn look_or_wait(&self, verdict: Verdict) -> Decision {
        self.look_or_wait_until(verdict, None)
    }
    fn look_or_wait_until(&self, verdict: Verdict, until: Option<Timestamp>) -> Decision {
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
    fn nudged(&self) -> bool {
        let tried = self.view.memory.tried_at;
        self.view
            .nudge
            .is_some_and(|n| tried.is_none_or(|t| t < n.requested_at))
    }
}

/// See the module.
#[must_use]
pub fn decide(view: &HostView<'_>, now: Timestamp, seed: u64) -> Decision {
    let t = Talk { view, now, seed };
    let m = view.memory;
    // An attempt that may run there comes first: it is never abandoned, not even by a suspension.
    if let Some(d) = with_claim(&t) {
        return d;
    }
    if *view.evaluation == Work::None {
        let verdict = t.working(
            Phase::Evaluating,
            format!("evaluating {}", view.revision.short()),
        );
        return Decision {
            step: Step::WantEvaluation,
            verdict,
        };
    }
    if m.report.is_none() && (m.not_before.is_none_or(|n| n <= now) || t.nudged()) {
        let verdict = t.working(Phase::Pending, "asking the host for its first report");
        return Decision {
            step: Step::Observe,
            verdict,
        };
    }
    if let Some(why) = suspended(view, now) {
        let ready = matches!((view.evaluation, &m.report), (Work::Done(w), Some(r))
            if runs(r, w, view.manifest.specialisation.as_deref()) == Runs::Goal);
        let state = if ready { State::Ready } else { State::Resting };
        let verdict = t.say(Phase::Suspended, state, Reason::Suspended, why);
        return t.look_or_wait_until(verdict, view.suspension.and_then(|s| s.until));
    }
    if let Some(d) = ours(&t) {
        return d;
    }
    let wanted = match view.evaluation {
        Work::Done(w) => w,
        Work::Failed(p) => {
            let verdict = t.problem(Phase::Evaluating, p);
            return t.look_or_wait_until(verdict, p.retry_at);
        }
        Work::None | Work::Running(_) => {
            let verdict = t.working(
                Phase::Evaluating,
                format!("evaluating {}", view.revision.short()),
            );
            return t.look_or_wait(verdict);
        }
    };
    let Some(report) = &m.report else {
        let why = m
            .last_error
            .as_ref()
            .map_or("no report yet", |p| p.message.as_str());
        return t.look_or_wait(unreachable(&t, why));
    };
    if m.misses > 0 {
        let why = m
            .last_error
            .as_ref()
            .map_or("does not answer", |p| p.message.as_str());
        return t.look_or_wait(unreachable(&t, why));
    }
    if t.nudged() {
        let verdict = t.working(Phase::Pending, "asked by a person: looking at the host");
        return Decision {
            step: Step::Observe,
            verdict,
        };
    }
    let now_runs = runs(report, wanted, view.manifest.specialisation.as_deref());
    match now_runs {
        Runs::Goal => {
            let message = format!(
                "runs {} of {}",
                wanted.closure.short(),
                view.revision.short()
            );
            let reason = Reason::ReconciliationSucceeded;
            t.look_or_wait(t.say(Phase::Ready, State::Ready, reason, message))
        }
        Runs::Drifted(what) => drift(&t, wanted, report, &what),
        Runs::Other => deliver(&t, wanted, report, None),
    }
}

fn unreachable(t: &Talk<'_, '_>, why: &str) -> Verdict {
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
    t.say(phase, state, Reason::Unreachable, format!("{why}{since}"))
}

/// While a claim is held: what the host says of it decides.
fn with_claim(t: &Talk<'_, '_>) -> Option<Decision> {
    let claim = t.view.claim?;
    let m = t.view.memory;
    let attempt = m.report.as_ref().and_then(|r| r.attempt.as_ref());
    let follow = |verdict: Verdict| {
        let tried = m.tried_at.unwrap_or(claim.granted_at);
        let next = m.not_before.unwrap_or(tried + FOLLOW);
        let step = if next <= t.now {
            Step::Observe
        } else {
            Step::Wait { until: next }
        };
        Some(Decision { step, verdict })
    };
    if let Some(a) = attempt.filter(|a| a.order == claim.order) {
        match a.state {
            AttemptState::Offered => {}
            AttemptState::Activating => {
                let message = format!("activating {}", claim.closure.short());
                return follow(t.working(Phase::Activating, message));
            }
            AttemptState::AwaitingConfirmation => {
                let verdict = t.working(
                    Phase::AwaitingConfirmation,
                    "confirming over a new connection",
                );
                if let (Confirm::Controller, Some(nonce)) =
                    (t.view.manifest.activation.confirm, &a.nonce)
                    && m.not_before.is_none_or(|n| n <= t.now)
                {
                    let (order, nonce) = (a.order, nonce.clone());
                    let within_secs = a.deadline_in_secs;
                    return Some(Decision {
                        step: Step::Confirm {
                            order,
                            nonce,
                            within_secs,
                        },
                        verdict,
                    });
                }
                return follow(verdict);
            }
            AttemptState::Committing => {
                return follow(t.working(
                    Phase::AwaitingConfirmation,
                    "confirmed; the host sets its boot default",
                ));
            }
            AttemptState::RollingBack => {
                let message = a
                    .message
                    .clone()
                    .unwrap_or_else(|| "the host goes back".to_owned());
                return follow(t.say(
                    Phase::RollingBack,
                    State::Retrying,
                    Reason::Progressing,
                    message,
                ));
            }
            AttemptState::Ended => {
                return Some(Decision {
                    step: Step::Release,
                    verdict: t.working(Phase::Activating, "the attempt ended"),
                });
            }
        }
    }
    let greatest = m.report.as_ref().and_then(|r| r.greatest);
    let verdict = t.working(
        Phase::Activating,
        format!("offering {}", claim.closure.short()),
    );
    let offered = attempt.is_some_and(|a| a.order == claim.order);
    let begun = m.begun == Some(claim.order) || (!offered && greatest >= Some(claim.order));
    let other = matches!(t.view.evaluation, Work::Done(w) if w.digest != claim.digest);
    let gone = greatest > Some(claim.order) || (!begun && t.now >= claim.expires_at);
    // A claim that was not begun gives way to a newer goal and to a suspension, but only when the host itself says
    // that it was not: an offer whose answer was lost may have begun.
    let known = m.seen_at.is_some_and(|s| s >= claim.granted_at);
    let unwanted = other || suspended(t.view, t.now).is_some();
    if gone || (unwanted && !begun && known) {
        return Some(Decision {
            step: Step::Release,
            verdict,
        });
    }
    if begun {
        return follow(verdict);
    }
    if m.not_before.is_some_and(|n| n > t.now) {
        return follow(unreachable(
            t,
            m.last_error
                .as_ref()
                .map_or("does not answer", |p| p.message.as_str()),
        ));
    }
    let step = if unwanted || m.misses > 0 {
        Step::Observe
    } else {
        Step::Offer
    };
    Some(Decision { step, verdict })
}

/// Adoption and identity: a host that is not ours is only observed.
fn ours(t: &Talk<'_, '_>) -> Option<Decision> {
    let view = t.view;
    let report = view.memory.report.as_ref()?;
    let Some(adoption) = view.adoption else {
        if view.adopt == trueup_schema::kind::Adopt::Auto {
            let verdict = t.working(Phase::Pending, "adopting");
            return Some(Decision {
                step: Step::Adopt,
                verdict,
            });
        }
        let name = &view.manifest.name;
        let message = format!("not adopted, so only observed: `trueup adopt host/{name}`");
        let verdict = t.say(
            Phase::Held,
            State::Stalled,
            Reason::AdoptionRequired,
            message,
        );
        return Some(t.look_or_wait(verdict));
    };
    let Some(pinned) = &adoption.identity else {
        return Some(Decision {
            step: Step::Adopt,
            verdict: t.working(Phase::Pending, "adopting"),
        });
    };
    // A machine may get new host keys beside an old one; machine-id or all keys gone means another machine.
    let keys = &report.identity.host_keys;
    let same_keys =
        pinned.host_keys.is_empty() || pinned.host_keys.iter().any(|k| keys.contains(k));
    if pinned.machine_id != report.identity.machine_id || !same_keys {
        let message = format!(
            "another machine answers: machine-id {} instead of {}; if that is meant, `trueup adopt host/{}`",
            report.identity.machine_id, pinned.machine_id, view.manifest.name
        );
        let verdict = t.say(
            Phase::Stalled,
            State::Stalled,
            Reason::IdentityMismatch,
            message,
        );
        return Some(t.look_or_wait(verdict));
    }
    None
}

/// The confirmed goal is the wanted one, and the host differs.
fn drift(t: &Talk<'_, '_>, wanted: &Wanted, report: &Report, what: &str) -> Decision {
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

/// The way from a goal that does not run to one that is offered.
fn deliver(t: &Talk<'_, '_>, wanted: &Wanted, report: &Report, drifted: Option<&str>) -> Decision {
    let (view, m) = (t.view, t.view.memory);
    if !m.retry
        && let Some(verdict) = not_again(t, &wanted.digest, report, drifted.is_some())
    {
        let until = m.tries.get(&wanted.digest).map(|t| t.not_before);
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
            let verdict = t.working(
                Phase::Building,
                format!("building {}", wanted.closure.short()),
            );
            return Decision {
                step: Step::WantClosure,
                verdict,
            };
        }
        Work::Running(detail) => {
            let (phase, word) = match view.closure_stage {
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
    if let Some(hold) = report.hold.as_ref().filter(|h| h.until > t.now) {
        let message = format!(
            "held on the host by {}: {}, until {}",
            hold.by, hold.reason, hold.until
        );
        let verdict = t.say(Phase::Held, State::Resting, Reason::Held, message);
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
    let verdict = t.working(
        Phase::Activating,
        format!("delivering {}", wanted.closure.short()),
    );
    Decision {
        step: Step::Ask {
            correction: drifted.is_some(),
        },
        verdict,
    }
}

/// Why a goal is not tried (again) now, if so.
fn not_again(
    t: &Talk<'_, '_>,
    digest: &Digest,
    report: &Report,
    correcting: bool,
) -> Option<Verdict> {
    let m = t.view.memory;
    let host = &t.view.manifest.name;
    let there = system(report).is_some_and(|c| c.quarantined.contains(digest));
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
            Outcome::RebootRequired => {
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

impl Decision {
    /// Does it end at rest, so that the revision counts as observed?
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self.verdict.state, State::Ready | State::Stalled)
            && matches!(self.step, Step::Wait { .. })
    }
}
