//! `trueup reconcile`: look now. The request is on the controller's disk before it is acknowledged; `--wait` then reads
//! the hosts' conditions until each is decided.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use trueup_schema::HostName;

use super::client::Client;
use super::get::condition;
use super::output::{at, items, short_revision};
use super::{CliError, Ctx, Exit, host_arg};

/// Between two looks. The controller is on this machine, and one look is one list.
const LOOK: Duration = Duration::from_millis(300);

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
    let body = json!({ "hosts": hosts, "retry": args.retry, "reason": args.reason });
    let answer = client.post("/v1/reconcile", &body)?;
    let ids: Vec<String> = answer
        .get("nudges")
        .and_then(Value::as_array)
        .map(|n| n.iter().map(|n| at(n, "/id").to_owned()).collect())
        .unwrap_or_default();
    if !args.wait {
        for id in &ids {
            ctx.say(format_args!("asked, as nudge {id}"));
        }
        return Ok(Exit::Done);
    }
    wait(&client, &hosts, ids, args.timeout.get(), ctx)
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
            if at(
                &client.get(&format!("/v1/nudges/{id}"))?,
                "/status/handledAt",
            )
            .is_empty()
            {
                still.push(id);
            }
        }
        open = still;
        let list = client.get("/v1/hosts")?;
        let asked: Vec<&Value> = items(&list)
            .iter()
            .filter(|h| {
                hosts.is_empty() || hosts.iter().any(|n| n.as_str() == at(h, "/metadata/name"))
            })
            .collect();
        for host in &asked {
            progress(host, &mut told, ctx);
        }
        let verdicts: Vec<Verdict> = asked.iter().map(|h| verdict(h)).collect();
        if open.is_empty() && verdicts.iter().all(|v| *v != Verdict::Open) {
            return Ok(end(&asked, &verdicts, ctx));
        }
        if start.elapsed() >= limit {
            let secs = limit.as_secs();
            ctx.note(format_args!(
                "not decided after {secs} s; the work goes on: trueup get hosts --watch"
            ));
            return Ok(Exit::TimedOut);
        }
        std::thread::sleep(LOOK);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    Bad,
    Open,
}

/// `Ready=True` for the newest revision is good, `Stalled` is bad; unreachable, held and suspended hosts are bad too,
/// since no amount of waiting decides them.
fn verdict(host: &Value) -> Verdict {
    let is = |kind: &str| condition(host, kind).is_some_and(|c| at(c, "/status") == "True");
    let phase = at(host, "/status/phase");
    if is("Ready") && at(host, "/status/desiredRevision") == at(host, "/status/appliedRevision") {
        Verdict::Good
    } else if is("Stalled") || matches!(phase, "Unreachable" | "Suspended") {
        Verdict::Bad
    } else {
        Verdict::Open
    }
}

fn progress(host: &Value, told: &mut BTreeMap<String, String>, ctx: &mut Ctx<'_>) {
    let name = at(host, "/metadata/name");
    let now = format!(
        "{} {}",
        at(host, "/status/phase"),
        at(host, "/status/detail")
    );
    if told.get(name).is_none_or(|before| *before != now) {
        ctx.note(format_args!("{name}: {}", now.trim()));
        told.insert(name.to_owned(), now);
    }
}

fn end(hosts: &[&Value], verdicts: &[Verdict], ctx: &mut Ctx<'_>) -> Exit {
    for (host, verdict) in hosts.iter().zip(verdicts) {
        let name = at(host, "/metadata/name");
        if *verdict == Verdict::Good {
            ctx.say(format_args!(
                "{name}  Ready  {}",
                short_revision(at(host, "/status/appliedRevision"))
            ));
            continue;
        }
        let why = condition(host, "Ready")
            .map_or("", |c| at(c, "/message"))
            .lines()
            .next()
            .unwrap_or_default();
        let outcome = at(host, "/status/outcome");
        let state = if outcome.is_empty() || outcome == "Succeeded" {
            at(host, "/status/phase")
        } else {
            outcome
        };
        ctx.say(format_args!(
            "{name}  {state}  {why}  (trueup describe host/{name})"
        ));
    }
    if verdicts.contains(&Verdict::Bad) {
        Exit::Failed
    } else {
        Exit::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(phase: &str, conditions: &[(&str, &str)], desired: &str, applied: &str) -> Value {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(k, s)| json!({"type": k, "status": s}))
            .collect();
        json!({"status": {"phase": phase, "conditions": conditions, "desiredRevision": desired, "appliedRevision": applied}})
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
