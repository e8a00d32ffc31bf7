//! When a host sets out for a goal, when that goal gives way or stands, and when it is no longer on its way. Pure: the
//! engine remembers the answer, and asks before each decision.
//!
//! A course ends as soon as its goal is delivered, or can't be: it failed to build, hurt the host, was refused; a person
//! suspended, held, took back or left the host; it does not answer; its history was rewritten. So a goal that stands never
//! keeps a host at rest, and holds up a newer one by one delivery at most.

use trueup_schema::Timestamp;
use trueup_schema::kind::{Delivery, Mode};
use trueup_schema::wire::Order;

use super::deliver::{not_again, with_secrets_that_hurt};
use super::ours::ours;
use super::talk::{Talk, suspended};
use super::{MISSES, Runs, runs_there};
use crate::course::Course;
use crate::host::{HostView, Wanted, Work};

/// What the host is on its way to from now on, by what it was (`view.heading`) and what the trunk wants of it now.
#[must_use]
pub fn course(view: &HostView<'_>, now: Timestamp) -> Option<Course> {
    let t = Talk { view, now, seed: 0 };
    let trunk = match view.evaluation {
        Work::Done(w) => Some(w),
        _ => None,
    };
    // An attempt that began is never overtaken, and one that did not gives its claim back first.
    let claimed = |c: &Course| {
        let claim = view.claim.filter(|claim| !claim.secrets_alone);
        claim.is_some_and(|claim| claim.digest == c.digest)
    };
    let held = view.heading.filter(|h| {
        let c = &h.course;
        let goes_on = |w| claimed(c) || is_on_its_way(&t, w, &h.closure, c.above);
        view.place.has(c.number) && matches!(&h.goal, Work::Done(w) if goes_on(w))
    });
    let (Some(h), Some(w)) = (held, trunk) else {
        // As long as it is not known what the trunk wants now, nothing gives way.
        let fresh = || set_out(&t, trunk?, None);
        return held.map(|h| h.course.clone()).or_else(fresh);
    };
    let course = &h.course;
    if course.digest == w.digest {
        return Some(Course {
            revision: view.revision.clone(),
            number: view.place.number,
            drv: w.drv.clone(),
            ..course.clone()
        });
    }
    if claimed(course) {
        return Some(course.clone());
    }
    if !course.stands() {
        return set_out(&t, w, Some(course));
    }
    // The trunk came back to what runs there: nothing is to be done, so nobody waits for anything.
    let report = view.memory.report.as_ref();
    let there = report.is_some_and(|r| runs_there(view, r, w) != Runs::Other);
    (!there).then(|| course.clone())
}

/// The greatest number of a revision whose goal the host runs, confirmed and left alone; what was known of that, at least.
#[must_use]
pub fn reached(view: &HostView<'_>) -> u64 {
    let m = view.memory;
    let known = m.reached.min(view.place.number);
    let Some(report) = m.report.as_ref().filter(|_| view.claim.is_none()) else {
        return known;
    };
    let runs = |work: &Work<Wanted>| matches!(work, Work::Done(w) if runs_there(view, report, w) == Runs::Goal);
    if runs(view.evaluation) {
        return view.place.number;
    }
    let headed = view.heading.filter(|h| view.place.has(h.course.number));
    let there = headed.filter(|h| runs(&h.goal));
    there.map_or(known, |h| h.course.number.max(known))
}

fn set_out(t: &Talk<'_, '_>, w: &Wanted, passed: Option<&Course>) -> Option<Course> {
    let view = t.view;
    let above = view.memory.order;
    is_on_its_way(t, w, view.closure, above).then(|| Course {
        revision: view.revision.clone(),
        number: view.place.number,
        drv: w.drv.clone(),
        closure: w.closure.clone(),
        specialisation: view.manifest.specialisation.clone(),
        digest: w.digest.clone(),
        above,
        since: t.now,
        passed: passed.map(|c| c.revision.clone()),
    })
}

/// Is something being done for this goal, or will be by itself?
fn is_on_its_way(t: &Talk<'_, '_>, wanted: &Wanted, closure: &Work<()>, above: Order) -> bool {
    let (view, m) = (t.view, t.view.memory);
    let back = view.rollback.map(|b| &b.rollback);
    let by_a_word = view.released
        || view.left.is_some()
        || back.is_some_and(|r| r.holds(view.evaluation))
        || suspended(view, t.now).is_some()
        || t.hold().is_some()
        || view.manifest.delivery != Delivery::Push
        || view.manifest.activation.mode == Mode::DryActivate;
    let Some(report) = &m.report else {
        return false;
    };
    // It comes back to the newest goal, not to the one in between.
    let away = m.misses >= MISSES;
    if by_a_word || away || ours(t).is_some() {
        return false;
    }
    let ended = m.ended.as_ref();
    let tried = ended.is_some_and(|e| e.order > above && e.digest == wanted.digest);
    let failed = tried || matches!(closure, Work::Failed(_));
    if failed || runs_there(view, report, wanted) != Runs::Other {
        return false;
    }
    m.retry
        || not_again(t, wanted, report, false).is_none()
            && with_secrets_that_hurt(t, wanted, report).is_none()
}

#[cfg(test)]
#[path = "course_tests.rs"]
mod tests;
