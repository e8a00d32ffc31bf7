//! `Host`: one machine of the fleet, as written. Defaults are in `resolved`.

use serde::{Deserialize, Serialize};

use crate::{Address, HostName, System};

use super::{
    document,
    overlay::overlay,
    secret::HostSecrets,
    value::{Duration, HostKey, Jump},
    window::RebootWindow,
    words,
};

document! {
    /// A machine, what it should run, and how to reach it.
    Host, HostSpec
}

/// What one host runs and how trueup treats it. What is left out comes from the fleet's overrides and defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HostSpec {
    /// Nix' name for the machine's kind, such as `x86_64-linux`. Needed here or in the fleet's defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "json-schema",
        schemars(with = "String", regex(pattern = "^[A-Za-z0-9_][A-Za-z0-9_-]{2,39}$"))
    )]
    pub system: Option<System>,
    /// The flake's attribute to build. Default: `nixosConfigurations.NAME.config.system.build.toplevel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "json-schema", schemars(length(min = 1)))]
    pub closure: Option<String>,
    /// A Nix file of the repository instead of the flake; with `attr`. Relative to the repository's root.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "json-schema", schemars(length(min = 1)))]
    pub file: Option<String>,
    /// The attribute within `file`. Default: the host's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "json-schema", schemars(length(min = 1)))]
    pub attr: Option<String>,
    /// An IP address or a host name. Default: the host's name, so that `~/.ssh/config` and VPN names work.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "json-schema",
        schemars(
            with = "String",
            regex(pattern = "^[A-Za-z0-9_:][A-Za-z0-9_.:-]{0,252}$")
        )
    )]
    pub address: Option<Address>,
    /// How to connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh: Option<Ssh>,
    /// Who brings new configurations. Default: `push`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// How a configuration is activated, confirmed and judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// The specialisation to run. Default: the configuration itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub specialisation: Option<String>,
    /// Whether trueup may reboot the host. Default: `never`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reboot: Option<Reboot>,
    /// When it may, for `reboot: window`, in UTC: `02:00-04:30`, `sat,sun 22:00-02:00`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reboot_window: Option<RebootWindow>,
    /// What happens when somebody else changed the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
    /// How the host opens secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<HostSecrets>,
    /// Hosts that must be ready before this one changes, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "json-schema",
        schemars(
            with = "Vec<String>",
            inner(regex(pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"))
        )
    )]
    pub depends_on: Option<Vec<HostName>>,
    /// `true`: observed but not touched. Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// How many system generations stay on the host. Default: 10; at least 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "json-schema", schemars(range(min = 2, max = 1000)))]
    pub keep_generations: Option<u32>,
}

impl HostSpec {
    /// The part that the fleet's defaults and overrides can set too.
    #[must_use]
    pub fn policy(&self) -> HostDefaults {
        HostDefaults {
            system: self.system.clone(),
            ssh: self.ssh.clone(),
            delivery: self.delivery,
            activation: self.activation.clone(),
            specialisation: self.specialisation.clone(),
            reboot: self.reboot,
            reboot_window: self.reboot_window,
            drift: self.drift,
            secrets: self.secrets.clone(),
            suspend: self.suspend,
            keep_generations: self.keep_generations,
        }
    }
}

/// What the fleet can say for many hosts at once: a `Host`'s fields, but for those that are one machine's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HostDefaults {
    /// Nix' name for the machine's kind, such as `x86_64-linux`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "json-schema",
        schemars(with = "String", regex(pattern = "^[A-Za-z0-9_][A-Za-z0-9_-]{2,39}$"))
    )]
    pub system: Option<System>,
    /// How to connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh: Option<Ssh>,
    /// Who brings new configurations. Default: `push`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// How a configuration is activated, confirmed and judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// The specialisation to run. Default: the configuration itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub specialisation: Option<String>,
    /// Whether trueup may reboot the host. Default: `never`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reboot: Option<Reboot>,
    /// When it may, for `reboot: window`, in UTC: `02:00-04:30`, `sat,sun 22:00-02:00`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reboot_window: Option<RebootWindow>,
    /// What happens when somebody else changed the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
    /// How the host opens secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<HostSecrets>,
    /// `true`: observed but not touched. Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// How many system generations stay on the host. Default: 10; at least 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "json-schema", schemars(range(min = 2, max = 1000)))]
    pub keep_generations: Option<u32>,
}

overlay!(HostDefaults {
    leaf: [
        system,
        delivery,
        specialisation,
        reboot,
        reboot_window,
        suspend,
        keep_generations
    ],
    deep: [ssh, activation, drift, secrets]
});

/// How to connect to a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ssh {
    /// The user to connect as. Default: `root`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "json-schema",
        schemars(regex(pattern = "^[a-z_][a-z0-9_-]{0,31}$"))
    )]
    pub user: Option<String>,
    /// Default: 22.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "json-schema", schemars(range(min = 1, max = 65535)))]
    pub port: Option<u16>,
    /// The host's public keys, `ssh-ed25519 AAAA…`. A host whose key is not known is not connected to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_keys: Option<Vec<HostKey>>,
    /// A machine on the way: `[user@]host[:port]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jump: Option<Jump>,
    /// Become root by passwordless sudo, for a `user` that is not root. Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none", rename = "become")]
    pub become_root: Option<bool>,
}

