//! See tests/Cargo.toml.
#![allow(clippy::unwrap_used)]
mod layering;
mod manifests;
