//! The steps that touch a host or its claim. Each is safe to repeat and to be cut off: the claim is committed before
//! the offer, and everything after it is read back from the host's reports.

use std::rc::Rc;

use trueup_core::absorb::{self, Effects};
use trueup_core::admit::{Held, admit, groups};
use trueup_core::decide::Step;
use trueup_core::host::{Adoption, Claim, Work};
use trueup_core::plan;
use trueup_schema::kind::{self, ResolvedHost};
use trueup_schema::status::{Actor, Reason, Severity, Subject};
use trueup_schema::wire::{self, Intent, Report, SYSTEM_V1, SystemGoal};
use trueup_schema::{HostName, StorePath};

use crate::pipeline;
use crate::ports::{Target, TransportError, TransportFault};
use crate::state::{Shared, delete, note, put};

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
        Step::WantClosure => want_closure(sh, host),
        Step::Observe => observe(sh, host).await,
        Step::Adopt => adopt(sh, host).await,
        Step::Ask { correction } => ask(sh, host, correction).await,
        Step::Offer => offer(sh, host).await,
        Step::Copy(paths) => copy(sh, host, &paths).await,
        Step::Confirm {
            order,
            nonce,
            within_secs,
        } => {
            let Some(target) = target(sh, host) else {
                return;
            };
            sh.crash("confirm.start").await;
            let within = within_secs.map_or(sh.settings.confirm_within.as_secs(), |s| {
                s.min(sh.settings.confirm_within.as_secs())
            });
            let result = sh
                .ports
                .hosts
                .confirm(&target, order, &nonce, within.max(1))
                .await;
            sh.crash("confirm.end").await;
            match result {
                Ok(report) => absorb_report(sh, host, report, false),
                Err(e) => missed(sh, host, &e),
            }
        }
        Step::Release => release(sh, host).await,
    }
}

fn want_closure(sh: &Rc<Shared>, host: &HostName) {
    let wanted = match sh
        .state
        .borrow()
        .hosts
        .get(host)
        .map(|c| c.evaluation.clone())
    {
        Some(Work::Done(w)) => w,
        _ => return,
    };
    pipeline::build::want(sh, host, &wanted);
    if let Some(target) = target(sh, host) {
        sh.ports.hosts.warm(&target);
    }
}

/// How to reach a host, by its manifest; keys that the manifest lacks are those seen at adoption.
fn target(sh: &Rc<Shared>, host: &HostName) -> Option<Target> {
    let state = sh.state.borrow();
    let m = &state.hosts.get(host)?.record.manifest;
    let mut host_keys: Vec<String> = m.ssh.host_keys.iter().map(ToString::to_string).collect();
    let pinned = state.adoptions.get(host).and_then(|a| a.identity.as_ref());
    if let Some(identity) = pinned.filter(|_| host_keys.is_empty()) {
        host_keys.clone_from(&identity.host_keys);
    }
    Some(Target {
        host: host.clone(),
        system: m.system.clone(),
        address: m.address.clone(),
        port: m.ssh.port,
        user: m.ssh.user.clone(),
        become_root: m.ssh.become_root,
        host_keys,
        jump: m.ssh.jump.iter().map(|j| j.as_str().to_owned()).collect(),
    })
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
    let claim = state.claims.get(host);
    let effects = absorb::reported(&mut cell.record.memory, report, claim, now, seed);
    // A release is a step of its own: decided from the report, committed with the claim.
    cell.notes.extend(effects.notes);
    cell.dirty = true;
}

fn apply(sh: &Rc<Shared>, host: &HostName, effects: Effects) {
    let mut state = sh.state.borrow_mut();
    if let Some(cell) = state.hosts.get_mut(host) {
        cell.notes.extend(effects.notes);
        cell.dirty = true;
    }
}

