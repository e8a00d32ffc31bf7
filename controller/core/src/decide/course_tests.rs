//! A host among commits that come faster than it can be reached: which goal stands, for how long, and what ends it.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use trueup_schema::kind::{Adopt, DriftPolicy};
use trueup_schema::status::{Actor, Outcome};
use trueup_schema::wire::{Hold, Stage};
use trueup_schema::{ErrorClass, HostName, Revision};

use super::*;
use crate::conditions::State;
use crate::course::{Heading, Place};
use crate::decide::{Step, decide};
use crate::host::{ClosureStage, Ended, Left, Problem, Suspension};
use crate::plan::tests::{claim, host, now, wanted};
use crate::rollback::effective;
use crate::standing::Standing;

/// One host that runs `0`, a trunk, and closures that are built or failed.
struct Story {
    standing: Standing,
    built: BTreeSet<String>,
    failed: BTreeSet<String>,
}

fn revision(n: u64) -> Revision {
    Revision::new("main", &format!("{n:040x}")).unwrap()
}

impl Story {
    fn new() -> Self {
        let mut standing = host("web-1", "web", "0", "0");
        standing.revision = revision(0);
        Self {
            standing,
            built: BTreeSet::new(),
            failed: BTreeSet::new(),
        }
    }
    fn closure(&self, of: &Wanted) -> Work<()> {
        let is = |set: &BTreeSet<String>| set.iter().any(|text| wanted(text) == *of);
        if is(&self.failed) {
            return Work::Failed(problem());
        }
        match is(&self.built) {
            true => Work::Done(()),
            false => Work::Running(None),
        }
    }
    /// What the engine does before each decision.
    fn settle(&mut self) {
        self.standing.heading = None;
        self.standing.closure = match self.standing.evaluation.clone() {
            Work::Done(w) => self.closure(&w),
            _ => Work::None,
        };
        self.standing.heading = self.heading();
        let (next, reached) = {
            let view = self.view();
            (course(&view, now()), super::reached(&view))
        };
        self.standing.memory.course = next;
        self.standing.memory.reached = reached;
        self.standing.heading = self.heading();
    }
    fn heading(&self) -> Option<Heading> {
        let course = self.standing.memory.course.clone()?;
        let of = Wanted {
            drv: course.drv.clone(),
            closure: course.closure.clone(),
            digest: course.digest.clone(),
        };
        let closure = self.closure(&of);
        Some(Heading::new(course, closure, ClosureStage::Building))
    }
    fn view(&self) -> HostView<'_> {
        self.standing.view(Adopt::Auto, Duration::from_secs(300))
    }
    /// The trunk's newest revision wants this.
    fn trunk(&mut self, text: &str) {
        self.commit();
        self.standing.evaluation = Work::Done(wanted(text));
        self.settle();
    }
    /// A revision of which nobody knows yet what it wants.
    fn commit(&mut self) {
        let s = &mut self.standing;
        s.place = s.place.next(false);
        s.revision = revision(s.place.number);
        s.evaluation = Work::Running(None);
        self.settle();
    }
    fn wants(&self) -> Option<Wanted> {
        match effective(&self.view()).evaluation {
            Work::Done(w) => Some(w.clone()),
            _ => None,
        }
    }
    fn stands(&self) -> bool {
        let course = self.standing.memory.course.as_ref();
        course.is_some_and(Course::stands)
    }
    /// It runs this, confirmed.
    fn runs(&mut self, text: &str) {
        let name = "web-1".to_owned();
        let (w, s) = (wanted(text), &mut self.standing);
        let fresh = host(&name, "web", text, text);
        let report = s.memory.report.as_mut().unwrap();
        report.running = fresh.memory.report.as_ref().unwrap().running.clone();
        report.components[0].confirmed = Some(w.digest.clone());
        report.components[0].observed = Some(w.digest);
        self.settle();
    }
    /// Three goals, one after the other; the second stands.
    fn behind() -> Self {
        let mut s = Self::new();
        s.trunk("1");
        s.trunk("2");
        s.trunk("3");
        assert!(s.stands() && s.wants() == Some(wanted("2")));
        s
    }
}

