//! `trueup get hosts|revisions|builds|events`: lists, once or as they change.

use serde_json::Value;
use trueup_schema::Timestamp;

use super::client::Client;
use super::output::{self, Format, age, at, items, or_dash, short_path, short_revision};
use super::{CliError, Ctx, Exit, host_arg};

/// Show hosts, revisions, builds or events
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to list
    what: What,
    /// Only this host, as NAME or host/NAME
    #[arg(value_parser = host_arg)]
    name: Option<trueup_schema::HostName>,
    /// How it is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Go on as things change, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// Only hosts that drifted; exit code 3 if there are any
    #[arg(long)]
    drifted: bool,
    /// Only hosts with these labels: `role=web,site=b`
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,
    /// Only events whose reason begins so: `Drift`
    #[arg(long)]
    kind: Option<String>,
}

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
    /// What happened
    #[value(alias = "event")]
    Events,
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    if args.what == What::Events {
        let asked = super::events::Args::of(args.name, args.kind, args.output, args.watch);
        return super::events::run(asked, ctx);
    }
    let client = ctx.client()?;
    let mut shown: Option<Vec<Vec<String>>> = None;
    loop {
        let list = list(&client, &args)?;
        let rows = rows(&args, &list);
        if shown.as_ref() != Some(&rows) {
            print(&args, &list, &rows, ctx)?;
            shown = Some(rows);
        }
        if !args.watch {
            let found = args.drifted && !items(&list).is_empty();
            return Ok(if found { Exit::Difference } else { Exit::Done });
        }
        wait(
            &client,
            &args,
            list.pointer("/metadata/dbRevision")
                .and_then(Value::as_u64)
                .unwrap_or(0),
        )?;
    }
}

fn list(client: &Client, args: &Args) -> Result<Value, CliError> {
    if let (What::Hosts, Some(name)) = (args.what, &args.name) {
        // One host is a list of one only where a list is shown: `-o json` gives the object itself.
        return client.get(&format!("/v1/hosts/{name}"));
    }
    let mut list = client.get(match args.what {
        What::Hosts => "/v1/hosts",
        What::Revisions => "/v1/revisions",
        What::Builds => "/v1/builds",
        What::Events => "/v1/events",
    })?;
    if args.what == What::Hosts {
        let labels = labels(args.selector.as_deref())?;
        if let Some(hosts) = list.get_mut("items").and_then(Value::as_array_mut) {
            hosts.retain(|h| {
                let drifted = condition(h, "Drifted").is_some_and(|c| at(c, "/status") == "True");
                (!args.drifted || drifted)
                    && labels.iter().all(|(k, v)| {
                        h.pointer("/metadata/labels").and_then(|l| l.get(k)) == Some(v)
                    })
            });
        }
    }
    Ok(list)
}

fn labels(selector: Option<&str>) -> Result<Vec<(String, Value)>, CliError> {
    let pairs = selector
        .unwrap_or_default()
        .split(',')
        .filter(|p| !p.is_empty());
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((k, v)) => Ok((k.to_owned(), Value::from(v))),
            None => Err(CliError::usage(format!(
                "`{pair}` is not a label: write KEY=VALUE"
            ))),
        })
        .collect()
}

fn wait(client: &Client, args: &Args, from: u64) -> Result<(), CliError> {
    let prefix = match args.what {
        What::Hosts => "hosts",
        What::Revisions => "revisions",
        What::Builds => "builds",
        What::Events => "events",
    };
    match client.get(&format!("/v1/watch?prefix=%2F{prefix}%2F&from={from}")) {
        Ok(_) => Ok(()),
        // Compacted meanwhile: the next list is whole again.
        Err(e) if e.exit == Exit::Failed => Ok(()),
        Err(e) => Err(e),
    }
}

fn print(
    args: &Args,
    list: &Value,
    rows: &[Vec<String>],
    ctx: &mut Ctx<'_>,
) -> Result<(), CliError> {
    if args.output.document(ctx, list)? {
        return Ok(());
    }
    if rows.is_empty() {
        ctx.note(empty(args));
        return Ok(());
    }
    let wide = args.output == Format::Wide;
    let heads: &[&str] = match (args.what, wide) {
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
            "MESSAGE",
        ],
        (What::Revisions, _) => &["REVISION", "ACCEPTED", "AUTHOR", "AGE", "SUBJECT"],
        (What::Builds | What::Events, _) => &["BUILD", "RESULT", "HOST", "AGE", "TIME"],
    };
    output::table(ctx, heads, rows);
    if args.watch && !ctx.tty {
        ctx.say("");
    }
    Ok(())
}

