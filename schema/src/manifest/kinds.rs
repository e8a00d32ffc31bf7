//! Metadata, `Fleet` and `Host` field by field: which fields each has, their bounds, and which are not built yet.

use super::{
    decode::{Fields, Reader, duplicate_keys},
    forms::{Decode, Rule, need_int, once_each, wrong_type},
    problem::ProblemKind,
    rules,
    tree::{Node, Value},
};
use crate::kind::{
    Activation, Discovery, Drift, FailedUnits, FleetSpec, HostDefaults, HostSpec, Labels,
    MaxUnavailable, Metadata, Override, Rollout, Ssh, Trunk,
};

/// Of hosts.
const COUNT: std::ops::RangeInclusive<u64> = 1..=1000;
/// At least something, since 0 would roll everything back; at most a day, in which somebody surely looks.
const LONG_WAIT_SECS: std::ops::RangeInclusive<u64> = 1..=86_400;
/// Settling may be nothing.
const SETTLE_SECS: std::ops::RangeInclusive<u64> = 0..=3_600;

impl Decode for Metadata {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let name = f.need_node(r, "name").and_then(|n| rules::NAME.read(r, n));
        let labels = f.node("labels").map(|n| labels(r, n, true));
        let annotations = f.node("annotations").map(|n| self::labels(r, n, false));
        f.close(r);
        Some(Self {
            name: name?,
            labels: labels.unwrap_or_default(),
            annotations: annotations.unwrap_or_default(),
        })
    }
}

/// Labels, or annotations, whose keys and values are free. What is wrong is left out, so that selectors are still
/// checked against the rest.
fn labels(r: &mut Reader<'_>, node: &Node, strict: bool) -> Labels {
    let Value::Map(entries) = &node.value else {
        wrong_type(r, node, "a mapping", "write `key: value`, one a line");
        return Labels::new();
    };
    duplicate_keys(r, node);
    let mut labels = Labels::new();
    for entry in entries {
        if strict && !(rules::LABEL_KEY.check)(&entry.key) {
            let text = format!("`{}` is not {}", entry.key, rules::LABEL_KEY.what);
            r.report(ProblemKind::BadLabel, entry.at, text, rules::LABEL_KEY.help);
        }
        let value = if strict {
            rules::LABEL_VALUE.read(r, &entry.value)
        } else {
            String::decode(r, &entry.value, "")
        };
        if let Some(value) = value {
            labels.entry(entry.key.clone()).or_insert(value);
        }
    }
    labels
}

impl Decode for FleetSpec {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let spec = Self {
            defaults: f.opt(r, "defaults"),
            overrides: f.opt(r, "overrides"),
            rollout: f.opt(r, "rollout"),
            discovery: f.opt(r, "discovery"),
            adopt: f.opt(r, "adopt"),
            trunk: f.opt(r, "trunk"),
            secrets: f.opt(r, "secrets"),
        };
        f.close(r);
        Some(spec)
    }
}

impl Decode for Override {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let selector = f.need(r, "selector");
        let allow_empty = f.opt(r, "allowEmpty");
        let set = f.need(r, "set");
        f.close(r);
        Some(Self {
            selector: selector?,
            allow_empty,
            set: set?,
        })
    }
}

impl Decode for Rollout {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let rollout = Self {
            max_concurrent: f.int(r, "maxConcurrent", COUNT),
            max_unavailable: f.opt(r, "maxUnavailable"),
            max_failures: f.int(r, "maxFailures", COUNT),
        };
        f.close(r);
        Some(rollout)
    }
}

impl Decode for MaxUnavailable {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let label = f
            .need_node(r, "label")
            .and_then(|n| rules::LABEL_KEY.read(r, n));
        let max = need_int(&mut f, r, "max", COUNT);
        f.close(r);
        Some(Self {
            label: label?,
            max: max?,
        })
    }
}

impl Decode for Discovery {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let from = f.opt(r, "from");
        let labels = f.node("labels").map(|n| labels(r, n, true));
        f.close(r);
        Some(Self { from, labels })
    }
}

impl Decode for Trunk {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let signatures = f.opt(r, "signatures");
        f.close(r);
        Some(Self { signatures })
    }
}

