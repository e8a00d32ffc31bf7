//! What sops accepts although nobody can vouch for it: places of a file that neither a cipher nor the MAC protects.
//! [`check`] looks at the file as it lies there and needs no key; [`check_labels`] sees more with some.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest, Sha256};

use crate::SOPS_VERSION;
use crate::cipher::Sealed;
use crate::document::Encrypted;
use crate::error::Error;
use crate::keys::Identities;
use crate::scope::Scope;
use crate::value::{Item, Value};
use crate::walk::walk;

/// The named lints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lint {
    /// A null: never hashed, so anybody can add or remove it.
    UnprotectedNull,
    /// An empty string: hashed as nothing.
    UnprotectedEmpty,
    /// A comment in the clear where it should be sealed.
    ClearComment,
    /// Values in the clear: the MAC sees their bytes, not their keys, types and borders.
    ClearKeys,
    /// `mac_only_encrypted`: values in the clear are not hashed at all.
    ClearValuesUnprotected,
    /// The recipient that is named is not the one the stanza is for.
    RecipientLabel,
    /// The version is another than the one written here: older sops, or changed, as nothing vouches for it.
    Version,
    /// Text behind a sealed value, which readers ignore.
    TrailingText,
    /// A nonce of another length than sops writes.
    NonceLength,
    /// A key is there twice; readers differ in which one they take.
    DuplicateKey,
    /// Keys of other services: they can open the file and are not checked here.
    OtherService,
}

impl Lint {
    pub fn name(self) -> &'static str {
        match self {
            Self::UnprotectedNull => "unprotected-null",
            Self::UnprotectedEmpty => "unprotected-empty",
            Self::ClearComment => "clear-comment",
            Self::ClearKeys => "clear-keys",
            Self::ClearValuesUnprotected => "clear-values-unprotected",
            Self::RecipientLabel => "recipient-label",
            Self::Version => "version",
            Self::TrailingText => "trailing-text",
            Self::NonceLength => "nonce-length",
            Self::DuplicateKey => "duplicate-key",
            Self::OtherService => "other-service",
        }
    }

    /// Whether honest files have it so often that it is only worth a look on demand.
    pub fn is_hint(self) -> bool {
        matches!(self, Self::Version | Self::ClearKeys)
    }

    pub fn message(self) -> &'static str {
        match self {
            Self::UnprotectedNull => "a null is not covered by the MAC: it may have been added",
            Self::UnprotectedEmpty => {
                "an empty string is not covered by the MAC: it may have been added"
            }
            Self::ClearComment => {
                "a comment in the clear is not covered by the MAC: it may have been added"
            }
            Self::ClearKeys => {
                "the keys of values in the clear are not covered by the MAC: they may have been renamed"
            }
            Self::ClearValuesUnprotected => {
                "mac_only_encrypted leaves values in the clear without protection"
            }
            Self::RecipientLabel => {
                "the key is not sealed to the recipient that is named beside it"
            }
            Self::Version => {
                "the version is not covered by the MAC, and is not the one that is written here"
            }
            Self::TrailingText => "there is text behind a sealed value, which is ignored",
            Self::NonceLength => "the nonce has another length than sops writes",
            Self::DuplicateKey => "the key is there twice",
            Self::OtherService => "keys of a service other than age can open the file",
        }
    }
}

/// One finding, with the path of keys it is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub lint: Lint,
    pub path: String,
}

/// All findings of a file.
pub fn check(file: &Encrypted) -> Result<Vec<Finding>, Error> {
    let mut found = BTreeSet::new();
    leaves(file, &mut found)?;
    for doc in &file.docs {
        shape(doc, &mut Vec::new(), &mut found);
    }
    metadata(file, &mut found);
    Ok(found.into_iter().collect())
}

/// Labels of X25519 recipients that the given identities show to be wrong: such a stanza does not say for whom it is.
pub fn check_labels(file: &Encrypted, identities: &Identities) -> Vec<Finding> {
    let mut found = BTreeSet::new();
    for key in file.meta.groups.iter().flat_map(|group| &group.age) {
        let label = key.recipient.trim();
        if identities
            .who_opens(key.enc.as_bytes())
            .any(|(known, opens)| (known == label) != opens)
        {
            found.insert(label_finding(label));
        }
    }
    found.into_iter().collect()
}

