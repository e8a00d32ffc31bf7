//! Named points at which a test kills the controller: before and after each commit to the db, and at the start and
//! end of each step. In production the hook does nothing unless the binary was told otherwise.

use futures::future::LocalBoxFuture;

/// All of them.
pub const CRASH_POINTS: &[&str] = &[
    "accept.before-commit",
    "accept.after-commit",
    "evaluate.start",
    "evaluate.after-commit",
    "build.start",
    "build.end",
    "publish.end",
    "host.before-commit",
    "host.after-commit",
    "claim.before-commit",
    "claim.after-commit",
    "observe.start",
    "observe.end",
    "offer.start",
    "witness.end",
    "offer.end",
    "copy.start",
    "copy.end",
    "confirm.start",
    "confirm.end",
    "release.before-commit",
    "release.after-commit",
    "adopt.after-commit",
    "alert.sent",
    "alert.after-commit",
];

/// Bugs that a test plants, to see that its invariants find them. Each is a promise of the engine, broken at one place.
pub const PLANTED: &[&str] = &[
    // A claim that is not committed before the step: after a crash nobody knows of it.
    "claim-in-memory",
    // Whoever asks may begin.
    "limits-ignored",
    // The order does not rise with the claim.
    "order-reused",
    // What hurt a host is offered again.
    "quarantine-forgotten",
    // A message to a sink is not in the transaction of its event.
    "alert-apart",
    // Every newer goal supersedes the one before, however often.
    "never-stands",
];

/// The hook.
pub trait Crash {
    /// Called at each point. To crash, it ends the process or never completes.
    fn at(&self, point: &'static str) -> LocalBoxFuture<'static, ()>;
    /// Is one of [`PLANTED`] planted? Only ever in tests.
    fn plants(&self, _bug: &'static str) -> bool {
        false
    }
}

/// Does nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCrash;

impl Crash for NoCrash {
    fn at(&self, _: &'static str) -> LocalBoxFuture<'static, ()> {
        Box::pin(futures::future::ready(()))
    }
}
