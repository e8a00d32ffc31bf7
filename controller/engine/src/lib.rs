//! The loop: plain `async` over [`ports`]. The engine knows no executor, no clock, no file, no process: whatever it
//! does to the world goes through a port, so that the whole controller runs under simulated time.

pub mod ports;
pub mod record;
mod settings;

pub use settings::{Settings, WAKES, Wake};
