//! `trueup secrets set FILE PATH VALUE`: one value, without an editor.

use std::path::PathBuf;

use trueup_secrets::{Encrypted, Error, Format};
use zeroize::Zeroizing;

use super::{Ctx, Exit, Failure, FileFormat, Output, file, identity::IdentityArgs, now};

/// Set one value of an encrypted file
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file
    file: PathBuf,
    /// Where: `db/password`, or as sops writes it, `["db"]["password"]`
    path: String,
    /// A JSON value; seen by who lists processes, so better `--value-stdin`
    #[arg(required_unless_present = "value_stdin")]
    value: Option<String>,
    /// Read the value from standard input
    #[arg(long, conflicts_with = "value")]
    value_stdin: bool,
    /// The value is text as it is, not JSON
    #[arg(long)]
    string: bool,
    /// The file's format [default: by its name]
    #[arg(long)]
    format: Option<FileFormat>,
    #[command(flatten)]
    identities: IdentityArgs,
    /// `json`: errors as JSON
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

pub(super) fn run(args: &Args, ctx: &mut Ctx<'_>) -> Result<Exit, Failure> {
    let before = file::read(&args.file)?;
    let Some(format) = FileFormat::of(args.format, &args.file, &before).sops() else {
        return Err(Failure::Refused(format!(
            "{} is an age file, which has no keys: use `trueup secrets edit`",
            args.file.display()
        )));
    };
    let text = match &args.value {
        Some(value) => Zeroizing::new(value.clone()),
        None => from_stdin(args.string)?,
    };
    let json = if args.string {
        Zeroizing::new(serde_json::Value::String(text.to_string()).to_string())
    } else {
        text
    };
    let keys = args.identities.load()?;
    let file = Encrypted::parse(&before, format).map_err(Failure::format(&args.file))?;
    let changed = file
        .set(&keys.identities, &args.path, &json, now())
        .map_err(|error| match error {
            // The position in a value would be read as one in the file.
            Error::Parse {
                format: Format::Json,
                ..
            } if format != Format::Json => {
                Failure::Refused("the value is not JSON: quote it, or say --string".to_owned())
            }
            other => keys.explain(&args.file)(other),
        })?;
    match changed {
        Some(bytes) => file::replace(&args.file, &bytes, Some(&before))?,
        None => ctx.note("nothing was changed: the value was there already"),
    }
    Ok(Exit::Done)
}

/// Text as a shell gives it has a newline behind it that nobody means.
fn from_stdin(string: bool) -> Result<Zeroizing<String>, Failure> {
    let bytes = file::read(std::path::Path::new("-"))?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Failure::Refused("the value is not UTF-8".to_owned()))?;
    let text = if string {
        text.strip_suffix('\n').unwrap_or(text)
    } else {
        text
    };
    Ok(Zeroizing::new(text.to_owned()))
}
