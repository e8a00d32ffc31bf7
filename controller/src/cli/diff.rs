//! `trueup diff [host/NAME]`: what hosts run against what they should run, and what the controller does about it now, as
//! it would decide it. `trueup plan` outside a repository says the same of all hosts.

use trueup_schema::HostName;

use super::output::{Columns, Format, brief, closure_of};
use super::{CliError, Ctx, Exit, host_arg};
use crate::api::document::{List, PlannedChange, PlannedHost};

/// Show what differs between hosts and the trunk; exit code 3 if anything does
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only these, as host/NAME
    #[arg(value_parser = host_arg, value_name = "host/NAME")]
    hosts: Vec<HostName>,
    /// How it is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

const HEADS: &[&str] = &[
    "NAME", "DIFFERS", "RUNNING", "DESIRED", "PHASE", "NEXT", "WHY",
];

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let list = asked(&args.hosts, ctx)?;
    let differing: Vec<&PlannedHost> = list.items.iter().filter(|h| differs(h)).collect();
    if args.output == Format::Name {
        for host in &differing {
            ctx.say(format_args!("host/{}", host.host));
        }
    } else if !args.output.document(ctx, &list)? {
        table(&differing, ctx);
        match (list.items.len() - differing.len(), differing.len()) {
            (0, 0) => ctx.note("no hosts in the fleet yet"),
            (1, 0) => ctx.say("1 host runs what it should"),
            (n, 0) => ctx.say(format_args!("all {n} hosts run what they should")),
            (0, _) => {}
            (1, _) => ctx.note("1 more runs what it should"),
            (n, _) => ctx.note(format_args!("{n} more run what they should")),
        }
    }
    Ok(if differing.is_empty() {
        Exit::Done
    } else {
        Exit::Difference
    })
}

/// What is not known is not the same.
pub(super) fn differs(host: &PlannedHost) -> bool {
    host.change != PlannedChange::Nothing
}

pub(super) fn asked(hosts: &[HostName], ctx: &mut Ctx<'_>) -> Result<List<PlannedHost>, CliError> {
    let client = ctx.client()?;
    let mut list = client.plan()?;
    for name in hosts {
        // For the answer that names the nearest.
        client.host(name)?;
    }
    list.items
        .retain(|h| hosts.is_empty() || hosts.contains(&h.host));
    Ok(list)
}

pub(super) fn table(hosts: &[&PlannedHost], ctx: &mut Ctx<'_>) {
    if hosts.is_empty() {
        return;
    }
    let rows: Vec<Vec<String>> = hosts.iter().map(|h| row(h)).collect();
    let columns = Columns::of(HEADS, &rows);
    columns.head(ctx);
    for row in &rows {
        columns.row(ctx, row);
    }
}

fn row(h: &PlannedHost) -> Vec<String> {
    let differs = match h.change {
        PlannedChange::Nothing => "no",
        PlannedChange::Deliver => "yes",
        PlannedChange::Drift => "Drifted",
        PlannedChange::Unknown => "unknown",
    };
    let name = h.host.as_str();
    let why = match &h.why {
        Some(why) if !h.message.contains(why.as_str()) => format!("{why}; {}", h.message),
        _ => h.message.clone(),
    };
    let why = match h.goes_last && self::differs(h) {
        true => format!("{why}; goes last: the controller runs on it"),
        false => why,
    };
    vec![
        name.to_owned(),
        differs.to_owned(),
        closure_of(h.from.as_ref(), name),
        closure_of(h.to.as_ref(), name),
        h.phase.to_string(),
        h.next.clone(),
        brief(&why, Some(&h.host)),
    ]
}
