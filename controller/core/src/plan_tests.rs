//! A plan over supposed hosts: who changes now, who waits and why, and that nothing is left out.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use trueup_schema::Digest;
use trueup_schema::kind::{
    Adopt, Delivery, MaxUnavailable, Reboot, ResolvedActivation, ResolvedDrift, ResolvedHost,
    ResolvedRollout, ResolvedSsh, Target,
};
use trueup_schema::status::{Phase, Reason};
use trueup_schema::wire::Order;

use super::*;
use crate::host::{Claim, Wanted};
use crate::standing::Standing;

pub(crate) fn wanted(text: &str) -> Wanted {
    let hash = Digest::of(text.as_bytes()).as_str()[..32].replace('e', "x");
    let closure: StorePath = format!("/nix/store/{hash}-nixos-{text}").parse().unwrap();
    Wanted {
        drv: format!("{closure}.drv").parse().unwrap(),
        digest: Digest::of(closure.as_str().as_bytes()),
        closure,
    }
}

fn manifest(name: &str, role: &str) -> ResolvedHost {
    ResolvedHost {
        name: name.parse().unwrap(),
        labels: [("role".to_owned(), role.to_owned())].into(),
        annotations: BTreeMap::new(),
        system: "x86_64-linux".parse().unwrap(),
        target: Target::Flake {
            attribute: name.to_owned(),
        },
        address: "10.0.0.1".parse().unwrap(),
        ssh: ResolvedSsh::default(),
        delivery: Delivery::Push,
        activation: ResolvedActivation::default(),
        drift: ResolvedDrift::default(),
        depends_on: Vec::new(),
        suspend: false,
        keep_generations: 10,
        reboot: Reboot::Never,
        reboot_window: None,
        specialisation: None,
        secrets: Default::default(),
    }
}

pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

pub(crate) fn host(name: &str, role: &str, runs: &str, to: &str) -> Standing {
    let revision = Revision::new("main", &"a".repeat(40)).unwrap();
    let runs = wanted(runs);
    let to = Work::Done(wanted(to));
    Standing::supposed(manifest(name, role), revision, Some(&runs), to, now())
}

/// Its first, granted now, at what this closure is.
pub(crate) fn claim(s: &Standing, to: &Wanted) -> Claim {
    Claim {
        host: s.manifest.name.clone(),
        order: Order { term: 1, serial: 1 },
        revision: s.revision.clone(),
        digest: to.digest.clone(),
        secrets: None,
        secrets_alone: false,
        closure: to.closure.clone(),
        specialisation: None,
        attempt: 1,
        groups: BTreeMap::new(),
        granted_at: now(),
        expires_at: now() + Duration::from_secs(300),
        correction: false,
        retry: false,
        cause: Default::default(),
        of: None,
        way: Way::default(),
    }
}

fn draw(hosts: &[Standing], rollout: &ResolvedRollout) -> Plan {
    let views = hosts
        .iter()
        .map(|h| h.view(Adopt::Auto, Duration::from_secs(300)));
    let fleet = FleetView {
        rollout,
        hosts: views.collect(),
    };
    plan(&fleet, now(), 1)
}

#[test]
fn a_plan_names_who_changes_now_and_who_waits_and_why() {
    let rollout = ResolvedRollout {
        max_concurrent: 10,
        max_unavailable: vec![MaxUnavailable {
            label: "role".to_owned(),
            max: 1,
        }],
        max_failures: 1,
    };
    let mut gone = host("db-2", "db", "one", "two");
    gone.memory.report = None;
    let hosts = [
        host("web-1", "web", "one", "two"),
        host("web-2", "web", "one", "two"),
        host("db-1", "db", "two", "two"),
        gone,
    ];
    let p = draw(&hosts, &rollout);
    let of = |n: &str| &p.hosts[&n.parse::<HostName>().unwrap()];
    assert!(of("web-1").begins());
    assert_eq!(of("web-2").decision.verdict.phase, Phase::Held);
    assert_eq!(of("web-2").decision.verdict.reason, Reason::BudgetExhausted);
    assert_eq!(of("db-1").change, Change::Nothing);
    assert!(matches!(of("db-2").change, Change::Unknown(_)));
    let changes: Vec<&str> = p.changes().map(|(h, _)| h.as_str()).collect();
    assert_eq!(changes, ["web-1", "web-2"]);
}

