//! Which disruptive steps may begin, fleet-wide. Run by whoever asks, over all that is held; a granted one becomes a
//! claim in the db before the step begins, so that limits hold under concurrency and crashes.

use std::collections::{BTreeMap, BTreeSet};

use trueup_schema::kind::{Labels, ResolvedRollout};
use trueup_schema::{HostName, Revision, Timestamp};

use crate::host::Claim;

/// Who holds a permission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Whom.
    pub host: HostName,
    /// Values of the labels that budgets go by, as they were when it was granted.
    pub groups: BTreeMap<String, String>,
}

impl Held {
    /// A host with these labels, by the groups that they are now.
    #[must_use]
    pub fn of(rollout: &ResolvedRollout, host: &HostName, labels: &Labels) -> Self {
        Self {
            host: host.clone(),
            groups: groups(rollout, labels),
        }
    }
}

impl From<&Claim> for Held {
    fn from(claim: &Claim) -> Self {
        Self {
            host: claim.host.clone(),
            groups: claim.groups.clone(),
        }
    }
}

/// Who asks for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Whom.
    pub host: HostName,
    /// The host's labels.
    pub labels: Labels,
    /// For which revision.
    pub revision: Revision,
    /// It may come to a reboot.
    pub reboots: bool,
    /// A person asked for this host by name: it comes first, and failures of other hosts do not stop it.
    pub nudged: bool,
    /// Since when it asks.
    pub since: Timestamp,
}

/// Hosts whose last attempt failed, by the revision that they tried.
pub type Failures = BTreeMap<Revision, BTreeSet<HostName>>;

/// Yes, or why not.
pub type Verdict = Result<(), String>;

/// The values of those labels of a host that budgets go by.
#[must_use]
pub fn groups(rollout: &ResolvedRollout, labels: &Labels) -> BTreeMap<String, String> {
    rollout
        .max_unavailable
        .iter()
        .filter_map(|m| Some((m.label.clone(), labels.get(&m.label)?.clone())))
        .collect()
}

/// One verdict for each that asks. Hosts that are `down` count where one would be rebooted: a group that may have one host
/// away at a time has it.
#[must_use]
pub fn admit(
    rollout: &ResolvedRollout,
    held: &[Held],
    down: &[Held],
    asked: &[Asked],
    failed: &Failures,
) -> BTreeMap<HostName, Verdict> {
    let mut holding: Vec<Held> = held.to_vec();
    let mut order: Vec<&Asked> = asked.iter().collect();
    order.sort_by(|a, b| (!a.nudged, a.since, &a.host).cmp(&(!b.nudged, b.since, &b.host)));
    let mut out = BTreeMap::new();
    for ask in order {
        let verdict = one(rollout, &holding, down, ask, failed);
        if verdict.is_ok() {
            holding.push(Held::of(rollout, &ask.host, &ask.labels));
        }
        out.insert(ask.host.clone(), verdict);
    }
    out
}

/// Hosts that the revision harmed. A host's own failure holds back the others, not its own next try.
fn others_failed(failed: &Failures, revision: &Revision, host: &HostName) -> u32 {
    let hosts = failed.get(revision);
    let others = hosts.map_or(0, |hosts| hosts.iter().filter(|h| *h != host).count());
    u32::try_from(others).unwrap_or(u32::MAX)
}

/// Has the revision harmed so many that it goes no further by itself?
#[must_use]
pub fn is_stopped(
    rollout: &ResolvedRollout,
    failed: &Failures,
    revision: &Revision,
    host: &HostName,
) -> bool {
    let max = rollout.max_failures;
    max > 0 && others_failed(failed, revision, host) >= max
}

