//! `Cache`: a binary cache that hosts may substitute from. Copies nothing itself.

use serde::{Deserialize, Serialize};

use super::document;

document! {
    /// A binary cache.
    Cache, CacheSpec
}

/// Where a cache is, and whether trueup fills it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CacheSpec {
    /// `file:///path`, a folder on the controller's machine; or `http(s)://`, `s3://`, `ssh-ng://`, as Nix takes them.
    #[cfg_attr(
        feature = "json-schema",
        schemars(regex(pattern = "^(file|http|https|s3|ssh-ng)://.+$"))
    )]
    pub url: String,
    /// The key its paths are signed with: `NAME:BASE64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "json-schema",
        schemars(regex(pattern = "^[^:\\s]+:[A-Za-z0-9+/]{43}=$"))
    )]
    pub public_key: Option<String>,
    /// A file on the controller's machine with the login that copies there, never the login itself: a netrc for `http(s)://`, AWS's
    /// credentials for `s3://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "json-schema", schemars(regex(pattern = "^/[!-~]+$")))]
    pub credentials_file: Option<String>,
    /// Whether trueup copies what it built there. Default: `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<bool>,
}
