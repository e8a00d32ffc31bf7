//! `trueup source`: the trunk as the controller sees it, and `accept` for a history that was rewritten.

use serde_json::json;

use super::output::{Format, at, or_dash};
use super::{CliError, Ctx, Exit};

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
        client.post("/v1/source/accept", &json!({ "sha1": sha1 }))?;
        ctx.say(format_args!(
            "{sha1} is accepted when the trunk's head is that commit"
        ));
        return Ok(Exit::Done);
    }
    let source = client.get("/v1/source")?;
    if args.output.document(ctx, &source)? {
        return Ok(Exit::Done);
    }
    ctx.say(format_args!(
        "accepted  {}",
        or_dash(at(&source, "/status/accepted"))
    ));
    ctx.say(format_args!(
        "head      {}",
        or_dash(at(&source, "/status/head"))
    ));
    let problem = at(&source, "/status/problem/message");
    if problem.is_empty() {
        return Ok(Exit::Done);
    }
    ctx.say(format_args!("problem   {problem}"));
    if at(&source, "/status/problem/reason") == "HistoryRewritten" {
        ctx.say("  if it is meant: trueup source accept SHA1");
    }
    Ok(Exit::Failed)
}
