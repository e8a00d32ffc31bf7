//! A file that is encrypted, and what it says once every check has passed.

use sha2::{Digest, Sha256, Sha512};
use zeroize::Zeroizing;

use crate::cipher::{self, DataKey};
use crate::error::Error;
use crate::keys::Identities;
use crate::metadata::Metadata;
use crate::scope::Scope;
use crate::seal::Nonces;
use crate::shamir;
use crate::store::{self, Docs, Format, Inline};
use crate::value::{Item, Key, Value};
use crate::walk::walk;

/// What to do about the MAC. `Ignore` is for rescue by hand only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mac {
    Verify,
    Ignore,
}

/// A parsed file whose values are still sealed.
#[derive(Clone)]
pub struct Encrypted {
    pub(crate) format: Format,
    pub(crate) docs: Docs,
    pub(crate) meta: Metadata,
    /// The metadata as it stands in the file, and the file.
    pub(crate) raw_meta: Vec<Item>,
    pub(crate) source: Vec<u8>,
}

/// A file's content in the clear.
#[derive(Debug, Clone)]
pub struct Plain {
    pub(crate) format: Format,
    pub(crate) docs: Docs,
}

impl std::fmt::Debug for Encrypted {
    /// The source holds values in the clear where a rule says so.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Encrypted({}, {} documents, <redacted>)",
            self.format,
            self.docs.len()
        )
    }
}

impl Encrypted {
    pub fn parse(bytes: &[u8], format: Format) -> Result<Self, Error> {
        let (docs, meta) = store::read_encrypted(format, bytes)?;
        let raw_meta = meta.ok_or(Error::NoMetadata)?;
        let meta = Metadata::from_items(&raw_meta)?;
        Ok(Self {
            format,
            docs,
            meta,
            raw_meta,
            source: bytes.to_vec(),
        })
    }

