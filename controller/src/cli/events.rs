//! `trueup events`, and `trueup get events`: what happened, in sentences, oldest first.

use serde_json::Value;
use trueup_schema::{HostName, Timestamp};

use super::output::{self, Format, age, at, items};
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
    let mut path = format!("/v1/events?limit={}", args.limit);
    if let Some(host) = &args.host {
        path.push_str(&format!("&host={host}"));
    }
    if let Some(kind) = &args.kind {
        path.push_str(&format!("&kind={kind}"));
    }
    let mut last = String::new();
    loop {
        let list = client.get(&path)?;
        let all = items(&list);
        let known = all.iter().position(|e| at(e, "/status/id") == last);
        let new = known.map_or(all, |n| all.get(n + 1..).unwrap_or_default());
        if args.watch {
            for event in new {
                one(&args, event, ctx)?;
            }
        } else if !args.output.document(ctx, &list)? {
            table(all, args.output == Format::Wide, ctx);
        }
        if let Some(event) = all.last() {
            at(event, "/status/id").clone_into(&mut last);
        }
        if !args.watch {
            return Ok(Exit::Done);
        }
        let from = list
            .pointer("/metadata/dbRevision")
            .and_then(Value::as_u64)
            .unwrap_or(0);
        match client.get(&format!("/v1/watch?prefix=%2Fevents%2F&from={from}")) {
            Ok(_) => {}
            Err(e) if e.exit == Exit::Failed => {}
            Err(e) => return Err(e),
        }
    }
}

fn one(args: &Args, event: &Value, ctx: &mut Ctx<'_>) -> Result<(), CliError> {
    match args.output {
        Format::Json => ctx.say(event),
        Format::Yaml => {
            ctx.say("---");
            args.output.document(ctx, event)?;
        }
        Format::Table | Format::Wide => {
            let row = row(event, args.output == Format::Wide, Timestamp::now());
            ctx.say(row.join("  "));
        }
    }
    Ok(())
}

fn table(events: &[Value], wide: bool, ctx: &mut Ctx<'_>) {
    if events.is_empty() {
        ctx.note("no such event");
        return;
    }
    let now = Timestamp::now();
    let rows: Vec<_> = events.iter().map(|e| row(e, wide, now)).collect();
    let heads: &[&str] = if wide {
        &["AGE", "SUBJECT", "REASON", "MESSAGE", "BY", "ID"]
    } else {
        &["AGE", "SUBJECT", "REASON", "MESSAGE"]
    };
    output::table(ctx, heads, &rows);
}

fn row(event: &Value, wide: bool, now: Timestamp) -> Vec<String> {
    let subject = at(event, "/status/subject/name");
    let short = subject
        .parse::<trueup_schema::Revision>()
        .map_or_else(|_| subject.to_owned(), |r| r.short());
    let message = at(event, "/status/message")
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    let mut row = vec![
        age(at(event, "/status/at"), now),
        short,
        at(event, "/status/reason").to_owned(),
        message,
    ];
    if wide {
        row.push(at(event, "/status/by/name").to_owned());
        row.push(at(event, "/status/id").to_owned());
    }
    row
}
