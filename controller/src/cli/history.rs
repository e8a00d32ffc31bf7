//! `trueup history host/NAME`: what was tried on a host, when, from which revision, how it ended and who wanted it.

use trueup_schema::{HostName, Timestamp};

use super::output::{Columns, Format, brief, clock, closure_of, short_revision};
use super::{CliError, Ctx, Exit, host_arg};
use crate::api::document::{Attempt, Object};

/// Show what was tried on a host, newest first
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// host/NAME
    #[arg(value_parser = host_arg)]
    host: HostName,
    /// How it is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

const HEADS: &[&str] = &[
    "ATTEMPT", "WHEN", "TOOK", "REVISION", "CLOSURE", "OUTCOME", "BY", "WHY",
];

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let list = ctx.client()?.history(&args.host)?;
    if args.output == Format::Name {
        for attempt in &list.items {
            ctx.say(&attempt.metadata.name);
        }
    } else if !args.output.document(ctx, &list)? {
        if list.items.is_empty() {
            ctx.note(format_args!(
                "nothing was tried on {} yet: trueup describe host/{}",
                args.host, args.host
            ));
            return Ok(Exit::Done);
        }
        let now = Timestamp::now();
        let row = |a: &Object<Attempt>| row(a, &args.host, now);
        let rows: Vec<Vec<String>> = list.items.iter().map(row).collect();
        let columns = Columns::of(HEADS, &rows);
        columns.head(ctx);
        for row in &rows {
            columns.row(ctx, row);
        }
    }
    Ok(Exit::Done)
}

fn row(a: &Object<Attempt>, host: &HostName, now: Timestamp) -> Vec<String> {
    let s = &a.status;
    let took = s.ended.duration_since(s.began).as_secs().max(0);
    let closure = match s.secrets_alone {
        true => "secrets".to_owned(),
        false => closure_of(Some(&s.closure), host.as_str()),
    };
    let person = s.by.as_ref().map(|p| p.name.as_str());
    let by = match (s.cause.as_str(), person) {
        ("rollback", Some(name)) => format!("{name} (rollback)"),
        (_, Some(name)) => name.to_owned(),
        (cause, None) => cause.to_owned(),
    };
    let said = s.reason.as_deref().filter(|r| !r.is_empty());
    let end = brief(&s.message, Some(host));
    // An end that says no more than its name is not said twice.
    let end = Some(end).filter(|e| *e != s.outcome.to_string());
    let why = match (said, end) {
        (Some(reason), Some(end)) => format!("{reason} ({end})"),
        (Some(reason), None) => reason.to_owned(),
        (None, end) => end.unwrap_or_default(),
    };
    vec![
        a.metadata.name.clone(),
        clock(s.began, now),
        format!("{took}s"),
        short_revision(Some(&s.revision)),
        closure,
        s.outcome.to_string(),
        by,
        why,
    ]
}
