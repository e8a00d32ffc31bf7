//! Time, tasks and randomness by tokio. The engine must run within a `LocalSet`: its futures are not `Send`.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use trueup_engine::ports::{Mono, Rt};
use trueup_schema::Timestamp;

/// The engine's runtime in production.
#[derive(Debug, Clone, Copy)]
pub struct TokioRt {
    start: Instant,
}

impl TokioRt {
    /// Monotonic time begins now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for TokioRt {
    fn default() -> Self {
        Self::new()
    }
}

impl Rt for TokioRt {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
    fn mono(&self) -> Mono {
        Mono(self.start.elapsed())
    }
    fn sleep_until(&self, at: Mono) -> LocalBoxFuture<'static, ()> {
        let left = at.0.saturating_sub(self.start.elapsed());
        async move {
            if left > Duration::ZERO {
                tokio::time::sleep(left).await;
            }
        }
        .boxed_local()
    }
    fn spawn(&self, name: &str, task: LocalBoxFuture<'static, ()>) {
        tracing::trace!(name, "task started");
        let name = name.to_owned();
        tokio::task::spawn_local(async move {
            // A panic in one task must be seen, and must not take the others with it.
            if std::panic::AssertUnwindSafe(task)
                .catch_unwind()
                .await
                .is_err()
            {
                tracing::error!(name, "a task panicked: this is a bug of trueup");
            }
        });
    }
    fn random(&self) -> u64 {
        // The standard library seeds these keys from the system and steps them at each call; for jitter and ids that
        // is enough, keys are made elsewhere.
        RandomState::new().hash_one(self.start.elapsed())
    }
}