fn problem() -> Problem {
    Problem {
        class: ErrorClass::Transient,
        reason: trueup_schema::status::Reason::BuildFailed,
        message: "it broke".to_owned(),
        retry_at: None,
    }
}

#[test]
fn after_one_goal_that_gave_way_the_next_stands_until_it_is_delivered_then_the_newest_is_wanted() {
    let mut s = Story::new();
    s.trunk("1");
    assert!(!s.stands(), "the first one may be superseded");
    s.commit();
    assert!(!s.stands());
    assert_eq!(s.wants(), None, "nobody knows what the newest wants");
    s.trunk("2");
    assert!(s.stands());
    let passed = s.standing.memory.course.clone().unwrap().passed;
    assert_eq!(passed, Some(revision(1)));
    for n in 3..40 {
        s.commit();
        assert_eq!(s.wants(), Some(wanted("2")), "while it is evaluated too");
        s.trunk(&n.to_string());
        assert_eq!(s.wants(), Some(wanted("2")));
        assert_eq!(effective(&s.view()).revision, &revision(3));
    }
    s.runs("2");
    assert_eq!(s.wants(), Some(wanted("39")));
    assert!(!s.stands(), "and the newest is the first of its own");
    s.trunk("40");
    assert_eq!(s.wants(), Some(wanted("40")));
    assert!(s.stands());
}

#[test]
fn a_newer_revision_that_wants_the_same_is_the_goals_revision_from_then_on() {
    let mut s = Story::new();
    s.trunk("1");
    s.trunk("1");
    assert!(!s.stands(), "nothing gave way");
    s.trunk("2");
    s.trunk("3");
    s.trunk("2");
    assert!(s.stands());
    let view = s.view();
    let e = effective(&view);
    assert_eq!(e.revision, &s.standing.revision, "the newest");
    assert!(e.heading.is_none(), "nothing is held up by it");
    s.trunk("4");
    assert_eq!(effective(&s.view()).revision, &revision(5));
}

#[test]
fn what_stands_ends_at_once_when_it_can_not_be_delivered_or_a_person_says_so() {
    type Cause = fn(&mut Story);
    let causes: &[(&str, Cause)] = &[
        ("it failed to build", |s| {
            s.failed.insert("2".to_owned());
        }),
        ("it hurt the host", |s| {
            let why = "web.service failed".to_owned();
            let digest = wanted("2").digest;
            s.standing.memory.quarantined.insert(digest, why);
        }),
        ("it was refused", |s| {
            s.standing.memory.refused = Some((wanted("2").digest, problem()));
        }),
        ("its attempt ended otherwise", |s| {
            s.standing.memory.ended = Some(Ended {
                order: Order { term: 1, serial: 1 },
                revision: revision(2),
                digest: wanted("2").digest,
                outcome: Outcome::Interrupted,
                stage: Some(Stage::Activate),
                message: "a power cut".to_owned(),
                at: now(),
                way: Default::default(),
                boot_id: None,
            });
        }),
        ("suspended", |s| {
            s.standing.suspension = Some(Suspension {
                host: "web-1".parse().unwrap(),
                by: Actor::controller(),
                reason: "stop".to_owned(),
                at: now(),
                until: None,
            });
        }),
        ("suspended in Git", |s| s.standing.manifest.suspend = true),
        ("observed only", |s| {
            s.standing.manifest.delivery = Delivery::Observe;
        }),
        ("held there", |s| {
            let until = now() + Duration::from_secs(60);
            let (by, reason) = ("root".to_owned(), "a disk".to_owned());
            let report = s.standing.memory.report.as_mut().unwrap();
            report.hold = Some(Hold { until, reason, by });
        }),
        ("left", |s| {
            s.standing.left = Some(Left {
                host: "web-1".parse().unwrap(),
                managed: true,
                by: Actor::controller(),
                reason: String::new(),
                at: now(),
                done_at: None,
                told: Vec::new(),
                problem: None,
            });
        }),
        ("no answer", |s| s.standing.memory.misses = MISSES),
        ("another machine answers", |s| {
            let report = s.standing.memory.report.as_mut().unwrap();
            report.identity.machine_id = "another".to_owned();
        }),
        ("history was rewritten", |s| {
            s.standing.place = s.standing.place.next(true);
        }),
        ("the database knew more", |s| s.standing.place.number = 1),
        ("the trunk wants what runs", |s| {
            s.standing.evaluation = Work::Done(wanted("0"));
        }),
        ("delivered, then changed by somebody", |s| {
            s.runs("2");
            let report = s.standing.memory.report.as_mut().unwrap();
            report.running.running = Some(wanted("9").closure);
            report.components[0].observed = None;
        }),
    ];
    for (why, cause) in causes {
        let mut s = Story::behind();
        cause(&mut s);
        s.settle();
        assert!(!s.stands(), "{why}");
        let Work::Done(newest) = s.standing.evaluation.clone() else {
            unreachable!()
        };
        assert_eq!(s.wants(), Some(newest), "{why}");
    }
}

