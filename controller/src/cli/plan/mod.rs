//! `trueup plan`: what a revision would change, host by host. Needs no controller: two revisions of a repository are
//! evaluated here and compared. Outside a repository the controller is asked what is left to do. It changes nothing, and what it doesn't know it doesn't say.

mod closure;
mod document;
mod show;
pub(super) mod side;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::Value;
use trueup_engine::ports::{Head, Opened};
use trueup_schema::HostName;
use trueup_schema::kind::{FleetManifests, ResolvedHost};

use super::output::Format;
use super::{CliError, Ctx, Exit, diff, host_arg, runtime};
use crate::api::document::API_VERSION;
use crate::edge::nix::Nix;
use crate::edge::source::Local;
use crate::secrets;
use document::{Change, Commit, Field, HostPlan, Plan, Summary};
pub(super) use side::Scratch;
use side::Side;

/// Show what a revision would change
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only these hosts, as host/NAME
    #[arg(value_parser = host_arg, value_name = "host/NAME")]
    hosts: Vec<HostName>,
    /// The fleet's repository [default: the one that this folder lies in]
    #[arg(long, value_name = "DIR")]
    repo: Option<PathBuf>,
    /// Folder of the manifests in the repository
    #[arg(long, default_value = "fleet", value_name = "FOLDER")]
    path: String,
    /// The revision before [default: where --to left the trunk, or the commit before it]
    #[arg(long, value_name = "REV")]
    from: Option<String>,
    /// The revision after
    #[arg(long, default_value = "HEAD", value_name = "REV")]
    to: String,
    /// Build both, so that packages, sizes, units and reboots are known exactly
    #[arg(long)]
    build: bool,
    /// The Nix store to evaluate and build in [default: the controller's, or Nix' own choice]
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// The controller's settings, for its Nix and its limits
    #[arg(long, env = "TRUEUP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Exit with 3 when there are changes
    #[arg(long)]
    detailed_exitcode: bool,
    /// How it is printed; `markdown` is for pull requests
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// `-o` of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Output {
    /// For people
    #[default]
    Table,
    /// For pull requests
    Markdown,
    /// The document
    Json,
    /// The same, as YAML
    Yaml,
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let scratch = Scratch::new("plan")?;
    let here = args.repo.clone().unwrap_or_else(|| ".".into());
    let found = Local::discover(&here, &args.path, scratch.path().to_owned(), side::read);
    let local = match found {
        Ok(local) => local,
        // Not in a repository, and none was named: what is left to do is the controller's to say.
        Err(_) if args.repo.is_none() => return of_the_controller(&args, ctx),
        Err(e) => return Err(CliError::usage(side::told(e)).next("trueup plan --repo DIR")),
    };
    let fragment = side::fragment(args.config.as_deref())?;
    let nix = side::nix(&fragment, args.store.clone(), scratch.path());
    let rt = runtime()?;
    let mut plan = tokio::task::LocalSet::new().block_on(&rt, plan(&args, &local, &nix, ctx))?;
    own_host_last(&mut plan.hosts, ctx);
    print(&args, &plan, ctx)?;
    Ok(match &plan.summary {
        s if s.fails > 0 => Exit::Failed,
        s if s.is_change() && args.detailed_exitcode => Exit::Difference,
        _ => Exit::Done,
    })
}

fn of_the_controller(args: &Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let list = diff::asked(&args.hosts, ctx).map_err(|e| match e.exit {
        Exit::NoController => CliError::new(
            e.exit,
            format!("this folder lies in no Git repository, and {}", e.message),
        )
        .next("trueup plan --repo DIR"),
        _ => e,
    })?;
    match args.output {
        Output::Json => {
            Format::Json.document(ctx, &list)?;
        }
        Output::Yaml => {
            Format::Yaml.document(ctx, &list)?;
        }
        Output::Table => diff::table(&list.items.iter().collect::<Vec<_>>(), ctx),
        Output::Markdown => {
            return Err(CliError::usage("markdown compares two revisions")
                .next("trueup plan --repo DIR -o markdown"));
        }
    }
    let changes = list.items.iter().any(diff::differs);
    Ok(if changes && args.detailed_exitcode {
        Exit::Difference
    } else {
        Exit::Done
    })
}

