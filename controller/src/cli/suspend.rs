//! `trueup suspend` and `resume`: leave a host alone, by a person's word; it is still observed.

use serde_json::{Value, json};
use trueup_schema::{HostName, kind::Duration};

use super::output::at;
use super::{CliError, Ctx, Exit, host_arg};

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
    let body = json!({ "host": args.host, "reason": args.reason, "for": args.lasts });
    let answer = ctx.client()?.post("/v1/suspend", &body)?;
    let until = match at(&answer, "/suspension/until") {
        "" => format!("until `trueup resume host/{}`", args.host),
        until => format!("until {until}"),
    };
    ctx.say(format_args!("{} is suspended {until}", args.host));
    Ok(Exit::Done)
}

pub(super) fn resume(args: ResumeArgs, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let answer = ctx
        .client()?
        .post("/v1/resume", &json!({ "host": args.host }))?;
    let is = |field: &str| answer.get(field).and_then(Value::as_bool) == Some(true);
    let host = &args.host;
    match (is("resumed"), is("suspendedByGit")) {
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
