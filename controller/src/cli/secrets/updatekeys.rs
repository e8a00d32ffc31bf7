//! `trueup secrets updatekeys`: each file's recipients become those that the manifests say, and nothing else in it
//! changes. `trueup secrets sops-yaml` prints the same for people who use sops itself.

use std::path::{Path, PathBuf};

use serde_json::json;
use trueup_schema::kind::{FleetManifests, SecretFormat};
use trueup_secrets::{Encrypted, KeyUpdate, Recipient, agenix};

use super::recipients::{self, RecipientArgs};
use super::{
    Ctx, Exit, Failure, FileFormat, Output, age, check, file, fleet::Fleet, identity::IdentityArgs,
    rotate,
};
use crate::secrets::{Readers, sops};

/// Encrypt files to the hosts and admins that the manifests select
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names of Secrets, or files
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// Every file that a Secret names
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Only say what would change; needs no private key
    #[arg(long)]
    dry_run: bool,
    /// The fleet's repository
    #[arg(long, default_value = ".")]
    repo: PathBuf,
    #[command(flatten)]
    identities: IdentityArgs,
    /// `json`: what changed as JSON, errors too
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// A file and who is to read it.
struct Target {
    path: PathBuf,
    shown: String,
    format: SecretFormat,
    by: By,
}

enum By {
    /// A secret of the manifests names it.
    Manifests,
    /// `.sops.yaml` or `secrets.nix` do.
    Rules,
}

/// What became of a file.
struct Done {
    added: Vec<String>,
    removed: Vec<String>,
    /// `None`: it can't be known without opening, or nothing changed.
    bytes: Option<Vec<u8>>,
}

pub(super) fn run(args: &Args, ctx: &mut Ctx<'_>) -> Result<Exit, Failure> {
    let fleet = Fleet::above(&args.repo);
    let manifests = fleet.as_ref().map(Fleet::manifests).transpose()?;
    let targets = targets(args, fleet.as_ref(), manifests.as_ref())?;
    let keys = if args.dry_run {
        None
    } else {
        Some(args.identities.load()?)
    };
    let mut changed = Vec::new();
    for target in &targets {
        let before = file::read(&target.path)?;
        let readers = manifests
            .as_ref()
            .filter(|_| matches!(target.by, By::Manifests))
            .and_then(|m| Readers::of(m, &target.shown));
        let fail = || Failure::format(&target.path);
        let done = match sops(target.format) {
            Some(format) => {
                let sealed = Encrypted::parse(&before, format).map_err(fail())?;
                let (groups, threshold) = match &readers {
                    Some(readers) => (readers.groups(Some(&sealed)), None),
                    None => by_rules(target)?,
                };
                if groups.iter().all(Vec::is_empty) {
                    return Err(Failure::Refused(format!(
                        "{}: nobody could read it: its Secrets select no host, and the Fleet has no `spec.secrets.admins`",
                        target.shown
                    )));
                }
                match &keys {
                    None => match sealed.key_changes(&groups) {
                        None => nothing(),
                        Some((added, removed)) => Done {
                            added,
                            removed,
                            bytes: None,
                        },
                    },
                    Some(keys) => match sealed
                        .update_keys(&keys.identities, &groups, threshold)
                        .map_err(keys.explain(&target.path))?
                    {
                        KeyUpdate::UpToDate => nothing(),
                        KeyUpdate::Changed {
                            bytes,
                            added,
                            removed,
                        } => Done {
                            added,
                            removed,
                            bytes: Some(bytes),
                        },
                    },
                }
            }
            // An age file names nobody: it is sealed anew, always.
            None => {
                let recipients = match &readers {
                    Some(readers) => readers.groups(None).concat(),
                    None => by_rules(target)?.0.concat(),
                };
                let added = recipients.iter().map(Recipient::to_string).collect();
                let bytes = match &keys {
                    None => None,
                    Some(keys) => {
                        let entry = agenix::Entry {
                            recipients,
                            armor: age::is_armored(&before),
                        };
                        let sealed = agenix::rekey(&before, &keys.identities, &entry);
                        Some(sealed.map_err(keys.explain(&target.path))?)
                    }
                };
                Done {
                    added,
                    removed: Vec::new(),
                    bytes,
                }
            }
        };
        if let Some(bytes) = &done.bytes {
            file::replace(&target.path, bytes, Some(&before))?;
        }
        tell(args, ctx, target, &done);
        changed.push(json!({
            "file": target.shown, "added": done.added, "removed": done.removed,
            "written": done.bytes.is_some(),
        }));
    }
    if args.output == Output::Json {
        ctx.say(format_args!("{:#}", json!({ "files": changed })));
    }
    Ok(Exit::Done)
}