overlay!(Ssh {
    leaf: [user, port, host_keys, jump, become_root],
    deep: []
});

/// How a configuration is activated, confirmed and judged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Activation {
    /// Default: `switch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Where the boot loader can't boot an entry once, and then the old one again. Default: `refuse`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unconfirmed_boot: Option<UnconfirmedBoot>,
    /// Who must have seen the host on a new connection before the change stays. Default: `controller`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirm: Option<Confirm>,
    /// With `confirm: witness`, the host whose agent confirms: one that is pushed to, with an ed25519 key in `ssh.hostKeys`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "json-schema",
        schemars(
            with = "Option<String>",
            regex(pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
        )
    )]
    pub witness: Option<HostName>,
    /// How long the host waits for that before it rolls back by itself. Default: `120s`; 1 s to 24 h.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirm_timeout: Option<Duration>,
    /// How long an activation may take before it is reported as stuck. Default: `15m`; 1 s to 24 h.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation_timeout: Option<Duration>,
    /// What happens then. Default: `report`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_timeout: Option<OnTimeout>,
    /// How long units are watched after an activation. Default: `10s`; at most 1 h.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settle: Option<Duration>,
    /// What units that fail newly mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_units: Option<FailedUnits>,
    /// Names of `Check`s that must pass, besides those that select the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Vec<String>>,
}

overlay!(Activation {
    leaf: [
        mode,
        unconfirmed_boot,
        confirm,
        witness,
        confirm_timeout,
        activation_timeout,
        on_timeout,
        settle,
        health
    ],
    deep: [failed_units]
});

/// What units that fail newly mean.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FailedUnits {
    /// Default: `rollback`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<FailedUnitsPolicy>,
    /// Units that don't count, such as `NetworkManager-wait-online.service`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore: Option<Vec<String>>,
}

overlay!(FailedUnits {
    leaf: [policy, ignore],
    deep: []
});

/// What happens when somebody else changed the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Drift {
    /// Default: `alert`, so that nobody's repair at three in the morning is undone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<DriftPolicy>,
    /// How often the host is looked at. Default: `5m`; 1 s to 24 h.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
}

overlay!(Drift {
    leaf: [policy, interval],
    deep: []
});

words! {
    /// Who brings new configurations to a host.
    pub enum Delivery {
        /// The controller, over SSH.
        Push = "push",
        /// The host asks for its own.
        Pull = "pull",
        /// Nobody: the host is only observed.
        Observe = "observe",
    }
    not yet: "pull"
}

words! {
    /// What an activation does, in the words of switch-to-configuration.
    pub enum Mode {
        /// Activates now and at boot.
        Switch = "switch",
        /// Activates at the next boot.
        Boot = "boot",
        /// Activates now and not at boot.
        Test = "test",
        /// Only says what it would do.
        DryActivate = "dryActivate",
    }
}

words! {
    /// Who confirms a change.
    pub enum Confirm {
        /// The controller, on a new connection.
        Controller = "controller",
        /// Another host of the fleet, `witness`, on a new connection of its own: for the controller's own host.
        Witness = "witness",
        /// The host itself, by reaching its source.
        SelfConfirm = "self",
        /// Nobody: what activates stays.
        None = "none",
    }
    not yet: "self"
}

words! {
    /// What happens to an activation that takes too long.
    pub enum OnTimeout {
        /// It is reported with the jobs that wait, and goes on; a host that is also unreachable is rolled back.
        Report = "report",
        /// It is stopped and rolled back.
        Rollback = "rollback",
    }
}

words! {
    /// What units that fail newly mean.
    pub enum FailedUnitsPolicy {
        /// The host goes back to what it ran.
        Rollback = "rollback",
        /// It stays, and the report names them.
        Report = "report",
    }
}

words! {
    /// Whether trueup may reboot a host.
    pub enum Reboot {
        /// Never.
        Never = "never",
        /// When the new configuration needs it.
        WhenRequired = "whenRequired",
        /// When it needs it, within `rebootWindow`; until then it runs what can run without one.
        Window = "window",
    }
}

words! {
    /// What becomes of a reboot that could not be undone by a power cycle.
    pub enum UnconfirmedBoot {
        /// It is not made, and the host says so.
        Refuse = "refuse",
        /// It is made: the new configuration is the boot default before anybody has seen it boot.
        Allow = "allow",
    }
}

words! {
    /// What happens when somebody else changed a host.
    pub enum DriftPolicy {
        /// It is put right again, at most three times an hour.
        Correct = "correct",
        /// It is told.
        Alert = "alert",
        /// It is shown, and nothing else.
        Ignore = "ignore",
    }
}
