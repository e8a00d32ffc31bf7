//! `trueup init`: the first manifests of a fleet whose flake exists, from `nixosConfigurations` and from what deploy-rs and
//! colmena were told. It overwrites nothing, connects to nobody but for host keys, and says what it could not take over.

mod files;
mod flake;
mod text;
mod tools;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use serde_json::Value;
use trueup_engine::ports::EvalFailure;
use trueup_schema::{HostName, System, Timestamp};

use self::files::{flake_dir, folder, holds, nothing_there, write};
use self::flake::{Draft, Drafts, Origin, Seen};
use super::plan::{Scratch, side};
use super::{CliError, Ctx, Exit, runtime};
use crate::edge::keyscan;
use crate::edge::nix::{Asked, NAMES_MAX, Nix, Output};

/// Machines that are asked for their keys at once.
const SCANS: usize = 16;
/// Hosts in one process; each takes the memory of some options of NixOS.
const BATCH: usize = 8;
/// Notes that a person reads; the rest is counted.
const NOTES_SHOWN: usize = 200;

/// Write the first manifests of a flake that has nixosConfigurations
///
/// Reads `nixosConfigurations`, `deploy` (deploy-rs) and `colmenaHive` or `colmena`, and writes FOLDER/fleet.yaml and
/// FOLDER/hosts.yaml. Nothing is overwritten, and no host is changed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The flake's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Folder of the manifests, in that of the flake
    #[arg(long, default_value = "fleet", value_name = "FOLDER")]
    path: String,
    /// The fleet's name [default: the folder's]
    #[arg(long)]
    name: Option<HostName>,
    /// Only print the files
    #[arg(long)]
    dry_run: bool,
    /// Ask no machine for its host key; those of known_hosts are taken
    #[arg(long)]
    no_scan: bool,
    /// The Nix store to evaluate in [default: the controller's, or Nix' own choice]
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// The controller's settings, for its Nix and its limits
    #[arg(long, env = "TRUEUP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let dir = flake_dir(&args.dir)?;
    let folder = folder(&dir, &args.path)?;
    let (fleet_file, hosts_file) = (folder.join("fleet.yaml"), folder.join("hosts.yaml"));
    if !args.dry_run {
        nothing_there(&folder)?;
    }
    let scratch = Scratch::new("init")?;
    let fragment = side::fragment(args.config.as_deref())?;
    let nix = side::nix(&fragment, args.store.clone(), scratch.path());
    let rt = runtime()?;
    let config = fragment
        .ssh
        .config_file
        .as_ref()
        .and_then(|f| f.to_str())
        .map(str::to_owned);
    let local = tokio::task::LocalSet::new();
    let mut found = local.block_on(&rt, async {
        let mut found = read(&nix, &dir, ctx).await?;
        platforms(&nix, &dir, &mut found, ctx).await;
        host_keys(&mut found, config.as_deref(), !args.no_scan, ctx).await;
        Ok::<_, CliError>(found)
    })?;
    let system = common_system(&mut found);
    let name = args.name.unwrap_or_else(|| fleet_name(&dir));
    let day = Timestamp::now()
        .to_string()
        .chars()
        .take(10)
        .collect::<String>();
    let files = [
        (fleet_file, text::fleet(name.as_str(), &system)),
        (hosts_file, text::hosts(&found.hosts, &system, &day)),
    ];
    holds(&files)?;
    said(&found, ctx);
    if args.dry_run {
        for (path, text) in &files {
            ctx.say(format_args!("# {}", shown(path, &dir)));
            ctx.say(text.trim_end());
        }
        ctx.note("nothing was written");
        return Ok(Exit::Done);
    }
    write(&folder, &files)?;
    let written: Vec<String> = files.iter().map(|(p, _)| shown(p, &dir)).collect();
    ctx.say(format_args!("wrote {}", written.join(", ")));
    next(&found, &args.path, ctx);
    Ok(Exit::Done)
}

fn shown(path: &Path, dir: &Path) -> String {
    path.strip_prefix(dir).unwrap_or(path).display().to_string()
}

