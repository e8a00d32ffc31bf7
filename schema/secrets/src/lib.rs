//! sops, age and agenix as functions from bytes to bytes. No file, clock, environment or process is touched here,
//! and nothing is handed out before its MAC has been verified.
//!
//! Entry points: [`Encrypted::parse`] and [`Encrypted::decrypt`] to read, [`encrypt`] to write, [`Encrypted::edit`],
//! [`Encrypted::set`], [`Encrypted::rotate`] and [`Encrypted::update_keys`] to change. [`rules`] is `.sops.yaml`,
//! [`lint`] what the MAC does not protect, [`agenix`] plain age files.

pub mod agenix;
mod cipher;
mod document;
mod error;
mod flat;
mod keys;
pub mod lint;
mod metadata;
mod ops;
pub mod rules;
mod scope;
mod seal;
mod shamir;
mod ssh_to_age;
mod store;
mod time;
mod value;
mod walk;

pub use document::{Encrypted, Mac, Plain};
pub use error::{Class, Error};
pub use keys::{
    Identities, Recipient, generate_identity, is_sealed_key_file, needs_passphrase, open_key_file,
};
pub use metadata::{AgeKey, Group, Metadata};

pub use ops::{EncryptSpec, KeyUpdate, RotateSpec, encrypt};
pub use scope::{Scope, ScopeRule};
pub use ssh_to_age::{ssh_private_to_age, ssh_public_to_age};
pub use store::Format;
pub use value::{Comment, Item, Key, Value};

/// No file that people keep secrets in comes near this; a larger one is a mistake or an attack.
pub const INPUT_BYTES_MAX: usize = 64 << 20;
/// Deeper documents than this are refused, so that no recursion here can exhaust a stack.
pub const DEPTH_MAX: usize = 100;
/// Nodes of one file after aliases are expanded: bounds what a few nested aliases can grow to.
pub const NODES_MAX: usize = 1_000_000;
/// The version of sops whose format is written.
pub const SOPS_VERSION: &str = "3.13.2";
