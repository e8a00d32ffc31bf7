//! `trueup secrets encrypt FILE`: plain text to an encrypted file, for the recipients that hold for it.

use std::path::PathBuf;

use trueup_secrets::{EncryptSpec, ScopeRule, agenix};

use super::recipients::{self, For, RecipientArgs};
use super::{Ctx, Exit, Failure, FileFormat, Output, decrypt, file, now};

/// Encrypt a file
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file in the clear; `-` is standard input
    file: PathBuf,
    /// Its format [default: by the file's name]
    #[arg(long)]
    format: Option<FileFormat>,
    #[command(flatten)]
    recipients: RecipientArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    /// Replace the file by the encrypted one
    #[arg(short, long, conflicts_with = "to")]
    in_place: bool,
    /// Write there instead of standard output
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Look recipients up for this file's name instead
    #[arg(long, value_name = "FILE")]
    r#as: Option<PathBuf>,
    /// `json`: errors as JSON
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Which values are encrypted; all, when nothing is said
#[derive(Debug, Default, clap::Args)]
#[group(multiple = false)]
pub(super) struct ScopeArgs {
    /// Only keys that match
    #[arg(long, value_name = "REGEX")]
    encrypted_regex: Option<String>,
    /// All but keys that match
    #[arg(long, value_name = "REGEX")]
    unencrypted_regex: Option<String>,
    /// Only keys that end so
    #[arg(long, value_name = "TEXT")]
    encrypted_suffix: Option<String>,
    /// All but keys that end so
    #[arg(long, value_name = "TEXT")]
    unencrypted_suffix: Option<String>,
}

impl ScopeArgs {
    fn rule(&self) -> Option<ScopeRule> {
        let all = [
            self.encrypted_regex.clone().map(ScopeRule::EncryptedRegex),
            self.unencrypted_regex
                .clone()
                .map(ScopeRule::UnencryptedRegex),
            self.encrypted_suffix
                .clone()
                .map(ScopeRule::EncryptedSuffix),
            self.unencrypted_suffix
                .clone()
                .map(ScopeRule::UnencryptedSuffix),
        ];
        all.into_iter().flatten().next()
    }
}

pub(super) fn run(args: &Args, ctx: &mut Ctx<'_>) -> Result<Exit, Failure> {
    let plain = file::read(&args.file)?;
    let name = args
        .r#as
        .as_ref()
        .or(args.to.as_ref())
        .unwrap_or(&args.file);
    // The plain text may begin with anything: only the name says what it is to become.
    let format = FileFormat::of(args.format, name, b"");
    let mut wanted = recipients::of_file(name, format, &args.recipients)?;
    if let Some(rule) = args.scope.rule() {
        wanted.rule = rule;
    }
    let bytes = seal(&plain, format, &wanted).map_err(Failure::format(&args.file))?;
    if args.in_place {
        file::replace(&args.file, &bytes, Some(&plain))?;
        return Ok(Exit::Done);
    }
    match &args.to {
        Some(to) => file::replace(to, &bytes, None).map(|()| Exit::Done),
        None => decrypt::print(ctx, &bytes),
    }
}

/// Plain text of a format for its recipients.
pub(super) fn seal(
    plain: &[u8],
    format: FileFormat,
    wanted: &For,
) -> Result<Vec<u8>, trueup_secrets::Error> {
    match format.sops() {
        None => agenix::encrypt(
            plain,
            &agenix::Entry {
                recipients: wanted.groups.concat(),
                armor: wanted.armor,
            },
        ),
        Some(format) => trueup_secrets::encrypt(
            plain,
            format,
            &EncryptSpec {
                groups: wanted.groups.clone(),
                shamir_threshold: wanted.threshold,
                rule: wanted.rule.clone(),
                mac_only_encrypted: wanted.mac_only_encrypted,
                now: now(),
            },
        ),
    }
}
