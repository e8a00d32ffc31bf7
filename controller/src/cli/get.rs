//! `trueup get hosts|revisions|builds|builders|events`: lists, once or as they change.

use std::collections::BTreeMap;

use serde_json::Value;
use trueup_schema::Timestamp;
use trueup_schema::status::{Condition, ConditionType, Phase, Truth};

use super::client::{Client, Watch};
use super::output::{Columns, Format, age, brief, closure_of, short_path, short_revision};
use super::{CliError, Ctx, Exit, host_arg};
use crate::api::document::{BuildStatus, BuilderStatus, Host, Object, RevisionStatus};

/// Show hosts, revisions, builds, builders or events
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to list
    what: What,
    /// Only this host, as NAME or host/NAME
    #[arg(value_parser = host_arg)]
    name: Option<trueup_schema::HostName>,
    /// How it is printed; `json` with --watch is one object a line
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Go on as things change, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// Only hosts that drifted; exit code 3 if there are any
    #[arg(long)]
    drifted: bool,
    /// Only hosts with these labels: `role=web,site=b`
    #[arg(short = 'l', long, value_name = "LABELS", value_parser = labels)]
    selector: Option<Labels>,
    /// Only events whose reason begins so: `Drift`
    #[arg(long)]
    kind: Option<String>,
}

type Labels = BTreeMap<String, String>;

/// What can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum What {
    /// Machines of the fleet
    #[value(alias = "host")]
    Hosts,
    /// Commits of the trunk
    #[value(alias = "revision")]
    Revisions,
    /// Builds, running and ended
    #[value(alias = "build")]
    Builds,
    /// Machines that build
    #[value(alias = "builder")]
    Builders,
    /// What happened
    #[value(alias = "event")]
    Events,
}

/// What was listed: as documents and as rows.
struct Seen {
    db_revision: u64,
    /// The whole list, or the one object that was asked for by its name.
    document: Value,
    lines: Vec<Line>,
}

struct Line {
    /// `host/web-1`.
    name: String,
    cells: Vec<String>,
    document: Value,
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    if args.what == What::Events {
        let asked = super::events::Args::of(args.name, args.kind, args.output, args.watch);
        return super::events::run(asked, ctx);
    }
    if args.what != What::Hosts && (args.name.is_some() || args.selector.is_some() || args.drifted)
    {
        return Err(CliError::usage(
            "a name, --selector and --drifted are for hosts: trueup get hosts",
        ));
    }
    let client = ctx.client()?;
    if args.watch {
        return watch(&client, &args, ctx);
    }
    let seen = look(&client, &args)?;
    if !args.output.document(ctx, &seen.document)? {
        print(&args, &seen.lines, ctx);
    }
    let found = args.drifted && !seen.lines.is_empty();
    Ok(if found { Exit::Difference } else { Exit::Done })
}

/// On a terminal the table is written anew in its place; in a pipe each row that changed is a line below it.
fn watch(client: &Client, args: &Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let mut before: BTreeMap<String, Value> = BTreeMap::new();
    let (mut columns, mut height) = (None, 0);
    loop {
        let seen = look(client, args)?;
        let new: Vec<&Line> = seen
            .lines
            .iter()
            .filter(|l| before.get(&l.name) != Some(&l.document))
            .collect();
        match args.output {
            Format::Json | Format::Yaml => {
                for line in &new {
                    one(args.output, &line.document, ctx)?;
                }
            }
            Format::Name => new.iter().for_each(|line| ctx.say(&line.name)),
            Format::Table | Format::Wide if ctx.screen.out => {
                if height > 0 {
                    // Up to where the table began, and all below it away.
                    let _ = write!(ctx.out, "\x1b[{height}A\x1b[J");
                }
                height = print(args, &seen.lines, ctx);
            }
            Format::Table | Format::Wide => {
                let rows: Vec<Vec<String>> = seen.lines.iter().map(|l| l.cells.clone()).collect();
                let columns = columns.get_or_insert_with(|| {
                    let columns = Columns::of(heads(args), &rows);
                    columns.head(ctx);
                    columns
                });
                for line in &new {
                    columns.row(ctx, &line.cells);
                }
            }
        }
        let _ = ctx.out.flush();
        before = seen
            .lines
            .into_iter()
            .map(|l| (l.name, l.document))
            .collect();
        let what = match args.what {
            What::Hosts => Watch::Hosts,
            What::Revisions => Watch::Revisions,
            What::Builders => Watch::Builders,
            What::Builds | What::Events => Watch::Builds,
        };
        client.wait(what, seen.db_revision)?;
    }
}

