//! What would be done now, over all hosts: [`decide()`] for each, then [`admit()`] over those that would change. The engine
//! asks the same two functions, so what is shown is what will be done. It plans one moment, not how hosts will answer.

use std::collections::BTreeMap;

use trueup_schema::kind::{ResolvedHost, ResolvedRollout};
use trueup_schema::{HostName, Revision, StorePath, Timestamp};

use crate::admit::{self, Asked, Held, admit};
use crate::backoff::mix;
use crate::decide::{Decision, MISSES, Runs, Step, decide, has_secrets, runs_there};
use crate::host::{Claim, HostView, Memory, Work};
use crate::rollback::effective;
use crate::way::Way;

/// All hosts, as a plan is taken from them.
#[derive(Debug)]
pub struct FleetView<'a> {
    /// The fleet's limits.
    pub rollout: &'a ResolvedRollout,
    /// Its hosts; `denied` of each is ignored, since it is what a plan works out.
    pub hosts: Vec<HostView<'a>>,
}

/// What differs between a host and what it is to be, whenever that will be mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It runs its goal, confirmed.
    Nothing,
    /// It runs something else: the goal is still to be delivered.
    Deliver {
        /// What runs.
        from: Option<StorePath>,
        /// What is to run.
        to: StorePath,
    },
    /// It runs its goal, and its secrets are still to be delivered.
    Secrets,
    /// Somebody changed it after its goal was confirmed.
    Drift {
        /// What runs.
        from: Option<StorePath>,
        /// What is to run.
        to: StorePath,
        /// What differs, for people.
        what: String,
    },
    /// It can't be told: not evaluated, or the host never answered.
    Unknown(String),
}

/// One host in a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What differs.
    pub change: Change,
    /// What is done about it now, and what is shown. [`Step::Ask`] is one that would be granted; a host that would be
    /// refused waits, and its verdict says why.
    pub decision: Decision,
    /// What the budgets say, if it asks.
    pub admitted: Option<admit::Verdict>,
}

impl Planned {
    /// Would the host be changed now?
    #[must_use]
    pub fn begins(&self) -> bool {
        matches!(self.admitted, Some(Ok(())))
    }
}

/// Every host, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// One for each host of the view.
    pub hosts: BTreeMap<HostName, Planned>,
    /// The one that the controller runs on: it goes last in a revision.
    pub last: Option<HostName>,
}

impl Plan {
    /// Hosts that are not what they are to be, as far as that is known.
    pub fn changes(&self) -> impl Iterator<Item = (&HostName, &Planned)> {
        self.hosts.iter().filter(|(_, p)| {
            matches!(
                p.change,
                Change::Deliver { .. } | Change::Secrets | Change::Drift { .. }
            )
        })
    }
}

/// See the module.
#[must_use]
pub fn plan(fleet: &FleetView<'_>, now: Timestamp, seed: u64) -> Plan {
    let mut out = Plan::default();
    let mut asks = Vec::new();
    let seeds = (0u64..).map(|n| mix(seed ^ n));
    for (view, seed) in fleet.hosts.iter().zip(seeds) {
        let free = HostView {
            denied: None,
            ..view.clone()
        };
        let decision = decide(&free, now, seed);
        if matches!(decision.step, Step::Ask { .. }) {
            asks.push((free, seed));
        }
        let planned = Planned {
            change: change(view),
            decision,
            admitted: None,
        };
        out.hosts.insert(view.manifest.name.clone(), planned);
    }
    let claims = fleet.hosts.iter().filter_map(|v| v.claim);
    // A host that was left is nobody's to wait for.
    let ours = fleet.hosts.iter().filter(|v| v.left.is_none());
    let ours = ours.map(|v| (v.manifest, v.memory));
    let held = held(fleet.rollout, claims, ours.clone());
    let memories = fleet.hosts.iter().map(|v| (&v.manifest.name, v.memory));
    let asked: Vec<Asked> = asks.iter().map(|(v, _)| asked(v, now)).collect();
    let down = down(fleet.rollout, ours);
    let mut verdicts = admit(fleet.rollout, &held, &down, &asked, &failures(memories));
    for (view, seed) in asks {
        let name = &view.manifest.name;
        let (Some(verdict), Some(planned)) = (verdicts.remove(name), out.hosts.get_mut(name))
        else {
            continue;
        };
        if let Err(why) = &verdict {
            let denied = HostView {
                denied: Some(why),
                ..view.clone()
            };
            planned.decision = decide(&denied, now, seed);
        }
        planned.admitted = Some(verdict);
    }
    out
}