#[test]
fn a_host_that_is_held_there_is_looked_at_soon_and_no_longer_when_it_is_not() {
    use crate::decide::{HELD_LOOK, Step, decide};
    let mut there = host("a", "web", "one", "two");
    let look = |there: &Standing, later: Duration| {
        let view = there.view(Adopt::Auto, Duration::from_secs(300));
        decide(&view, now() + later, 7).step
    };
    // An hour: what the host's own interval says, and the hold does not.
    there.manifest.drift.interval = "1h".parse().unwrap();
    let report = there.memory.report.as_mut().unwrap();
    report.hold = Some(trueup_schema::wire::Hold {
        until: now() + Duration::from_secs(7200),
        reason: "raid rebuild".to_owned(),
        by: "root".to_owned(),
    });
    match look(&there, Duration::ZERO) {
        Step::Wait { until } => assert!(until <= now() + 2 * HELD_LOOK, "{until}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(look(&there, 2 * HELD_LOOK), Step::Observe));
    // Held no more, and nothing to do: it rests as all others do.
    let mut rests = host("a", "web", "one", "one");
    rests.manifest.drift.interval = "1h".parse().unwrap();
    match look(&rests, 2 * HELD_LOOK) {
        Step::Wait { until } => assert!(until > now() + 2 * HELD_LOOK, "{until}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_failed_host_holds_back_the_others_in_the_plan() {
    let mut bad = host("web-1", "web", "one", "two");
    let revision = bad.revision.clone();
    bad.memory.ended = Some(crate::host::Ended {
        order: trueup_schema::wire::Order { term: 1, serial: 1 },
        revision,
        digest: wanted("two").digest,
        outcome: trueup_schema::status::Outcome::RolledBack,
        stage: None,
        message: "no contact".to_owned(),
        at: now(),
        way: Default::default(),
        boot_id: None,
    });
    let hosts = [bad, host("web-2", "web", "one", "two")];
    let rollout = ResolvedRollout {
        max_failures: 1,
        ..ResolvedRollout::default()
    };
    let p = draw(&hosts, &rollout);
    let web2 = &p.hosts[&"web-2".parse::<HostName>().unwrap()];
    assert!(!web2.begins());
    assert!(
        web2.decision.verdict.message.contains("maxFailures"),
        "{web2:?}"
    );
    assert!(p.hosts[&"web-1".parse::<HostName>().unwrap()].begins());
}

proptest! {
    #[test]
    fn each_host_is_in_the_plan_once_and_limits_hold(
        hosts in proptest::collection::vec((0u32..3, 0u32..3, 0u32..3), 0..40),
        concurrent in 1u32..6,
        unavailable in 1u32..4,
    ) {
        let rollout = ResolvedRollout {
            max_concurrent: concurrent,
            max_unavailable: vec![MaxUnavailable { label: "role".to_owned(), max: unavailable }],
            max_failures: 1,
        };
        let hosts: Vec<Standing> = hosts
            .iter()
            .enumerate()
            .map(|(n, (role, from, to))| host(&format!("h{n}"), &format!("r{role}"), &from.to_string(), &to.to_string()))
            .collect();
        let p = draw(&hosts, &rollout);
        prop_assert_eq!(p.hosts.len(), hosts.len());
        let begin: Vec<_> = p.hosts.iter().filter(|(_, p)| p.begins()).map(|(n, _)| n).collect();
        prop_assert!(begin.len() <= concurrent as usize);
        for role in 0..3 {
            let of_role = |n: &&&HostName| hosts.iter().any(|h| h.manifest.name == ***n && h.manifest.labels["role"] == format!("r{role}"));
            prop_assert!(begin.iter().filter(of_role).count() <= unavailable as usize);
        }
        for (name, planned) in &p.hosts {
            let h = hosts.iter().find(|h| h.manifest.name == *name).unwrap();
            let runs = h.memory.report.as_ref().unwrap().running.running.clone();
            let Work::Done(to) = &h.evaluation else { unreachable!() };
            prop_assert_eq!(planned.change == Change::Nothing, runs == Some(to.closure.clone()));
            // Someone who would change either begins or is told why not; nobody is passed over.
            prop_assert_eq!(planned.admitted.is_some(), planned.change != Change::Nothing);
        }
        // Idempotent: the same view gives the same plan.
        prop_assert_eq!(draw(&hosts, &rollout), p);
    }
}