/// All outputs that tell of hosts. Without `nixosConfigurations` (or a hive) there is no fleet; the others are extra.
async fn read(nix: &Nix, dir: &Path, ctx: &mut Ctx<'_>) -> Result<Drafts, CliError> {
    ctx.status("reading the flake");
    let failed = |e: &EvalFailure| {
        let trace: Vec<&str> = e.trace.lines().rev().take(20).collect();
        let trace: Vec<&str> = trace.into_iter().rev().collect();
        CliError::failed(format!("the flake does not evaluate: {}", e.message)).next(
            if trace.is_empty() {
                "nix flake show".to_owned()
            } else {
                format!("nix flake show; Nix said:\n{}", trace.join("\n"))
            },
        )
    };
    let nixos = nix
        .output(dir, Output::Nixos)
        .await
        .map_err(|e| failed(&e))?;
    let mut seen = Seen {
        nixos,
        ..Seen::default()
    };
    let mut told = Vec::new();
    for (output, name, to) in [
        (Output::Deploy, "deploy", &mut seen.deploy),
        (Output::Colmena, "colmena", &mut seen.colmena),
        (Output::ColmenaHive, "colmenaHive", &mut seen.hive),
    ] {
        match nix.output(dir, output).await {
            Ok(value) => *to = value,
            Err(e) => told.push((name, format!("could not be read: {}", e.message))),
        }
    }
    ctx.status("");
    let mut found = flake::drafts(&seen);
    for (name, what) in told {
        found.note(name, what);
    }
    if found.hosts.is_empty() {
        let why: Vec<String> = found
            .notes
            .iter()
            .map(|n| format!("; {}: {}", n.subject, n.what))
            .collect();
        return Err(CliError::failed(format!(
            "no machine found: the flake has no nixosConfigurations and no colmenaHive{}",
            why.concat()
        ))
        .next("nix flake show"));
    }
    if found.hosts.len() >= NAMES_MAX {
        found.note(
            "nixosConfigurations",
            format!("has more than {NAMES_MAX} machines: the rest is left out"),
        );
    }
    let mut from = vec![format!(
        "{} nixosConfigurations",
        seen.nixos.as_array().map_or(0, Vec::len)
    )];
    if let Some(nodes) = seen.deploy["nodes"].as_object() {
        from.push(format!("{} deploy.nodes", nodes.len()));
    }
    if let Some(nodes) = seen.hive.as_array() {
        from.push(format!("{} nodes of colmenaHive", nodes.len()));
    } else if let Some(nodes) = seen.colmena["nodes"].as_object() {
        from.push(format!("{} nodes of colmena", nodes.len()));
    }
    let names: Vec<&str> = found.hosts.iter().map(|h| h.name.as_str()).collect();
    let more = names.len().saturating_sub(10);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    let names = names.into_iter().take(10).collect::<Vec<_>>().join(", ");
    ctx.say(format_args!(
        "found flake.nix with {}: {names}{more}",
        from.join(", ")
    ));
    Ok(found)
}

/// Each host's platform, and what colmenaHive says of it. A host that does not evaluate is written all the same.
async fn platforms(nix: &Nix, dir: &Path, found: &mut Drafts, ctx: &mut Ctx<'_>) {
    let all = found.hosts.len();
    let mut hosts = std::mem::take(&mut found.hosts);
    let mut done = 0;
    for batch in hosts.chunks_mut(BATCH) {
        ctx.status(&format!(
            "asking each configuration for its platform: {done}/{all}"
        ));
        let values = {
            let asked: Vec<Asked<'_>> = batch.iter().map(asked).collect();
            nix.platforms(dir, &asked).await
        };
        for draft in batch.iter_mut() {
            let value = match &values {
                Ok(values) => Ok(values[&draft.attribute].clone()),
                // One of them fails: each alone, so that its error is its own.
                Err(_) => nix
                    .platforms(dir, &[asked(draft)])
                    .await
                    .map(|values| values[&draft.attribute].clone()),
            };
            platform(draft, value, found);
            done += 1;
            ctx.status(&format!(
                "asking each configuration for its platform: {done}/{all}"
            ));
        }
    }
    ctx.status("");
    found.hosts = hosts;
}

fn asked(draft: &Draft) -> Asked<'_> {
    Asked {
        name: &draft.attribute,
        in_nixos: draft.in_nixos,
        in_hive: draft.in_hive,
    }
}

fn platform(draft: &mut Draft, value: Result<Value, EvalFailure>, found: &mut Drafts) {
    match value {
        Ok(value) => {
            draft.system = value["system"]["v"].as_str().and_then(|s| s.parse().ok());
            if draft.system.is_none() {
                found.note(
                    &draft.attribute,
                    "its configuration does not tell its platform: is `system` right?",
                );
            }
            if value["deployment"].is_object() {
                tools::of_colmena(draft, &Value::Null, &value["deployment"], found);
            }
        }
        Err(e) => found.note(
            &draft.attribute,
            format!(
                "its configuration does not evaluate, so `system` is a guess: {}",
                e.message
            ),
        ),
    }
}

