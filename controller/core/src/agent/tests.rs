use super::*;
use trueup_schema::wire::{Order, Stage};
use trueup_schema::{Digest, Revision};

fn name(s: &str) -> ComponentName {
    s.parse().expect("a name")
}

fn accepted(unattended: bool) -> Event {
    Event::Accepted(Accepted {
        order: Order { term: 1, serial: 7 },
        revision: Revision::new("main", &"a".repeat(40)).expect("a revision"),
        goals: vec![
            (name("system"), Digest::of(b"1")),
            (name("second"), Digest::of(b"2")),
        ],
        unattended,
        session: None,
    })
}

fn at(ns: u64) -> Moment {
    Moment {
        boot_id: "b".to_owned(),
        at: ns,
    }
}

fn applying(c: &str) -> Event {
    Event::Applying { component: name(c) }
}

fn applied(c: &str) -> Event {
    Event::Applied {
        component: name(c),
        activation: Activation::Complete,
    }
}

fn fault() -> Event {
    Event::RollingBack(Fault::evident(Stage::Activate, "x".to_owned()))
}

fn awaiting() -> Event {
    Event::Awaiting {
        nonce: "n".to_owned(),
        since: at(5),
        deadline: at(9),
    }
}

fn fold(events: Vec<Event>) -> Result<State, IllegalEvent> {
    let mut state = None;
    for e in events {
        state = Some(apply(state, e)?);
    }
    Ok(state.expect("at least one event"))
}

fn to_armed() -> Vec<Event> {
    vec![
        accepted(false),
        Event::Staged,
        Event::Recorded(Recorded::default()),
        Event::Armed { deadline: at(9) },
    ]
}

#[test]
fn a_good_attempt_goes_through_all_steps_in_order() {
    let mut events = vec![accepted(false)];
    let rest = [
        (Step::Stage, Event::Staged),
        (Step::Record, Event::Recorded(Recorded::default())),
        (Step::Arm, Event::Armed { deadline: at(9) }),
        (Step::Apply(name("system")), applying("system")),
        (Step::Apply(name("system")), applied("system")),
        (Step::Apply(name("second")), applying("second")),
        (Step::Apply(name("second")), applied("second")),
        (Step::Await, awaiting()),
        (Step::JudgeAndConfirm, Event::JudgedGood),
        (Step::JudgeAndConfirm, Event::Confirmed),
        (Step::Commit, Event::Committing),
        (Step::SetProfile, Event::ProfileSet),
        (Step::WriteBoot, Event::BootAsked),
    ];
    for (step, event) in rest {
        assert_eq!(fold(events.clone()).expect("legal").next(), step);
        events.push(event);
    }
    assert_eq!(fold(events).expect("legal").next(), Step::ReadBack);
}

#[test]
fn components_are_taken_back_in_reverse_also_the_one_that_was_only_begun() {
    let mut events = to_armed();
    events.extend([
        applying("system"),
        applied("system"),
        applying("second"),
        fault(),
    ]);
    let s = fold(events.clone()).expect("legal");
    assert_eq!(s.next(), Step::Revert(name("second")));
    events.push(Event::Reverted {
        component: name("second"),
    });
    assert_eq!(
        fold(events.clone()).expect("legal").next(),
        Step::Revert(name("system"))
    );
    events.push(Event::Reverted {
        component: name("system"),
    });
    assert_eq!(
        fold(events.clone()).expect("legal").next(),
        Step::AwaitContact
    );
    events.push(Event::AwaitingContact { until: at(20) });
    assert_eq!(fold(events).expect("legal").next(), Step::Verify);
}

#[test]
fn the_last_resort_comes_once_and_only_when_all_is_taken_back() {
    let mut events = to_armed();
    events.extend([applying("system"), fault()]);
    let too_early = [events.clone(), vec![Event::LastResort]].concat();
    assert!(fold(too_early).is_err());
    events.extend([
        Event::Reverted {
            component: name("system"),
        },
        Event::AwaitingContact { until: at(20) },
        Event::LastResort,
    ]);
    assert!(fold(events.clone()).expect("legal").last_resort);
    events.push(Event::LastResort);
    assert!(fold(events).is_err());
}

#[test]
fn nobody_is_waited_for_when_nothing_was_touched() {
    let mut events = to_armed();
    events.push(fault());
    assert_eq!(fold(events).expect("legal").next(), Step::Verify);
}

