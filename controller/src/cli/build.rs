//! `trueup build retry`: what failed is not built again by itself, since it would fail again; this says to.

use super::{CliError, Ctx, Exit};
use crate::api::request::Retry;

/// Say what is to happen to builds
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Build again what failed
    Retry {
        /// As `trueup get builds` shows them
        #[arg(required_unless_present = "all")]
        builds: Vec<String>,
        /// All that failed
        #[arg(long, conflicts_with = "builds")]
        all: bool,
    },
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let Verb::Retry { builds, all } = args.verb;
    let answer = ctx.client()?.retry(&Retry { builds, all })?;
    if answer.retried.is_empty() {
        ctx.note("no build failed");
    }
    for drv in answer.retried {
        let name = drv.trim_start_matches("/nix/store/");
        ctx.say(format_args!("{name} is built again where it is wanted"));
    }
    Ok(Exit::Done)
}
