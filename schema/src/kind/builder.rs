//! `Builder`: a machine that the hub may hand derivations to. Nix schedules on it; nothing is built here.

use serde::{Deserialize, Serialize};

use crate::{Address, System};

use super::{document, value::HostKey};

document! {
    /// A machine that builds for the fleet.
    Builder, BuilderSpec
}

/// Where a machine is, what it can build, and how to log in there: from the hub, where all builds begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BuilderSpec {
    /// An IP address or a host name, as the hub knows it.
    #[cfg_attr(
        feature = "json-schema",
        schemars(
            with = "String",
            regex(pattern = "^[A-Za-z0-9_:][A-Za-z0-9_.:-]{0,252}$")
        )
    )]
    pub address: Address,
    /// The user to log in as; the machine's Nix has to trust it. Default: `root`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "json-schema",
        schemars(regex(pattern = "^[a-z_][a-z0-9_-]{0,31}$"))
    )]
    pub user: Option<String>,
    /// What it builds for: `[x86_64-linux, i686-linux]`.
    #[cfg_attr(
        feature = "json-schema",
        schemars(length(min = 1), schema_with = "systems")
    )]
    pub systems: Vec<System>,
    /// Builds at the same time. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "json-schema", schemars(range(min = 1, max = 1000)))]
    pub max_jobs: Option<u32>,
    /// Among machines that are free, the greatest comes first. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "json-schema", schemars(range(min = 1, max = 1000)))]
    pub speed_factor: Option<u32>,
    /// What derivations may ask for with `requiredSystemFeatures`: `[kvm, big-parallel]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "json-schema", schemars(schema_with = "features"))]
    pub supported_features: Option<Vec<String>>,
    /// Only derivations that ask for all of these are built there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "json-schema", schemars(schema_with = "features"))]
    pub mandatory_features: Option<Vec<String>>,
    /// The machine's public key, `ssh-ed25519 AAAA…`. No other is believed.
    pub host_key: HostKey,
    /// The private key to log in with: a file on the hub. Default: what ssh finds there by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "json-schema", schemars(regex(pattern = "^/.+$")))]
    pub ssh_key: Option<String>,
}

#[cfg(feature = "json-schema")]
fn systems(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "minItems": 1,
        "items": {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_-]{2,39}$"}
    })
}

#[cfg(feature = "json-schema")]
fn features(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "items": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._+-]{0,62}$"}
    })
}