fn nothing() -> Done {
    Done {
        added: Vec::new(),
        removed: Vec::new(),
        bytes: None,
    }
}

fn tell(args: &Args, ctx: &mut Ctx<'_>, target: &Target, done: &Done) {
    if args.output == Output::Json {
        return;
    }
    if done.added.is_empty() && done.removed.is_empty() && done.bytes.is_none() {
        ctx.say(format_args!("{}: up to date", target.shown));
        return;
    }
    let word = if args.dry_run {
        "would change"
    } else {
        "changed"
    };
    ctx.say(format_args!("{}: {word}", target.shown));
    for added in &done.added {
        ctx.say(format_args!("  + {added}"));
    }
    for gone in &done.removed {
        ctx.say(format_args!("  - {gone}"));
    }
    for gone in &done.removed {
        ctx.note(rotate::removed(gone));
    }
}

fn targets(
    args: &Args,
    fleet: Option<&Fleet>,
    manifests: Option<&FleetManifests>,
) -> Result<Vec<Target>, Failure> {
    let by_manifests = |fleet: &Fleet, source: &str, format| Target {
        path: fleet.root.join(source),
        shown: source.to_owned(),
        format,
        by: By::Manifests,
    };
    if args.all {
        let (Some(fleet), Some(manifests)) = (fleet, manifests) else {
            return Err(Fleet::find(&args.repo)
                .err()
                .unwrap_or_else(|| Failure::Refused("there are no manifests".to_owned())));
        };
        let files = Readers::files(manifests);
        return Ok(files
            .into_iter()
            .map(|(source, format)| by_manifests(fleet, source, format))
            .collect());
    }
    let mut targets: Vec<Target> = Vec::new();
    for name in &args.names {
        let secret = manifests.and_then(|m| m.secrets.get(name));
        let path = Path::new(name);
        let target = match (fleet, manifests, secret) {
            (Some(fleet), _, Some(secret)) => by_manifests(fleet, &secret.source, secret.format),
            (Some(fleet), Some(m), None) if !path.is_file() => {
                let _ = fleet;
                return Err(check::unknown(name, m));
            }
            (Some(fleet), Some(m), None)
                if fleet
                    .name_of(path)
                    .is_some_and(|n| Readers::files(m).contains_key(n.as_str())) =>
            {
                let source = fleet.name_of(path).unwrap_or_default();
                let format = Readers::files(m).get(source.as_str()).copied();
                by_manifests(
                    fleet,
                    &source,
                    format.unwrap_or_else(|| SecretFormat::of_path(&source)),
                )
            }
            _ => Target {
                path: path.to_owned(),
                shown: name.clone(),
                format: SecretFormat::of_path(name),
                by: By::Rules,
            },
        };
        if targets.iter().all(|t| t.path != target.path) {
            targets.push(target);
        }
    }
    Ok(targets)
}

type Groups = (Vec<Vec<Recipient>>, Option<usize>);

fn by_rules(target: &Target) -> Result<Groups, Failure> {
    let format = FileFormat::of(None, &target.path, b"");
    let wanted = recipients::of_file(&target.path, format, &RecipientArgs::default())?;
    Ok((wanted.groups, None))
}

/// Print a `.sops.yaml` that says what the manifests say, for people who use sops
#[derive(Debug, clap::Args)]
pub(super) struct SopsYamlArgs {
    /// The fleet's repository
    #[arg(long, default_value = ".")]
    repo: PathBuf,
    /// `json`: errors as JSON
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

pub(super) fn sops_yaml(args: &SopsYamlArgs, ctx: &mut Ctx<'_>) -> Result<Exit, Failure> {
    let fleet = Fleet::find(&args.repo)?;
    let manifests = fleet.manifests()?;
    let mut files = Vec::new();
    for (source, format) in Readers::files(&manifests) {
        let Some(format) = sops(format) else { continue };
        let Some(readers) = Readers::of(&manifests, source) else {
            continue;
        };
        let sealed = file::read(&fleet.root.join(source))
            .ok()
            .and_then(|bytes| Encrypted::parse(&bytes, format).ok());
        files.push((source.to_owned(), readers.groups(sealed.as_ref())));
    }
    let text = trueup_secrets::rules::generate(&files)
        .map_err(Failure::format(Path::new(".sops.yaml")))?;
    super::decrypt::print(ctx, &text)
}
