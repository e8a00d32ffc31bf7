//! `trueup secrets rotate FILE…`: a new data key, everything sealed anew. The values stay: who read them knows them.

use std::path::PathBuf;

use trueup_secrets::{Encrypted, Recipient, RotateSpec, agenix};

use super::recipients::{self, RecipientArgs};
use super::{Ctx, Exit, Failure, FileFormat, Output, age, file, identity::IdentityArgs, now};

/// Give encrypted files a new data key
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Their format [default: by each file's name]
    #[arg(long)]
    format: Option<FileFormat>,
    #[command(flatten)]
    identities: IdentityArgs,
    /// Who can read besides
    #[arg(long, value_name = "KEY")]
    add: Vec<String>,
    /// Who can no longer read
    #[arg(long, value_name = "KEY")]
    remove: Vec<String>,
    /// `json`: errors as JSON
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

pub(super) fn run(args: &Args, ctx: &mut Ctx<'_>) -> Result<Exit, Failure> {
    let keys = args.identities.load()?;
    for path in &args.files {
        let parse = |texts: &[String]| texts.iter().map(|t| Recipient::parse(t)).collect();
        let add: Result<Vec<_>, _> = parse(&args.add);
        let remove: Result<Vec<_>, _> = parse(&args.remove);
        let (add, remove) = (
            add.map_err(Failure::format(path))?,
            remove.map_err(Failure::format(path))?,
        );
        let before = file::read(path)?;
        let bytes = match FileFormat::of(args.format, path, &before).sops() {
            Some(format) => {
                let spec = RotateSpec {
                    add,
                    remove,
                    now: now(),
                };
                Encrypted::parse(&before, format)
                    .and_then(|file| file.rotate(&keys.identities, &spec))
                    .map_err(keys.explain(path))?
            }
            None => {
                // An age file does not say whom it is for, so the list must.
                let wanted = recipients::of_file(path, FileFormat::Age, &RecipientArgs::default())?;
                let mut recipients = wanted.groups.concat();
                recipients.extend(add);
                recipients.retain(|r| !remove.contains(r));
                let entry = agenix::Entry {
                    recipients,
                    armor: age::is_armored(&before),
                };
                agenix::rekey(&before, &keys.identities, &entry).map_err(keys.explain(path))?
            }
        };
        file::replace(path, &bytes, Some(&before))?;
        ctx.note(format_args!("{}: a new data key", path.display()));
    }
    for gone in &args.remove {
        ctx.note(removed(gone));
    }
    Ok(Exit::Done)
}

/// What taking a key away does not do.
pub(super) fn removed(recipient: &str) -> String {
    format!(
        "{recipient} has read the values and can read every older commit: change the values too (`trueup secrets edit`)"
    )
}
