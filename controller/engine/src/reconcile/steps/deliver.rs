//! What is said to a host about its claim: the offer, the copy that it asks for, the confirmation.

use std::rc::Rc;

use trueup_core::absorb;
use trueup_core::host::{Wanted, Work};
use trueup_schema::wire::{self, Order};
use trueup_schema::{HostName, StorePath};

use super::claim::{is_heard, release};
use super::intent::intent;
use super::witness;
use super::{absorb_report, apply, missed, observe, target};
use crate::state::Shared;

/// While the closure is built: opens the connection, and asks the host what it lacks. Bounded by the edge; what fails here
/// fails as any contact does, and no claim is held meanwhile.
pub(super) async fn prepare(sh: &Rc<Shared>, host: &HostName, wanted: &Wanted) {
    let Some(target) = target(sh, host) else {
        return;
    };
    let set = |preparing| {
        let mut state = sh.state.borrow_mut();
        let cell = state.hosts.get_mut(host);
        cell.is_some_and(|c| std::mem::replace(&mut c.preparing, preparing))
    };
    if set(true) {
        return; // being asked already; what it lacks of a newer closure is asked by the offer
    }
    let paths = [wanted.closure.clone()];
    let result = sh.ports.hosts.prepare(&target, &paths).await;
    set(false);
    match result {
        Ok(missing) => {
            if let Some(cell) = sh.state.borrow_mut().hosts.get_mut(host) {
                let m = &mut cell.record.memory;
                m.needs = (!missing.is_empty()).then(|| (wanted.digest.clone(), missing));
                cell.dirty = true;
            }
        }
        Err(e) => missed(sh, host, &e),
    }
    sh.mark("prepared", host);
    sh.wake(host, false);
}

pub(super) async fn offer(sh: &Rc<Shared>, host: &HostName) {
    if !is_heard(sh, host) {
        return observe(sh, host).await;
    }
    let Some(target) = target(sh, host) else {
        return;
    };
    let made = {
        let state = &*sh.state.borrow();
        let (Some(claim), Some(cell)) = (state.claims.get(host), state.hosts.get(host)) else {
            return;
        };
        let machine = state
            .adoptions
            .get(host)
            .and_then(|a| a.identity.as_ref())
            .map(|i| i.machine_id.clone());
        let wanted = claim.secrets.as_ref();
        let wanted = wanted.or(claim.secrets_alone.then_some(&claim.digest));
        let there = super::super::secrets_of(state, host)
            .filter(|goal| Some(&goal.digest) == wanted)
            .cloned();
        // The trunk moved on: those of the claim are no longer to be had.
        let outdated = wanted.is_some() && there.is_none();
        let cluster = sh.ports.signer.cluster();
        let watch = witness::watch(state, claim, &cell.record.manifest);
        let who = watch
            .as_ref()
            .map(|w| w.as_ref().ok().map(|w| w.1.witness.clone()));
        let intent = intent(
            claim,
            &cell.record.manifest,
            machine,
            cluster,
            there,
            who.flatten(),
        );
        (!outdated).then(|| (claim.clone(), intent, watch))
    };
    let Some((claim, intent, watch)) = made else {
        return observe(sh, host).await;
    };
    let signed = sh.ports.signer.sign(&intent);
    sh.crash("offer.start").await;
    // Who is to confirm knows before there is anything to confirm: the controller may be gone by then.
    if let Some(watch) = watch
        && let Err(message) = witness::ask(sh, watch).await
    {
        sh.crash("witness.end").await;
        let (now, seed) = (sh.now(), sh.ports.rt.random());
        let effects = {
            let mut state = sh.state.borrow_mut();
            let Some(cell) = state.hosts.get_mut(host) else {
                return;
            };
            absorb::unwitnessed(&mut cell.record.memory, message, now, seed)
        };
        apply(sh, host, effects);
        return release(sh, host).await;
    }
    sh.crash("witness.end").await;
    let result = sh.ports.hosts.offer(&target, &signed).await;
    sh.crash("offer.end").await;
    let begun = matches!(&result, Ok(wire::OfferReply::Begun { .. }));
    sh.mark(if begun { "begun" } else { "offered" }, host);
    let reply = match result {
        Ok(reply) => reply,
        Err(e) => return missed(sh, host, &e),
    };
    let (now, seed) = (sh.now(), sh.ports.rt.random());
    let effects = {
        let mut state = sh.state.borrow_mut();
        let Some(cell) = state.hosts.get_mut(host) else {
            return;
        };
        absorb::replied(&mut cell.record.memory, &claim, &reply, now, seed)
    };
    let free = effects.release;
    apply(sh, host, effects);
    if free {
        release(sh, host).await;
    }
    // A hold is told by the report, with who and until when.
    let held = matches!(&reply, wire::OfferReply::Refused { reason, .. } if reason == "Held");
    if held || matches!(reply, wire::OfferReply::Already { .. }) {
        observe(sh, host).await;
    }
}

pub(super) async fn copy(sh: &Rc<Shared>, host: &HostName, paths: &[StorePath]) {
    let Some(target) = target(sh, host) else {
        return;
    };
    sh.crash("copy.start").await;
    let result = sh.ports.hosts.copy(&target, paths).await;
    sh.crash("copy.end").await;
    sh.mark("copied", host);
    match result {
        Ok(()) => {
            let mut state = sh.state.borrow_mut();
            if let Some(cell) = state.hosts.get_mut(host) {
                cell.record.memory.needs = None;
                cell.record.memory.misses = 0;
                cell.record.memory.tried_at = Some(sh.now());
                cell.dirty = true;
            }
        }
        Err(e) => {
            missed(sh, host, &e);
            // Collected meanwhile? Then it is built again.
            let mut lost = false;
            for path in paths {
                lost |= !sh.ports.builder.is_valid(path).await;
            }
            let mut guard = sh.state.borrow_mut();
            let state = &mut *guard;
            if let Some(back) = state.rollbacks.get_mut(host)
                && paths.contains(&back.rollback.to)
            {
                back.closure = Work::None; // looked for again
                return;
            }
            if let Some(goal) = super::super::course::goal(state, host, &sh.settings)
                && lost
            {
                state.closures.remove(&goal.drv);
            }
        }
    }
}

/// Confirms until the host's own deadline, or its manifest's if it named none.
pub(super) async fn confirm(
    sh: &Rc<Shared>,
    host: &HostName,
    order: Order,
    nonce: &str,
    within_secs: Option<u64>,
) {
    let Some(target) = target(sh, host) else {
        return;
    };
    let timeout = {
        let state = sh.state.borrow();
        let cell = state.hosts.get(host);
        cell.map(|c| c.record.manifest.activation.confirm_timeout.as_secs())
    };
    let Some(within) = within_secs.or(timeout) else {
        return;
    };
    sh.crash("confirm.start").await;
    let result = sh.ports.hosts.confirm(&target, order, nonce, within).await;
    sh.crash("confirm.end").await;
    sh.mark("confirmed", host);
    match result {
        Ok(report) => absorb_report(sh, host, report, false),
        Err(e) => missed(sh, host, &e),
    }
}