#[test]
fn a_person_who_takes_the_host_back_ends_it_and_what_stood_does_not_come_again() {
    let mut s = Story::behind();
    let rollback = crate::rollback::Rollback {
        id: "1".to_owned(),
        host: "web-1".parse::<HostName>().unwrap(),
        to: wanted("8").closure,
        specialisation: None,
        digest: wanted("8").digest,
        revision: None,
        held: [wanted("0").digest, wanted("3").digest].into(),
        from: None,
        by: Actor::controller(),
        reason: String::new(),
        at: now(),
        over: None,
    };
    s.standing.rollback = crate::rollback::Back::new(rollback);
    s.settle();
    assert!(s.standing.memory.course.is_none());
    assert_eq!(s.wants(), Some(wanted("8")));
    s.standing.rollback = None;
    s.settle();
    assert_eq!(s.wants(), Some(wanted("3")));
}

#[test]
fn an_attempt_that_was_granted_is_no_goal_that_gave_way() {
    let mut s = Story::new();
    s.trunk("1");
    s.standing.claim = Some(claim(&s.standing, &wanted("1")));
    s.standing.memory.order = Order { term: 1, serial: 1 };
    s.trunk("2");
    assert!(!s.stands());
    assert_eq!(
        s.wants(),
        Some(wanted("2")),
        "an unbegun claim gives way to it"
    );
    // Begun, it is delivered; the next is the first of its own.
    s.standing.claim = None;
    s.runs("1");
    assert!(!s.stands());
    assert_eq!(s.standing.memory.reached, 1);
    s.trunk("3");
    assert!(s.stands());
}

#[test]
fn an_unbegun_claim_that_was_given_back_is_a_goal_that_gave_way() {
    let mut s = Story::new();
    s.trunk("1");
    s.trunk("2");
    assert!(s.stands());
    assert_eq!(s.standing.memory.course.as_ref().unwrap().number, 2);
}

#[derive(Debug, Clone, Copy)]
enum Event {
    /// Of this content; `0` is what ran first.
    Trunk(u8),
    Commit,
    /// What is wanted now is built, or fails to.
    Built,
    Failed,
    /// What is wanted now is delivered.
    Delivered,
    /// Its attempt hurts the host.
    Hurt,
    Suspend,
    Resume,
    Restart,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let one = prop_oneof![
        8 => (0u8..9).prop_map(Event::Trunk),
        2 => Just(Event::Commit),
        3 => Just(Event::Built),
        1 => Just(Event::Failed),
        3 => Just(Event::Delivered),
        1 => Just(Event::Hurt),
        1 => Just(Event::Suspend),
        1 => Just(Event::Resume),
        2 => Just(Event::Restart),
    ];
    proptest::collection::vec(one, 0..60)
}

