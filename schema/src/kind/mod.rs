//! What people write: the kinds of a fleet repository as plain Rust types, and what they come to once defaults and
//! overrides are merged. Reads nothing itself: the feature `manifest` does.
//!
//! Each document has `apiVersion`, `kind`, `metadata` and `spec`. Types here are as written: a field that may be left
//! out is an `Option`. `resolved` holds the same without a single `Option` that has a default.

mod alert;
mod builder;
mod cache;
mod check;
mod fleet;
mod host;
pub mod merge;
mod overlay;
mod resolved;
mod secret;
mod selector;
mod value;
mod window;

/// Forms of plain text that manifests use.
#[cfg(feature = "manifest")]
pub(crate) mod text {
    pub(crate) use super::{
        selector::{is_label_key, is_label_value},
        value::is_user_name,
    };
}

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use alert::{Alert, AlertSpec, Severity, Webhook};
pub use builder::{Builder, BuilderSpec};
pub use cache::{Cache, CacheSpec};
pub use check::{Check, CheckSpec, CommandCheck, HttpCheck, TcpCheck, UnitCheck};
pub use fleet::{
    Adopt, DiscoverFrom, Discovery, Fleet, FleetSpec, MaxUnavailable, Override, Rollout,
    Signatures, Trunk,
};
pub use host::{
    Activation, Confirm, Delivery, Drift, DriftPolicy, FailedUnits, FailedUnitsPolicy, Host,
    HostDefaults, HostSpec, Mode, OnTimeout, Reboot, Ssh, UnconfirmedBoot,
};
pub use resolved::{
    FleetManifests, Probe, ResolvedActivation, ResolvedAlert, ResolvedBuilder, ResolvedCache,
    ResolvedCheck, ResolvedDrift, ResolvedFailedUnits, ResolvedFleet, ResolvedHost,
    ResolvedHostSecrets, ResolvedRollout, ResolvedSecret, ResolvedSsh, ResolvedTemplate, Target,
};
pub use secret::{
    FileMode, FleetSecrets, HostSecrets, Owner, Piece, PublicKey, RENDERED, SECRETS_DIR,
    SECRETS_FOR_USERS_DIR, Secret, SecretFormat, SecretSpec, SecretTemplate, pieces, placeholders,
};
pub use selector::Selector;
pub use value::{Duration, HostKey, Jump, ValueError};
pub use window::RebootWindow;

/// The one version of the kinds.
pub const API_VERSION: &str = "trueup/v1alpha1";

/// Labels of a document: what selectors look at.
pub type Labels = BTreeMap<String, String>;

/// Who a document is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// A DNS label, unique among documents of its kind: lower-case letters, digits and `-`, at most 63.
    #[cfg_attr(
        feature = "json-schema",
        schemars(regex(pattern = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"))
    )]
    pub name: String,
    /// What selectors look at, such as `role: web`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    /// Notes for people and tools; trueup does not read them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: Labels,
}

/// A choice among words: the enum, its words in the file, and which of them are not built yet.
macro_rules! words {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal),+ $(,)? } $(not yet: $($later:literal),*)?) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            /// Each word with its meaning.
            pub const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),+];
            /// Words that the design has and this version does not.
            pub const NOT_YET: &'static [&'static str] = &[$($($later),*)?];

            /// The word in a file.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}
pub(crate) use words;

/// A document as people write it.
macro_rules! document {
    ($(#[$meta:meta])* $name:ident, $spec:ty) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub struct $name {
            /// Always `trueup/v1alpha1`.
            #[cfg_attr(feature = "json-schema", schemars(extend("const" = $crate::kind::API_VERSION)))]
            pub api_version: String,
            #[doc = concat!("Always `", stringify!($name), "`.")]
            #[cfg_attr(feature = "json-schema", schemars(extend("const" = stringify!($name))))]
            pub kind: String,
            /// Name, labels and annotations.
            pub metadata: $crate::kind::Metadata,
            /// What is wanted.
            pub spec: $spec,
        }
    };
}
pub(crate) use document;

words! {
    /// Every kind of document of the design.
    pub enum Kind {
        /// What holds for all hosts.
        Fleet = "Fleet",
        /// One machine.
        Host = "Host",
        /// A health check.
        Check = "Check",
        /// Where alerts go.
        Alert = "Alert",
        /// A binary cache.
        Cache = "Cache",
        /// An encrypted value for hosts.
        Secret = "Secret",
        /// A container on hosts.
        Container = "Container",
        /// A machine that builds.
        Builder = "Builder",
        /// Waves and windows.
        Rollout = "Rollout",
        /// A webhook that may wake the controller.
        Receiver = "Receiver",
    }
    not yet: "Container", "Rollout", "Receiver"
}
