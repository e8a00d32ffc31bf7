//! `trueup source`: the trunk as the controller sees it, and `accept` for a history that was rewritten.

use trueup_schema::Revision;
use trueup_schema::status::Reason;

use super::output::Format;
use super::{CliError, Ctx, Exit};
use crate::api::request::Accept;

/// Show the trunk, or accept a rewritten history
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// How it is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Accept this commit although it does not follow the last accepted one
    Accept {
        /// The whole commit id, 40 hex digits
        sha1: String,
    },
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let client = ctx.client()?;
    if let Some(Verb::Accept { sha1 }) = args.verb {
        let answer = client.accept(&Accept { sha1 })?;
        ctx.say(format_args!(
            "{} is accepted when the trunk's head is that commit",
            answer.sha1
        ));
        return Ok(Exit::Done);
    }
    let source = client.source()?;
    if args.output.document(ctx, &source)? {
        return Ok(Exit::Done);
    }
    let source = source.status;
    let show = |r: &Option<Revision>| r.as_ref().map_or("-".to_owned(), Revision::to_string);
    ctx.say(format_args!("accepted  {}", show(&source.accepted)));
    ctx.say(format_args!("head      {}", show(&source.head)));
    let Some(problem) = source.problem else {
        return Ok(Exit::Done);
    };
    ctx.say(format_args!("problem   {}", problem.message));
    if problem.reason == Reason::HistoryRewritten {
        let head = source.head.as_ref().map_or("SHA1", Revision::sha1);
        ctx.say(format_args!(
            "  if it is meant: trueup source accept {head}"
        ));
    }
    Ok(Exit::Failed)
}
