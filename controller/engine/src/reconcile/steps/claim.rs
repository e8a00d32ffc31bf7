//! A host's permission to be changed: asked for and committed before anything is offered, and given back with the outcome.

use std::rc::Rc;

use trueup_core::absorb;
use trueup_core::admit::{admit, groups};
use trueup_core::decide::parts;
use trueup_core::history::{self, Attempt, Cause, Word};
use trueup_core::host::{Claim, Work};
use trueup_core::plan;
use trueup_core::rollback::effective;
use trueup_core::way::Way;
use trueup_schema::HostName;
use trueup_schema::status::Subject;

use super::super::course;
use super::observe;
use crate::record;
use crate::state::{Shared, delete, put};

/// Has the host answered since the controller started? What is remembered may be of a backup: older than what the host has
/// begun since. Its own word raises the order above that, so that nothing lower is ever issued.
pub(super) fn is_heard(sh: &Rc<Shared>, host: &HostName) -> bool {
    let state = sh.state.borrow();
    let cell = state.hosts.get(host);
    cell.is_some_and(|c| c.record.memory.answered_at.is_some())
}

/// Asks for a claim and commits it. It counts as held from before the commit on, so that limits hold meanwhile.
pub(super) async fn ask(sh: &Rc<Shared>, host: &HostName, correction: bool) {
    if !is_heard(sh, host) {
        return observe(sh, host).await;
    }
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
        let rollout = &fleet.fleet.rollout;
        // A host that was left is nobody's to wait for.
        let known = || {
            let hosts = state.hosts.values().map(|c| &c.record);
            let ours = hosts.filter(|r| !state.has_left(&r.manifest.name));
            ours.map(|r| (&r.manifest, &r.memory))
        };
        let held = plan::held(rollout, state.claims.values(), known());
        let down = plan::down(rollout, known());
        let all = super::super::with_view(state, host, &sh.settings, |v| {
            let v = &effective(v);
            let Work::Done(wanted) = v.evaluation else {
                return None;
            };
            let (parts, way) = match &v.memory.report {
                Some(report) => (
                    parts(v, report, wanted, now),
                    Way::now(v.manifest, report, wanted, now),
                ),
                None => ((true, None), Way::of(v.manifest, now)),
            };
            let back = v.rollback.map(|b| b.rollback.clone());
            let stands = v.heading.map(|h| h.course.specialisation.clone());
            let asked = plan::asked(v, now);
            Some((asked, parts, way, wanted.clone(), back, stands))
        });
        let Some((asked, (with_system, secrets), way, wanted, back, stands)) = all.flatten() else {
            return;
        };
        let revision = asked.revision.clone();
        if stands.is_some() && !asked.nudged && course::give_way(state, host, &failed) {
            return;
        }
        let Some(cell) = state.hosts.get_mut(host) else {
            return;
        };
        let manifest = &cell.record.manifest;
        let verdict = admit(&fleet.fleet.rollout, &held, &down, &[asked], &failed).remove(host);
        if let Some(Err(why)) = verdict
            && !sh.plants("limits-ignored")
        {
            state.denied.insert(host.clone(), (why, now));
            return;
        }
        let m = &mut cell.record.memory;
        let order = match absorb::next_order(m) {
            next if m.order.serial > 0 && sh.plants("order-reused") => m.order.min(next),
            next => next,
        };
        let (digest, secrets) = match secrets {
            Some(alone) if !with_system => (alone, None),
            secrets => (wanted.digest.clone(), secrets),
        };
        let cause = match (&back, &m.asked, correction) {
            (Some(b), ..) => Cause::Rollback(Word {
                by: b.by.clone(),
                reason: b.reason.clone(),
            }),
            (None, Some(word), _) => Cause::Asked(word.clone()),
            (None, None, true) => Cause::Drift,
            (None, None, false) => Cause::Trunk,
        };
        let specialisation = match (&back, stands) {
            (Some(b), _) => b.specialisation.clone(),
            (None, Some(stands)) => stands,
            (None, None) => manifest.specialisation.clone(),
        };
        let claim = Claim {
            host: host.clone(),
            order,
            revision,
            attempt: m.tries.get(&digest).map_or(0, |t| t.count) + 1,
            secrets_alone: digest != wanted.digest,
            digest,
            secrets,
            closure: wanted.closure.clone(),
            specialisation,
            groups: groups(&fleet.fleet.rollout, &manifest.labels),
            granted_at: now,
            expires_at: now + sh.settings.intent_lifetime,
            correction,
            retry: m.retry,
            cause,
            of: back.and_then(|b| b.revision),
            way,
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
    let ok = sh.plants("claim-in-memory") || sh.commit(ops, Vec::new()).await.is_ok();
    sh.crash("claim.after-commit").await;
    sh.mark("claimed", host);
    if !ok {
        let mut state = sh.state.borrow_mut();
        state.claims.remove(host);
        if let Some(cell) = state.hosts.get_mut(host) {
            cell.record.memory.not_before = Some(now + trueup_core::backoff::BASE);
        }
        tracing::warn!(host = %claim.host, "the claim was not recorded, so nothing was offered");
    }
}

/// Gives the claim back, with what was learnt, in one transaction; who was denied asks again.
pub(super) async fn release(sh: &Rc<Shared>, host: &HostName) {
    let history = history(sh, host).await;
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
            Some(delete("claims", host.as_str())),
            Some(put("hosts", host.as_str(), &cell.record)),
            history.map(|h| put("history", host.as_str(), &h)),
        ];
        let ops = ops.into_iter().flatten();
        (ops.into_iter().flatten().collect(), events)
    };
    sh.crash("release.before-commit").await;
    let ok = sh.commit(ops, events).await.is_ok();
    sh.crash("release.after-commit").await;
    sh.mark("released", host);
    if !ok {
        return;
    }
    sh.state.borrow_mut().claims.remove(host);
    ask_again(sh);
}

/// Somebody is no longer being changed: who was denied for it asks again, the longest first.
pub(crate) fn ask_again(sh: &Rc<Shared>) {
    let denied = std::mem::take(&mut sh.state.borrow_mut().denied);
    let mut waiting: Vec<_> = denied.into_iter().collect();
    waiting.sort_by(|a, b| (a.1.1, &a.0).cmp(&(b.1.1, &b.0)));
    for (name, _) in waiting {
        sh.wake(&name, false);
    }
}

/// What people look back at, with the attempt that ended now; `None`: none did.
async fn history(sh: &Rc<Shared>, host: &HostName) -> Option<Vec<Attempt>> {
    let attempt = {
        let state = sh.state.borrow();
        let claim = state.claims.get(host)?;
        let ended = state.hosts.get(host)?.record.memory.ended.as_ref()?;
        (ended.order == claim.order).then(|| Attempt::of(claim, ended))?
    };
    let at = record::key("history", host.as_str()).ok()?;
    let mut all = match sh.ports.db.get(&at).await {
        Ok(None) => Vec::new(),
        // One that can't be read begins anew, rather than that no attempt ever ends.
        Ok(Some(entry)) => record::decode(&entry.key, &entry.value).unwrap_or_else(|e| {
            tracing::error!(%host, error = %e, "its history begins anew");
            Vec::new()
        }),
        Err(e) => {
            tracing::error!(%host, error = %e, "its history was not written");
            return None;
        }
    };
    history::add(&mut all, attempt);
    Some(all)
}
