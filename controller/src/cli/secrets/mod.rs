//! `trueup secrets …`: encrypted files on a person's machine, without a controller. All cryptography is
//! `trueup-secrets`'; here are files, keys, the editor and words. Plain text goes to standard output or an editor only.

mod age;
mod ask;
mod check;
mod decrypt;
mod edit;
mod encrypt;
mod file;
pub(super) mod fleet;
mod identity;
mod ram;
mod recipients;
mod rotate;
mod set;
mod updatekeys;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;
use trueup_secrets::{Error, Format};

use super::{CliError, Ctx, Exit};

/// Encrypted files: read, change, and who can read them
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Decrypt(decrypt::Args),
    Encrypt(encrypt::Args),
    Edit(edit::Args),
    Set(set::Args),
    Rotate(rotate::Args),
    Updatekeys(updatekeys::Args),
    Check(check::Args),
    HostKey(check::HostKeyArgs),
    SopsYaml(updatekeys::SopsYamlArgs),
}

/// `-o` of these verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Output {
    /// For people and pipes.
    #[default]
    Text,
    /// For scripts, errors too.
    Json,
}

/// The formats of files: the five of sops, and a plain age file (agenix).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FileFormat {
    Yaml,
    Json,
    Dotenv,
    Ini,
    Binary,
    Age,
}

impl FileFormat {
    /// As given, else by the file's name and, for age, its first bytes.
    fn of(given: Option<Self>, path: &Path, bytes: &[u8]) -> Self {
        given.unwrap_or_else(|| {
            let name = path.to_string_lossy();
            if name.ends_with(".age") || age::looks_like(bytes) {
                return Self::Age;
            }
            match Format::of_path(&name) {
                Format::Yaml => Self::Yaml,
                Format::Json => Self::Json,
                Format::Dotenv => Self::Dotenv,
                Format::Ini => Self::Ini,
                Format::Binary => Self::Binary,
            }
        })
    }

    /// The format of sops, if it is one.
    fn sops(self) -> Option<Format> {
        Some(match self {
            Self::Yaml => Format::Yaml,
            Self::Json => Format::Json,
            Self::Dotenv => Format::Dotenv,
            Self::Ini => Format::Ini,
            Self::Binary => Format::Binary,
            Self::Age => return None,
        })
    }
}

/// Why a verb failed. Messages never hold plain text.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The formats say no.
    #[error("{}: {source}", .path.display())]
    Format { path: PathBuf, source: Error },
    /// A file can't be read or written.
    #[error("{what} {}: {source}", .path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    /// All else, with the next step in its words.
    #[error("{0}")]
    Refused(String),
}

impl Failure {
    fn format(path: &Path) -> impl FnOnce(Error) -> Self {
        let path = path.to_owned();
        |source| Self::Format { path, source }
    }

    fn class(&self) -> &'static str {
        match self {
            Self::Format { source, .. } => source.class().name(),
            Self::File { .. } | Self::Refused(_) => "other",
        }
    }
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    no_dumps();
    let (output, result) = match args.verb {
        Verb::Decrypt(args) => (args.output, decrypt::run(&args, ctx)),
        Verb::Encrypt(args) => (args.output, encrypt::run(&args, ctx)),
        Verb::Edit(args) => (args.output, edit::run(&args, ctx)),
        Verb::Set(args) => (args.output, set::run(&args, ctx)),
        Verb::Rotate(args) => (args.output, rotate::run(&args, ctx)),
        Verb::Updatekeys(args) => (args.output, updatekeys::run(&args, ctx)),
        Verb::Check(args) => (args.output, check::run(&args, ctx)),
        Verb::HostKey(args) => (args.output, check::host_key(&args, ctx)),
        Verb::SopsYaml(args) => (args.output, updatekeys::sops_yaml(&args, ctx)),
    };
    match result {
        Ok(exit) => Ok(exit),
        Err(failure) if output == Output::Json => {
            let error =
                json!({"error": {"class": failure.class(), "message": failure.to_string()}});
            ctx.note(error);
            Ok(Exit::Failed)
        }
        Err(failure) => Err(CliError::failed(failure.to_string())),
    }
}

/// A crash of this process must not leave plain text in a core file, and no debugger of the same user reads it.
fn no_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _best_effort = setrlimit(Resource::Core, none);
    let _best_effort = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// The known name that somebody probably meant.
fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    known
        .map(|name| (strsim::damerau_levenshtein(given, name), name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min()
        .map(|(_, name)| name)
}

/// The time that goes into files.
fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
