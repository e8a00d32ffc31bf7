//! One port against the real tool. What a test needs and does not find, it says, and skips.
#![allow(clippy::unwrap_used)]

mod agent;
mod caches;
mod collect;
mod db;
mod exec;
mod init;
mod joint;
mod nix;
mod nixos;
mod publish;
mod remote;
mod rig;
mod sessions;
mod sigv4;
mod source;
mod tls;
mod web;
mod webhook;

/// A runtime as the controller has it: one thread, tasks that need not be `Send`.
fn local<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work)
}
