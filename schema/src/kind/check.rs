//! `Check`: what must be true on a host after an activation, as written.

use serde::{Deserialize, Serialize};

use super::{Selector, document, value::Duration};

document! {
    /// A health check. It runs on the host, by the agent, after each activation.
    Check, CheckSpec
}

/// Exactly one of `unit`, `tcp`, `http` and `command`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "json-schema", schemars(extend("oneOf" = [
    {"required": ["unit"]}, {"required": ["tcp"]}, {"required": ["http"]}, {"required": ["command"]}
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CheckSpec {
    /// Hosts that it holds for, besides those that name it in `activation.health`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Selector>,
    /// Whether it is well that no host matches. Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_empty: Option<bool>,
    /// A systemd unit is active.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<UnitCheck>,
    /// A TCP port takes connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpCheck>,
    /// A URL answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// A command ends with 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandCheck>,
    /// How long one try may take. Default: `5s`; 1 s to 10 min.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// How often it is tried before it has failed. Default: 3; 1 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "json-schema", schemars(range(min = 1, max = 100)))]
    pub attempts: Option<u32>,
    /// The time between two tries. Default: `1s`; at most 10 min.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
}

/// A systemd unit is active.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UnitCheck {
    /// The unit with its suffix, such as `nginx.service`.
    #[cfg_attr(
        feature = "json-schema",
        schemars(regex(pattern = r"^[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]*\.[a-z]+$"))
    )]
    pub name: String,
}

/// A TCP port takes connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpCheck {
    /// An IP address as seen from the host. Default: `127.0.0.1`. The agent resolves no names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "json-schema", schemars(regex(pattern = "^[0-9A-Fa-f.:]+$")))]
    pub address: Option<String>,
    /// The port.
    #[cfg_attr(feature = "json-schema", schemars(range(min = 1, max = 65535)))]
    pub port: u16,
}

/// A URL answers with the wanted status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpCheck {
    /// `http://` with an IP address or `localhost`, asked from the host.
    #[cfg_attr(feature = "json-schema", schemars(regex(pattern = "^https?://.+$")))]
    pub url: String,
    /// The status that is well. Default: 200; 100 to 599.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "json-schema", schemars(range(min = 100, max = 599)))]
    pub status: Option<u16>,
}

/// A command ends with 0. No shell is between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CommandCheck {
    /// Program and arguments. The program is an absolute path, or a name from the configuration's `sw/bin`.
    #[cfg_attr(feature = "json-schema", schemars(length(min = 1, max = 64)))]
    pub argv: Vec<String>,
}