/// The fields that a host and the fleet's defaults share.
fn policy(f: &mut Fields<'_>, r: &mut Reader<'_>) -> HostDefaults {
    let policy = HostDefaults {
        system: f.opt(r, "system"),
        ssh: f.opt(r, "ssh"),
        delivery: f.opt(r, "delivery"),
        activation: f.opt(r, "activation"),
        specialisation: None,
        reboot: f.opt(r, "reboot"),
        reboot_window: f.opt(r, "rebootWindow"),
        drift: f.opt(r, "drift"),
        secrets: f.opt(r, "secrets"),
        suspend: f.opt(r, "suspend"),
        keep_generations: f.int(r, "keepGenerations", 2..=1000),
    };
    f.later(r, "specialisation");
    policy
}

impl Decode for HostDefaults {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let policy = policy(&mut f, r);
        f.close(r);
        Some(policy)
    }
}

impl Decode for HostSpec {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let shared = policy(&mut f, r);
        let depends_on = f.opt(r, "dependsOn");
        once_each(r, node.find(&["dependsOn"], None));
        let spec = Self {
            system: shared.system,
            closure: f.text(r, "closure", &rules::ATTRIBUTE),
            file: f.text(r, "file", &rules::REPOSITORY_FILE),
            attr: f.text(r, "attr", &rules::ATTRIBUTE),
            address: f.opt(r, "address"),
            ssh: shared.ssh,
            delivery: shared.delivery,
            activation: shared.activation,
            specialisation: None,
            reboot: shared.reboot,
            reboot_window: shared.reboot_window,
            drift: shared.drift,
            secrets: shared.secrets,
            depends_on,
            suspend: shared.suspend,
            keep_generations: shared.keep_generations,
        };
        if f.has("closure") && f.has("file") {
            let text = "`closure` and `file` exclude each other";
            r.report(
                ProblemKind::Conflict,
                f.key("file"),
                text,
                "`closure` is of the flake, `file` with `attr` needs none",
            );
        }
        if f.has("attr") && !f.has("file") {
            r.report(
                ProblemKind::Conflict,
                f.key("attr"),
                "`attr` needs `file`",
                "a flake's attribute is `closure`",
            );
        }
        f.close(r);
        Some(spec)
    }
}

impl Decode for Ssh {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let ssh = Self {
            user: f.text(r, "user", &rules::USER),
            port: f.int(r, "port", 1..=65_535),
            host_keys: f.opt(r, "hostKeys"),
            jump: f.opt(r, "jump"),
            become_root: f.opt(r, "become"),
        };
        f.close(r);
        Some(ssh)
    }
}

impl Decode for Activation {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let activation = Self {
            mode: f.opt(r, "mode"),
            unconfirmed_boot: f.opt(r, "unconfirmedBoot"),
            confirm: f.opt(r, "confirm"),
            witness: f.opt(r, "witness"),
            confirm_timeout: f.duration(r, "confirmTimeout", LONG_WAIT_SECS),
            activation_timeout: f.duration(r, "activationTimeout", LONG_WAIT_SECS),
            on_timeout: f.opt(r, "onTimeout"),
            settle: f.duration(r, "settle", SETTLE_SECS),
            failed_units: f.opt(r, "failedUnits"),
            health: f.opt(r, "health"),
        };
        once_each(r, node.find(&["health"], None));
        f.close(r);
        Some(activation)
    }
}

impl Decode for FailedUnits {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let policy = f.opt(r, "policy");
        let ignore = f.node("ignore").and_then(|n| texts(r, n, &rules::UNIT));
        f.close(r);
        Some(Self { policy, ignore })
    }
}

/// A list of texts of one form.
pub(super) fn texts(r: &mut Reader<'_>, node: &Node, rule: &Rule) -> Option<Vec<String>> {
    if let Value::List(items) = &node.value {
        let values: Vec<_> = items.iter().map(|item| rule.read(r, item)).collect();
        once_each(r, Some(node));
        return values.into_iter().collect();
    }
    Vec::decode(r, node, "")
}

impl Decode for Drift {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let drift = Self {
            policy: f.opt(r, "policy"),
            interval: f.duration(r, "interval", LONG_WAIT_SECS),
        };
        f.close(r);
        Some(drift)
    }
}