/// One document of a stream.
pub(super) fn one(format: Format, document: &Value, ctx: &mut Ctx<'_>) -> Result<(), CliError> {
    match format {
        Format::Json => ctx.say(document),
        _ => {
            ctx.say("---");
            format.document(ctx, document)?;
        }
    }
    Ok(())
}

fn look(client: &Client, args: &Args) -> Result<Seen, CliError> {
    let now = Timestamp::now();
    let wide = args.output == Format::Wide;
    match args.what {
        What::Hosts => {
            let mut list = client.hosts()?;
            if let Some(name) = &args.name {
                let one = client.host(name)?;
                list.items = vec![one];
            }
            list.items.retain(|h| wanted(args, h));
            let mut seen = seen(list.metadata.db_revision, "host", &list.items, |h| {
                host_row(h, wide, now)
            })?;
            // One host by its name is that object; all else is a list.
            seen.document = match (&args.name, seen.lines.first()) {
                (Some(_), Some(line)) => line.document.clone(),
                _ => value(&list)?,
            };
            Ok(seen)
        }
        What::Revisions => {
            let list = client.revisions()?;
            let mut seen = seen(list.metadata.db_revision, "revision", &list.items, |r| {
                revision_row(&r.status, now)
            })?;
            seen.document = value(&list)?;
            Ok(seen)
        }
        What::Builders => {
            let list = client.builders()?;
            let mut seen = seen(list.metadata.db_revision, "builder", &list.items, |b| {
                builder_row(b, now)
            })?;
            seen.document = value(&list)?;
            Ok(seen)
        }
        What::Builds | What::Events => {
            let list = client.builds()?;
            let mut seen = seen(list.metadata.db_revision, "build", &list.items, |b| {
                build_row(&b.status, now)
            })?;
            seen.document = value(&list)?;
            Ok(seen)
        }
    }
}

fn value<T: serde::Serialize>(of: &T) -> Result<Value, CliError> {
    serde_json::to_value(of).map_err(|e| CliError::failed(format!("as JSON: {e}")))
}

fn seen<T: serde::Serialize>(
    db_revision: u64,
    kind: &str,
    items: &[Object<T>],
    row: impl Fn(&Object<T>) -> Vec<String>,
) -> Result<Seen, CliError> {
    let line = |o: &Object<T>| {
        Ok(Line {
            name: format!("{kind}/{}", o.metadata.name),
            cells: row(o),
            document: value(o)?,
        })
    };
    Ok(Seen {
        db_revision,
        document: Value::Null,
        lines: items.iter().map(line).collect::<Result<_, CliError>>()?,
    })
}

fn wanted(args: &Args, host: &Host) -> bool {
    let labels = args.selector.iter().flatten();
    (!args.drifted || is(host, ConditionType::Drifted))
        && labels
            .into_iter()
            .all(|(k, v)| host.metadata.labels.get(k) == Some(v))
}

fn labels(selector: &str) -> Result<Labels, String> {
    let pairs = selector.split(',').filter(|p| !p.is_empty());
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((k, v)) => Ok((k.to_owned(), v.to_owned())),
            None => Err(format!("`{pair}` is not a label: write KEY=VALUE")),
        })
        .collect()
}

/// Gives the number of lines.
fn print(args: &Args, lines: &[Line], ctx: &mut Ctx<'_>) -> usize {
    if args.output == Format::Name {
        lines.iter().for_each(|l| ctx.say(&l.name));
        return lines.len();
    }
    if lines.is_empty() {
        ctx.note(empty(args));
        return 0;
    }
    let rows: Vec<Vec<String>> = lines.iter().map(|l| l.cells.clone()).collect();
    let columns = Columns::of(heads(args), &rows);
    columns.head(ctx);
    1 + rows.iter().map(|row| columns.row(ctx, row)).sum::<usize>()
}

fn heads(args: &Args) -> &'static [&'static str] {
    match (args.what, args.output == Format::Wide) {
        (What::Hosts, false) => &[
            "NAME", "READY", "PHASE", "REVISION", "RUNNING", "DRIFT", "AGE",
        ],
        (What::Hosts, true) => &[
            "NAME",
            "READY",
            "PHASE",
            "REVISION",
            "RUNNING",
            "DRIFT",
            "AGE",
            "OUTCOME",
            "APPLIED",
            "BOOT DEFAULT",
            "SEEN",
            "MESSAGE",
        ],
        (What::Revisions, _) => &["REVISION", "ACCEPTED", "AUTHOR", "AGE", "SUBJECT"],
        (What::Builders, _) => &[
            "NAME", "STATE", "SYSTEMS", "FEATURES", "JOBS", "BUILDING", "AGE", "MESSAGE",
        ],
        (What::Builds | What::Events, _) => &["BUILD", "RESULT", "HOST", "AGE", "TOOK", "CLOSURE"],
    }
}

