//! `trueup leave`: a plain NixOS is left behind. Nothing that runs is touched; what was trueup's own on the host goes.

use std::time::Instant;

use trueup_schema::HostName;

use super::output::brief;
use super::reconcile::LOOK;
use super::{CliError, Ctx, Exit, host_arg};
use crate::api::document::LeftStatus;
use crate::api::request::Leave;

/// Leave a host for good: take away what is trueup's there; what runs stays as it is
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// host/NAME
    #[arg(value_parser = host_arg)]
    host: HostName,
    /// Also while the fleet's manifests have it; it is then not touched until `trueup adopt`
    #[arg(long)]
    still_managed: bool,
    /// Why: others will read it
    #[arg(long, default_value = "")]
    reason: String,
    /// How long to wait for the host; then exit 4, and it is tried on
    #[arg(long, default_value = "2m", value_name = "DURATION")]
    timeout: trueup_schema::kind::Duration,
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let (host, start) = (args.host, Instant::now());
    let client = ctx.client()?;
    let mut left = client
        .leave(&Leave {
            host: host.clone(),
            still_managed: args.still_managed,
            reason: args.reason,
        })?
        .left;
    loop {
        if left.done_at.is_some() {
            said(&left, ctx);
            return Ok(Exit::Done);
        }
        let problem = left.problem.as_deref().map(|p| brief(p, Some(&host)));
        if start.elapsed() >= args.timeout.get() {
            let why = problem.unwrap_or_else(|| "it did not answer yet".to_owned());
            ctx.say(format_args!("{host}  not left yet  {why}"));
            ctx.note(format_args!(
                "it is tried on; to stop that: trueup adopt host/{host}. On the host itself: trueup-agent leave"
            ));
            return Ok(Exit::TimedOut);
        }
        let secs = start.elapsed().as_secs();
        ctx.status(&format!(
            "{secs:>4} s  {host} {}",
            problem.as_deref().unwrap_or("is asked")
        ));
        std::thread::sleep(LOOK);
        left = client.left(&host)?.status;
    }
}

fn said(left: &LeftStatus, ctx: &mut Ctx<'_>) {
    let host = &left.host;
    ctx.say(format_args!(
        "{host} is left: what runs there stays as it is"
    ));
    for line in &left.told {
        ctx.say(format_args!("  {line}"));
    }
    if left.managed {
        ctx.note(format_args!(
            "the trunk has it still; it is not touched until: trueup adopt host/{host}"
        ));
    }
}
