//! Promises that concern a host, shown on real hosts and judged from the host. See `harness` for how to get some.
#![allow(clippy::unwrap_used)]

mod activation;
#[allow(dead_code, reason = "tests of trueup use what these rows do not")]
mod closures;
#[allow(dead_code, reason = "the harness offers what the coming tests need")]
mod harness;
mod hosts;
mod stc;
