//! `trueup reconcile`: look now. The request is on the controller's disk before it is acknowledged; `--wait` then reads
//! the hosts' conditions until each is decided.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use trueup_schema::HostName;
use trueup_schema::status::{ConditionType, Outcome, Phase, Reason};

use super::client::Client;
use super::get::{condition, is};
use super::output::{brief, short_revision};
use super::{CliError, Ctx, Exit, host_arg};
use crate::api::document::Host;
use crate::api::request::Reconcile;

/// Between two looks. The controller is on this machine, and one look is one list.
pub(super) const LOOK: Duration = Duration::from_millis(300);

/// Reconcile now, all hosts or some
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Hosts, as host/NAME; none means the trunk and all hosts
    #[arg(value_parser = host_arg, value_name = "host/NAME")]
    hosts: Vec<HostName>,
    /// The same, as a flag
    #[arg(long = "host", value_parser = host_arg, value_name = "NAME")]
    more: Vec<HostName>,
    /// Try again what was quarantined
    #[arg(long)]
    retry: bool,
    /// Why, for the events
    #[arg(long, default_value = "")]
    reason: String,
    /// Wait until each host is ready or stalled: exit 0 or 1
    #[arg(long)]
    wait: bool,
    /// How long to wait; then exit 4, and the work goes on
    #[arg(long, default_value = "10m", value_name = "DURATION")]
    timeout: trueup_schema::kind::Duration,
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let mut hosts = args.hosts;
    hosts.extend(args.more);
    hosts.sort();
    hosts.dedup();
    let client = ctx.client()?;
    let answer = client.reconcile(&Reconcile {
        hosts: hosts.clone(),
        retry: args.retry,
        reason: args.reason,
    })?;
    if !args.wait {
        for nudge in &answer.nudges {
            let whom = nudge.host.as_ref().map_or("all hosts", HostName::as_str);
            ctx.say(format_args!("{whom}: asked, as nudge {}", nudge.id));
        }
        return Ok(Exit::Done);
    }
    let open = answer.nudges.into_iter().map(|n| n.id).collect();
    wait(&client, &hosts, open, args.timeout.get(), ctx)
}

fn wait(
    client: &Client,
    hosts: &[HostName],
    mut open: Vec<String>,
    limit: Duration,
    ctx: &mut Ctx<'_>,
) -> Result<Exit, CliError> {
    let start = Instant::now();
    let mut told = BTreeMap::new();
    loop {
        let mut still = Vec::new();
        for id in open {
            if client.nudge(&id)?.status.handled_at.is_none() {
                still.push(id);
            }
        }
        open = still;
        let mut list = client.hosts()?.items;
        list.retain(|h| hosts.is_empty() || hosts.iter().any(|n| n.as_str() == h.metadata.name));
        for host in &list {
            progress(host, start.elapsed(), &mut told, ctx);
        }
        let verdicts: Vec<Verdict> = list.iter().map(verdict).collect();
        if open.is_empty() && verdicts.iter().all(|v| *v != Verdict::Open) {
            return Ok(end(&list, &verdicts, ctx));
        }
        if start.elapsed() >= limit {
            let secs = limit.as_secs();
            for (host, _) in list
                .iter()
                .zip(&verdicts)
                .filter(|(_, v)| **v == Verdict::Open)
            {
                ctx.say(line(host));
            }
            ctx.note(format_args!(
                "not decided after {secs} s; the work goes on: trueup get hosts --watch"
            ));
            return Ok(Exit::TimedOut);
        }
        let line = standing(&list, &verdicts, start.elapsed(), &open);
        ctx.status(&line);
        std::thread::sleep(LOOK);
    }
}

/// For a terminal: what is waited for, so that nobody wonders whether anything goes on.
fn standing(hosts: &[Host], verdicts: &[Verdict], since: Duration, open: &[String]) -> String {
    let waiting: Vec<String> = hosts
        .iter()
        .zip(verdicts)
        .filter(|(_, v)| **v == Verdict::Open)
        .map(|(h, _)| format!("{} {}", h.metadata.name, phase(h)))
        .collect();
    let what = match (waiting.is_empty(), open.is_empty()) {
        (false, _) => waiting.join(" · "),
        (true, false) => "the controller looks".to_owned(),
        (true, true) => String::new(),
    };
    format!("{:>4} s  {what}", since.as_secs())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    Bad,
    Open,
}

