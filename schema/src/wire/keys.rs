//! Whom a host obeys: the list of the controller's public keys, told anew by a key that the host obeys already, and what a
//! host says of the keys that it trusts.

use serde::{Deserialize, Serialize};

/// DSSE payload type of a [`KeyList`].
pub const KEYS_PAYLOAD_TYPE: &str = "application/vnd.trueup.keys+json";

/// More keys of one controller than these are refused.
pub const KEYS_MAX: usize = 16;

/// The keys that a host takes intents of from now on, in place of those that it had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyList {
    /// [`super::FORMAT`].
    pub format: u32,
    /// Only rises on a host, so that an older list does not bring an older key back.
    pub serial: u64,
    /// Public keys in base 64.
    pub keys: Vec<String>,
}

/// The keys that a host trusts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct KeysReport {
    /// Of the last list that it took; 0: none yet.
    pub serial: u64,
    /// Whose intents it takes, by first contact or by a list.
    pub pinned: Vec<String>,
    /// Whose intents it takes by its NixOS configuration; no list changes these.
    #[serde(default)]
    pub module: Vec<String>,
    /// Whose store paths its Nix takes: `name:base64`. Empty: its `nix.conf` names none, or can't be read.
    #[serde(default)]
    pub store: Vec<String>,
}
