//! `Alert`: which events are told, and where. Sends nothing itself.

use serde::{Deserialize, Serialize};

use super::{Selector, document, words};

document! {
    /// Where events go.
    Alert, AlertSpec
}

/// One sink, and which events go there. An event must pass every filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AlertSpec {
    /// The sink: each event is one signed POST.
    pub webhook: Webhook,
    /// The least severity. Default: `warning`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// Reasons of events, such as `RolledBack` and `Drifted`. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "json-schema",
        schemars(length(min = 1), inner(regex(pattern = "^[A-Z][A-Za-z0-9]{0,62}$")))
    )]
    pub kinds: Option<Vec<String>>,
    /// Hosts whose events are told. Default: all, and events of no host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Selector>,
    /// Whether it is well that no host matches. Default: `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_empty: Option<bool>,
    /// `true`: nothing is sent. Default: `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

/// A URL that takes events as JSON, signed by HMAC-SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Webhook {
    /// `http://` or `https://`.
    #[cfg_attr(feature = "json-schema", schemars(regex(pattern = "^https?://.+$")))]
    pub url: String,
    /// A file on the controller's machine with the HMAC key: an absolute path, never the key itself.
    #[cfg_attr(feature = "json-schema", schemars(regex(pattern = "^/.+$")))]
    pub secret_file: String,
}

words! {
    /// How much an event matters, the least first.
    pub enum Severity {
        /// For the record.
        Info = "info",
        /// Somebody should look.
        Warning = "warning",
        /// Something failed.
        Error = "error",
    }
}