/// What a host says when it asks for permission.
#[must_use]
pub fn asked(view: &HostView<'_>, now: Timestamp) -> Asked {
    let effective = effective(view);
    Asked {
        host: view.manifest.name.clone(),
        labels: view.manifest.labels.clone(),
        revision: effective.revision.clone(),
        reboots: Way::of(view.manifest, now).may_reboot,
        nudged: view.nudge.is_some()
            || view.memory.retry
            || view.memory.correct
            || effective.rollback.is_some(),
        since: now,
    }
}

/// Who is being changed: by our word, a claim; or by the host's own, where an attempt goes on that the database is older than.
#[must_use]
pub fn held<'a>(
    rollout: &ResolvedRollout,
    claims: impl Iterator<Item = &'a Claim>,
    hosts: impl Iterator<Item = (&'a ResolvedHost, &'a Memory)>,
) -> Vec<Held> {
    let mut out: BTreeMap<HostName, Held> = hosts
        .filter(|(_, memory)| memory.is_at_an_attempt())
        .map(|(m, _)| (m.name.clone(), Held::of(rollout, &m.name, &m.labels)))
        .collect();
    // With the groups as they were when it was granted.
    out.extend(claims.map(|claim| (claim.host.clone(), Held::from(claim))));
    out.into_values().collect()
}

/// Hosts that do not answer: who reboots another of their group would take down one more.
#[must_use]
pub fn down<'a>(
    rollout: &ResolvedRollout,
    hosts: impl Iterator<Item = (&'a ResolvedHost, &'a Memory)>,
) -> Vec<Held> {
    hosts
        .filter(|(_, memory)| memory.misses >= MISSES)
        .map(|(m, _)| Held::of(rollout, &m.name, &m.labels))
        .collect()
}

/// Hosts whose last attempt harmed them, by the revision that they tried; what did no harm (a power cut, a full disk) counts
/// once trying again is given up.
#[must_use]
pub fn failures<'a>(hosts: impl Iterator<Item = (&'a HostName, &'a Memory)>) -> admit::Failures {
    let mut out = admit::Failures::new();
    for (name, memory) in hosts {
        if let Some(revision) = failed_at(memory) {
            out.entry(revision).or_default().insert(name.clone());
        }
    }
    out
}

fn failed_at(m: &Memory) -> Option<Revision> {
    use trueup_schema::status::Outcome as O;
    let e = m.ended.as_ref()?;
    let harmed = match e.outcome {
        O::RolledBack | O::RolledBackPartial | O::RollbackFailed | O::BootNotCommitted => true,
        O::Failed | O::Interrupted | O::Unreachable => {
            m.quarantined.contains_key(&e.digest)
                || m.tries
                    .get(&e.digest)
                    .is_some_and(|t| t.count >= crate::decide::MAX_TRIES)
        }
        O::Succeeded | O::Skipped | O::RebootRequired | O::Superseded => false,
    };
    harmed.then(|| e.revision.clone())
}

fn change(view: &HostView<'_>) -> Change {
    let view = &effective(view);
    let wanted = match view.evaluation {
        Work::Done(wanted) => wanted,
        Work::Failed(p) => return Change::Unknown(p.message.clone()),
        Work::None | Work::Running(_) => return Change::Unknown("not evaluated yet".to_owned()),
    };
    let Some(report) = &view.memory.report else {
        return Change::Unknown("it has not answered yet".to_owned());
    };
    let (from, to) = (report.running.running.clone(), wanted.closure.clone());
    match runs_there(view, report, wanted) {
        Runs::Goal => match has_secrets(report, view.secrets) {
            Runs::Goal => Change::Nothing,
            Runs::Drifted(what) => Change::Drift { from, to, what },
            Runs::Other => Change::Secrets,
        },
        Runs::Drifted(what) => Change::Drift { from, to, what },
        Runs::Other => Change::Deliver { from, to },
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub(crate) mod tests;
