//! The controller: edges, API, command line. Wiring only; what decides lives in `trueup-core`, what loops in `trueup-engine`.

pub mod api;
pub mod cli;
mod crash;
pub mod edge;
mod keyroom;
pub mod run;
pub mod secrets;
pub mod settings;
