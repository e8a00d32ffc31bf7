//! Conditions with Kubernetes' laws: how a verdict is written down, and a checker that every test runs.

use trueup_schema::status::{Condition, ConditionType, Phase, Reason, Truth};
use trueup_schema::{Revision, Timestamp};

/// What a decision says of a host, before it is written as conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Where it is.
    pub phase: Phase,
    /// More about that, for people.
    pub detail: Option<String>,
    /// How it goes.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// Why, for people.
    pub message: String,
    /// Were the last probes answered?
    pub reachable: Truth,
    /// What drifted.
    pub drifted: Option<String>,
    /// Why only a reboot completes it.
    pub reboot_required: Option<String>,
    /// Who suspended it, and why.
    pub suspended: Option<String>,
    /// Who holds it, there, and why.
    pub held: Option<String>,
}

/// How it goes, each a row of Kubernetes' table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Converged.
    Ready,
    /// Work goes on.
    Progressing,
    /// A failure that time may mend.
    Retrying,
    /// A person or a commit is needed.
    Stalled,
    /// Neither good nor under way, by a person's word.
    Resting,
}

/// A verdict as conditions; times of those whose status did not change are kept.
#[must_use]
pub fn conditions(
    before: &[Condition],
    verdict: &Verdict,
    revision: &Revision,
    now: Timestamp,
) -> Vec<Condition> {
    let mut out = Vec::new();
    let mut put = |kind, status, reason, message: &str| {
        let at = before
            .iter()
            .find(|c| c.kind == kind && c.status == status)
            .map_or(now, |c| c.last_transition_time);
        out.push(Condition {
            kind,
            status,
            reason,
            message: message.to_owned(),
            last_transition_time: at,
            observed_revision: Some(revision.clone()),
        });
    };
    let v = verdict;
    let (ready, extra) = match v.state {
        State::Ready => (Truth::True, None),
        State::Progressing => (
            Truth::Unknown,
            Some((ConditionType::Reconciling, Reason::Progressing)),
        ),
        State::Retrying => (
            Truth::False,
            Some((ConditionType::Reconciling, Reason::ProgressingWithRetry)),
        ),
        State::Stalled => (Truth::False, Some((ConditionType::Stalled, v.reason))),
        State::Resting => (Truth::False, None),
    };
    put(ConditionType::Ready, ready, v.reason, &v.message);
    if let Some((kind, reason)) = extra {
        put(kind, Truth::True, reason, &v.message);
    }
    let (reason, message) = match v.reachable {
        Truth::True => (Reason::Reachable, "answers"),
        Truth::False => (Reason::Unreachable, "does not answer"),
        Truth::Unknown => (Reason::Progressing, "not asked yet"),
    };
    put(ConditionType::Reachable, v.reachable, reason, message);
    // Being looked at or corrected is no end of it: it ends with what is found or done.
    let under_way = matches!(v.state, State::Progressing | State::Retrying);
    let known = find(before, ConditionType::Drifted).filter(|_| under_way);
    if let Some(m) = v.drifted.as_ref().or(known.map(|c| &c.message)) {
        put(ConditionType::Drifted, Truth::True, Reason::Drifted, m);
    }
    if let Some(m) = &v.reboot_required {
        let reason = Reason::RebootRequired;
        put(ConditionType::RebootRequired, Truth::True, reason, m);
    }
    if let Some(m) = &v.suspended {
        put(ConditionType::Suspended, Truth::True, Reason::Suspended, m);
    }
    if let Some(m) = &v.held {
        put(ConditionType::Held, Truth::True, Reason::Held, m);
    }
    out
}

/// The condition of a type.
#[must_use]
pub fn find(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|c| c.kind == kind)
}

/// Is it ready?
#[must_use]
pub fn is_ready(conditions: &[Condition]) -> bool {
    find(conditions, ConditionType::Ready).is_some_and(|c| c.status == Truth::True)
}

/// The laws; `Err` names the broken one.
pub fn check(before: &[Condition], after: &[Condition]) -> Result<(), String> {
    let truth = |k| find(after, k).map(|c| c.status);
    let ready = truth(ConditionType::Ready).ok_or("Ready is not there")?;
    let reconciling = truth(ConditionType::Reconciling);
    let stalled = truth(ConditionType::Stalled);
    for (i, c) in after.iter().enumerate() {
        if after[..i].iter().any(|d| d.kind == c.kind) {
            return Err(format!("{:?} is there twice", c.kind));
        }
        let abnormal = !matches!(c.kind, ConditionType::Ready | ConditionType::Reachable);
        if abnormal && c.status != Truth::True {
            return Err(format!("{:?} is there without being true", c.kind));
        }
        if c.message.is_empty() {
            return Err(format!("{:?} has no message", c.kind));
        }
        let same = find(before, c.kind).filter(|b| b.status == c.status);
        if same.is_some_and(|b| b.last_transition_time != c.last_transition_time) {
            return Err(format!("{:?} moved its time without changing", c.kind));
        }
        if ready == Truth::True && c.observed_revision != after[0].observed_revision {
            return Err(format!("{:?} was judged for another revision", c.kind));
        }
    }
    if reconciling.is_some() && stalled.is_some() {
        return Err("Reconciling and Stalled together".to_owned());
    }
    if stalled.is_some() && ready != Truth::False {
        return Err("Stalled, but Ready is not False".to_owned());
    }
    if ready == Truth::Unknown && reconciling.is_none() {
        return Err("Ready is Unknown, but nothing is under way".to_owned());
    }
    if ready == Truth::True && reconciling.is_some() {
        return Err("Ready and Reconciling together".to_owned());
    }
    Ok(())
}
