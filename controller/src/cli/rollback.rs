//! `trueup rollback`: take one host back, with the care of any other activation. The word is on the controller's disk before
//! it is acknowledged, and holds until the trunk changes the host or a person lifts it.

use std::time::Instant;

use trueup_schema::HostName;
use trueup_schema::status::{ConditionType, Phase, Reason};

use super::client::Client;
use super::get::{condition, is};
use super::output::{brief, closure_of, short_revision};
use super::reconcile::LOOK;
use super::{CliError, Ctx, Exit, host_arg};
use crate::api::document::{Host, Rollback};
use crate::api::request;

/// Take a host back; what it ran is not deployed again until the trunk changes it
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// host/NAME
    #[arg(value_parser = host_arg, value_name = "host/NAME", required_unless_present = "named")]
    host: Option<HostName>,
    /// The same, as a flag
    #[arg(long = "host", value_parser = host_arg, value_name = "NAME", conflicts_with = "host")]
    named: Option<HostName>,
    /// Where to: a closure (path, name or the beginning of its hash) or a revision (what ran while it was the newest).
    /// Without it: what was confirmed before what runs now
    #[arg(long, value_name = "CLOSURE|REVISION")]
    to: Option<String>,
    /// Why: others will read it
    #[arg(long, default_value = "")]
    reason: String,
    /// Wait until it runs there, confirmed: exit 0 or 1
    #[arg(long)]
    wait: bool,
    /// How long to wait; then exit 4, and the work goes on
    #[arg(long, default_value = "10m", value_name = "DURATION")]
    timeout: trueup_schema::kind::Duration,
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let Some(host) = args.host.or(args.named) else {
        return Err(CliError::usage("no host is named").next("trueup rollback host/NAME"));
    };
    let client = ctx.client()?;
    let asked = request::Rollback {
        host: host.clone(),
        to: args.to,
        reason: args.reason,
    };
    let r = client.rollback(&asked)?.rollback;
    let of = r
        .revision
        .as_ref()
        .map_or_else(String::new, |v| format!(" of {}", short_revision(Some(v))));
    let from = closure_of(r.from.as_ref(), host.as_str());
    ctx.say(format_args!(
        "{host}: goes back from {from} to {}{of}",
        closure_of(Some(&r.to), host.as_str())
    ));
    ctx.note(format_args!(
        "{from} is not deployed again until the trunk changes it, or: trueup reconcile --host {host} --retry"
    ));
    if args.wait {
        return wait(&client, &r, args.timeout.get(), ctx);
    }
    Ok(Exit::Done)
}

enum Verdict {
    There,
    Over(String),
    Bad(String),
    Open,
}

fn wait(
    client: &Client,
    asked: &Rollback,
    limit: std::time::Duration,
    ctx: &mut Ctx<'_>,
) -> Result<Exit, CliError> {
    let (start, host) = (Instant::now(), &asked.host);
    loop {
        let all = client.describe(host)?;
        let now = all.rollback.as_ref().filter(|r| r.id == asked.id);
        match verdict(&all.host, now) {
            Verdict::There => {
                ctx.say(format_args!(
                    "{host}  rolled back  runs {}, confirmed",
                    closure_of(Some(&asked.to), host.as_str())
                ));
                return Ok(Exit::Done);
            }
            Verdict::Over(why) => {
                return Err(CliError::failed(format!("{host}: not rolled back: {why}"))
                    .next(format!("trueup history host/{host}")));
            }
            Verdict::Bad(why) => {
                let why = brief(&why, Some(host));
                ctx.say(format_args!("{host}  {why}  (trueup describe host/{host})"));
                return Ok(Exit::Failed);
            }
            Verdict::Open if start.elapsed() >= limit => {
                ctx.note(format_args!(
                    "{host} is {} after {} s; the work goes on: trueup describe host/{host}",
                    all.host.status.phase,
                    limit.as_secs()
                ));
                return Ok(Exit::TimedOut);
            }
            Verdict::Open => {
                let secs = start.elapsed().as_secs();
                ctx.status(&format!("{secs:>4} s  {host} {}", all.host.status.phase));
                std::thread::sleep(LOOK);
            }
        }
    }
}

fn verdict(host: &Host, rollback: Option<&Rollback>) -> Verdict {
    let Some(rollback) = rollback else {
        return Verdict::Over("another word about it came".to_owned());
    };
    if let Some(how) = &rollback.over {
        return Verdict::Over(rollback.message.clone().unwrap_or_else(|| how.clone()));
    }
    let ready = condition(host, ConditionType::Ready);
    let why = ready.map_or_else(String::new, |c| c.message.clone());
    let runs = host.status.running_closure.as_ref() == Some(&rollback.to);
    let rests = ready.is_some_and(|c| c.reason == Reason::RolledBackByHand);
    let by_hand = ready.is_some_and(|c| c.reason == Reason::Held);
    if rests && runs {
        Verdict::There
    } else if is(host, ConditionType::Stalled)
        || by_hand
        || matches!(host.status.phase, Phase::Unreachable | Phase::Suspended)
    {
        Verdict::Bad(why)
    } else {
        Verdict::Open
    }
}
