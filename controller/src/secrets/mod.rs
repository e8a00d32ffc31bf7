//! What manifests say of secrets, held against the encrypted files: who can open which, which keys are there, and what
//! each host is sent. No file is opened here and no plain text seen: bytes come from whoever asks.

mod changes;
mod goal;
mod readers;

use std::collections::BTreeMap;
use std::sync::Mutex;

use trueup_schema::kind::{ResolvedFleet, ResolvedHost, ResolvedSecret, SecretFormat};
use trueup_schema::manifest::{ProblemKind, SecretSources, SourceFault};
use trueup_secrets::{Encrypted, Error, Format};

pub use changes::{Differs, SecretChange, changes};
pub use goal::{GoalError, goals};
pub use readers::{Access, Readers, host_recipients};

/// Hosts that one message names.
const NAMED: usize = 8;

/// What is at a path of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Missing,
    /// A file that Git does not know of: hosts would never see it.
    Untracked,
    /// Tracked.
    File(Vec<u8>),
}

/// The repository's encrypted files, for [`trueup_schema::manifest::resolve_with`]. A file is read and parsed once,
/// however many secrets are in it.
pub struct Repository<'a> {
    read: &'a dyn Fn(&str) -> Found,
    parsed: Mutex<BTreeMap<(String, SecretFormat), Parsed>>,
}

impl std::fmt::Debug for Repository<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Repository")
    }
}

type Parsed = std::sync::Arc<Result<File, Fault>>;

/// An encrypted file, of either kind.
#[derive(Debug)]
pub enum File {
    /// Of sops: it says who can open it.
    Sops(Box<Encrypted>),
    /// Of age: it does not.
    Age,
}

#[derive(Debug)]
struct Fault {
    kind: ProblemKind,
    message: String,
    help: String,
}

impl<'a> Repository<'a> {
    /// `read` answers for paths from the repository's root.
    #[must_use]
    pub fn new(read: &'a dyn Fn(&str) -> Found) -> Self {
        Self {
            read,
            parsed: Mutex::default(),
        }
    }

    fn file(&self, source: &str, format: SecretFormat) -> Parsed {
        let mut parsed = self.parsed.lock().unwrap_or_else(|e| e.into_inner());
        parsed
            .entry((source.to_owned(), format))
            .or_insert_with(|| (open(source, format, (self.read)(source))).into())
            .clone()
    }
}

fn open(source: &str, format: SecretFormat, found: Found) -> Result<File, Fault> {
    let fault = |kind, message: String, help: String| Fault {
        kind,
        message,
        help,
    };
    let bytes = match found {
        Found::File(bytes) => bytes,
        Found::Missing => {
            return Err(fault(
                ProblemKind::NoSource,
                format!("there is no file `{source}` in the repository"),
                format!("make it with `trueup secrets edit {source}`, and `git add {source}`"),
            ));
        }
        Found::Untracked => {
            return Err(fault(
                ProblemKind::NoSource,
                format!("`{source}` is not tracked by Git, so no host would see it"),
                format!("`git add {source}`"),
            ));
        }
    };
    parse(&bytes, format).map_err(|error| {
        let plain = matches!(error, Error::NoMetadata);
        let message = if plain {
            format!("`{source}` is not encrypted")
        } else {
            format!("`{source}` does not read as an encrypted {format} file: {error}")
        };
        let help = if plain {
            format!(
                "`trueup secrets encrypt --in-place {source}`; if it was ever committed, its values are known: change them"
            )
        } else {
            "say its `format`, or bring the file back from before it was damaged".to_owned()
        };
        fault(ProblemKind::NotEncrypted, message, help)
    })
}

/// Reads an encrypted file without opening it.
pub fn parse(bytes: &[u8], format: SecretFormat) -> Result<File, Error> {
    match sops(format) {
        Some(format) => Encrypted::parse(bytes, format).map(|file| File::Sops(Box::new(file))),
        None => {
            let age = [
                &b"age-encryption.org/v1"[..],
                b"-----BEGIN AGE ENCRYPTED FILE-----",
            ];
            if age.iter().any(|start| bytes.starts_with(start)) {
                Ok(File::Age)
            } else {
                Err(Error::NoMetadata)
            }
        }
    }
}

/// The format of sops, if it is one.
#[must_use]
pub fn sops(format: SecretFormat) -> Option<Format> {
    Some(match format {
        SecretFormat::Yaml => Format::Yaml,
        SecretFormat::Json => Format::Json,
        SecretFormat::Dotenv => Format::Dotenv,
        SecretFormat::Ini => Format::Ini,
        SecretFormat::Binary => Format::Binary,
        SecretFormat::Age => return None,
    })
}

impl SecretSources for Repository<'_> {
    fn look(
        &self,
        secret: &ResolvedSecret,
        hosts: &[&ResolvedHost],
        _: &ResolvedFleet,
    ) -> Vec<SourceFault> {
        let file = self.file(&secret.source, secret.format);
        let file = match &*file {
            Ok(file) => file,
            Err(fault) => {
                return vec![SourceFault {
                    kind: fault.kind,
                    field: "source",
                    message: fault.message.clone(),
                    help: fault.help.clone(),
                }];
            }
        };
        // An age file names nobody: who can open it is known when it is opened.
        let File::Sops(file) = file else {
            return Vec::new();
        };
        let mut faults = Vec::new();
        if let Some(key) = &secret.key
            && let Err(error) = file.check_key(key)
        {
            faults.push(SourceFault {
                kind: ProblemKind::NoSuchKey,
                field: "key",
                message: format!("{} in `{}`", text(&error), secret.source),
                help: format!("`trueup secrets edit {}`, or correct `key`", secret.source),
            });
        }
        let out: Vec<&str> = hosts
            .iter()
            .filter(|host| !file.names_enough_of(&host_recipients(host)))
            .map(|host| host.name.as_str())
            .collect();
        if !out.is_empty() {
            let names: Vec<String> = out.iter().take(NAMED).map(|n| format!("`{n}`")).collect();
            let more = match out.len().checked_sub(NAMED).filter(|n| *n > 0) {
                Some(n) => format!(" and {n} more"),
                None => String::new(),
            };
            faults.push(SourceFault {
                kind: ProblemKind::NotARecipient,
                field: "hosts",
                message: format!(
                    "{}{more} cannot open `{}`: {} among its recipients",
                    names.join(", "),
                    secret.source,
                    if out.len() == 1 {
                        "its key is not"
                    } else {
                        "their keys are not"
                    },
                ),
                help: format!(
                    "`trueup secrets updatekeys {}`, and commit the file",
                    secret.name
                ),
            });
        }
        faults
    }
}

/// Without a full stop, as problems are told.
fn text(error: &Error) -> String {
    error.to_string().trim_end_matches('.').to_owned()
}
