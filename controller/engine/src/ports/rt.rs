//! Time, tasks, randomness.

use std::time::Duration;

use futures::future::LocalBoxFuture;
use trueup_schema::Timestamp;

/// A point on a clock that only rises, since an arbitrary start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(pub Duration);

impl std::ops::Add<Duration> for Mono {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(d))
    }
}

/// What tokio gives in production and a seeded single-threaded executor in simulation.
pub trait Rt {
    /// Wall-clock time, for what people read and what hosts compare. Never for deadlines.
    fn now(&self) -> Timestamp;
    /// Monotonic time, for deadlines.
    fn mono(&self) -> Mono;
    /// Completes at `at`, at once if that has passed.
    fn sleep_until(&self, at: Mono) -> LocalBoxFuture<'static, ()>;
    /// Runs `task` beside the caller. `name` is for logs and for the simulator's schedule.
    fn spawn(&self, name: &str, task: LocalBoxFuture<'static, ()>);
    /// 64 random bits.
    fn random(&self) -> u64;
}
