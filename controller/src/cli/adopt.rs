//! `trueup adopt`: a person's word that a machine is ours to change.

use trueup_schema::HostName;

use super::{CliError, Ctx, Exit, host_arg};
use crate::api::request::Adopt;

/// Take hosts over; until then they are only observed
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// host/NAME
    #[arg(value_parser = host_arg, required_unless_present = "all", conflicts_with = "all")]
    hosts: Vec<HostName>,
    /// All hosts of the fleet that are not adopted yet
    #[arg(long)]
    all: bool,
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let answer = ctx.client()?.adopt(&Adopt {
        hosts: args.hosts,
        all: args.all,
    })?;
    let (adopted, already) = (answer.adopted, answer.already);
    for name in &adopted {
        ctx.say(format_args!(
            "{name} is adopted; what it runs is recorded at its next report"
        ));
    }
    for name in &already {
        ctx.say(format_args!("{name} was adopted before"));
    }
    if adopted.is_empty() && already.is_empty() {
        ctx.note("no hosts in the fleet yet");
    }
    Ok(Exit::Done)
}