fn happens(s: &mut Story, event: Event) {
    let text = |w: &Wanted| (0..9).map(|n| n.to_string()).find(|t| wanted(t) == *w);
    let goal = s.wants().and_then(|w| text(&w));
    match (event, goal) {
        (Event::Trunk(n), _) => s.trunk(&n.to_string()),
        (Event::Commit, _) => s.commit(),
        (Event::Built, Some(goal)) => drop(s.built.insert(goal)),
        (Event::Failed, Some(goal)) => drop(s.failed.insert(goal)),
        (Event::Delivered, Some(goal)) if s.standing.suspension.is_none() => s.runs(&goal),
        (Event::Hurt, Some(goal)) if goal != "0" => {
            let why = "it hurt".to_owned();
            let digest = wanted(&goal).digest;
            s.standing.memory.quarantined.insert(digest, why);
        }
        (Event::Suspend, _) => {
            s.standing.suspension = Some(Suspension {
                host: "web-1".parse().unwrap(),
                by: Actor::controller(),
                reason: "stop".to_owned(),
                at: now(),
                until: None,
            });
        }
        (Event::Resume, _) => s.standing.suspension = None,
        (Event::Restart, _) => {
            // What the database keeps, and nothing else.
            let stored = serde_json::to_string(&s.standing.memory).unwrap();
            s.standing.memory = serde_json::from_str(&stored).unwrap();
            s.standing.heading = None;
        }
        _ => {}
    }
    s.settle();
}

proptest! {
    /// Whatever happens in whatever order, restarts included.
    #[test]
    fn a_goal_gives_way_once_in_a_row_and_the_host_never_goes_back_in_history(all in events()) {
        let mut s = Story::new();
        s.standing.manifest.drift.policy = DriftPolicy::Correct;
        let (mut gave_way, mut number) = (0, 0);
        for event in all {
            let before = s.standing.memory.course.clone();
            happens(&mut s, event);
            let after = s.standing.memory.course.clone();
            // Settled twice is settled once.
            s.settle();
            prop_assert_eq!(&s.standing.memory.course, &after);
            if let (Some(b), Some(a)) = (&before, &after) {
                let superseded = a.digest != b.digest;
                // Did the one before end, or was it overtaken?
                let by_trunk = matches!(event, Event::Trunk(_));
                if superseded && by_trunk {
                    gave_way += 1;
                    prop_assert!(gave_way <= 1, "{event:?}: {b:?} gave way to {a:?}");
                    prop_assert!(a.stands());
                } else if superseded {
                    gave_way = 0;
                    prop_assert!(!a.stands());
                }
                prop_assert!(!b.stands() || a.digest == b.digest || !by_trunk);
            } else {
                gave_way = 0;
            }
            let view = s.view();
            let e = effective(&view);
            if let Some(a) = &after {
                prop_assert!(a.number >= number, "{a:?} after {number}");
                number = a.number;
                prop_assert!(!s.standing.memory.quarantined.contains_key(&a.digest));
            }
            // Never at rest by it, and nothing is shown of the newest that does not hold.
            if e.heading.is_some() {
                let d = decide(&view, now(), 1);
                let moves = matches!(d.verdict.state, State::Progressing | State::Retrying);
                prop_assert!(moves, "{d:?}");
                prop_assert!(matches!(e.closure, Work::Running(_) | Work::Done(())));
                let asks = matches!(d.step, Step::Ask { .. });
                prop_assert_eq!(asks, *e.closure == Work::Done(()), "{:?}", d);
            }
            // One delivery away from the newest, at most: without it the trunk's own goal is what is wanted.
            if e.heading.is_none() {
                prop_assert_eq!(e.revision, &s.standing.revision);
            }
        }
    }

    /// Of a place in history: a rewritten one is a history of its own.
    #[test]
    fn a_number_belongs_to_the_history_that_it_was_accepted_in(rewrites in proptest::collection::vec(any::<bool>(), 1..20)) {
        let mut place = Place::default();
        let mut of_this = BTreeSet::new();
        for rewritten in rewrites {
            place = place.next(rewritten);
            if rewritten {
                of_this.clear();
            }
            of_this.insert(place.number);
            for n in 1..25 {
                prop_assert_eq!(place.has(n), of_this.contains(&n));
            }
        }
    }
}
