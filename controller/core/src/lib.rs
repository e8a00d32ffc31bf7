//! The pure heart: deciding is a function of (desired, observed, policy, time). No I/O, no async, no clock, no
//! randomness, no unordered maps.

pub mod agent;
pub mod host;
