//! The pure heart: deciding is a function of (desired, observed, policy, time). No I/O, no async, no clock, no
//! randomness, no unordered maps.

pub mod absorb;
pub mod admit;
pub mod agent;
pub mod alert;
pub mod backoff;
pub mod conditions;
pub mod course;
pub mod decide;
pub mod history;
pub mod host;
pub mod last;
pub mod plan;
pub mod queue;
pub mod rollback;
pub mod standing;
pub mod way;
