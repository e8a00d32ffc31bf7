//! What is left to do, decided by the functions that the engine decides with. Writes nothing.

use trueup_core::decide::Step;
use trueup_core::plan::{Change, Planned};
use trueup_engine::plan_of;
use trueup_engine::ports::Db;
use trueup_schema::{HostName, Timestamp};

use super::document::{List, PlannedChange, PlannedHost};
use super::{ApiError, State};

/// For jitter, which nobody reads here.
const SEED: u64 = 0;

pub(super) async fn plan<D: Db>(state: &State<D>) -> Result<List<PlannedHost>, ApiError> {
    let interval = trueup_engine::Settings::default().report_interval;
    // Before the plan, so that a watch from here sees whatever changes after it.
    let (rev, _) = state.db.list("/meta/").await?;
    let plan = plan_of(
        &state.db,
        Timestamp::now(),
        SEED,
        interval,
        state.machine_id.as_deref(),
    )
    .await?;
    let is_last = |name: &HostName| plan.last.as_ref() == Some(name);
    let hosts = plan.hosts.iter();
    let mut hosts: Vec<_> = hosts
        .map(|(name, p)| planned(name, p, is_last(name)))
        .collect();
    hosts.sort_by_key(|h| h.goes_last);
    Ok(List::new(rev.0, hosts))
}

fn planned(host: &HostName, p: &Planned, goes_last: bool) -> PlannedHost {
    let (change, from, to, why) = match &p.change {
        Change::Nothing => (PlannedChange::Nothing, None, None, None),
        Change::Deliver { from, to } => {
            (PlannedChange::Deliver, from.clone(), Some(to.clone()), None)
        }
        Change::Drift { from, to, what } => (
            PlannedChange::Drift,
            from.clone(),
            Some(to.clone()),
            Some(what.clone()),
        ),
        Change::Secrets => (
            PlannedChange::Deliver,
            None,
            None,
            Some("new secrets; what runs stays".to_owned()),
        ),
        Change::Unknown(why) => (PlannedChange::Unknown, None, None, Some(why.clone())),
    };
    let verdict = &p.decision.verdict;
    PlannedHost {
        host: host.clone(),
        change,
        from,
        to,
        why,
        next: step(&p.decision.step, p.begins()),
        begins: p.begins(),
        phase: verdict.phase,
        reason: verdict.reason,
        message: verdict.message.clone(),
        goes_last,
    }
}

fn step(step: &Step, begins: bool) -> String {
    match step {
        Step::Observe => "ask it for a report".to_owned(),
        Step::Adopt => "take it over".to_owned(),
        Step::WantEvaluation => "evaluate".to_owned(),
        Step::WantClosure => "build and sign".to_owned(),
        Step::Ask { correction: true } if begins => "correct the drift".to_owned(),
        Step::Ask { .. } if begins => "activate".to_owned(),
        Step::Ask { .. } => "wait for a permission".to_owned(),
        Step::Offer => "activate".to_owned(),
        Step::Copy(paths) => format!("copy {} paths", paths.len()),
        Step::Confirm { .. } => "confirm over a new connection".to_owned(),
        Step::Release => "give its permission back".to_owned(),
        Step::Wait { .. } => "wait".to_owned(),
    }
}