fn one(
    rollout: &ResolvedRollout,
    holding: &[Held],
    down: &[Held],
    ask: &Asked,
    failed: &Failures,
) -> Verdict {
    if holding.iter().any(|h| h.host == ask.host) {
        return Err("it is being changed already".to_owned());
    }
    let failures = others_failed(failed, &ask.revision, &ask.host);
    if is_stopped(rollout, failed, &ask.revision, &ask.host) && !ask.nudged {
        return Err(format!(
            "{} goes no further: {failures} failed, maxFailures is {}; commit a fix, or `trueup reconcile --host {}`",
            ask.revision.short(),
            rollout.max_failures,
            ask.host
        ));
    }
    if holding.len() >= rollout.max_concurrent as usize {
        return Err(format!(
            "{} hosts change now, maxConcurrent is {}",
            holding.len(),
            rollout.max_concurrent
        ));
    }
    for limit in &rollout.max_unavailable {
        let Some(value) = ask.labels.get(&limit.label) else {
            continue;
        };
        let same = |h: &&Held| h.groups.get(&limit.label) == Some(value);
        let now = holding.iter().filter(same).count();
        let away = down
            .iter()
            .filter(|h| ask.reboots && h.host != ask.host)
            .filter(|h| holding.iter().all(|held| held.host != h.host))
            .filter(same)
            .count();
        if now + away >= limit.max as usize && away > 0 {
            return Err(format!(
                "{away} of {}={value} do not answer, {now} change now, maxUnavailable is {}: it may come to a reboot",
                limit.label, limit.max
            ));
        }
        if now >= limit.max as usize {
            return Err(format!(
                "{now} of {}={value} change now, maxUnavailable is {}",
                limit.label, limit.max
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use trueup_schema::kind::MaxUnavailable;

    fn rollout(c: u32, m: u32) -> ResolvedRollout {
        ResolvedRollout {
            max_concurrent: c,
            max_unavailable: vec![MaxUnavailable {
                label: "role".to_owned(),
                max: m,
            }],
            max_failures: 1,
        }
    }

    fn ask(n: u32, role: u32) -> Asked {
        Asked {
            host: format!("h{n}").parse().unwrap(),
            labels: [("role".to_owned(), role.to_string())].into(),
            revision: Revision::new("main", &"a".repeat(40)).unwrap(),
            reboots: n.is_multiple_of(2),
            nudged: n.is_multiple_of(5),
            since: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_failure_stops_a_revision_but_not_a_person() {
        let r = rollout(10, 10);
        let a = ask(1, 0);
        let (nudged, bad) = (ask(5, 0), ask(7, 0));
        let failed = [(a.revision.clone(), [bad.host.clone()].into())].into();
        let asks = [a.clone(), nudged.clone(), bad.clone()];
        let v = admit(&r, &[], &[], &asks, &failed);
        assert!(v[&a.host].is_err());
        assert!(v[&nudged.host].is_ok());
        assert!(v[&bad.host].is_ok(), "its own next try is its own affair");
    }

    #[test]
    fn a_host_that_is_away_holds_up_the_reboot_of_its_neighbour_and_nothing_else() {
        let r = rollout(10, 1);
        let away = Held {
            host: "gone".parse().unwrap(),
            groups: [("role".to_owned(), "0".to_owned())].into(),
        };
        let (reboots, switches, other) = (ask(2, 0), ask(3, 0), ask(4, 1));
        let alone = |a: &Asked| {
            admit(
                &r,
                &[],
                std::slice::from_ref(&away),
                std::slice::from_ref(a),
                &Failures::new(),
            )
        };
        assert!(alone(&reboots)[&reboots.host].is_err());
        assert!(alone(&switches)[&switches.host].is_ok());
        assert!(alone(&other)[&other.host].is_ok());
        let itself = Asked {
            host: away.host.clone(),
            ..reboots
        };
        assert!(alone(&itself)[&itself.host].is_ok(), "it is away itself");
    }

    proptest! {
        #[test]
        fn limits_hold_whoever_asks(c in 1u32..6, m in 1u32..4, roles in proptest::collection::vec(0u32..3, 0..30), held in 0usize..4) {
            let r = rollout(c, m);
            let asks: Vec<Asked> = (0u32..).zip(&roles).map(|(n, role)| ask(n + 100, *role)).collect();
            let held: Vec<Held> = (0u32..).take(held.min(c as usize).min(m as usize)).map(|n| Held {
                host: format!("x{n}").parse().unwrap(),
                groups: [("role".to_owned(), "0".to_owned())].into(),
            }).collect();
            let v = admit(&r, &held, &[], &asks, &BTreeMap::new());
            prop_assert_eq!(v.len(), asks.len());
            let granted: Vec<&Asked> = asks.iter().filter(|a| v[&a.host].is_ok()).collect();
            prop_assert!(granted.len() + held.len() <= c as usize);
            for role in 0..3u32 {
                let n = granted.iter().filter(|a| a.labels["role"] == role.to_string()).count()
                    + if role == 0 { held.len() } else { 0 };
                prop_assert!(n <= m as usize);
            }
        }
    }
}
