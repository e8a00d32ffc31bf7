//! What happens at the engine's named points: nothing. Only a binary that was built with the feature `crash-points`,
//! which none that is shipped has, dies there when a test says so.

use std::rc::Rc;

use trueup_engine::Crash;

/// Nothing happens.
#[cfg(not(feature = "crash-points"))]
pub(crate) fn hook() -> Rc<dyn Crash> {
    Rc::new(trueup_engine::NoCrash)
}

/// `TRUEUP_CRASH_AT=POINT[:NTH]`: aborts when that point is passed for the NTH time since the start.
#[cfg(feature = "crash-points")]
pub(crate) fn hook() -> Rc<dyn Crash> {
    match std::env::var("TRUEUP_CRASH_AT") {
        Ok(at) => Rc::new(testing::CrashAt::parse(&at)),
        Err(_) => Rc::new(trueup_engine::NoCrash),
    }
}

/// The layout of the database that an older release knows, for tests of upgrades and downgrades; `None`: ours.
#[cfg(not(feature = "crash-points"))]
pub(crate) fn layout() -> Option<i64> {
    None
}

/// `TRUEUP_TEST_LAYOUT=N`: as the release that had it.
#[cfg(feature = "crash-points")]
pub(crate) fn layout() -> Option<i64> {
    let text = std::env::var("TRUEUP_TEST_LAYOUT").ok()?;
    Some(text.parse().expect("TRUEUP_TEST_LAYOUT is a number"))
}

#[cfg(feature = "crash-points")]
mod testing {
    use std::cell::Cell;

    use futures::future::LocalBoxFuture;
    use trueup_engine::{CRASH_POINTS, Crash};

    /// Ends the process as `kill -9` would.
    #[derive(Debug)]
    pub(super) struct CrashAt {
        point: String,
        left: Cell<u32>,
    }

    impl CrashAt {
        pub(super) fn parse(at: &str) -> Self {
            let (point, nth) = at.split_once(':').unwrap_or((at, "1"));
            // A test that names no point would wait for ever, or pass for nothing.
            assert!(
                CRASH_POINTS.contains(&point),
                "TRUEUP_CRASH_AT: {at}: no such point"
            );
            let nth = nth.parse().expect("TRUEUP_CRASH_AT: NTH is a number");
            Self {
                point: point.to_owned(),
                left: Cell::new(nth),
            }
        }
    }

    impl Crash for CrashAt {
        fn at(&self, point: &'static str) -> LocalBoxFuture<'static, ()> {
            if self.point == point {
                self.left.set(self.left.get().saturating_sub(1));
                if self.left.get() == 0 {
                    eprintln!("TRUEUP_CRASH_AT: died at {point}");
                    std::process::abort();
                }
            }
            Box::pin(std::future::ready(()))
        }
    }
}