/// `Ready=True` for the newest revision is good, `Stalled` is bad; unreachable and suspended hosts are bad too, and those
/// that a person's word keeps where they are, since no amount of waiting decides them.
fn verdict(host: &Host) -> Verdict {
    let status = &host.status;
    let waits_for_a_person = |h| {
        let reason = condition(h, ConditionType::Ready).map(|c| c.reason);
        matches!(
            reason,
            Some(
                Reason::AdoptionRequired
                    | Reason::RolledBackByHand
                    | Reason::Held
                    | Reason::ObservedOnly
                    | Reason::Left
            )
        )
    };
    if is(host, ConditionType::Ready) && status.desired_revision == status.applied_revision {
        Verdict::Good
    } else if is(host, ConditionType::Stalled)
        || matches!(status.phase, Phase::Unreachable | Phase::Suspended)
        || waits_for_a_person(host)
    {
        Verdict::Bad
    } else {
        Verdict::Open
    }
}

fn phase(host: &Host) -> String {
    match &host.status.detail {
        Some(detail) => format!("{} {detail}", host.status.phase),
        None => host.status.phase.to_string(),
    }
}

fn progress(host: &Host, since: Duration, told: &mut BTreeMap<String, String>, ctx: &mut Ctx<'_>) {
    let (name, now) = (&host.metadata.name, phase(host));
    if told.get(name) != Some(&now) {
        ctx.note(format_args!("{:>4} s  {name}  {now}", since.as_secs()));
        told.insert(name.clone(), now);
    }
}

fn end(hosts: &[Host], verdicts: &[Verdict], ctx: &mut Ctx<'_>) -> Exit {
    for host in hosts {
        ctx.say(line(host));
    }
    if verdicts.contains(&Verdict::Bad) {
        Exit::Failed
    } else {
        Exit::Done
    }
}

/// One line of result: who, how, why, and where there is more.
fn line(host: &Host) -> String {
    let (name, status) = (&host.metadata.name, &host.status);
    if verdict(host) == Verdict::Good {
        let at = short_revision(status.applied_revision.as_ref());
        return format!("{name}  Ready  {at}");
    }
    let why = condition(host, ConditionType::Ready).map_or("", |c| c.message.as_str());
    let why = brief(why, name.parse().ok().as_ref());
    let stalled = is(host, ConditionType::Stalled);
    let state = match status.outcome {
        Some(outcome) if stalled && outcome != Outcome::Succeeded => outcome.to_string(),
        _ => status.phase.to_string(),
    };
    format!("{name}  {state}  {why}  (trueup describe host/{name})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn host(phase: &str, conditions: &[(&str, &str)], desired: &str, applied: &str) -> Host {
        let revision = |c: &str| format!("main@sha1:{}", c.repeat(40));
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(k, s)| {
                json!({"type": k, "status": s, "reason": "Progressing", "message": "m",
                       "lastTransitionTime": "2026-01-01T00:00:00Z", "observedRevision": null})
            })
            .collect();
        serde_json::from_value(json!({
            "apiVersion": "trueup/v1alpha1", "kind": "Host", "metadata": {"name": "web-1"},
            "status": {"phase": phase, "conditions": conditions, "components": [],
                       "desiredRevision": revision(desired), "appliedRevision": revision(applied)},
        }))
        .unwrap()
    }

    #[test]
    fn a_host_that_is_ready_for_an_older_revision_is_not_done() {
        assert_eq!(
            verdict(&host("Ready", &[("Ready", "True")], "b", "b")),
            Verdict::Good
        );
        assert_eq!(
            verdict(&host("Building", &[("Ready", "True")], "b", "a")),
            Verdict::Open
        );
        assert_eq!(
            verdict(&host(
                "Stalled",
                &[("Ready", "False"), ("Stalled", "True")],
                "b",
                "a"
            )),
            Verdict::Bad
        );
        assert_eq!(
            verdict(&host("Unreachable", &[("Ready", "Unknown")], "b", "a")),
            Verdict::Bad
        );
    }
}
