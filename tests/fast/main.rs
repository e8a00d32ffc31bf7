//! See tests/Cargo.toml.
#![allow(clippy::unwrap_used)]
mod docs;
mod layering;
mod manifests;
