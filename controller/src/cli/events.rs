//! `trueup events`, and `trueup get events`: what happened, in sentences, oldest first.

use trueup_schema::status::{Event, Subject};
use trueup_schema::{HostName, StorePath, Timestamp};

use super::client::Watch;
use super::output::{Columns, Format, age, brief};
use super::{CliError, Ctx, Exit, host_arg};

/// Show what happened, oldest first
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only of this host, as NAME or host/NAME
    #[arg(value_parser = host_arg)]
    host: Option<HostName>,
    /// Only events whose reason begins so: `Drift`
    #[arg(long)]
    kind: Option<String>,
    /// How many, at most 1000
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// How it is printed; `json` with --watch is one object a line
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Go on as things happen, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
}

impl Args {
    /// As `get events` asks for them.
    pub fn of(host: Option<HostName>, kind: Option<String>, output: Format, watch: bool) -> Self {
        Self {
            host,
            kind,
            limit: 100,
            output,
            watch,
        }
    }
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    if let Some(kind) = args
        .kind
        .as_ref()
        .filter(|k| !k.chars().all(|c| c.is_ascii_alphabetic()))
    {
        return Err(CliError::usage(format!(
            "`{kind}` is not the beginning of a reason, such as `Drift`"
        )));
    }
    let client = ctx.client()?;
    let (host, kind) = (args.host.as_ref(), args.kind.as_deref());
    let mut last: Option<String> = None;
    let mut columns = None;
    loop {
        let list = client.events(args.limit, host, kind)?;
        let all = &list.items;
        let known = last
            .as_ref()
            .and_then(|last| all.iter().position(|e| e.status.id == *last));
        let new = known.map_or(&all[..], |n| &all[n + 1..]);
        match args.output {
            Format::Json | Format::Yaml if args.watch => {
                for event in new {
                    let document = serde_json::to_value(event)
                        .map_err(|e| CliError::failed(format!("as JSON: {e}")))?;
                    super::get::one(args.output, &document, ctx)?;
                }
            }
            Format::Json | Format::Yaml => {
                args.output.document(ctx, &list)?;
            }
            Format::Name => new
                .iter()
                .for_each(|e| ctx.say(format_args!("event/{}", e.status.id))),
            Format::Table | Format::Wide if new.is_empty() && !args.watch => {
                ctx.note("no such event");
            }
            Format::Table | Format::Wide if new.is_empty() => {}
            Format::Table | Format::Wide => {
                let (now, wide) = (Timestamp::now(), args.output == Format::Wide);
                let rows: Vec<_> = new.iter().map(|e| row(&e.status, wide, now)).collect();
                let columns = columns.get_or_insert_with(|| {
                    let columns = Columns::of(if wide { WIDE } else { NARROW }, &rows);
                    columns.head(ctx);
                    columns
                });
                for row in &rows {
                    columns.row(ctx, row);
                }
            }
        }
        if let Some(event) = all.last() {
            last = Some(event.status.id.clone());
        }
        if !args.watch {
            return Ok(Exit::Done);
        }
        let _ = ctx.out.flush();
        client.wait(Watch::Events, list.metadata.db_revision)?;
    }
}

const NARROW: &[&str] = &["AGE", "SUBJECT", "REASON", "MESSAGE"];
const WIDE: &[&str] = &["AGE", "SUBJECT", "REASON", "BY", "ID", "MESSAGE"];

fn row(event: &Event, wide: bool, now: Timestamp) -> Vec<String> {
    let (subject, host) = match &event.subject {
        Subject::Host(name) => (name.to_string(), Some(name)),
        Subject::Revision(revision) => (revision.short(), None),
        Subject::Build(drv) => (build(drv), None),
        Subject::Controller(part) => (part.clone(), None),
    };
    let mut row = vec![age(event.at, now), subject, event.reason.to_string()];
    if wide {
        row.push(event.by.name.clone());
        row.push(event.id.clone());
    }
    row.push(said(event, host));
    row
}

/// `build rp8k…`, as `get builds` and `logs build` name it.
fn build(drv: &str) -> String {
    match drv.parse::<StorePath>() {
        Ok(path) => format!("build {}…", &path.hash()[..4]),
        Err(_) => drv.to_owned(),
    }
}

/// The message, where it says more than the reason.
pub(super) fn said(event: &Event, host: Option<&HostName>) -> String {
    let text = brief(&event.message, host);
    if text == event.reason.to_string() {
        String::new()
    } else {
        text
    }
}
