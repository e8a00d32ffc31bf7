//! See tests/Cargo.toml.
#![allow(clippy::unwrap_used)]
mod cli;
mod docs;
mod layering;
mod manifests;
