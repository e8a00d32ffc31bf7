//! The loop: plain `async` over [`ports`]. The engine knows no executor, no clock, no file, no process: whatever it
//! does to the world goes through a port, so that the whole controller runs under simulated time.

mod alert;
pub mod ask;
mod crash;
mod leave;
mod load;
mod pipeline;
mod plan;
pub mod ports;
mod reconcile;
pub mod record;
mod release;
mod runtime;
mod settings;
mod state;

pub use crash::{CRASH_POINTS, Crash, NoCrash, PLANTED};
pub use plan::plan_of;
pub use runtime::{Engine, EngineError};
pub use settings::{RELEASED_ROOTS, Settings, WAKES, Wake};
pub use state::Ports;