/// Of the person's known_hosts first: those were accepted before. What a machine shows now is written to be compared.
async fn host_keys(found: &mut Drafts, config: Option<&str>, scan: bool, ctx: &mut Ctx<'_>) {
    let env = crate::run::environment();
    let all = found.hosts.len();
    ctx.status(&format!("host keys: 0/{all}"));
    let looks = found.hosts.iter().enumerate().map(|(n, draft)| {
        let (env, address) = (&env, draft.address.clone());
        let address = address.or_else(|| draft.name.as_str().parse().ok());
        let (port, jump) = (draft.port, draft.jump.clone());
        async move {
            let Some(address) = address else {
                return (n, Vec::new(), None);
            };
            let place = keyscan::place(env, config, &address, port).await;
            let known = keyscan::known(env, &place).await;
            let over = jump
                .map(|j| j.as_str().to_owned())
                .or(place.by_way_of.clone());
            if !known.is_empty() {
                return (n, with(known, Origin::KnownHosts), None);
            }
            if !scan {
                return (
                    n,
                    Vec::new(),
                    Some("no host key in known_hosts, and --no-scan".to_owned()),
                );
            }
            if let Some(over) = over {
                let over: String = over.chars().take(80).collect();
                return (
                    n,
                    Vec::new(),
                    Some(format!(
                        "no host key: it is reached over {over}, where nobody can be asked for it"
                    )),
                );
            }
            let keys = keyscan::scanned(env, &place).await;
            let why = keys
                .is_empty()
                .then(|| format!("no host key: {} port {} shows none", place.host, place.port));
            (n, with(keys, Origin::Scanned), why)
        }
    });
    let mut looks = futures::stream::iter(looks).buffer_unordered(SCANS);
    let mut results = BTreeMap::new();
    while let Some((n, keys, why)) = looks.next().await {
        results.insert(n, (keys, why));
        ctx.status(&format!("host keys: {}/{all}", results.len()));
    }
    drop(looks);
    ctx.status("");
    for (n, (keys, why)) in results {
        let attribute = found.hosts[n].attribute.clone();
        found.hosts[n].keys = keys;
        if let Some(why) = why {
            found.note(&attribute, why);
        }
    }
}

fn with<K>(keys: Vec<K>, origin: Origin) -> Vec<(K, Origin)> {
    keys.into_iter().map(|k| (k, origin)).collect()
}

/// What most hosts have is the fleet's default; it stands for those that don't tell.
fn common_system(found: &mut Drafts) -> System {
    let mut counts: BTreeMap<&System, usize> = BTreeMap::new();
    for system in found.hosts.iter().filter_map(|h| h.system.as_ref()) {
        *counts.entry(system).or_default() += 1;
    }
    let most = counts
        .into_iter()
        .max_by_key(|(_, n)| *n)
        .map(|(s, _)| s.clone());
    let here = format!("{}-linux", std::env::consts::ARCH);
    most.unwrap_or_else(|| here.parse().expect("an architecture's name is a word"))
}

fn fleet_name(dir: &Path) -> HostName {
    let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let name: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .take(63)
        .collect();
    let name = name.trim_matches('-');
    name.parse()
        .unwrap_or_else(|_| "fleet".parse().expect("a DNS label"))
}

fn said(found: &Drafts, ctx: &mut Ctx<'_>) {
    let scanned: Vec<&Draft> = found
        .hosts
        .iter()
        .filter(|h| h.keys.iter().any(|(_, o)| *o == Origin::Scanned))
        .collect();
    if !scanned.is_empty() {
        ctx.say("host keys that machines showed just now; compare each with its machine before you commit:");
        for host in scanned {
            for (key, _) in &host.keys {
                ctx.say(format_args!(
                    "  {}  {} {}",
                    host.name,
                    key.kind(),
                    keyscan::fingerprint(key)
                ));
            }
        }
    }
    if !found.notes.is_empty() {
        ctx.say("look at:");
        for note in found.notes.iter().take(NOTES_SHOWN) {
            ctx.say(format_args!("  {}: {}", note.subject, note.what));
        }
        if let Some(more) = found
            .notes
            .len()
            .checked_sub(NOTES_SHOWN)
            .filter(|n| *n > 0)
        {
            ctx.say(format_args!("  and {more} more"));
        }
    }
}

fn next(found: &Drafts, path: &str, ctx: &mut Ctx<'_>) {
    let keyless = found.hosts.iter().filter(|h| h.keys.is_empty()).count();
    ctx.say("next:");
    if keyless > 0 {
        ctx.say(format_args!(
            "  add `hostKeys` to {keyless} hosts in {path}/hosts.yaml"
        ));
    }
    for step in [
        &format!("git add {path} && git commit -m 'the fleet, for trueup'"),
        "trueup validate",
        "the controller's settings: docs/guide.md, \"The settings\"",
        "trueup doctor",
        "trueup adopt --dry-run --all, once the controller runs: no host is changed before `trueup adopt`",
    ] {
        ctx.say(format_args!("  {step}"));
    }
}
