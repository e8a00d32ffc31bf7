//! `trueup reconcile`: look now. The request is on the controller's disk before it is acknowledged; `--wait` then reads
//! the hosts' conditions until each is decided.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use trueup_schema::status::{ConditionType, Outcome, Phase, Reason};
use trueup_schema::{HostName, Revision};

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
    let mut asked: BTreeMap<String, Asked> = BTreeMap::new();
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
        if open.is_empty() {
            for host in &list {
                let known = asked.entry(host.metadata.name.clone());
                known.or_insert_with(|| Asked::of(host)).sees(host);
            }
        }
        let judge = |host| verdict(host, asked.get(&host.metadata.name));
        let verdicts: Vec<Verdict> = list.iter().map(judge).collect();
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
                ctx.say(line(host, Verdict::Open));
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

/// What was wanted of a host since the controller looked for us, and what ran there then. Where commits come faster than they
/// are delivered the newest one is never seen to arrive; one that was wanted since we asked is.
#[derive(Debug)]
struct Asked {
    ran: Option<Revision>,
    wanted: BTreeSet<Revision>,
}

impl Asked {
    fn of(host: &Host) -> Self {
        Self {
            ran: host.status.applied_revision.clone(),
            wanted: BTreeSet::new(),
        }
    }

    fn sees(&mut self, host: &Host) {
        self.wanted.extend(host.status.desired_revision.clone());
    }

    /// It came to one of them, although another is wanted by now.
    fn has_arrived(&self, host: &Host) -> bool {
        let runs = &host.status.applied_revision;
        *runs != self.ran && runs.as_ref().is_some_and(|r| self.wanted.contains(r))
    }
}

/// `Ready=True` for a revision that we asked for is good, `Stalled` is bad; unreachable and suspended hosts are bad too, and
/// those that a person's word keeps where they are, since no amount of waiting decides them.
fn verdict(host: &Host, asked: Option<&Asked>) -> Verdict {
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
    let newest = status.desired_revision == status.applied_revision;
    let arrived = newest && is(host, ConditionType::Ready)
        || !newest && asked.is_some_and(|asked| asked.has_arrived(host));
    if arrived {
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
    for (host, verdict) in hosts.iter().zip(verdicts) {
        ctx.say(line(host, *verdict));
    }
    if verdicts.contains(&Verdict::Bad) {
        Exit::Failed
    } else {
        Exit::Done
    }
}

/// One line of result: who, how, why, and where there is more.
fn line(host: &Host, verdict: Verdict) -> String {
    let (name, status) = (&host.metadata.name, &host.status);
    if verdict == Verdict::Good {
        let at = short_revision(status.applied_revision.as_ref());
        if status.applied_revision == status.desired_revision {
            return format!("{name}  Ready  {at}");
        }
        let newest = short_revision(status.desired_revision.as_ref());
        return format!("{name}  Delivered  {at}  (newer since: {newest})");
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
        let alone = |host: &Host| verdict(host, None);
        let ready = host("Ready", &[("Ready", "True")], "b", "b");
        assert_eq!(alone(&ready), Verdict::Good);
        let behind = host("Building", &[("Ready", "True")], "b", "a");
        assert_eq!(alone(&behind), Verdict::Open);
        let stalled = [("Ready", "False"), ("Stalled", "True")];
        assert_eq!(alone(&host("Stalled", &stalled, "b", "a")), Verdict::Bad);
        let away = host("Unreachable", &[("Ready", "Unknown")], "b", "a");
        assert_eq!(alone(&away), Verdict::Bad);
    }

    #[test]
    fn in_a_stream_of_commits_one_that_was_wanted_since_is_enough() {
        let at = |desired, applied| host("Building", &[("Ready", "False")], desired, applied);
        let mut asked = Asked::of(&at("b", "a"));
        let mut sees = |desired, applied| {
            let host = at(desired, applied);
            asked.sees(&host);
            verdict(&host, Some(&asked))
        };
        assert_eq!(
            sees("b", "a"),
            Verdict::Open,
            "what ran before is no answer"
        );
        assert_eq!(sees("c", "a"), Verdict::Open);
        assert_eq!(
            sees("d", "9"),
            Verdict::Open,
            "nor what nobody wanted since"
        );
        assert_eq!(sees("d", "b"), Verdict::Good);
        assert_eq!(sees("d", "d"), Verdict::Open, "drifted, say: not ready");
        // Put right by us, it stays open until it is right.
        let mut asked = Asked::of(&at("b", "b"));
        asked.sees(&at("b", "b"));
        asked.sees(&at("c", "b"));
        assert_eq!(verdict(&at("c", "b"), Some(&asked)), Verdict::Open);
    }
}
