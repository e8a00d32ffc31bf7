//! A claim and a manifest as the document that the host is offered. Only puts words in their places.

use std::collections::BTreeSet;

use trueup_core::host::Claim;
use trueup_schema::kind::{self, ResolvedHost};
use trueup_schema::wire::{self, Intent, MODES_V1, SECRETS_V1, SYSTEM_V1, SystemGoal, WITNESS_V1};

pub(super) fn intent(
    claim: &Claim,
    m: &ResolvedHost,
    machine_id: Option<String>,
    cluster: String,
    secrets: Option<wire::Goal>,
    witness: Option<wire::Witness>,
) -> Intent {
    let a = &m.activation;
    let goal = SystemGoal {
        closure: claim.closure.clone(),
        system: m.system.clone(),
        mode: claim.way.mode,
        specialisation: claim.specialisation.clone(),
        activation_timeout_secs: a.activation_timeout.as_secs(),
        on_timeout: match a.on_timeout {
            kind::OnTimeout::Report => wire::OnTimeout::Wait,
            kind::OnTimeout::Rollback => wire::OnTimeout::Rollback,
        },
        settle_secs: a.settle.as_secs(),
        failed_units: wire::FailedUnits {
            policy: match a.failed_units.policy {
                kind::FailedUnitsPolicy::Rollback => wire::FailedUnitsPolicy::Rollback,
                kind::FailedUnitsPolicy::Report => wire::FailedUnitsPolicy::Report,
            },
            ignore: a.failed_units.ignore.clone(),
        },
        health: a.health.iter().map(check).collect(),
        keep_generations: m.keep_generations,
        reboot_as_last_resort: m.reboot != kind::Reboot::Never,
        may_reboot: claim.way.may_reboot,
        unconfirmed_boot: claim.way.unconfirmed,
    };
    // New secrets come before the units that need them, so they come first.
    let mut goals: Vec<wire::Goal> = secrets.into_iter().collect();
    let mut requires: BTreeSet<String> = goals.iter().map(|_| SECRETS_V1.to_owned()).collect();
    if !claim.secrets_alone {
        requires.insert(SYSTEM_V1.to_owned());
        if claim.way.may_reboot || claim.way.mode != wire::Mode::Switch {
            requires.insert(MODES_V1.to_owned());
        }
        goals.push(wire::Goal {
            component: "system".parse().expect("a DNS label"),
            digest: claim.digest.clone(),
            body: serde_json::to_value(&goal).unwrap_or_default(),
        });
    }
    if a.confirm == kind::Confirm::Witness {
        requires.insert(WITNESS_V1.to_owned());
    }
    Intent {
        format: wire::FORMAT,
        cluster,
        host: claim.host.clone(),
        machine_id,
        order: claim.order,
        revision: claim.revision.clone(),
        issued_at: claim.granted_at,
        expires_at: claim.expires_at,
        requires,
        confirm: wire::Confirm {
            by: match a.confirm {
                kind::Confirm::Controller => wire::ConfirmBy::Controller,
                kind::Confirm::Witness => wire::ConfirmBy::Witness,
                kind::Confirm::SelfConfirm => wire::ConfirmBy::Itself,
                kind::Confirm::None => wire::ConfirmBy::None,
            },
            timeout_secs: a.confirm_timeout.as_secs(),
            witness,
        },
        retry: claim.retry,
        goals,
    }
}

fn check(c: &kind::ResolvedCheck) -> wire::Check {
    wire::Check {
        name: c.name.clone(),
        probe: match &c.probe {
            kind::Probe::Unit { name } => wire::Probe::Unit(name.clone()),
            kind::Probe::Tcp { address, port } => {
                wire::Probe::Tcp(std::net::SocketAddr::new(*address, *port).to_string())
            }
            kind::Probe::Http { url, status } => wire::Probe::Http {
                url: url.clone(),
                status: *status,
            },
            kind::Probe::Command { argv } => wire::Probe::Command(argv.clone()),
        },
        timeout_secs: c.timeout.as_secs(),
        attempts: c.attempts,
        interval_ms: u64::try_from(c.interval.get().as_millis()).unwrap_or(u64::MAX),
    }
}