fn empty(args: &Args) -> &'static str {
    match args.what {
        What::Hosts if args.drifted => "no host drifted",
        What::Hosts if args.selector.is_some() => "no host has these labels",
        What::Hosts => "no hosts yet: the first revision was not accepted (trueup get revisions)",
        What::Revisions => "no revision was seen yet",
        What::Builds | What::Events => "nothing was built yet",
    }
}

fn rows(args: &Args, list: &Value) -> Vec<Vec<String>> {
    let now = Timestamp::now();
    let one = std::slice::from_ref(list);
    let objects = if list.get("items").is_some() {
        items(list)
    } else {
        one
    };
    let row = |o: &Value| match args.what {
        What::Hosts => host_row(o, args.output == Format::Wide, now),
        What::Revisions => revision_row(o, now),
        What::Builds | What::Events => build_row(o, now),
    };
    objects.iter().map(row).collect()
}

/// A condition of a host by its type.
pub(super) fn condition<'v>(host: &'v Value, kind: &str) -> Option<&'v Value> {
    host.pointer("/status/conditions")?
        .as_array()?
        .iter()
        .find(|c| at(c, "/type") == kind)
}

fn host_row(h: &Value, wide: bool, now: Timestamp) -> Vec<String> {
    let ready = condition(h, "Ready");
    let phase = match at(h, "/status/detail") {
        "" => at(h, "/status/phase").to_owned(),
        detail if detail.chars().count() <= 24 => format!("{} {detail}", at(h, "/status/phase")),
        _ => at(h, "/status/phase").to_owned(),
    };
    let drift = condition(h, "Drifted")
        .filter(|c| at(c, "/status") == "True")
        .map_or("-", |c| at(c, "/reason"));
    let mut row = vec![
        at(h, "/metadata/name").to_owned(),
        ready.map_or("Unknown", |c| at(c, "/status")).to_owned(),
        phase,
        short_revision(at(h, "/status/desiredRevision")),
        short_path(at(h, "/status/runningClosure")),
        drift.to_owned(),
        ready.map_or_else(
            || "-".to_owned(),
            |c| age(at(c, "/lastTransitionTime"), now),
        ),
    ];
    if wide {
        row.push(or_dash(at(h, "/status/outcome")));
        row.push(short_revision(at(h, "/status/appliedRevision")));
        row.push(short_path(at(h, "/status/bootDefaultClosure")));
        row.push(
            ready
                .map_or("-", |c| at(c, "/message"))
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned(),
        );
    }
    row
}

fn revision_row(r: &Value, now: Timestamp) -> Vec<String> {
    let accepted = r.pointer("/status/accepted").and_then(Value::as_bool) == Some(true);
    vec![
        short_revision(at(r, "/status/revision")),
        if accepted { "True" } else { "False" }.to_owned(),
        or_dash(at(r, "/status/author")),
        age(at(r, "/status/seenAt"), now),
        or_dash(at(r, "/status/subject")),
    ]
}

fn build_row(b: &Value, now: Timestamp) -> Vec<String> {
    let ended = at(b, "/status/endedAt");
    let failed = b.pointer("/status/failure").is_some_and(|f| !f.is_null());
    let seconds = |from: &str, to: &str| -> Option<i64> {
        let (from, to) = (
            from.parse::<Timestamp>().ok()?,
            to.parse::<Timestamp>().ok()?,
        );
        Some(to.as_second() - from.as_second())
    };
    vec![
        at(b, "/status/drv")
            .trim_start_matches("/nix/store/")
            .to_owned(),
        match (ended, failed) {
            (_, true) => "Failed",
            ("", _) => "running",
            _ => "Succeeded",
        }
        .to_owned(),
        or_dash(at(b, "/status/host")),
        age(at(b, "/status/startedAt"), now),
        seconds(at(b, "/status/startedAt"), ended)
            .map_or_else(|| "-".to_owned(), |s| format!("{s}s")),
    ]
}
