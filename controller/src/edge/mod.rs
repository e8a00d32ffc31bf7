//! One room for each thing outside: each implements a port of the engine and knows nothing of another (exec aside).

pub mod db;
pub mod exec;
pub mod keys;
pub mod keyscan;
pub mod nix;
pub mod source;
pub mod ssh;
pub mod tokio_rt;
pub mod webhook;
