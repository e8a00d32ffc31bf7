//! A plan from the db alone, without a running engine: what `trueup diff` and `trueup plan` print of the fleet as it is.

use std::collections::BTreeSet;
use std::time::Duration;

use trueup_core::conditions::is_ready;
use trueup_core::course::{Heading, is_past};
use trueup_core::host::{ClosureStage, Problem, Work};
use trueup_core::last::{self, Other};
use trueup_core::plan::{FleetView, Plan, plan};
use trueup_core::rollback::Back;
use trueup_core::standing::Standing;
use trueup_schema::status::Reason;
use trueup_schema::wire::system_digest;
use trueup_schema::{HostName, Timestamp};

use crate::load::{Stored, stored};
use crate::ports::{Db, DbError};
use crate::record::{BuildRecord, EvaluationRecord, HostRecord};

/// Draws it from what was stored last. Empty until a revision was accepted.
pub async fn plan_of(
    db: &dyn Db,
    now: Timestamp,
    seed: u64,
    report_interval: Duration,
    machine_id: Option<&str>,
) -> Result<Plan, DbError> {
    let stored = stored(db).await?;
    let Some(fleet) = &stored.fleet else {
        return Ok(Plan::default());
    };
    let mut standings: Vec<Standing> = stored.hosts.iter().map(|r| standing(r, &stored)).collect();
    let own = own(&stored, machine_id);
    if let Some(own) = &own {
        wait_for_others(own, &mut standings, &stored, machine_id);
    }
    standings.iter_mut().for_each(|s| let_pass(s, &stored));
    let view = FleetView {
        rollout: &fleet.fleet.rollout,
        hosts: standings
            .iter()
            .map(|s| s.view(fleet.fleet.adopt, report_interval))
            .collect(),
    };
    let mut plan = plan(&view, now, seed);
    plan.last = own;
    Ok(plan)
}

fn own(stored: &Stored, machine_id: Option<&str>) -> Option<HostName> {
    let mut hosts = stored.hosts.iter();
    let own = hosts.find(|r| last::is_own(&r.memory, machine_id))?;
    Some(own.manifest.name.clone())
}

/// As the engine has it: unless a person asks for it by name, it goes after all that are on their way.
fn wait_for_others(
    own: &HostName,
    all: &mut [Standing],
    stored: &Stored,
    machine_id: Option<&str>,
) {
    let others: Vec<Other<'_>> = stored
        .hosts
        .iter()
        .filter(|r| !last::is_own(&r.memory, machine_id))
        .map(|r| Other {
            name: &r.manifest.name,
            desired: &r.revision,
            observed: r.status.observed_revision.as_ref(),
            conditions: &r.status.conditions,
            claimed: stored.claims.contains_key(&r.manifest.name),
            depends_on: &r.manifest.depends_on,
        })
        .collect();
    let before = last::before(own, &others);
    let asked_by_nobody = |s: &&mut Standing| s.manifest.name == *own && s.nudge.is_none();
    for standing in all.iter_mut().filter(asked_by_nobody) {
        standing.waits_for.extend(before.iter().cloned());
    }
}

fn standing(record: &HostRecord, stored: &Stored) -> Standing {
    let name = &record.manifest.name;
    let evaluation = stored
        .evaluations
        .get(name)
        .map_or(Work::None, |e| evaluation(record, e));
    let closure_of = |drv: &trueup_schema::DrvPath| {
        let mut builds = stored.builds.iter();
        builds.find(|b| b.drv == *drv).map_or(Work::None, built)
    };
    let closure = match &evaluation {
        Work::Done(w) => closure_of(&w.drv),
        _ => Work::None,
    };
    let heading = record.memory.course.clone().map(|c| {
        let closure = closure_of(&c.drv);
        Heading::new(c, closure, ClosureStage::Building)
    });
    let of_us = |n: &&crate::record::Nudge| n.host.as_ref() == Some(name);
    Standing {
        manifest: record.manifest.clone(),
        revision: record.revision.clone(),
        place: stored.source.place,
        memory: record.memory.clone(),
        conditions: record.status.conditions.clone(),
        evaluation,
        // Ciphertext is not stored: a plan from records knows of closures only.
        secrets: None,
        closure,
        heading,
        claim: stored.claims.get(name).cloned(),
        suspension: stored.inputs.suspensions.get(name).cloned(),
        adoption: stored.inputs.adoptions.get(name).cloned(),
        nudge: stored.inputs.nudges.values().find(of_us).cloned(),
        rollback: stored.inputs.rollbacks.get(name).cloned().and_then(|r| {
            let mut back = Back::new(r)?;
            // Whether it is there is known to the engine alone; a plan supposes it.
            back.closure = Work::Done(());
            Some(back)
        }),
        left: stored.inputs.left.get(name).filter(|l| l.managed).cloned(),
        waits_for: waits_for(record, stored),
    }
}

/// As the engine has it: who stands by an older revision waits for those only that did not get so far.
fn let_pass(standing: &mut Standing, stored: &Stored) {
    let heading = standing.heading.as_ref();
    let Some(h) = heading.filter(|h| h.stands_against(&standing.evaluation)) else {
        return;
    };
    let past = |name: &HostName| {
        let claimed = stored.claims.contains_key(name);
        let mut hosts = stored.hosts.iter();
        let host = hosts.find(|r| r.manifest.name == *name);
        host.is_some_and(|r| is_past(&r.memory, claimed, h.course.number))
    };
    standing.waits_for.retain(|name| !past(name));
}

fn waits_for(record: &HostRecord, stored: &Stored) -> BTreeSet<HostName> {
    let ready = |name: &HostName| {
        stored.hosts.iter().any(|r| {
            r.manifest.name == *name
                && is_ready(&r.status.conditions)
                && r.status.observed_revision.as_ref() == Some(&r.revision)
        })
    };
    let depends = record.manifest.depends_on.iter();
    depends.filter(|d| !ready(d)).cloned().collect()
}

fn evaluation(record: &HostRecord, e: &EvaluationRecord) -> Work<trueup_core::host::Wanted> {
    let found = e.evaluated.as_ref().map(|found| trueup_core::host::Wanted {
        drv: found.drv.clone(),
        closure: found.out.clone(),
        digest: system_digest(&found.out, record.manifest.specialisation.as_deref()),
    });
    let current = e.revision == record.revision;
    match (found, &e.problem) {
        // An older evaluation may still be proven: then it is what the host was shown to want.
        (Some(w), _) if current || record.status.desired_closure.as_ref() == Some(&w.closure) => {
            Work::Done(w)
        }
        (None, Some(p)) if current => Work::Failed(p.clone()),
        _ => Work::Running(None),
    }
}

fn built(b: &BuildRecord) -> Work<()> {
    match &b.failure {
        Some(f) => Work::Failed(Problem {
            class: f.class,
            reason: Reason::BuildFailed,
            message: f.message.clone(),
            retry_at: None,
        }),
        None if b.published => Work::Done(()),
        None if b.ended_at.is_none() => Work::Running(None),
        None => Work::None,
    }
}