    pub fn metadata(&self) -> &Metadata {
        &self.meta
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// Opens everything. Nothing is returned when one value or the MAC fails.
    pub fn decrypt(&self, identities: &Identities, mac: Mac) -> Result<Plain, Error> {
        let key = self.data_key(identities)?;
        self.decrypt_with(&key, mac)
    }

    pub(crate) fn decrypt_with(&self, key: &DataKey, mac: Mac) -> Result<Plain, Error> {
        self.open(key, mac, |_, _, _| {})
    }

    /// Also gives the nonces, for writing unchanged values as they were.
    pub(crate) fn decrypt_keeping_nonces(&self, key: &DataKey) -> Result<(Plain, Nonces), Error> {
        let mut nonces = Nonces::default();
        let plain = self.open(key, Mac::Verify, |aad, sealed, value| {
            if let Some(iv) = sealed
                .as_text()
                .and_then(cipher::Sealed::parse)
                .and_then(|sealed| sealed.iv())
            {
                nonces.remember(aad, value, iv);
            }
        })?;
        Ok((plain, nonces))
    }

    fn open(
        &self,
        key: &DataKey,
        mac: Mac,
        mut opened: impl FnMut(&str, &Value, &Value),
    ) -> Result<Plain, Error> {
        let scope = Scope::new(&self.meta.rule)?;
        let mut docs = self.docs.clone();
        let mut hash = MacHash::new(self.meta.mac_only_encrypted);
        walk(&scope, &mut docs, |leaf, value| {
            if leaf.encrypted {
                let sealed = match &*value {
                    Value::Comment(comment) => Value::text(comment.text.as_bytes()),
                    other => other.clone(),
                };
                open_leaf(value, key, &leaf.aad(), &leaf.shown())?;
                opened(&leaf.aad(), &sealed, value);
            }
            hash.feed(leaf.encrypted, value);
            Ok(())
        })?;
        if mac == Mac::Verify {
            self.verify(key, hash)?;
        }
        Ok(Plain {
            format: self.format,
            docs,
        })
    }

    fn verify(&self, key: &DataKey, hash: MacHash) -> Result<(), Error> {
        if self.meta.mac.is_empty() {
            return Err(Error::MacMismatch);
        }
        let stored = cipher::open(&self.meta.mac, key, &self.meta.mac_aad(), "sops/mac")
            .map_err(|_| Error::MacUndecryptable)?;
        match stored {
            // Both sides come from the holder of the data key; their comparison tells an attacker nothing.
            Value::Str(text) if text[..] == *hash.finish().as_bytes() => Ok(()),
            _ => Err(Error::MacMismatch),
        }
    }

    /// The key of the values, from as many groups as it takes.
    pub(crate) fn data_key(&self, identities: &Identities) -> Result<DataKey, Error> {
        let mut shares = Vec::new();
        let mut reasons = Vec::new();
        for (number, group) in self.meta.groups.iter().enumerate() {
            let mut opened = None;
            for key in &group.age {
                match identities.open(key.enc.as_bytes()) {
                    Ok(share) => {
                        opened = Some(share);
                        break;
                    }
                    Err(reason) => reasons.push(format!(
                        "group {number}, {}: {reason}",
                        shorten(&key.recipient)
                    )),
                }
            }
            match opened {
                Some(share) => shares.push(share),
                None if group.age.is_empty() => {
                    reasons.push(format!("group {number} has no age recipients"))
                }
                None => {}
            }
        }
        let no_key = |reason: String| Error::NoKey { reason };
        let (need, got) = (self.meta.threshold(), shares.len());
        if got < need {
            reasons.truncate(20);
            return Err(no_key(format!(
                "{need} of {} groups needed, {got} opened; {}",
                self.meta.groups.len(),
                reasons.join("; ")
            )));
        }
        let key = match (&self.meta.groups[..], &shares[..]) {
            ([_], [key]) => key.clone(),
            _ => shamir::combine(&shares).map_err(|reason| no_key(reason.to_owned()))?,
        };
        DataKey::from_bytes(&key)
            .ok_or_else(|| no_key("the data key does not have 32 bytes".into()))
    }
}

fn shorten(recipient: &str) -> String {
    recipient.chars().take(40).collect()
}

/// Opens one leaf in place.
fn open_leaf(value: &mut Value, key: &DataKey, aad: &str, path: &str) -> Result<(), Error> {
    match value {
        Value::Comment(comment) => {
            // A comment in the clear is not an error: editors and people add them.
            if let Ok(opened) = cipher::open(&comment.text, key, aad, path)
                && let Some(bytes) = opened.canonical()
            {
                comment.text = Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
                comment.opened = true;
            }
            Ok(())
        }
        Value::Str(bytes) if bytes.is_empty() => Ok(()),
        Value::Str(bytes) => {
            let text = std::str::from_utf8(bytes).map_err(|_| Error::ValueNotEncrypted {
                path: path.to_owned(),
            })?;
            *value = cipher::open(text, key, aad, path)?;
            Ok(())
        }
        _ => Err(Error::ValueNotEncrypted {
            path: path.to_owned(),
        }),
    }
}

/// SHA-512 over the canonical bytes of the leaves, in order.
pub(crate) struct MacHash {
    hash: Sha512,
    only_encrypted: bool,
}

impl MacHash {
    pub(crate) fn new(only_encrypted: bool) -> Self {
        let mut hash = Sha512::new();
        if only_encrypted {
            // So that a MAC of one mode never passes for one of the other.
            hash.update(Sha256::digest(b"sops"));
        }
        Self {
            hash,
            only_encrypted,
        }
    }

    pub(crate) fn feed(&mut self, encrypted: bool, plain: &Value) {
        if plain.is_comment() || (self.only_encrypted && !encrypted) {
            return;
        }
        if let Some(bytes) = plain.canonical() {
            self.hash.update(&bytes[..]);
        }
    }

    pub(crate) fn finish(self) -> Zeroizing<String> {
        Zeroizing::new(
            self.hash
                .finalize()
                .iter()
                .map(|byte| format!("{byte:02X}"))
                .collect(),
        )
    }
}

impl Plain {
    /// Reads plain text of a format.
    pub fn parse(bytes: &[u8], format: Format) -> Result<Self, Error> {
        store::read_plain(format, bytes).map(|docs| Self { format, docs })
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// The documents as they are.
    pub fn docs(&self) -> &[Vec<Item>] {
        &self.docs
    }

    /// What `sops decrypt` prints.
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        store::write_plain(self.format, &self.docs, Inline::Move).map(Zeroizing::new)
    }

    /// The same for an editor: comments stay where they stood, so that lines that are not touched stay as they are.
    pub fn to_editor(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        store::write_plain(self.format, &self.docs, Inline::Keep).map(Zeroizing::new)
    }