fn print(args: &Args, plan: &Plan, ctx: &mut Ctx<'_>) -> Result<(), CliError> {
    let document =
        || serde_json::to_value(plan).map_err(|e| CliError::failed(format!("as JSON: {e}")));
    match args.output {
        Output::Table => show::table(plan, ctx),
        Output::Markdown => ctx.say(show::markdown(plan).trim_end()),
        Output::Json => ctx.say(format_args!("{:#}", document()?)),
        Output::Yaml => ctx.say(super::output::yaml(&document()?).trim_end()),
    }
    Ok(())
}

async fn plan(args: &Args, local: &Local, nix: &Nix, ctx: &mut Ctx<'_>) -> Result<Plan, CliError> {
    let wrong = |e| CliError::usage(side::told(e));
    let to = local.revision(&args.to).map_err(wrong)?;
    let from = match &args.from {
        Some(spec) => Some(local.revision(spec).map_err(wrong)?),
        None => local.base_of(&to).map_err(wrong)?,
    };
    let mut notes = Vec::new();
    if args.to == "HEAD" && local.is_dirty() {
        notes.push("changes that are not committed are not part of this plan".to_owned());
    }
    let mut after = opened(local, to)?;
    known(&args.hosts, &after)?;
    let mut before = match from {
        None => None,
        Some(head) => before_of(local, head, &mut notes),
    };
    // One tree has one meaning: nothing to evaluate.
    let same = before
        .as_ref()
        .is_some_and(|b| b.head.revision == after.head.revision);
    if !same {
        let mut known = side::Known::new();
        if let Some(before) = &mut before {
            before.evaluate(nix, &args.hosts, known, ctx).await;
            // Only what no Nix file reads differs: what was found there holds here.
            let answers = &before.opened.same_closures;
            let holds = answers.is_some() && *answers == after.opened.same_closures;
            known = if holds {
                before.known()
            } else {
                side::Known::new()
            };
        }
        after.evaluate(nix, &args.hosts, known, ctx).await;
        if args.build {
            for side in before.iter_mut().chain([&mut after]) {
                side.build(nix, ctx).await;
            }
        }
    }
    let evaluated = before.as_ref().map_or(0, |b| b.evaluated) + after.evaluated;
    let mut summary = Summary {
        evaluated,
        ..Summary::default()
    };
    let empty = BTreeMap::new();
    let old_hosts = before.as_ref().map_or(&empty, |b| &b.opened.fleet.hosts);
    let names: BTreeSet<&HostName> = old_hosts
        .keys()
        .chain(after.opened.fleet.hosts.keys())
        .filter(|n| args.hosts.is_empty() || args.hosts.contains(n))
        .collect();
    let mut hosts = Vec::new();
    for name in names {
        ctx.status(&format!("comparing {name}"));
        let host = one(name, before.as_ref(), &after, nix).await;
        summary.count(host.change);
        hosts.push(host);
    }
    ctx.status("");
    if let Some(note) = fleet_note(
        before.as_ref().map(|b| &b.opened.fleet),
        &after.opened.fleet,
    ) {
        notes.push(note);
    }
    Ok(Plan {
        api_version: API_VERSION,
        kind: "Plan",
        from: before.as_ref().map(|b| Commit::from(&b.head)),
        to: Commit::from(&after.head),
        summary,
        hosts,
        notes,
    })
}

/// The host that the controller runs on, where one answers and knows: a plan needs none.
fn own_host_last(hosts: &mut [HostPlan], ctx: &mut Ctx<'_>) {
    let list = ctx.client().ok().and_then(|client| client.plan().ok());
    let own = list.and_then(|l| l.items.into_iter().find(|h| h.goes_last));
    let Some(own) = own else { return };
    for host in hosts.iter_mut() {
        host.goes_last = host.name == own.host && host.change != Change::Removed;
    }
    hosts.sort_by_key(|h| h.goes_last);
}

fn opened(local: &Local, head: Head) -> Result<Side, CliError> {
    let opened: Opened = local
        .open(&head.revision)
        .map_err(|e| side::refused(&head.revision, e))?;
    Ok(Side {
        head,
        opened,
        results: BTreeMap::new(),
        evaluated: 0,
    })
}

/// A revision before that can't be read is as none: what matters is the one to come.
fn before_of(local: &Local, head: Head, notes: &mut Vec<String>) -> Option<Side> {
    let at = head.revision.short();
    match opened(local, head) {
        Ok(side) => Some(side),
        Err(_) => {
            notes.push(format!(
                "the manifests of {at} can't be read: compared with an empty fleet"
            ));
            None
        }
    }
}