fn label_finding(recipient: &str) -> Finding {
    let path = format!(
        "sops/age/{}",
        recipient.chars().take(80).collect::<String>()
    );
    Finding {
        lint: Lint::RecipientLabel,
        path,
    }
}

fn leaves(file: &Encrypted, found: &mut BTreeSet<Finding>) -> Result<(), Error> {
    let scope = Scope::new(&file.meta.rule)?;
    let only_encrypted = file.meta.mac_only_encrypted;
    walk(&scope, &mut file.docs.clone(), |leaf, value| {
        let mut add = |lint| {
            found.insert(Finding {
                lint,
                path: leaf.shown(),
            })
        };
        match &*value {
            Value::Str(bytes) if bytes.is_empty() => {
                add(Lint::UnprotectedEmpty);
            }
            Value::Comment(comment) => {
                if !comment.text.is_empty()
                    && leaf.encrypted
                    && Sealed::parse(&comment.text).is_none()
                {
                    add(Lint::ClearComment);
                }
            }
            _ if !leaf.encrypted => {
                add(if only_encrypted {
                    Lint::ClearValuesUnprotected
                } else {
                    Lint::ClearKeys
                });
            }
            value => {
                if let Some(text) = value.as_text() {
                    sealed(text, &mut |lint| {
                        add(lint);
                    });
                }
            }
        }
        Ok(())
    })
}

fn sealed(text: &str, add: &mut dyn FnMut(Lint)) {
    let Some(value) = Sealed::parse(text) else {
        return;
    };
    if !text.ends_with(']') {
        add(Lint::TrailingText);
    }
    if value.iv().is_some_and(|iv| iv.len() != 32) {
        add(Lint::NonceLength);
    }
}

fn shape(items: &[Item], path: &mut Vec<String>, found: &mut BTreeSet<Finding>) {
    let mut seen = BTreeSet::new();
    for item in items {
        let Some(name) = item.name() else { continue };
        path.push(name.to_owned());
        if !seen.insert(name) {
            found.insert(Finding {
                lint: Lint::DuplicateKey,
                path: path.join("/"),
            });
        }
        value_shape(&item.value, path, found);
        path.pop();
    }
}

fn value_shape(value: &Value, path: &mut Vec<String>, found: &mut BTreeSet<Finding>) {
    match value {
        Value::Null => {
            found.insert(Finding {
                lint: Lint::UnprotectedNull,
                path: path.join("/"),
            });
        }
        Value::Map(items) => shape(items, path, found),
        Value::List(values) => values
            .iter()
            .for_each(|value| value_shape(value, path, found)),
        _ => {}
    }
}

fn metadata(file: &Encrypted, found: &mut BTreeSet<Finding>) {
    if file.meta.version != SOPS_VERSION {
        found.insert(Finding {
            lint: Lint::Version,
            path: "sops/version".into(),
        });
    }
    for group in &file.meta.groups {
        for key in &group.age {
            if label_fits(&key.recipient, &key.enc) == Some(false) {
                found.insert(label_finding(&key.recipient));
            }
        }
        for (name, list) in &group.others {
            if matches!(list, Value::List(list) if !list.is_empty()) {
                found.insert(Finding {
                    lint: Lint::OtherService,
                    path: format!("sops/{name}"),
                });
            }
        }
    }
}

/// Whether the stanza can be for the recipient. An X25519 stanza does not tell for whom it is, an SSH one does.
fn label_fits(recipient: &str, enc: &str) -> Option<bool> {
    let body: String = enc
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .map(str::trim)
        .collect();
    let header = STANDARD.decode(body).ok()?;
    let header = String::from_utf8_lossy(&header).into_owned();
    let stanza: Vec<&str> = header
        .lines()
        .find_map(|line| line.strip_prefix("-> "))?
        .split(' ')
        .collect();
    let (kind, blob) = recipient.trim().split_once(' ').unwrap_or(("X25519", ""));
    let blob = blob.split(' ').next().unwrap_or_default();
    if stanza.first() != Some(&kind) {
        return Some(false);
    }
    if kind == "X25519" {
        return None;
    }
    let tag = STANDARD_NO_PAD.encode(&Sha256::digest(STANDARD.decode(blob).ok()?)[..4]);
    Some(stanza.get(1) == Some(&tag.as_str()))
}