fn missed(sh: &Rc<Shared>, host: &HostName, e: &TransportError) {
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

/// Asks for a claim and commits it. It counts as held from before the commit on, so that limits hold meanwhile.
async fn ask(sh: &Rc<Shared>, host: &HostName, correction: bool) {
    let now = sh.now();
    let (claim, ops) = {
        let mut guard = sh.state.borrow_mut();
        let state = &mut *guard;
        let Some(fleet) = state.fleet.clone() else {
            return;
        };
        // The same three that a plan is drawn from.
        let memories = state.hosts.iter().map(|(n, c)| (n, &c.record.memory));
        let failed = plan::failures(memories);
        let held: Vec<Held> = state.claims.values().map(Held::from).collect();
        let Some(asked) = super::with_view(state, host, &sh.settings, |v| plan::asked(v, now))
        else {
            return;
        };
        let Some(cell) = state.hosts.get_mut(host) else {
            return;
        };
        let Work::Done(wanted) = &cell.evaluation else {
            return;
        };
        let manifest = &cell.record.manifest;
        let verdict = admit(&fleet.fleet.rollout, &held, &[asked], &failed).remove(host);
        if let Some(Err(why)) = verdict {
            state.denied.insert(host.clone(), (why, now));
            return;
        }
        let m = &mut cell.record.memory;
        let order = absorb::next_order(m);
        let claim = Claim {
            host: host.clone(),
            order,
            revision: cell.record.revision.clone(),
            digest: wanted.digest.clone(),
            closure: wanted.closure.clone(),
            specialisation: manifest.specialisation.clone(),
            attempt: m.tries.get(&wanted.digest).map_or(0, |t| t.count) + 1,
            groups: groups(&fleet.fleet.rollout, &manifest.labels),
            granted_at: now,
            expires_at: now + sh.settings.intent_lifetime,
            correction,
            retry: m.retry,
        };
        m.order = order;
        m.quarantined
            .retain(|d, _| !(claim.retry && *d == claim.digest));
        let ops = [
            put("claims", host.as_str(), &claim),
            put("hosts", host.as_str(), &cell.record),
        ];
        state.claims.insert(host.clone(), claim.clone());
        (claim, ops)
    };
    let ops: Vec<_> = ops.into_iter().flatten().collect();
    sh.crash("claim.before-commit").await;
    let ok = sh.commit(ops, Vec::new()).await.is_ok();
    sh.crash("claim.after-commit").await;
    if !ok {
        let mut state = sh.state.borrow_mut();
        state.claims.remove(host);
        if let Some(cell) = state.hosts.get_mut(host) {
            cell.record.memory.not_before = Some(now + trueup_core::backoff::BASE);
        }
        tracing::warn!(host = %claim.host, "the claim was not recorded, so nothing was offered");
    }
}

async fn offer(sh: &Rc<Shared>, host: &HostName) {
    let Some(target) = target(sh, host) else {
        return;
    };
    let (claim, intent) = {
        let state = sh.state.borrow();
        let (Some(claim), Some(cell)) = (state.claims.get(host), state.hosts.get(host)) else {
            return;
        };
        let machine = state
            .adoptions
            .get(host)
            .and_then(|a| a.identity.as_ref())
            .map(|i| i.machine_id.clone());
        (
            claim.clone(),
            intent(
                claim,
                &cell.record.manifest,
                machine,
                sh.ports.signer.cluster(),
            ),
        )
    };
    let signed = sh.ports.signer.sign(&intent);
    sh.crash("offer.start").await;
    let result = sh.ports.hosts.offer(&target, &signed).await;
    sh.crash("offer.end").await;
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
    if matches!(reply, wire::OfferReply::Already { .. }) {
        observe(sh, host).await;
    }
}

async fn copy(sh: &Rc<Shared>, host: &HostName, paths: &[StorePath]) {
    let Some(target) = target(sh, host) else {
        return;
    };
    sh.crash("copy.start").await;
    let result = sh.ports.hosts.copy(&target, paths).await;
    sh.crash("copy.end").await;
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
            if let Some(Work::Done(w)) = state.hosts.get(host).map(|c| &c.evaluation)
                && lost
            {
                state.closures.remove(&w.drv);
            }
        }
    }
}

/// Gives the claim back, with what was learnt, in one transaction; who was denied asks again.
async fn release(sh: &Rc<Shared>, host: &HostName) {
    let (ops, events) = {
        let mut guard = sh.state.borrow_mut();
        let state = &mut *guard;
        let Some(cell) = state.hosts.get_mut(host) else {
            return;
        };
        let revision = state.claims.get(host).map(|c| c.revision.clone());
        let notes = std::mem::take(&mut cell.notes);
        let subject = || Subject::Host(host.clone());
        let events = notes
            .iter()
            .map(|n| sh.event(subject(), n, revision.clone()))
            .collect();
        let ops = [
            delete("claims", host.as_str()),
            put("hosts", host.as_str(), &cell.record),
        ];
        (ops.into_iter().flatten().collect(), events)
    };
    sh.crash("release.before-commit").await;
    let ok = sh.commit(ops, events).await.is_ok();
    sh.crash("release.after-commit").await;
    if !ok {
        return;
    }
    let waiting: Vec<HostName> = {
        let mut state = sh.state.borrow_mut();
        state.claims.remove(host);
        let mut denied: Vec<_> = std::mem::take(&mut state.denied).into_iter().collect();
        denied.sort_by(|a, b| (a.1.1, &a.0).cmp(&(b.1.1, &b.0)));
        denied.into_iter().map(|(h, _)| h).collect()
    };
    for name in waiting {
        sh.wake(&name, false);
    }
}

fn intent(claim: &Claim, m: &ResolvedHost, machine_id: Option<String>, cluster: String) -> Intent {
    let a = &m.activation;
    let goal = SystemGoal {
        closure: claim.closure.clone(),
        system: m.system.clone(),
        mode: match a.mode {
            kind::Mode::Switch => wire::Mode::Switch,
            kind::Mode::Boot => wire::Mode::Boot,
            kind::Mode::Test => wire::Mode::Test,
            kind::Mode::DryActivate => wire::Mode::DryActivate,
        },
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
    };
    Intent {
        format: wire::FORMAT,
        cluster,
        host: claim.host.clone(),
        machine_id,
        order: claim.order,
        revision: claim.revision.clone(),
        issued_at: claim.granted_at,
        expires_at: claim.expires_at,
        requires: [SYSTEM_V1.to_owned()].into(),
        confirm: wire::Confirm {
            by: match a.confirm {
                kind::Confirm::Controller => wire::ConfirmBy::Controller,
                kind::Confirm::SelfConfirm => wire::ConfirmBy::Itself,
                kind::Confirm::None => wire::ConfirmBy::None,
            },
            timeout_secs: a.confirm_timeout.as_secs(),
        },
        retry: claim.retry,
        goals: vec![wire::Goal {
            component: "system".parse().expect("a DNS label"),
            digest: claim.digest.clone(),
            body: serde_json::to_value(&goal).unwrap_or_default(),
        }],
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
    }
}
