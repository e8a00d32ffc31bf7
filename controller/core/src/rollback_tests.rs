//! Where a rollback goes, over made-up histories, and how long it holds.

use proptest::prelude::*;
use trueup_schema::status::Outcome;
use trueup_schema::wire::{Order, system_digest};

use super::*;
use crate::history::Cause;

fn closure(n: u8) -> StorePath {
    let hash = Digest::of(&[n]).as_str()[..32].replace('e', "x");
    format!("/nix/store/{hash}-nixos-system-{n}")
        .parse()
        .unwrap()
}

fn revision(n: u64) -> Revision {
    Revision::new("main", &Digest::of(&n.to_le_bytes()).as_str()[..40]).unwrap()
}

fn digest(n: u8) -> Digest {
    system_digest(&closure(n), None)
}

fn attempt(serial: u64, n: u8, outcome: Outcome) -> Attempt {
    Attempt {
        order: Order { term: 1, serial },
        began: Timestamp::UNIX_EPOCH,
        ended: Timestamp::UNIX_EPOCH,
        revision: revision(serial),
        closure: closure(n),
        specialisation: None,
        digest: digest(n),
        secrets_alone: false,
        outcome,
        stage: None,
        message: String::new(),
        cause: Cause::Trunk,
    }
}

fn wanted(n: u8) -> Work<Wanted> {
    Work::Done(Wanted {
        drv: derivation(&closure(n)).unwrap(),
        closure: closure(n),
        digest: digest(n),
    })
}

fn rollback(to: u8, held: &[u8]) -> Rollback {
    Rollback {
        id: "1".to_owned(),
        host: "web-1".parse().unwrap(),
        to: closure(to),
        specialisation: None,
        digest: digest(to),
        revision: None,
        held: held.iter().map(|n| digest(*n)).collect(),
        from: None,
        by: Actor::controller(),
        reason: String::new(),
        at: Timestamp::UNIX_EPOCH,
        over: None,
    }
}

#[test]
fn it_holds_until_the_trunk_wants_what_was_not_held() {
    let mut r = rollback(1, &[2]);
    for unknown in [Work::None, Work::Running(None)] {
        assert!(r.holds(&unknown));
    }
    assert!(r.holds(&wanted(2)));
    assert!(!r.holds(&wanted(3)));
    assert!(!r.holds(&wanted(1)), "the trunk wants it itself now");
    r.over = Some(Over {
        at: Timestamp::UNIX_EPOCH,
        how: How::Lifted,
        message: String::new(),
    });
    assert!(!r.holds(&wanted(2)));
}

#[test]
fn a_revision_that_failed_there_is_no_place_to_go() {
    let history = [
        attempt(1, 1, Outcome::Succeeded),
        attempt(2, 2, Outcome::RolledBack),
        attempt(3, 3, Outcome::Succeeded),
    ];
    let current = [digest(3)].into();
    let to = |older: Vec<Revision>| {
        let asked = Asked::Revision {
            sha1: "x",
            older: &older,
        };
        choose(&history, &asked, &current, &BTreeSet::new()).map(|a| a.closure.clone())
    };
    // Commits 10 and 20 changed nothing there.
    assert_eq!(to(vec![revision(10), revision(1)]), Ok(closure(1)));
    assert!(matches!(
        to(vec![revision(20), revision(2), revision(1)]),
        Err(Nowhere::NeverRan { .. })
    ));
    assert!(matches!(to(vec![revision(3)]), Err(Nowhere::Current(_))));
    assert!(matches!(to(vec![revision(99)]), Err(Nowhere::Unknown(_))));
}

proptest! {
    /// Whatever the history is: it goes to something that ran there confirmed, neither to what runs nor to what a person
    /// took back already; and the newest such.
    #[test]
    fn it_goes_to_the_newest_that_ran_and_is_neither_current_nor_taken_back(
        tries in proptest::collection::vec((0u8..6, any::<bool>()), 0..30),
        current in 0u8..6,
        passed in proptest::collection::btree_set(0u8..6, 0..3),
    ) {
        let outcome = |good| if good { Outcome::Succeeded } else { Outcome::RolledBack };
        let history: Vec<Attempt> = tries
            .iter()
            .enumerate()
            .map(|(i, (n, good))| attempt(i as u64, *n, outcome(*good)))
            .collect();
        let now = [digest(current)].into();
        let taken = passed.iter().map(|n| digest(*n)).collect();
        let may = |n: &u8| *n != current && !passed.contains(n);
        let newest = tries.iter().rev().find(|(n, good)| *good && may(n));
        match choose(&history, &Asked::Before, &now, &taken) {
            Ok(a) => prop_assert_eq!(Some(a.digest.clone()), newest.map(|(n, _)| digest(*n))),
            Err(why) => {
                prop_assert_eq!(why, Nowhere::NothingBefore);
                prop_assert!(newest.is_none());
            }
        }
    }
}
