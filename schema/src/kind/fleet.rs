//! `Fleet`: what holds for all hosts, as written. One a repository.

use serde::{Deserialize, Serialize};

use super::{Labels, Selector, document, host::HostDefaults, secret::FleetSecrets, words};

document! {
    /// What holds for all hosts of the repository.
    Fleet, FleetSpec
}

/// What holds for all hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FleetSpec {
    /// For every host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub defaults: Option<HostDefaults>,
    /// For the hosts that a selector matches; a later one wins over an earlier one, and a host over both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Vec<Override>>,
    /// How many hosts change at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Where hosts come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discovery: Option<Discovery>,
    /// Whether a new host is taken over without asking. Default: `manual`, by `trueup adopt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adopt: Option<Adopt>,
    /// What a commit must have to be taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trunk: Option<Trunk>,
    /// Who besides hosts can read the fleet's secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<FleetSecrets>,
}

/// Settings for the hosts that a selector matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Override {
    /// Which hosts.
    pub selector: Selector,
    /// Whether it is well that no host matches. Default: `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_empty: Option<bool>,
    /// What holds for them.
    pub set: HostDefaults,
}

/// How many hosts change at once, and when to stop.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rollout {
    /// Hosts that change at the same time. Default: 10; 1 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "json-schema", schemars(range(min = 1, max = 1000)))]
    pub max_concurrent: Option<u32>,
    /// Of hosts that share a label's value, how many may be unavailable at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<Vec<MaxUnavailable>>,
    /// Failed hosts after which a revision goes to no further host. Default: 1; 1 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "json-schema", schemars(range(min = 1, max = 1000)))]
    pub max_failures: Option<u32>,
}

/// Of hosts that share the value of `label`, at most `max` are unavailable at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MaxUnavailable {
    /// The label's key, such as `role`: hosts with the same value are one group.
    #[cfg_attr(
        feature = "json-schema",
        schemars(regex(pattern = "^[A-Za-z0-9][A-Za-z0-9_./-]{0,62}$"))
    )]
    pub label: String,
    /// How many of one group; 1 to 1000.
    #[cfg_attr(feature = "json-schema", schemars(range(min = 1, max = 1000)))]
    pub max: u32,
}

/// Where hosts come from, besides `Host` documents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Discovery {
    /// Default: `manifests`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<DiscoverFrom>,
    /// Labels of discovered hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
}

/// What a commit must have to be taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Trunk {
    /// Default: `ignore`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signatures: Option<Signatures>,
}

words! {
    /// Where hosts come from.
    pub enum DiscoverFrom {
        /// `Host` documents only.
        Manifests = "manifests",
        /// Each of the flake's `nixosConfigurations` is a host.
        NixosConfigurations = "nixosConfigurations",
    }
    not yet: "nixosConfigurations"
}

words! {
    /// Whether a new host is taken over without asking.
    pub enum Adopt {
        /// A person says `trueup adopt host/NAME`.
        Manual = "manual",
        /// At first contact.
        Auto = "auto",
    }
}

words! {
    /// Whether commits must be signed.
    pub enum Signatures {
        /// They are not looked at.
        Ignore = "ignore",
        /// A commit without a good signature is not taken.
        Require = "require",
    }
    not yet: "require"
}