fn known(hosts: &[HostName], after: &Side) -> Result<(), CliError> {
    let names: Vec<&str> = after
        .opened
        .fleet
        .hosts
        .keys()
        .map(HostName::as_str)
        .collect();
    let Some(unknown) = hosts.iter().find(|h| !names.contains(&h.as_str())) else {
        return Ok(());
    };
    let error = CliError::usage(format!(
        "no host `{unknown}` in {}",
        after.head.revision.short()
    ));
    Err(match crate::settings::nearest(unknown.as_str(), &names) {
        Some(near) => error.next(format!("did you mean host/{near}?")),
        None => error,
    })
}

async fn one(name: &HostName, before: Option<&Side>, after: &Side, nix: &Nix) -> HostPlan {
    let old = before.and_then(|b| b.host(name));
    let Some(new) = after.host(name) else {
        return HostPlan::new(name, Change::Removed);
    };
    let mut host = HostPlan::new(name, Change::New);
    if let Some(old) = old {
        host.manifest = fields(old, new);
        host.change = if host.manifest.is_empty() {
            Change::Unchanged
        } else {
            Change::Changed
        };
    }
    host.secrets = secrets::changes(
        before.and_then(|b| b.opened.secrets.get(name)),
        after.opened.secrets.get(name),
    );
    if !host.secrets.is_empty() && host.change == Change::Unchanged {
        host.change = Change::Changed;
    }
    let was = before
        .and_then(|b| b.results.get(name))
        .and_then(|r| r.as_ref().ok());
    host.closure_from = was.map(|e| e.out.clone());
    match after.results.get(name) {
        // The same revision twice.
        None => {}
        Some(Err(failure)) => {
            host.change = Change::Fails;
            host.problem = Some(failure.message.clone());
            host.trace = Some(failure.trace.clone()).filter(|t| !t.is_empty());
        }
        Some(Ok(is)) => {
            host.closure_to = Some(is.out.clone());
            host.warnings.clone_from(&is.warnings);
            if let Some(was) = was.filter(|was| was.drv != is.drv) {
                host.change = Change::Changed;
                host.effects = closure::compare(nix, was, is, new.reboot).await;
            } else if was.is_none() && old.is_some() {
                // It could not be evaluated before, and can now.
                host.change = Change::Changed;
            }
        }
    }
    host
}

/// Fields of the manifest that differ, by their paths.
fn fields(old: &ResolvedHost, new: &ResolvedHost) -> Vec<Field> {
    let (Ok(old), Ok(new)) = (serde_json::to_value(old), serde_json::to_value(new)) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    differ("", &old, &new, &mut found);
    found
}

fn differ(at: &str, old: &Value, new: &Value, found: &mut Vec<Field>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let below = if at.is_empty() {
                    key.clone()
                } else {
                    format!("{at}.{key}")
                };
                let side = |of: &serde_json::Map<String, Value>| {
                    of.get(key).cloned().unwrap_or(Value::Null)
                };
                differ(&below, &side(a), &side(b), found);
            }
        }
        (a, b) if a != b => found.push(Field {
            field: at.to_owned(),
            from: a.clone(),
            to: b.clone(),
        }),
        _ => {}
    }
}

/// What holds for all hosts changed as well.
fn fleet_note(old: Option<&FleetManifests>, new: &FleetManifests) -> Option<String> {
    let old = old?;
    let mut parts = Vec::new();
    for (what, differs) in [
        ("the Fleet's own fields", old.fleet != new.fleet),
        ("checks", old.checks != new.checks),
        ("alerts", old.alerts != new.alerts),
        ("caches", old.caches != new.caches),
    ] {
        if differs {
            parts.push(what);
        }
    }
    (!parts.is_empty()).then(|| format!("beside hosts: {} changed", parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_named_by_their_paths() {
        let mut found = Vec::new();
        let old = json!({"address": "10.0.0.1", "ssh": {"port": 22, "user": "root"}, "gone": 1});
        let new = json!({"address": "10.0.0.2", "ssh": {"port": 2222, "user": "root"}});
        differ("", &old, &new, &mut found);
        let names: Vec<&str> = found.iter().map(|f| f.field.as_str()).collect();
        assert_eq!(names, ["address", "gone", "ssh.port"]);
    }
}
