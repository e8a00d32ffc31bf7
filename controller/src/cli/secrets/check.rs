//! `trueup secrets check` and `trueup secrets host-key`: who can read what, and who should. Opens nothing.

use std::path::PathBuf;

use serde_json::json;
use trueup_schema::kind::FleetManifests;
use trueup_schema::manifest::SecretSources;
use trueup_secrets::{Encrypted, lint};

use super::{Ctx, Exit, Failure, Output, fleet::Fleet};
use crate::cli::output;
use crate::secrets::{Access, File, Found, Readers, Repository, host_recipients, parse};

/// Of the table.
const HEADS: [&str; 6] = [
    "SECRET", "SOURCE", "STATUS", "CAN READ", "MISSING", "SURPLUS",
];

/// Show who can read which secrets, and who should
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only these Secrets
    names: Vec<String>,
    /// The fleet's repository
    #[arg(long, default_value = ".")]
    repo: PathBuf,
    /// `json`: the same as JSON
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

pub(super) fn run(args: &Args, ctx: &mut Ctx<'_>) -> Result<Exit, Failure> {
    let fleet = Fleet::find(&args.repo)?;
    let manifests = fleet.manifests()?;
    for name in &args.names {
        if !manifests.secrets.contains_key(name) {
            return Err(unknown(name, &manifests));
        }
    }
    let read = |source: &str| fleet.read(source);
    let repository = Repository::new(&read);
    let (mut rows, mut documents, mut wrong, mut notes) = (Vec::new(), Vec::new(), 0, Vec::new());
    let asked = |name: &String| args.names.is_empty() || args.names.contains(name);
    for (name, secret) in manifests.secrets.iter().filter(|(name, _)| asked(name)) {
        let hosts: Vec<_> = secret
            .hosts
            .iter()
            .filter_map(|h| manifests.hosts.get(h))
            .collect();
        let faults = repository.look(secret, &hosts, &manifests.fleet);
        let file = opened(&fleet, &secret.source, secret.format);
        let access = Readers::of(&manifests, &secret.source)
            .map(|readers| readers.access(file.as_ref()))
            .unwrap_or_default();
        // An age file names nobody: its list is what it would be.
        let known = file.is_some();
        let named = |wanted, present| {
            let all = access
                .iter()
                .filter(move |a| a.wanted == wanted && a.present == present);
            all.map(shown).collect::<Vec<_>>()
        };
        let (can, missing, surplus) = if known {
            (named(true, true), named(true, false), named(false, true))
        } else {
            (Vec::new(), named(true, false), Vec::new())
        };
        let status = if !faults.is_empty() {
            wrong += 1;
            "wrong"
        } else if !known {
            "unknown"
        } else if !missing.is_empty() {
            wrong += 1;
            "missing"
        } else if !surplus.is_empty() {
            "surplus"
        } else {
            "ok"
        };
        notes.extend(
            faults
                .iter()
                .map(|f| format!("{name}: {}; {}", f.message, f.help)),
        );
        let lints = file.as_ref().map(findings).unwrap_or_default();
        notes.extend(lints.iter().map(|l| format!("{name}: {l}")));
        let list = |all: &[String]| {
            if all.is_empty() {
                "-".to_owned()
            } else {
                all.join(", ")
            }
        };
        rows.push(vec![
            name.clone(),
            secret.source.clone(),
            status.to_owned(),
            list(&can),
            list(&missing),
            list(&surplus),
        ]);
        documents.push(json!({
            "name": name, "source": secret.source, "key": secret.key, "status": status,
            "hosts": secret.hosts, "lints": lints,
            "readers": access.iter().map(|a| json!({
                "who": a.who, "recipient": a.recipient, "wanted": a.wanted, "present": a.present,
            })).collect::<Vec<_>>(),
            "problems": faults.iter().map(|f| json!({
                "kind": f.kind, "message": f.message, "help": f.help,
            })).collect::<Vec<_>>(),
        }));
    }
    if args.output == Output::Json {
        ctx.say(format_args!("{:#}", json!({ "secrets": documents })));
    } else {
        let table = output::Columns::of(&HEADS, &rows);
        table.head(ctx);
        for row in &rows {
            table.row(ctx, row);
        }
        for note in notes {
            ctx.note(note);
        }
        if wrong > 0 {
            ctx.note("next: trueup secrets updatekeys --all --dry-run");
        }
    }
    Ok(if wrong > 0 { Exit::Failed } else { Exit::Done })
}

/// The file, where it is one of sops and whole.
fn opened(
    fleet: &Fleet,
    source: &str,
    format: trueup_schema::kind::SecretFormat,
) -> Option<Encrypted> {
    match fleet.read(source) {
        Found::File(bytes) => match parse(&bytes, format) {
            Ok(File::Sops(file)) => Some(*file),
            _ => None,
        },
        _ => None,
    }
}

fn findings(file: &Encrypted) -> Vec<String> {
    let all = lint::check(file).unwrap_or_default();
    all.iter()
        .filter(|f| !f.lint.is_hint())
        .map(|f| format!("{} at {}: {}", f.lint.name(), f.path, f.lint.message()))
        .collect()
}

fn shown(access: &Access) -> String {
    if access.who.is_empty() || access.who == "admin" {
        let short: String = access.recipient.chars().take(20).collect();
        let who = if access.who.is_empty() { "?" } else { "admin" };
        format!("{who} {short}…")
    } else {
        access.who.clone()
    }
}

pub(super) fn unknown(name: &str, manifests: &FleetManifests) -> Failure {
    let near = crate::cli::secrets::nearest(name, manifests.secrets.keys());
    Failure::Refused(match near {
        Some(near) => format!("there is no Secret `{name}`: did you mean `{near}`?"),
        None => format!("there is no Secret `{name}` in the manifests"),
    })
}

/// Print the recipient that stands for a host
#[derive(Debug, clap::Args)]
pub(super) struct HostKeyArgs {
    /// host/NAME
    #[arg(value_parser = crate::cli::host_arg)]
    host: trueup_schema::HostName,
    /// The fleet's repository
    #[arg(long, default_value = ".")]
    repo: PathBuf,
    /// `json`: every form of every key
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

pub(super) fn host_key(args: &HostKeyArgs, ctx: &mut Ctx<'_>) -> Result<Exit, Failure> {
    let manifests = Fleet::find(&args.repo)?.manifests()?;
    let host = manifests
        .hosts
        .get(&args.host)
        .ok_or_else(|| Failure::Refused(format!("there is no Host `{}`", args.host)))?;
    let all = host_recipients(host);
    if all.is_empty() {
        return Err(Failure::Refused(format!(
            "Host `{0}` has no key that can open secrets: add its ed25519 key to `spec.ssh.hostKeys` (`ssh-keyscan -t ed25519 {1}`, checked against the host)",
            host.name, host.address
        )));
    }
    if args.output == Output::Json {
        let keys: Vec<&str> = all.iter().map(|r| r.as_str()).collect();
        ctx.say(format_args!(
            "{:#}",
            json!({"host": host.name, "recipients": keys})
        ));
        return Ok(Exit::Done);
    }
    // The age form where there is one: what `.sops.yaml` and sops' files name.
    let mut age = all
        .iter()
        .filter(|r| r.as_str().starts_with("age1"))
        .peekable();
    if age.peek().is_none() {
        all.iter().for_each(|r| ctx.say(r));
    }
    age.for_each(|r| ctx.say(r));
    Ok(Exit::Done)
}
