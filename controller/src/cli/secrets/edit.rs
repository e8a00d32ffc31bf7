//! `trueup secrets edit FILE`: an editor on the plain text, in memory; what did not change keeps its bytes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use trueup_secrets::{Encrypted, Mac, agenix};
use zeroize::Zeroizing;

use super::recipients::{self, RecipientArgs};
use super::{
    Ctx, Exit, Failure, FileFormat, Output, age, ask, encrypt, file, identity::IdentityArgs, now,
    ram::RamDir,
};
use crate::edge::exec;

/// Edit an encrypted file with $SOPS_EDITOR, $VISUAL or $EDITOR
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file; one that is not there is begun anew
    file: PathBuf,
    /// Its format [default: by the file's name]
    #[arg(long)]
    format: Option<FileFormat>,
    #[command(flatten)]
    identities: IdentityArgs,
    #[command(flatten)]
    recipients: RecipientArgs,
    /// `json`: errors as JSON
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// What is edited, and how it goes back.
enum Subject {
    New(FileFormat),
    Sops(Box<Encrypted>),
    Age,
}

pub(super) fn run(args: &Args, ctx: &mut Ctx<'_>) -> Result<Exit, Failure> {
    let path = &args.file;
    let before = if path.exists() {
        Some(file::read(path)?)
    } else {
        None
    };
    let format = FileFormat::of(args.format, path, before.as_deref().map_or(b"", |b| b));
    let keys = args.identities.load()?;
    let (subject, plain) = match &before {
        None => (Subject::New(format), Zeroizing::new(Vec::new())),
        Some(bytes) => match format.sops() {
            None => {
                let plain = agenix::decrypt(bytes, &keys.identities).map_err(keys.explain(path))?;
                (Subject::Age, plain)
            }
            Some(format) => {
                let file = Encrypted::parse(bytes, format).map_err(Failure::format(path))?;
                let plain = file
                    .decrypt(&keys.identities, Mac::Verify)
                    .map_err(keys.explain(path))?;
                let text = plain.to_editor().map_err(Failure::format(path))?;
                (Subject::Sops(Box::new(file)), text)
            }
        },
    };
    // Who may read is asked before the editor opens, not after an hour of typing.
    let mut wanted = match subject {
        Subject::Sops(_) => recipients::For::default(),
        _ => recipients::of_file(path, format, &args.recipients)?,
    };
    wanted.armor |= before.as_deref().is_some_and(|b| age::is_armored(b));
    let dir = RamDir::create()?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temp = dir.write(&name, &plain)?;
    loop {
        editor(&temp)?;
        let edited = file::read(&temp)?;
        if edited == plain {
            ctx.note("nothing was changed");
            return Ok(Exit::Done);
        }
        let sealed = match &subject {
            Subject::New(format) => encrypt::seal(&edited, *format, &wanted).map(Some),
            Subject::Age => encrypt::seal(&edited, FileFormat::Age, &wanted).map(Some),
            Subject::Sops(file) => file.edit(&keys.identities, &edited, now()),
        };
        match sealed {
            Ok(None) => {
                ctx.note("nothing was changed");
                return Ok(Exit::Done);
            }
            Ok(Some(bytes)) => {
                file::replace(path, &bytes, before.as_deref().map(Vec::as_slice))?;
                return Ok(Exit::Done);
            }
            Err(error) => {
                // What was typed is not thrown away for a missing quote.
                ctx.note(format_args!("{}: {error}", path.display()));
                let answer = ask::line("Return: edit again, q: give up and lose the edit: ");
                if answer.is_none_or(|a| a.trim().eq_ignore_ascii_case("q")) {
                    return Err(Failure::format(path)(error));
                }
            }
        }
    }
}

/// Runs the person's editor on the file, by its words: no shell.
fn editor(path: &Path) -> Result<(), Failure> {
    let named = ["SOPS_EDITOR", "VISUAL", "EDITOR"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|v| !v.trim().is_empty()))
        .unwrap_or_else(|| "vi".to_owned());
    let mut words = named.split_whitespace().map(OsString::from);
    let program = words.next().unwrap_or_else(|| "vi".into());
    let args: Vec<OsString> = words.chain([path.as_os_str().to_owned()]).collect();
    let ended = exec::interactive(&program, &args);
    match ended {
        Ok(Some(0)) => Ok(()),
        Ok(code) => Err(Failure::Refused(format!(
            "the editor `{named}` ended with {}: nothing was written",
            code.map_or("a signal".to_owned(), |c| c.to_string())
        ))),
        Err(error) => Err(Failure::Refused(format!("{error}; set $EDITOR"))),
    }
}
