//! `trueup diff [host/NAME]`: what hosts run against what they should run, as the controller last saw it.

use serde::Serialize;
use trueup_schema::status::{ConditionType, Phase};
use trueup_schema::{HostName, Revision, StorePath, Timestamp};

use super::get::{condition, is};
use super::output::{Columns, Format, age, brief, closure_of};
use super::{CliError, Ctx, Exit, host_arg};
use crate::api::document::Host;

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

/// One host.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Difference {
    host: String,
    /// Null: not known, since the host never reported or is not evaluated yet.
    differs: Option<bool>,
    desired_revision: Option<Revision>,
    applied_revision: Option<Revision>,
    desired_closure: Option<StorePath>,
    running_closure: Option<StorePath>,
    boot_default_closure: Option<StorePath>,
    drifted: bool,
    reboot_required: bool,
    phase: Phase,
    message: String,
    last_report_time: Option<Timestamp>,
}

const HEADS: &[&str] = &["NAME", "RUNNING", "DESIRED", "SEEN", "PHASE", "WHY"];

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let client = ctx.client()?;
    let hosts = if args.hosts.is_empty() {
        client.hosts()?.items
    } else {
        let ask = |name| client.host(name);
        args.hosts.iter().map(ask).collect::<Result<_, _>>()?
    };
    let found: Vec<Difference> = hosts.iter().map(difference).collect();
    // What is not known is not the same.
    let differs = found.iter().any(|d| d.differs != Some(false));
    if !args.output.document(ctx, &found)? {
        print(&args, &found, ctx);
    }
    Ok(if differs {
        Exit::Difference
    } else {
        Exit::Done
    })
}

fn difference(host: &Host) -> Difference {
    let s = &host.status;
    let reboot_required = is(host, ConditionType::RebootRequired);
    let differs = match (&s.desired_closure, &s.running_closure) {
        (Some(desired), Some(running)) => Some(
            desired != running
                || s.boot_default_closure
                    .as_ref()
                    .is_some_and(|b| b != desired)
                || reboot_required,
        ),
        _ => None,
    };
    Difference {
        host: host.metadata.name.clone(),
        differs,
        desired_revision: s.desired_revision.clone(),
        applied_revision: s.applied_revision.clone(),
        desired_closure: s.desired_closure.clone(),
        running_closure: s.running_closure.clone(),
        boot_default_closure: s.boot_default_closure.clone(),
        drifted: is(host, ConditionType::Drifted),
        reboot_required,
        phase: s.phase,
        message: condition(host, ConditionType::Ready).map_or(String::new(), |c| c.message.clone()),
        last_report_time: s.last_report_time,
    }
}

fn print(args: &Args, all: &[Difference], ctx: &mut Ctx<'_>) {
    let shown: Vec<&Difference> = all.iter().filter(|d| d.differs != Some(false)).collect();
    if args.output == Format::Name {
        shown
            .iter()
            .for_each(|d| ctx.say(format_args!("host/{}", d.host)));
        return;
    }
    let same = all.len() - shown.len();
    if !shown.is_empty() {
        let now = Timestamp::now();
        let rows: Vec<Vec<String>> = shown.iter().map(|d| row(d, now)).collect();
        let columns = Columns::of(HEADS, &rows);
        columns.head(ctx);
        for row in &rows {
            columns.row(ctx, row);
        }
    }
    match (same, shown.len()) {
        (0, 0) => ctx.note("no hosts in the fleet yet"),
        (1, 0) => ctx.say("1 host runs what it should"),
        (n, 0) => ctx.say(format_args!("all {n} hosts run what they should")),
        (0, _) => {}
        (n, _) => ctx.note(format_args!("{n} more run what they should")),
    }
}

fn row(d: &Difference, now: Timestamp) -> Vec<String> {
    let desired = closure_of(d.desired_closure.as_ref(), &d.host);
    let running = closure_of(d.running_closure.as_ref(), &d.host);
    let booted = d
        .boot_default_closure
        .as_ref()
        .filter(|b| Some(*b) != d.desired_closure.as_ref());
    let mut why = brief(&d.message, d.host.parse().ok().as_ref());
    if let (Some(boot), true) = (booted, d.desired_closure == d.running_closure) {
        why = format!("would boot {}; {why}", closure_of(Some(boot), &d.host));
    }
    vec![
        d.host.clone(),
        running,
        desired,
        d.last_report_time
            .map_or_else(|| "never".to_owned(), |t| age(t, now)),
        if d.drifted {
            "Drifted".to_owned()
        } else {
            d.phase.to_string()
        },
        why,
    ]
}
