//! When a claim is given back, and when it is kept although nobody answers.

use std::time::Duration;

use trueup_schema::kind::Adopt;
use trueup_schema::status::{Outcome, Phase};
use trueup_schema::wire::{OfferReply, Order, Report};
use trueup_schema::{ErrorClass, Timestamp};

use super::*;
use crate::absorb;
use crate::decide::decide;
use crate::plan::tests::{claim, host, now, wanted};
use crate::standing::Standing;
use trueup_schema::status::Reason;

const MINUTE: Duration = Duration::from_secs(60);
/// Long after the claim's intent has expired.
const LATER: Duration = Duration::from_secs(3600);

/// Runs `old`, and holds a claim for `new`; it answered when that was granted.
fn claimed() -> Standing {
    let mut s = host("web-1", "web", "old", "new");
    s.memory.answered_at = Some(now());
    s.claim = Some(claim(&s, &wanted("new")));
    s
}

fn misses(s: &mut Standing, at: Timestamp) {
    for _ in 0..MISSES {
        let why = "connection timed out";
        let class = ErrorClass::Transient;
        absorb::missed(&mut s.memory, class, Reason::Unreachable, why, at, 1);
    }
}

/// Says, when asked, what it said before, and what `change` makes of it. Does that end the claim?
fn says(
    s: &mut Standing,
    at: Timestamp,
    machine_id: Option<&str>,
    change: impl FnOnce(&mut Report),
) -> bool {
    let mut report = s.memory.report.clone().unwrap();
    change(&mut report);
    let claim = s.claim.clone();
    absorb::answered(&mut s.memory, report, claim.as_ref(), machine_id, at, 1).release
}

fn begins(s: &mut Standing) {
    let claim = s.claim.clone().unwrap();
    let order = claim.order;
    let reply = OfferReply::Begun { order };
    absorb::replied(&mut s.memory, &claim, &reply, now(), 1);
}

fn decided(s: &Standing, at: Timestamp) -> Decision {
    decide(&s.view(Adopt::Auto, Duration::from_secs(300)), at, 1)
}

#[test]
fn a_claim_whose_offer_was_not_answered_is_held_until_the_host_answers() {
    let mut s = claimed();
    assert_eq!(decided(&s, now()).step, Step::Offer);
    misses(&mut s, now());
    let d = decided(&s, now() + LATER);
    assert_eq!(d.step, Step::Observe, "it may have begun: {d:?}");
    misses(&mut s, now() + LATER);
    let d = decided(&s, now() + LATER);
    assert!(matches!(d.step, Step::Wait { .. }), "{d:?}");
    assert_eq!(d.verdict.phase, Phase::Unreachable);
    assert!(d.verdict.message.contains("counts as changing"), "{d:?}");
    // Its own word, after which it takes the intent no more.
    says(&mut s, now() + LATER, None, |_| {});
    assert_eq!(decided(&s, now() + LATER).step, Step::Release);
}

#[test]
fn an_answer_from_before_the_intent_expired_does_not_end_it() {
    let s = claimed();
    let expires = s.claim.as_ref().unwrap().expires_at;
    assert_eq!(decided(&s, expires - MINUTE).step, Step::Offer);
    assert_eq!(decided(&s, expires).step, Step::Observe);
}

#[test]
fn what_was_begun_is_held_however_long_the_host_is_silent() {
    let mut s = claimed();
    begins(&mut s);
    misses(&mut s, now());
    let d = decided(&s, now() + LATER);
    assert_eq!(d.step, Step::Observe, "{d:?}");
    assert_eq!(d.verdict.phase, Phase::Unreachable, "{d:?}");
}

#[test]
fn a_machine_that_is_gone_gives_its_place_back_once_the_trunk_no_longer_has_it() {
    let mut s = claimed();
    begins(&mut s);
    misses(&mut s, now());
    let with = |released, at| {
        let mut view = s.view(Adopt::Auto, Duration::from_secs(300));
        view.released = released;
        decide(&view, at, 1).step
    };
    let long = now() + REBOOT_MAX;
    assert_ne!(
        with(true, long - MINUTE),
        Step::Release,
        "it may be rebooting"
    );
    assert_eq!(with(true, long), Step::Release);
    assert_ne!(with(false, long), Step::Release);
}

#[test]
fn a_host_that_lost_what_it_began_is_offered_it_again_after_a_while() {
    let mut s = claimed();
    let machine = s.memory.report.clone().unwrap().identity.machine_id;
    begins(&mut s);
    assert_eq!(
        s.memory.answered_at, None,
        "what it said before is no answer"
    );
    let later = now() + MINUTE;
    let mut forgets = |machine_id| {
        says(&mut s, later, machine_id, |r: &mut Report| {
            r.greatest = None
        })
    };
    assert!(!forgets(Some("another")), "another machine");
    assert!(!forgets(None), "not known to be ours");
    assert!(forgets(Some(&machine)));
    assert!(!forgets(Some(&machine)), "counts once");
    assert_eq!(decided(&s, later).step, Step::Release);
    let ended = s.memory.ended.clone().unwrap();
    assert_eq!(ended.outcome, Outcome::Interrupted);
    assert_eq!(s.memory.tries.values().next().unwrap().count, 1);
    assert!(s.memory.quarantined.is_empty());
    s.claim = None;
    assert!(
        matches!(decided(&s, later).step, Step::Wait { .. }),
        "back-off"
    );
}

#[test]
fn a_host_that_knows_of_the_attempt_did_not_lose_it() {
    let mut s = claimed();
    let machine = s.memory.report.clone().unwrap().identity.machine_id;
    begins(&mut s);
    let order = Order { term: 1, serial: 1 };
    let knows = |r: &mut Report| r.greatest = Some(order);
    assert!(!says(&mut s, now(), Some(&machine), knows));
    // Nor one that never said that it began.
    let mut s = claimed();
    assert!(!says(&mut s, now(), Some(&machine), |_| {}));
}