#[test]
fn nothing_is_committed_unconfirmed_or_unjudged() {
    let mut events = to_armed();
    events.extend([
        applying("system"),
        applied("system"),
        applying("second"),
        applied("second"),
        awaiting(),
    ]);
    for lacking in [Event::JudgedGood, Event::Confirmed] {
        let mut e = events.clone();
        e.extend([lacking, Event::Committing]);
        assert!(fold(e).is_err());
    }
}

#[test]
fn a_commit_that_has_begun_is_never_rolled_back() {
    let mut events = to_armed();
    events.extend([
        applying("system"),
        applied("system"),
        applying("second"),
        applied("second"),
        awaiting(),
        Event::JudgedGood,
        Event::Confirmed,
        Event::Committing,
        fault(),
    ]);
    assert!(fold(events).is_err());
}

#[test]
fn nothing_follows_the_end() {
    let end = Event::Ended(End::of(Outcome::Skipped));
    assert!(fold(vec![accepted(true), end.clone(), end]).is_err());
}

#[test]
fn a_reboot_remembers_where_it_cut() {
    let reboot = Event::Rebooted {
        boot_id: "c".to_owned(),
    };
    let mut events = to_armed();
    events.extend([reboot.clone(), reboot]);
    let s = fold(events).expect("legal");
    assert_eq!(
        (s.cut_in, s.next()),
        (Some(Phase::Armed), Step::CloseAfterReboot)
    );
}

fn alone() -> Vec<Event> {
    let mut events = to_armed();
    if let Some(Event::Accepted(a)) = events.first_mut() {
        a.goals.truncate(1);
    }
    let set = BootSet {
        closure: "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-nixos-system-a"
            .parse()
            .expect("a path"),
        once: Some("x.conf".to_owned()),
        boot_id: "b".to_owned(),
    };
    events.extend([applying("system"), Event::BootSet(set)]);
    events
}

fn rebooted() -> Event {
    Event::Rebooted {
        boot_id: "c".to_owned(),
    }
}

#[test]
fn what_a_reboot_brought_up_is_guarded_judged_and_confirmed_like_any_other() {
    let mut events = alone();
    assert_eq!(fold(events.clone()).expect("legal").next(), Step::Reboot);
    events.extend([rebooted(), Event::CameUp]);
    assert_eq!(fold(events.clone()).expect("legal").next(), Step::Arm);
    events.push(Event::Armed { deadline: at(9) });
    assert_eq!(fold(events.clone()).expect("legal").next(), Step::Await);
    events.push(awaiting());
    for lacking in [Event::JudgedGood, Event::Confirmed] {
        let mut e = events.clone();
        e.extend([lacking, Event::Committing]);
        assert!(fold(e).is_err());
    }
    events.extend([Event::JudgedGood, Event::Confirmed, Event::Committing]);
    assert_eq!(fold(events).expect("legal").next(), Step::SetProfile);
}

#[test]
fn what_came_up_and_is_not_to_stay_goes_by_another_reboot() {
    let mut events = alone();
    events.extend([rebooted(), Event::CameUp]);
    events.push(Event::Armed { deadline: at(9) });
    events.extend([awaiting(), fault()]);
    assert_eq!(
        fold(events.clone()).expect("legal").next(),
        Step::Revert(name("system"))
    );
    events.push(Event::Reverted {
        component: name("system"),
    });
    assert_eq!(
        fold(events.clone()).expect("legal").next(),
        Step::RebootBack
    );
    events.extend([Event::LastResort, rebooted()]);
    let s = fold(events).expect("legal");
    assert_eq!(
        (s.cut_in, s.next()),
        (Some(Phase::RollingBack), Step::CloseAfterReboot)
    );
}

#[test]
fn nothing_comes_up_that_was_not_set_to() {
    let mut events = to_armed();
    events.extend([applying("system"), rebooted(), Event::CameUp]);
    assert!(fold(events).is_err());
    let mut events = alone();
    events.extend([rebooted(), Event::CameUp, Event::CameUp]);
    assert!(fold(events).is_err());
}

#[test]
fn a_goal_that_is_not_alone_is_not_rebooted_into() {
    let mut events = alone();
    if let Some(Event::Accepted(a)) = events.first_mut() {
        a.goals.push((name("second"), Digest::of(b"2")));
    }
    assert!(fold(events).is_err());
}
