//! Ciphertext to a set of files in memory: all of it, or nothing and why. One unwrap of a data key a file, however many
//! values are in it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use trueup_schema::Digest;
use trueup_schema::kind::{Owner, Piece, RENDERED, SecretFormat, pieces};
use trueup_schema::wire::{SecretFile, SecretPlace, SecretsGoal};
use trueup_secrets::{Encrypted, Format, Identities, Mac, Plain, agenix};
use zeroize::Zeroizing;

use super::people::{self, Who};
use super::record::{Entry, USERS};
use super::{SecretsError, hold_nothing_back};
use crate::files;

/// A file to be.
pub struct Item {
    pub(super) entry: Entry,
    pub(super) content: Zeroizing<Vec<u8>>,
}

/// All files of a goal, opened.
pub struct Opened {
    pub(super) digest: Digest,
    pub(super) items: Vec<Item>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opened(<redacted; {}>)", self.items.len())
    }
}

enum Content {
    Plain(Plain, Zeroizing<Vec<u8>>),
    Bytes(Zeroizing<Vec<u8>>),
}

/// Opens everything. With a `system` goal behind, an owner may be one whom that is going to make.
pub fn open(
    goal: &SecretsGoal,
    digest: &Digest,
    with_system: bool,
) -> Result<Opened, SecretsError> {
    hold_nothing_back();
    let (identities, hint) = identities(&goal.identity_files);
    let mut contents = Vec::new();
    for file in &goal.files {
        contents.push(content(file, &identities, &hint)?);
    }
    let people = people::People::read();
    let mut items = Vec::new();
    let mut values: BTreeMap<&str, Zeroizing<Vec<u8>>> = BTreeMap::new();
    for secret in &goal.secrets {
        let value = value(goal, secret, &contents)?;
        let folder = if secret.needed_for_users { USERS } else { "" };
        // Before users are made there is only root.
        let (owner, group) = if secret.needed_for_users {
            (Owner::root(), None)
        } else {
            (secret.owner.clone(), secret.group.clone())
        };
        let who = people.find(&secret.name, &owner, group.as_ref(), with_system)?;
        items.push(Item {
            entry: entry(
                PathBuf::from(folder).join(&secret.name),
                &value,
                &who,
                secret.mode.bits(),
                secret.path.as_ref(),
                (&secret.restart_units, &secret.reload_units),
            )
            .with_folders(secret.directory_mode.bits()),
            content: value.clone(),
        });
        values.insert(&secret.name, value);
    }
    for template in &goal.templates {
        let text = render(&template.name, &template.content, &values)?;
        let group = template.group.as_ref();
        let who = people.find(&template.name, &template.owner, group, with_system)?;
        items.push(Item {
            entry: entry(
                PathBuf::from(RENDERED).join(&template.name),
                &text,
                &who,
                template.mode.bits(),
                template.path.as_ref(),
                (&template.restart_units, &template.reload_units),
            ),
            content: text,
        });
    }
    Ok(Opened {
        digest: digest.clone(),
        items,
    })
}

fn entry(
    name: PathBuf,
    content: &[u8],
    who: &Who,
    mode: u32,
    path: Option<&String>,
    units: (&[String], &[String]),
) -> Entry {
    Entry::new(name, content, who, mode, path.map(PathBuf::from), units)
}

/// Keys that are there. One that is not is nothing to speak of, until nothing else opens a file.
fn identities(paths: &[String]) -> (Identities, String) {
    let mut identities = Identities::new();
    let mut left_out = Vec::new();
    for path in paths {
        match files::read_bounded(path.as_ref()) {
            Ok(Some(bytes)) => {
                let bytes = Zeroizing::new(bytes);
                let text = std::str::from_utf8(&bytes).unwrap_or_default();
                let added = if text.contains("AGE-SECRET-KEY-") {
                    identities.add_age(text)
                } else {
                    identities.add_host_key(&bytes)
                };
                if let Err(error) = added {
                    left_out.push(format!("{path}: {error}"));
                }
            }
            Ok(None) => left_out.push(format!("{path} is not there")),
            Err(error) => left_out.push(error.to_string()),
        }
    }
    let hint = if left_out.is_empty() {
        String::new()
    } else {
        format!(" ({})", left_out.join("; "))
    };
    (identities, hint)
}

