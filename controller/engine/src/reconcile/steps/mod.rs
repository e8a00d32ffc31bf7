//! The steps that touch a host or its claim. Each is safe to repeat and to be cut off: the claim is committed before
//! the offer, and everything after it is read back from the host's reports.

mod claim;
mod deliver;
mod intent;
mod witness;

use std::rc::Rc;

use trueup_core::absorb::{self, Effects};
use trueup_core::decide::{MISSES, Step};
use trueup_core::host::{Adoption, Memory, Work};
use trueup_schema::HostName;
use trueup_schema::kind::ResolvedHost;
use trueup_schema::status::{Actor, Reason, Severity, Subject};
use trueup_schema::wire::{AttemptState, Identity, Report};

use crate::pipeline;
use crate::ports::{Target, TransportError, TransportFault};
use crate::state::{Shared, note, put};

pub(crate) use claim::ask_again;

pub(super) async fn run(sh: &Rc<Shared>, host: &HostName, step: Step) {
    match step {
        Step::Wait { .. } => {}
        Step::WantEvaluation => {
            let mut state = sh.state.borrow_mut();
            if let Some(cell) = state.hosts.get_mut(host) {
                cell.evaluation = Work::Running(None);
            }
            state.eval_wants.insert(host.clone());
            drop(state);
            sh.eval_kick.notify_one();
        }
        Step::WantClosure if super::back::want(sh, host) => {}
        Step::WantClosure => want_closure(sh, host),
        Step::Observe => observe(sh, host).await,
        Step::Adopt => adopt(sh, host).await,
        Step::Ask { correction } => claim::ask(sh, host, correction).await,
        Step::Offer => deliver::offer(sh, host).await,
        Step::Copy(paths) => deliver::copy(sh, host, &paths).await,
        Step::Confirm {
            order,
            nonce,
            within_secs,
        } => {
            deliver::confirm(sh, host, order, &nonce, within_secs).await;
        }
        Step::Release => claim::release(sh, host).await,
    }
}

fn want_closure(sh: &Rc<Shared>, host: &HostName) {
    let goal = super::course::goal(&sh.state.borrow(), host, &sh.settings);
    let Some(wanted) = goal else {
        return;
    };
    pipeline::build::want(sh, host, &wanted);
    let (sh2, host) = (sh.clone(), host.clone());
    let task = async move { deliver::prepare(&sh2, &host, &wanted).await };
    sh.ports.rt.spawn("prepare", Box::pin(task));
}

/// How to reach a host, by its manifest; keys that the manifest lacks are those seen at adoption.
pub(super) fn target(sh: &Rc<Shared>, host: &HostName) -> Option<Target> {
    let state = sh.state.borrow();
    let manifest = &state.hosts.get(host)?.record.manifest;
    let pinned = state.adoptions.get(host).and_then(|a| a.identity.as_ref());
    Some(target_of(manifest, pinned))
}

/// The same, of a manifest.
pub(crate) fn target_of(m: &ResolvedHost, pinned: Option<&Identity>) -> Target {
    let mut host_keys: Vec<String> = m.ssh.host_keys.iter().map(ToString::to_string).collect();
    if let Some(identity) = pinned.filter(|_| host_keys.is_empty()) {
        host_keys.clone_from(&identity.host_keys);
    }
    Target {
        host: m.name.clone(),
        system: m.system.clone(),
        address: m.address.clone(),
        port: m.ssh.port,
        user: m.ssh.user.clone(),
        become_root: m.ssh.become_root,
        host_keys,
        jump: m.ssh.jump.iter().map(|j| j.as_str().to_owned()).collect(),
    }
}

