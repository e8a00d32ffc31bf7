//! What tests on real hosts and the demo share: a lab, closures, and the world of one controller on lab hosts.
//! It makes, breaks, asks and reads; what has to hold is said by those who use it.

#![allow(missing_debug_implementations, reason = "tests print what they need")]

pub mod closures;
pub mod golden;
pub mod harness;
pub mod processes;
pub mod programs;
pub mod world;
