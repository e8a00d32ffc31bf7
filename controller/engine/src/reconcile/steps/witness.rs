//! The witness of a host: whom it is to confirm, and that it knows before anything is offered. What it then does is between
//! the two hosts; its outcome comes with the confirmed host's reports.

use std::rc::Rc;

use trueup_core::decide::REBOOT_MAX;
use trueup_core::host::Claim;
use trueup_schema::HostName;
use trueup_schema::kind::{Confirm, ResolvedHost};
use trueup_schema::wire::{FORMAT, WATCH_KEYS_MAX, WITNESS_KEY_TYPE, Watch, Witness};

use super::target_of;
use crate::ports::Target;
use crate::state::{Shared, State};

/// Between what the host is given for an attempt and what its witness is: copies that come first, a slow clock.
const GRACE_SECS: u64 = 120;

/// How to reach the witness, and what it is asked; `None`: nobody of that kind confirms. An error is for people.
pub(super) fn watch(
    state: &State,
    claim: &Claim,
    manifest: &ResolvedHost,
) -> Option<Result<(Target, Watch), String>> {
    if manifest.activation.confirm != Confirm::Witness {
        return None;
    }
    let Some(name) = &manifest.activation.witness else {
        return Some(Err("no witness is named (activation.witness)".to_owned()));
    };
    Some(of(state, name, claim, manifest).ok_or_else(|| {
        format!(
            "the witness {name} is no host with an {WITNESS_KEY_TYPE} key that is known here; nothing is offered before it is"
        )
    }))
}

fn of(state: &State, name: &HostName, claim: &Claim, m: &ResolvedHost) -> Option<(Target, Watch)> {
    let identity = |host| {
        let adoption = state.adoptions.get(host)?;
        adoption.identity.as_ref()
    };
    let other = state.hosts.get(name)?;
    let there = target_of(&other.record.manifest, identity(name));
    let prefix = format!("{WITNESS_KEY_TYPE} ");
    let key = there.host_keys.iter().find(|k| k.starts_with(&prefix))?;
    let host = target_of(m, identity(&m.name));
    let reboot = if claim.way.may_reboot {
        REBOOT_MAX.as_secs()
    } else {
        0
    };
    let a = &m.activation;
    let watch = Watch {
        format: FORMAT,
        witness: Witness {
            host: name.clone(),
            key: key.clone(),
        },
        machine_id: identity(name).map(|i| i.machine_id.clone()),
        host: m.name.clone(),
        address: host.address.to_string(),
        port: host.port,
        user: host.user,
        host_keys: host.host_keys.into_iter().take(WATCH_KEYS_MAX).collect(),
        order: claim.order,
        expires_at: claim.expires_at,
        for_secs: a.activation_timeout.as_secs()
            + a.confirm_timeout.as_secs()
            + reboot
            + GRACE_SECS,
    };
    Some((there, watch))
}

/// Asks it. An error is for people: who, why, and that nothing was offered.
pub(super) async fn ask(
    sh: &Rc<Shared>,
    watch: Result<(Target, Watch), String>,
) -> Result<(), String> {
    let (target, watch) = watch?;
    let signed = sh.ports.signer.sign_watch(&watch);
    let asked = sh.ports.hosts.witness(&target, &signed).await;
    asked.map_err(|e| {
        let name = &target.host;
        format!(
            "the witness {name} can't be asked, so nothing is offered: {}",
            e.message
        )
    })
}
