//! What people write and what machines exchange. Values only: no I/O, no clock.
//!
//! - newtypes ([`HostName`], [`StorePath`], [`Revision`] …) that cannot be mixed up,
//! - [`kind`]: the documents that people write, and what they come to,
//! - [`wire`]: the documents between controller and agent,
//! - [`status`]: conditions, phases, outcomes, events: what the API shows and the db keeps.

pub mod error;
#[cfg(feature = "json-schema")]
pub mod json_schema;
pub mod kind;
#[cfg(feature = "manifest")]
pub mod manifest;
pub mod name;
pub mod status;
pub mod wire;

pub use error::ErrorClass;
pub use jiff::Timestamp;
pub use name::{
    Address, ComponentName, Digest, DrvPath, HostName, InvalidName, Revision, StorePath, System,
};