fn content(
    file: &SecretFile,
    identities: &Identities,
    hint: &str,
) -> Result<Content, SecretsError> {
    let fail = |source: trueup_secrets::Error| SecretsError::Open {
        // Without any key of its own the host is at fault, not the file: a file system that is mounted later, say.
        evidence: !identities.is_empty(),
        file: file.source.clone(),
        hint: match &source {
            trueup_secrets::Error::NoKey { .. } | trueup_secrets::Error::AgeFile { .. } => {
                hint.to_owned()
            }
            _ => String::new(),
        },
        source,
    };
    let decoded;
    let bytes: &[u8] = match (&file.text, &file.data) {
        (Some(text), _) => text.as_bytes(),
        (None, data) => {
            let data = data.as_deref().unwrap_or_default();
            decoded = STANDARD
                .decode(data)
                .map_err(|e| SecretsError::Body(format!("{}: {e}", file.source)))?;
            &decoded
        }
    };
    let format = match file.format {
        SecretFormat::Age => {
            let plain = agenix::decrypt(bytes, identities).map_err(fail)?;
            return Ok(Content::Bytes(plain));
        }
        SecretFormat::Yaml => Format::Yaml,
        SecretFormat::Json => Format::Json,
        SecretFormat::Dotenv => Format::Dotenv,
        SecretFormat::Ini => Format::Ini,
        SecretFormat::Binary => Format::Binary,
    };
    let plain = Encrypted::parse(bytes, format)
        .and_then(|sealed| sealed.decrypt(identities, Mac::Verify))
        .map_err(&fail)?;
    let whole = plain.to_bytes().map_err(&fail)?;
    Ok(Content::Plain(plain, whole))
}

fn value(
    goal: &SecretsGoal,
    secret: &SecretPlace,
    contents: &[Content],
) -> Result<Zeroizing<Vec<u8>>, SecretsError> {
    let unknown = || SecretsError::Body(format!("Secret `{}` names no file", secret.name));
    let content = contents.get(secret.file).ok_or_else(unknown)?;
    match (content, &secret.key) {
        (Content::Bytes(bytes) | Content::Plain(_, bytes), None) => Ok(bytes.clone()),
        (Content::Plain(plain, _), Some(key)) => {
            plain.lookup(key).map_err(|source| SecretsError::Key {
                secret: secret.name.clone(),
                file: goal
                    .files
                    .get(secret.file)
                    .map_or_else(String::new, |f| f.source.clone()),
                source,
            })
        }
        (Content::Bytes(_), Some(_)) => Err(SecretsError::Body(format!(
            "Secret `{}`: an age file has no keys",
            secret.name
        ))),
    }
}

fn render(
    template: &str,
    content: &str,
    values: &BTreeMap<&str, Zeroizing<Vec<u8>>>,
) -> Result<Zeroizing<Vec<u8>>, SecretsError> {
    let value = |name: &str| {
        values.get(name).ok_or_else(|| SecretsError::Template {
            template: template.to_owned(),
            name: name.to_owned(),
        })
    };
    // Sized first: a growing buffer would leave copies behind.
    let mut size = 0;
    for piece in pieces(content) {
        size += match piece {
            Piece::Text(text) => text.len(),
            Piece::Secret(name) => value(name)?.len(),
        };
    }
    let mut out = Zeroizing::new(Vec::with_capacity(size));
    for piece in pieces(content) {
        match piece {
            Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Secret(name) => out.extend_from_slice(value(name)?),
        }
    }
    Ok(out)
}