    /// The first document as JSON, without comments.
    pub fn to_json(&self) -> Zeroizing<String> {
        let first = self.docs.first().map(Vec::as_slice).unwrap_or_default();
        Zeroizing::new(store::json_text(first) + "\n")
    }

    /// The string at a path like `a/b/0` of the first document. Only strings are secrets that can be written to a file.
    pub fn lookup(&self, path: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
        let fail = |reason: String| Error::Lookup {
            path: path.to_owned(),
            reason,
        };
        match find(
            self.docs.first().map(Vec::as_slice).unwrap_or_default(),
            path,
        )
        .map_err(fail)?
        {
            Value::Str(bytes) => Ok(bytes.clone()),
            other => Err(fail(format!(
                "the value is a {}, not a string; quote it",
                other.type_name()
            ))),
        }
    }
}

impl Encrypted {
    /// Whether a value, or the whole content, stands in both files as the same text: sealed, or in the clear.
    pub fn has_same(&self, path: Option<&str>, other: &Self, its_path: Option<&str>) -> bool {
        let at = |file: &'_ Self, path: &str| {
            let first = file.docs.first().map(Vec::as_slice).unwrap_or_default();
            find(first, path).ok().cloned()
        };
        match (path, its_path) {
            (None, None) => self.format == other.format && self.docs == other.docs,
            (Some(a), Some(b)) => {
                let (mine, its) = (at(self, a), at(other, b));
                mine.is_some() && mine == its
            }
            _ => false,
        }
    }

    /// Whether some recipient's sealed data key is the same in both, so that the data key is.
    pub fn shares_key_with(&self, other: &Self) -> bool {
        let sealed = |file: &Self| -> Vec<String> {
            let groups = file.meta.groups.iter().flat_map(|g| &g.age);
            groups.map(|key| key.enc.trim().to_owned()).collect()
        };
        let its = sealed(other);
        sealed(self).iter().any(|enc| its.contains(enc))
    }

    /// Whether the key exists and can be a secret, as far as this is visible without a key.
    pub fn check_key(&self, path: &str) -> Result<(), Error> {
        let fail = |reason: String| Error::Lookup {
            path: path.to_owned(),
            reason,
        };
        match find(
            self.docs.first().map(Vec::as_slice).unwrap_or_default(),
            path,
        )
        .map_err(fail)?
        {
            value @ Value::Str(_) => match value
                .as_text()
                .and_then(cipher::Sealed::parse)
                .map(|sealed| sealed.kind())
            {
                None | Some("str") => Ok(()),
                Some(kind) => Err(fail(format!(
                    "the value is of type {kind}, not a string; quote it"
                ))),
            },
            other => Err(fail(format!(
                "the value is a {}, not a string; quote it",
                other.type_name()
            ))),
        }
    }
}

fn find<'a>(items: &'a [Item], path: &str) -> Result<&'a Value, String> {
    let mut steps = path.split('/');
    let first = steps.next().unwrap_or_default();
    let mut value = member(items, first)?;
    for step in steps {
        value = match value {
            Value::Map(items) => member(items, step)?,
            Value::List(values) => {
                let shown: Vec<&Value> = values
                    .iter()
                    .filter(|value| !is_comment_item(value))
                    .collect();
                let index: usize = step
                    .parse()
                    .map_err(|_| format!("`{step}` is not an index of a list"))?;
                shown
                    .get(index)
                    .copied()
                    .ok_or_else(|| format!("the list has {} items", shown.len()))?
            }
            other => return Err(format!("`{step}` is looked for in a {}", other.type_name())),
        };
    }
    Ok(value)
}

fn member<'a>(items: &'a [Item], name: &str) -> Result<&'a Value, String> {
    let found = items
        .iter()
        .find(|item| matches!(&item.key, Key::Name(key) if key == name));
    found
        .map(|item| &item.value)
        .ok_or_else(|| format!("there is no key `{name}`"))
}

/// sops writes an encrypted comment in a list as an item.
fn is_comment_item(value: &Value) -> bool {
    value.is_comment()
        || value
            .as_text()
            .and_then(cipher::Sealed::parse)
            .is_some_and(|sealed| sealed.kind() == "comment")
}
