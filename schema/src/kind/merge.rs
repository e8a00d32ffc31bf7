//! From what was written to what holds: a host over the overrides that match it, over the fleet's defaults, over ours.

use super::{
    Activation, Delivery, Drift, HostDefaults, HostSecrets, HostSpec, Labels, Metadata, Override,
    Reboot, ResolvedActivation, ResolvedDrift, ResolvedFailedUnits, ResolvedHost,
    ResolvedHostSecrets, ResolvedSsh, Ssh, Target, overlay::Overlay,
};
use crate::{Address, HostName, System};

/// Generations that stay on a host: enough to go back over a bad week, few enough for a small disk.
const KEEP_GENERATIONS: u32 = 10;

/// What the fleet says for a host with these labels: defaults, and each override that matches, the later one winning.
#[must_use]
pub fn layers(defaults: &HostDefaults, overrides: &[Override], labels: &Labels) -> HostDefaults {
    overrides
        .iter()
        .filter(|o| o.selector.matches(labels))
        .fold(defaults.clone(), |below, o| o.set.clone().over(below))
}

/// One host with everything decided; `None` when neither it nor the fleet names a system. `health` comes later, when
/// all checks are known.
#[must_use]
pub fn host(
    name: &HostName,
    meta: &Metadata,
    spec: &HostSpec,
    fleet: HostDefaults,
) -> Option<ResolvedHost> {
    let policy = spec.policy().over(fleet);
    let system: System = policy.system?;
    Some(ResolvedHost {
        name: name.clone(),
        labels: meta.labels.clone(),
        annotations: meta.annotations.clone(),
        system,
        target: target(name, spec),
        address: spec.address.clone().unwrap_or_else(|| named_address(name)),
        ssh: ssh(policy.ssh.unwrap_or_default()),
        delivery: policy.delivery.unwrap_or(Delivery::Push),
        activation: activation(policy.activation.unwrap_or_default()),
        drift: drift(policy.drift.unwrap_or_default()),
        depends_on: spec.depends_on.clone().unwrap_or_default(),
        suspend: policy.suspend.unwrap_or(false),
        keep_generations: policy.keep_generations.unwrap_or(KEEP_GENERATIONS),
        reboot: policy.reboot.unwrap_or(Reboot::Never),
        reboot_window: policy.reboot_window,
        specialisation: policy.specialisation,
        secrets: secrets(policy.secrets.unwrap_or_default()),
    })
}

fn named_address(name: &HostName) -> Address {
    name.as_str().parse().expect("a DNS label is a host name")
}

fn target(name: &HostName, spec: &HostSpec) -> Target {
    match &spec.file {
        Some(file) => Target::File {
            file: file.clone(),
            attr: spec.attr.clone().unwrap_or_else(|| name.to_string()),
        },
        None => Target::Flake {
            attribute: spec.closure.clone().unwrap_or_else(|| {
                format!("nixosConfigurations.{name}.config.system.build.toplevel")
            }),
        },
    }
}

fn ssh(written: Ssh) -> ResolvedSsh {
    let ours = ResolvedSsh::default();
    ResolvedSsh {
        user: written.user.unwrap_or(ours.user),
        port: written.port.unwrap_or(ours.port),
        host_keys: written.host_keys.unwrap_or(ours.host_keys),
        jump: written.jump,
        become_root: written.become_root.unwrap_or(ours.become_root),
    }
}

fn activation(written: Activation) -> ResolvedActivation {
    let ours = ResolvedActivation::default();
    let units = written.failed_units.unwrap_or_default();
    ResolvedActivation {
        mode: written.mode.unwrap_or(ours.mode),
        unconfirmed_boot: written.unconfirmed_boot.unwrap_or(ours.unconfirmed_boot),
        confirm: written.confirm.unwrap_or(ours.confirm),
        witness: written.witness,
        confirm_timeout: written.confirm_timeout.unwrap_or(ours.confirm_timeout),
        activation_timeout: written
            .activation_timeout
            .unwrap_or(ours.activation_timeout),
        on_timeout: written.on_timeout.unwrap_or(ours.on_timeout),
        settle: written.settle.unwrap_or(ours.settle),
        failed_units: ResolvedFailedUnits {
            policy: units.policy.unwrap_or(ours.failed_units.policy),
            ignore: units.ignore.unwrap_or_default(),
        },
        health: Vec::new(),
    }
}

fn secrets(written: HostSecrets) -> ResolvedHostSecrets {
    let ours = ResolvedHostSecrets::default();
    ResolvedHostSecrets {
        module: written.module.unwrap_or(ours.module),
        age_keys: written.age_keys.unwrap_or(ours.age_keys),
        identity_files: written.identity_files.unwrap_or(ours.identity_files),
    }
}

fn drift(written: Drift) -> ResolvedDrift {
    let ours = ResolvedDrift::default();
    ResolvedDrift {
        policy: written.policy.unwrap_or(ours.policy),
        interval: written.interval.unwrap_or(ours.interval),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::kind::Duration;

    fn with_settle(secs: u64, user: Option<&str>) -> HostDefaults {
        HostDefaults {
            activation: Some(Activation {
                settle: Some(Duration::from_secs(secs)),
                ..Activation::default()
            }),
            ssh: user.map(|u| Ssh {
                user: Some(u.to_owned()),
                ..Ssh::default()
            }),
            ..HostDefaults::default()
        }
    }

    #[test]
    fn a_host_wins_over_overrides_and_those_over_defaults_field_by_field() {
        let defaults = HostDefaults {
            system: Some("x86_64-linux".parse().unwrap()),
            ..with_settle(1, Some("a"))
        };
        let web = Override {
            selector: "role=web".parse().unwrap(),
            allow_empty: None,
            set: with_settle(2, Some("b")),
        };
        let db = Override {
            selector: "role=db".parse().unwrap(),
            allow_empty: None,
            set: with_settle(3, None),
        };
        let labels: Labels = [("role".to_owned(), "web".to_owned())].into();
        let merged = layers(&defaults, &[web, db], &labels);
        let spec = HostSpec {
            ssh: Some(Ssh {
                port: Some(2222),
                ..Ssh::default()
            }),
            ..HostSpec::default()
        };
        let host = host(
            &"web-1".parse().unwrap(),
            &Metadata::default(),
            &spec,
            merged,
        )
        .unwrap();
        assert_eq!(host.activation.settle, Duration::from_secs(2));
        assert_eq!((host.ssh.user.as_str(), host.ssh.port), ("b", 2222));
        assert_eq!(host.activation.confirm_timeout, Duration::from_secs(120));
        assert_eq!(host.address.as_str(), "web-1");
    }

    #[test]
    fn a_host_without_a_system_is_not_decided() {
        let name = "web-1".parse().unwrap();
        assert!(
            host(
                &name,
                &Metadata::default(),
                &HostSpec::default(),
                HostDefaults::default()
            )
            .is_none()
        );
    }
}
