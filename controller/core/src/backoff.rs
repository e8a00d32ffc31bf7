//! Back-off with full jitter. Randomness comes in as a seed.

use std::time::Duration;

/// The first delay, before jitter.
pub const BASE: Duration = Duration::from_secs(1);
/// The longest delay.
pub const MAX: Duration = Duration::from_secs(300);

/// Spreads a seed over all bits (splitmix64).
#[must_use]
pub fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The delay before try number `failures + 1`: anything between a tenth of the cap and the cap, where the cap doubles from
/// [`BASE`] up to [`MAX`]. Never nothing, so that a failing host cannot spin.
#[must_use]
pub fn delay(failures: u32, seed: u64) -> Duration {
    let cap = BASE
        .saturating_mul(1 << failures.saturating_sub(1).min(16))
        .min(MAX);
    let cap_ms = u64::try_from(cap.as_millis()).unwrap_or(u64::MAX);
    let floor = cap_ms / 10;
    Duration::from_millis(floor + mix(seed) % (cap_ms - floor + 1))
}

/// An interval ± 10 %.
#[must_use]
pub fn jitter(interval: Duration, seed: u64) -> Duration {
    let ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX / 2);
    Duration::from_millis(ms - ms / 10 + mix(seed) % (ms / 5 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_delay_is_never_nothing_and_never_over_the_limit(failures in 1u32..1000, seed: u64) {
            let d = delay(failures, seed);
            prop_assert!(d >= BASE / 10 && d <= MAX);
        }
        #[test]
        fn jitter_stays_within_a_tenth(secs in 1u64..100_000, seed: u64) {
            let i = Duration::from_secs(secs);
            let d = jitter(i, seed);
            prop_assert!(d >= i * 9 / 10 && d <= i * 11 / 10 + Duration::from_millis(1));
        }
    }
}
