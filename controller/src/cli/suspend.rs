//! `trueup suspend` and `resume`: leave a host alone, by a person's word; it is still observed.

use trueup_schema::{HostName, Timestamp, kind::Duration};

use super::output::clock;
use super::{CliError, Ctx, Exit, host_arg};
use crate::api::request::{Resume, Suspend};

/// Leave a host alone; it is observed all the same
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// host/NAME
    #[arg(value_parser = host_arg)]
    host: HostName,
    /// Why: others will read it
    #[arg(long)]
    reason: String,
    /// For how long; without it, until `trueup resume`
    #[arg(long = "for", value_name = "DURATION")]
    lasts: Option<Duration>,
}

/// End a suspension that the command made; one in Git stays
#[derive(Debug, clap::Args)]
pub(super) struct ResumeArgs {
    /// host/NAME
    #[arg(value_parser = host_arg)]
    host: HostName,
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let host = args.host;
    let answer = ctx.client()?.suspend(&Suspend {
        host: host.clone(),
        reason: args.reason,
        lasts: args.lasts,
    })?;
    let until = match answer.suspension.until {
        None => format!("until `trueup resume host/{host}`"),
        Some(until) => format!("until {}", clock(until, Timestamp::now())),
    };
    ctx.say(format_args!("{host} is suspended {until}"));
    Ok(Exit::Done)
}

pub(super) fn resume(args: ResumeArgs, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let host = args.host;
    let answer = ctx.client()?.resume(&Resume { host: host.clone() })?;
    match (answer.resumed, answer.suspended_by_git) {
        (true, false) => ctx.say(format_args!("{host} is resumed")),
        (false, false) => ctx.say(format_args!("{host} was not suspended")),
        (resumed, true) => {
            let done = if resumed {
                "the command's suspension is lifted; "
            } else {
                ""
            };
            let message =
                format!("{done}{host} stays suspended: its manifest says `suspend: true`");
            return Err(CliError::failed(message).next("change it in the fleet's repository"));
        }
    }
    Ok(Exit::Done)
}
