//! Fleet, check, alert and cache with every default in place; hosts are merged in `kind::merge`. Reports nothing.

use super::sinks::reason;
use crate::{
    kind::{
        Adopt, AlertSpec, CheckSpec, DiscoverFrom, Duration, FileMode, FleetSpec, Metadata, Owner,
        Probe, ResolvedAlert, ResolvedCheck, ResolvedFleet, ResolvedRollout, ResolvedSecret,
        ResolvedTemplate, SecretFormat, SecretSpec, SecretTemplate, Severity, Signatures,
    },
    status,
};

pub(super) fn resolved_fleet(name: String, spec: FleetSpec) -> ResolvedFleet {
    let ours = ResolvedRollout::default();
    let rollout = spec.rollout.unwrap_or_default();
    let discovery = spec.discovery.unwrap_or_default();
    ResolvedFleet {
        name,
        rollout: ResolvedRollout {
            max_concurrent: rollout.max_concurrent.unwrap_or(ours.max_concurrent),
            max_unavailable: rollout.max_unavailable.unwrap_or_default(),
            max_failures: rollout.max_failures.unwrap_or(ours.max_failures),
        },
        adopt: spec.adopt.unwrap_or(Adopt::Manual),
        discover_from: discovery.from.unwrap_or(DiscoverFrom::Manifests),
        discovered_labels: discovery.labels.unwrap_or_default(),
        signatures: spec
            .trunk
            .and_then(|t| t.signatures)
            .unwrap_or(Signatures::Ignore),
        admins: spec.secrets.and_then(|s| s.admins).unwrap_or_default(),
    }
}

/// The hosts are filled in by the caller.
pub(super) fn resolved_secret(meta: &Metadata, spec: &SecretSpec) -> ResolvedSecret {
    ResolvedSecret {
        name: meta.name.clone(),
        source: spec
            .source
            .strip_prefix("./")
            .unwrap_or(&spec.source)
            .to_owned(),
        format: spec
            .format
            .unwrap_or_else(|| SecretFormat::of_path(&spec.source)),
        key: spec.key.clone(),
        selector: spec.hosts.clone(),
        hosts: Default::default(),
        path: spec.path.clone(),
        owner: spec.owner.clone().unwrap_or_else(Owner::root),
        group: spec.group.clone(),
        mode: spec.mode.unwrap_or(FileMode::FILE),
        directory_mode: spec.directory_mode.unwrap_or(FileMode::DIRECTORY),
        needed_for_users: spec.needed_for_users.unwrap_or(false),
        restart_units: spec.restart_units.clone().unwrap_or_default(),
        reload_units: spec.reload_units.clone().unwrap_or_default(),
        templates: spec.templates.iter().flatten().map(template).collect(),
    }
}

fn template(written: &SecretTemplate) -> ResolvedTemplate {
    ResolvedTemplate {
        name: written.name.clone(),
        content: written.content.clone(),
        path: written.path.clone(),
        owner: written.owner.clone().unwrap_or_else(Owner::root),
        group: written.group.clone(),
        mode: written.mode.unwrap_or(FileMode::FILE),
        restart_units: written.restart_units.clone().unwrap_or_default(),
        reload_units: written.reload_units.clone().unwrap_or_default(),
    }
}

pub(super) fn resolved_check(meta: &Metadata, spec: &CheckSpec) -> Option<ResolvedCheck> {
    let probe = if let Some(unit) = &spec.unit {
        Probe::Unit {
            name: unit.name.clone(),
        }
    } else if let Some(tcp) = &spec.tcp {
        let address = tcp.address.as_deref().unwrap_or("127.0.0.1").parse().ok()?;
        Probe::Tcp {
            address,
            port: tcp.port,
        }
    } else if let Some(http) = &spec.http {
        Probe::Http {
            url: http.url.clone(),
            status: http.status.unwrap_or(200),
        }
    } else {
        Probe::Command {
            argv: spec.command.as_ref()?.argv.clone(),
        }
    };
    Some(ResolvedCheck {
        name: meta.name.clone(),
        probe,
        timeout: spec.timeout.unwrap_or(Duration::from_secs(5)),
        attempts: spec.attempts.unwrap_or(3),
        interval: spec.interval.unwrap_or(Duration::from_secs(1)),
    })
}

pub(super) fn resolved_alert(meta: &Metadata, spec: &AlertSpec) -> ResolvedAlert {
    ResolvedAlert {
        name: meta.name.clone(),
        url: spec.webhook.url.clone(),
        secret_file: spec.webhook.secret_file.clone(),
        severity: match spec.severity.unwrap_or(Severity::Warning) {
            Severity::Info => status::Severity::Info,
            Severity::Warning => status::Severity::Warning,
            Severity::Error => status::Severity::Error,
        },
        kinds: spec
            .kinds
            .iter()
            .flatten()
            .filter_map(|word| reason(word))
            .collect(),
        hosts: spec.hosts.clone(),
        suspend: spec.suspend.unwrap_or(false),
    }
}