fn empty(args: &Args) -> &'static str {
    match args.what {
        What::Hosts if args.drifted => "no host drifted",
        What::Hosts if args.selector.is_some() => "no host has these labels",
        What::Hosts => "no hosts yet: the first revision was not accepted (trueup get revisions)",
        What::Revisions => "no revision was seen yet",
        What::Builders => "no builder in the fleet: builds run where the hub's Nix decides",
        What::Builds | What::Events => "nothing was built yet",
    }
}

/// A condition of a host by its type.
pub(super) fn condition(host: &Host, kind: ConditionType) -> Option<&Condition> {
    host.status.conditions.iter().find(|c| c.kind == kind)
}

/// Does it hold?
pub(super) fn is(host: &Host, kind: ConditionType) -> bool {
    condition(host, kind).is_some_and(|c| c.status == Truth::True)
}

/// A detail that fits in a cell stands behind the phase.
const DETAIL_MAX: usize = 24;

fn host_row(h: &Host, wide: bool, now: Timestamp) -> Vec<String> {
    let (name, status) = (h.metadata.name.as_str(), &h.status);
    let ready = condition(h, ConditionType::Ready);
    let phase = match &status.detail {
        Some(detail) if detail.chars().count() <= DETAIL_MAX => {
            format!("{} {detail}", status.phase)
        }
        _ => status.phase.to_string(),
    };
    let phase = match is(h, ConditionType::Held) && status.phase != Phase::Held {
        true => format!("{phase} (held)"),
        false => phase,
    };
    let truth = |t: Truth| match t {
        Truth::True => "True",
        Truth::False => "False",
        Truth::Unknown => "…",
    };
    let mut row = vec![
        name.to_owned(),
        ready.map_or("…", |c| truth(c.status)).to_owned(),
        phase,
        short_revision(status.desired_revision.as_ref()),
        closure_of(status.running_closure.as_ref(), name),
        if is(h, ConditionType::Drifted) {
            "Drifted"
        } else {
            "-"
        }
        .to_owned(),
        ready.map_or_else(|| "-".to_owned(), |c| age(c.last_transition_time, now)),
    ];
    if wide {
        row.push(
            status
                .outcome
                .map_or_else(|| "-".to_owned(), |o| o.to_string()),
        );
        row.push(short_revision(status.applied_revision.as_ref()));
        row.push(closure_of(status.boot_default_closure.as_ref(), name));
        row.push(
            status
                .last_report_time
                .map_or_else(|| "-".to_owned(), |t| age(t, now)),
        );
        let host = name.parse().ok();
        row.push(ready.map_or_else(|| "-".to_owned(), |c| brief(&c.message, host.as_ref())));
    }
    row
}

fn revision_row(r: &RevisionStatus, now: Timestamp) -> Vec<String> {
    let first = r.problems.first().and_then(|p| p.lines().next());
    vec![
        r.revision.short(),
        if r.accepted { "True" } else { "False" }.to_owned(),
        r.author.clone(),
        age(r.seen_at, now),
        match first {
            Some(problem) if !r.accepted => format!("{}: {problem}", r.subject),
            _ => r.subject.clone(),
        },
    ]
}

fn builder_row(b: &Object<BuilderStatus>, now: Timestamp) -> Vec<String> {
    let spec = |field: &str| b.spec.as_ref().and_then(|s| s.get(field));
    let joined = |words: Vec<&str>| match words.is_empty() {
        true => "-".to_owned(),
        false => words.join(","),
    };
    let words = |field: &str| {
        let list = spec(field).and_then(Value::as_array).into_iter().flatten();
        joined(list.filter_map(Value::as_str).collect())
    };
    vec![
        b.metadata.name.clone(),
        b.status.state.clone(),
        words("systems"),
        words("supportedFeatures"),
        spec("maxJobs").map_or_else(|| "-".to_owned(), Value::to_string),
        joined(b.status.building.iter().map(String::as_str).collect()),
        age(b.status.since, now),
        b.status.message.clone(),
    ]
}

fn build_row(b: &BuildStatus, now: Timestamp) -> Vec<String> {
    let result = match (b.ended_at, &b.failure) {
        (_, Some(_)) => "Failed",
        (None, None) => "Building",
        (Some(_), None) => "Succeeded",
    };
    let hash = b.drv.as_str().trim_start_matches("/nix/store/");
    let until = b.ended_at.unwrap_or(now);
    vec![
        hash.chars().take(32).collect(),
        result.to_owned(),
        b.host.to_string(),
        age(b.started_at, now),
        age(b.started_at, until),
        match &b.failure {
            Some(failure) => failure.message.clone(),
            None => match &b.progress {
                Some(progress) => progress.clone(),
                None => short_path(Some(&b.out)),
            },
        },
    ]
}
