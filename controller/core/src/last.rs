//! The controller's own host goes last in a revision: what harms hosts has then shown itself on another, and the controller
//! is restarted once the rest is done. Says which hosts it still waits for; it decides nothing about them.

use std::collections::BTreeSet;

use trueup_schema::status::{Condition, ConditionType, Truth};
use trueup_schema::{HostName, Revision};

use crate::conditions::find;
use crate::host::Memory;

/// Another host of the fleet, as far as it matters here.
#[derive(Debug, Clone)]
pub struct Other<'a> {
    /// Whom.
    pub name: &'a HostName,
    /// What it is to be.
    pub desired: &'a Revision,
    /// The last revision at which it ended Ready or Stalled.
    pub observed: Option<&'a Revision>,
    /// As last shown.
    pub conditions: &'a [Condition],
    /// It holds a permission to be changed.
    pub claimed: bool,
    /// Whom it waits for.
    pub depends_on: &'a [HostName],
}

/// Does the controller run on this host? By what the host reported of itself; a machine without an id is nobody's.
#[must_use]
pub fn is_own(memory: &Memory, machine_id: Option<&str>) -> bool {
    let reported = memory
        .report
        .as_ref()
        .map(|r| r.identity.machine_id.as_str());
    machine_id.is_some_and(|id| !id.is_empty() && reported == Some(id))
}

/// Is this host on its way to what is desired? Not one that rests by a person's word, needs a person, or does not answer:
/// for those nobody waits.
#[must_use]
pub fn is_under_way(other: &Other<'_>) -> bool {
    if other.claimed {
        return true;
    }
    if other.observed == Some(other.desired) {
        return false;
    }
    let true_now = |kind| find(other.conditions, kind).is_some_and(|c| c.status == Truth::True);
    let away =
        find(other.conditions, ConditionType::Reachable).is_some_and(|c| c.status == Truth::False);
    let judged = find(other.conditions, ConditionType::Ready)
        .is_some_and(|c| c.observed_revision.as_ref() == Some(other.desired));
    !away && (true_now(ConditionType::Reconciling) || !judged)
}

/// The hosts that come before the controller's own, which is `own`. Those that depend on it, over however many others, are
/// not among them: they wait for it.
#[must_use]
pub fn before(own: &HostName, others: &[Other<'_>]) -> BTreeSet<HostName> {
    let mut after: BTreeSet<&HostName> = BTreeSet::from([own]);
    loop {
        let more: Vec<&HostName> = others
            .iter()
            .filter(|o| !after.contains(o.name) && o.depends_on.iter().any(|d| after.contains(d)))
            .map(|o| o.name)
            .collect();
        if more.is_empty() {
            break;
        }
        after.extend(more);
    }
    others
        .iter()
        .filter(|o| !after.contains(o.name) && is_under_way(o))
        .map(|o| o.name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use trueup_schema::Timestamp;
    use trueup_schema::status::Reason;

    fn rev(n: u8) -> Revision {
        Revision::new("main", &format!("{n:x}").repeat(40)).unwrap()
    }

    fn name(n: usize) -> HostName {
        format!("h{n}").parse().unwrap()
    }

    fn condition(kind: ConditionType, status: Truth, revision: &Revision) -> Condition {
        Condition {
            kind,
            status,
            reason: Reason::Progressing,
            message: "x".to_owned(),
            last_transition_time: Timestamp::UNIX_EPOCH,
            observed_revision: Some(revision.clone()),
        }
    }

    fn working(revision: &Revision) -> Vec<Condition> {
        vec![
            condition(ConditionType::Ready, Truth::Unknown, revision),
            condition(ConditionType::Reconciling, Truth::True, revision),
        ]
    }

    #[test]
    fn whoever_is_under_way_comes_first_and_whoever_rests_is_not_waited_for() {
        let (old, new) = (rev(1), rev(2));
        let one = |observed: &Revision, conditions: &[Condition], claimed| {
            let host = name(1);
            is_under_way(&Other {
                name: &host,
                desired: &new,
                observed: Some(observed),
                conditions,
                claimed,
                depends_on: &[],
            })
        };
        let ready = |status, revision| condition(ConditionType::Ready, status, revision);
        assert!(one(&old, &working(&new), false));
        assert!(one(&old, &[], false), "nobody looked at it yet");
        let before = [ready(Truth::True, &old)];
        assert!(one(&old, &before, false), "judged for what was");
        assert!(one(&new, &[], true), "it is being changed");
        let no = [ready(Truth::False, &new)];
        assert!(!one(&new, &no, false), "it needs a person");
        assert!(!one(&old, &no, false), "suspended, or only observed");
        let mut away = working(&new);
        away.push(condition(ConditionType::Reachable, Truth::False, &new));
        assert!(!one(&old, &away, false));
    }

    #[test]
    fn a_machine_without_an_id_is_not_the_controllers() {
        assert!(!is_own(&Memory::default(), Some("")));
        assert!(!is_own(&Memory::default(), Some("x")));
        assert!(!is_own(&Memory::default(), None));
    }

    proptest! {
        /// However hosts depend on each other: nobody that the controller's host waits for waits for it.
        #[test]
        fn it_never_waits_for_one_that_waits_for_it(edges in proptest::collection::vec((0usize..6, 0usize..6), 0..12)) {
            let new = rev(2);
            let names: Vec<HostName> = (0..6).map(name).collect();
            let depends: Vec<Vec<HostName>> = (0..6)
                .map(|n| edges.iter().filter(|(a, _)| *a == n).map(|(_, b)| names[*b].clone()).collect())
                .collect();
            let conditions = working(&new);
            let others: Vec<Other<'_>> = (1..6)
                .map(|n| Other { name: &names[n], desired: &new, observed: None, conditions: &conditions, claimed: false, depends_on: &depends[n] })
                .collect();
            let first = before(&names[0], &others);
            for (host, name) in names.iter().enumerate().skip(1) {
                let (mut seen, mut next) = (BTreeSet::from([host]), vec![host]);
                while let Some(n) = next.pop() {
                    next.extend(edges.iter().filter(|(a, b)| *a == n && seen.insert(*b)).map(|(_, b)| *b));
                }
                prop_assert_eq!(first.contains(name), !seen.contains(&0));
            }
        }
    }
}