/// Takes a report in: memory, events, and the claim if its outcome is in it. Saved with the next record.
pub(super) fn absorb_report(sh: &Rc<Shared>, host: &HostName, report: Report, by_itself: bool) {
    let (now, seed) = (sh.now(), sh.ports.rt.random());
    let mut guard = sh.state.borrow_mut();
    let state = &mut *guard;
    let Some(cell) = state.hosts.get_mut(host) else {
        return;
    };
    if by_itself && super::is_stale(&cell.record.memory, &report) {
        return;
    }
    if let Some(a) = &report.attempt
        && a.state == AttemptState::AwaitingConfirmation
    {
        let revision = cell.record.revision.sha1();
        tracing::debug!(target: "stage", stage = "awaiting", %host, revision);
    }
    let claim = state.claims.get(host);
    let adopted = state.adoptions.get(host).and_then(|a| a.identity.as_ref());
    let memory = &mut cell.record.memory;
    let counted = |m: &Memory| m.is_at_an_attempt() || m.misses >= MISSES;
    let did_count = counted(memory);
    let machine = adopted.map(|i| i.machine_id.as_str());
    let effects = match by_itself {
        true => absorb::reported(memory, report, claim, now, seed),
        false => absorb::answered(memory, report, claim, machine, now, seed),
    };
    // A release is a step of its own: decided from the report, committed with the claim.
    cell.notes.extend(effects.notes);
    cell.dirty = true;
    // Others may have been denied for it; where there is a claim, its release tells them.
    let counts = counted(&cell.record.memory) || claim.is_some();
    drop(guard);
    if did_count && !counts {
        claim::ask_again(sh);
    }
}

fn apply(sh: &Rc<Shared>, host: &HostName, effects: Effects) {
    let mut state = sh.state.borrow_mut();
    if let Some(cell) = state.hosts.get_mut(host) {
        cell.notes.extend(effects.notes);
        cell.dirty = true;
    }
}

pub(super) fn missed(sh: &Rc<Shared>, host: &HostName, e: &TransportError) {
    let reason = match e.fault {
        TransportFault::Copy => Reason::CopyFailed,
        TransportFault::Protocol => Reason::Bug,
        TransportFault::Untrusted | TransportFault::Agent => Reason::Failed,
        _ => Reason::Unreachable,
    };
    let (now, seed) = (sh.now(), sh.ports.rt.random());
    let effects = {
        let mut state = sh.state.borrow_mut();
        let Some(cell) = state.hosts.get_mut(host) else {
            return;
        };
        absorb::missed(
            &mut cell.record.memory,
            e.class(),
            reason,
            &e.message,
            now,
            seed,
        )
    };
    apply(sh, host, effects);
}

async fn observe(sh: &Rc<Shared>, host: &HostName) {
    let Some(target) = target(sh, host) else {
        return;
    };
    sh.crash("observe.start").await;
    let result = sh.ports.hosts.observe(&target).await;
    sh.crash("observe.end").await;
    match result {
        Ok(report) => absorb_report(sh, host, report, false),
        Err(e) => missed(sh, host, &e),
    }
}

async fn adopt(sh: &Rc<Shared>, host: &HostName) {
    let adoption = {
        let state = sh.state.borrow();
        let Some(report) = state
            .hosts
            .get(host)
            .and_then(|c| c.record.memory.report.clone())
        else {
            return;
        };
        let asked = state.adoptions.get(host);
        Adoption {
            host: host.clone(),
            identity: Some(report.identity),
            by: asked.map_or_else(Actor::controller, |a| a.by.clone()),
            at: asked.map_or_else(|| sh.now(), |a| a.at),
        }
    };
    let machine = adoption
        .identity
        .as_ref()
        .map_or("", |i| i.machine_id.as_str())
        .to_owned();
    let told = note(
        Severity::Info,
        Reason::HostAdopted,
        format!("machine-id {machine}, by {}", adoption.by.name),
    );
    let event = sh.event(Subject::Host(host.clone()), &told, None);
    let Ok(op) = put("adoptions", host.as_str(), &adoption) else {
        return;
    };
    if sh.commit(vec![op], vec![event]).await.is_ok() {
        sh.state
            .borrow_mut()
            .adoptions
            .insert(host.clone(), adoption);
    }
    sh.crash("adopt.after-commit").await;
}
