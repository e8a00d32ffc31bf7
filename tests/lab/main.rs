//! Promises that concern a host, shown on real hosts and judged from the host. See `harness` for how to get some.
#![allow(clippy::unwrap_used)]

mod activation;
mod byhand;
mod controller;
mod forced;
mod hosts;
mod hub;
mod hubuser;
mod itself;
mod keys;
mod reboot;
mod secrets;
mod stc;
mod takeover;
mod units;
mod witness;

// Where they lie for all tests on hosts, and for the demo.
use trueup_tests::{closures, harness};
