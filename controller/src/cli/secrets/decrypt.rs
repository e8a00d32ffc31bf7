//! `trueup secrets decrypt FILE`: what sops prints, or the document as JSON.

use std::path::PathBuf;

use base64::Engine as _;
use serde_json::json;
use trueup_secrets::{Encrypted, Mac, agenix};

use super::{Ctx, Exit, Failure, FileFormat, Output, file, identity::IdentityArgs};

/// Print the plain text of an encrypted file
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file; `-` is standard input
    file: PathBuf,
    /// Its format [default: by the file's name]
    #[arg(long)]
    format: Option<FileFormat>,
    #[command(flatten)]
    identities: IdentityArgs,
    /// Print even what is not authentic; for rescue by hand only
    #[arg(long)]
    ignore_mac: bool,
    /// Only the string at this path, such as `db/password`
    #[arg(long, value_name = "PATH")]
    key: Option<String>,
    /// `json`: the document as JSON, errors too
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

pub(super) fn run(args: &Args, ctx: &mut Ctx<'_>) -> Result<Exit, Failure> {
    let bytes = file::read(&args.file)?;
    let keys = args.identities.load()?;
    let Some(format) = FileFormat::of(args.format, &args.file, &bytes).sops() else {
        let plain = agenix::decrypt(&bytes, &keys.identities).map_err(keys.explain(&args.file))?;
        return match args.output {
            Output::Text => print(ctx, &plain),
            Output::Json => {
                let document = match std::str::from_utf8(&plain) {
                    Ok(text) => json!({ "data": text }),
                    Err(_) => {
                        json!({"dataBase64": base64::engine::general_purpose::STANDARD.encode(&*plain)})
                    }
                };
                print(ctx, format!("{document}\n").as_bytes())
            }
        };
    };
    let mac = if args.ignore_mac {
        Mac::Ignore
    } else {
        Mac::Verify
    };
    let plain = Encrypted::parse(&bytes, format)
        .and_then(|file| file.decrypt(&keys.identities, mac))
        .map_err(keys.explain(&args.file))?;
    if let Some(key) = &args.key {
        let value = plain.lookup(key).map_err(Failure::format(&args.file))?;
        return print(ctx, &value);
    }
    match args.output {
        Output::Json => print(ctx, plain.to_json().as_bytes()),
        Output::Text => {
            let text = plain.to_bytes().map_err(Failure::format(&args.file))?;
            print(ctx, &text)
        }
    }
}

/// Results that are cut off half way are a failure: half a secret is none.
pub(super) fn print(ctx: &mut Ctx<'_>, bytes: &[u8]) -> Result<Exit, Failure> {
    let written = ctx.out.write_all(bytes).and_then(|()| ctx.out.flush());
    written.map_err(|source| Failure::File {
        what: "writing",
        path: "standard output".into(),
        source,
    })?;
    Ok(Exit::Done)
}
