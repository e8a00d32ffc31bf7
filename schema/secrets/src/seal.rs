//! Sealing a document: values, MAC, and the rule by which an unchanged value keeps its nonce.

use std::collections::{BTreeMap, VecDeque};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::cipher::{self, DataKey};
use crate::document::{Encrypted, MacHash, Plain};
use crate::error::Error;
use crate::metadata::Metadata;
use crate::scope::{Scope, ScopeRule};
use crate::store::{self, Docs, Format};
use crate::value::Value;
use crate::walk::walk;

/// Nonces of a file by what they sealed. A nonce leaves the store when it is used, so equal items of a list keep theirs
/// in order, and none is ever used for another plain text under the same key.
#[derive(Debug, Default)]
pub(crate) struct Nonces(BTreeMap<[u8; 32], VecDeque<Vec<u8>>>);

impl Nonces {
    pub(crate) fn remember(&mut self, aad: &str, plain: &Value, iv: Vec<u8>) {
        // Other tools' shorter nonces are read but not written.
        if iv.len() == 32 {
            self.0.entry(digest(aad, plain)).or_default().push_back(iv);
        }
    }

    fn take(&mut self, aad: &str, plain: &Value) -> Vec<u8> {
        self.0
            .get_mut(&digest(aad, plain))
            .and_then(VecDeque::pop_front)
            .unwrap_or_else(cipher::fresh_iv)
    }
}

fn digest(aad: &str, plain: &Value) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update((aad.len() as u64).to_le_bytes());
    hash.update(aad);
    hash.update(plain.type_name());
    if let Some(bytes) = plain.canonical() {
        hash.update(&bytes[..]);
    }
    hash.finalize().into()
}

/// Seals `plain` under `key`, writes the MAC into `meta`, prints the file, and reads it back before handing it out: what a
/// format cannot hold is found here and not on a host.
pub(crate) fn seal_file(
    plain: &Plain,
    meta: &mut Metadata,
    key: &DataKey,
    nonces: Nonces,
    old: Option<&Encrypted>,
) -> Result<Vec<u8>, Error> {
    let mut docs = plain.docs.clone();
    let mac = seal_docs(&mut docs, meta, key, nonces)?;
    meta.mac = cipher::seal(
        &Value::text(mac.as_bytes()),
        key,
        &meta.mac_aad(),
        &cipher::fresh_iv(),
        "sops/mac",
    )?;
    let spliced = old
        .and_then(|old| respell(old, &docs, meta))
        .filter(|bytes| check(plain, bytes, key).is_ok());
    if let Some(bytes) = spliced {
        return Ok(bytes);
    }
    let bytes = store::write_encrypted(plain.format, &docs, &meta.to_items())?;
    check(plain, &bytes, key)?;
    Ok(bytes)
}

/// The old file with only what changed exchanged, when it is not in the form that is printed here anyhow.
pub(crate) fn respell(old: &Encrypted, docs: &Docs, meta: &Metadata) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(&old.source).ok()?;
    if matches!(old.format, Format::Json | Format::Binary) {
        let printed = store::write_encrypted(old.format, docs, &meta.to_items()).ok()?;
        return store::reindent_json(&String::from_utf8(printed).ok()?, text)
            .map(String::into_bytes);
    }
    let printed = store::write_encrypted(old.format, &old.docs, &old.meta.to_items()).ok()?;
    if old.format != Format::Yaml || printed == old.source {
        return None;
    }
    store::splice(text, (&old.docs, &old.raw_meta), (docs, &meta.to_items()))
        .map(String::into_bytes)
}

fn seal_docs(
    docs: &mut Docs,
    meta: &Metadata,
    key: &DataKey,
    mut nonces: Nonces,
) -> Result<Zeroizing<String>, Error> {
    let scope = Scope::new(&meta.rule)?;
    let mut hash = MacHash::new(meta.mac_only_encrypted);
    walk(&scope, docs, |leaf, value| {
        let (aad, path) = (leaf.aad(), leaf.shown());
        hash.feed(leaf.encrypted, value);
        let unsupported = |reason| Error::Unsupported {
            path: path.clone(),
            reason,
        };
        if matches!(value, Value::Unsigned(_)) {
            return Err(unsupported("the integer is above 9223372036854775807"));
        }
        if !leaf.encrypted || value.canonical().is_none_or(|bytes| bytes.is_empty()) {
            return Ok(());
        }
        let iv = nonces.take(&aad, value);
        let sealed = cipher::seal(value, key, &aad, &iv, &path)?;
        match value {
            Value::Comment(_) if scope.ciphertext_would_match(&sealed) => {
                return Err(unsupported(
                    "the sealed comment would match unencrypted_comment_regex",
                ));
            }
            Value::Comment(_)
                if leaf.in_list && matches!(meta.rule, ScopeRule::EncryptedCommentRegex(_)) =>
            {
                return Err(unsupported(
                    "a sealed comment in a list would end the reach of the comment above it",
                ));
            }
            // That is how sops writes it: in a list a sealed comment is an item.
            Value::Comment(comment) if !leaf.in_list => comment.text = Zeroizing::new(sealed),
            other => *other = Value::text(sealed),
        }
        Ok(())
    })?;
    Ok(hash.finish())
}

fn check(plain: &Plain, bytes: &[u8], key: &DataKey) -> Result<(), Error> {
    let lossy = || Error::Unsupported {
        path: String::new(),
        reason: "the format cannot hold a value as it is",
    };
    let again = Encrypted::parse(bytes, plain.format)
        .and_then(|file| file.decrypt_with(key, crate::Mac::Verify));
    let again = again.map_err(|_| lossy())?;
    // ini has quirks of its own about blanks in clear values; its MAC has been verified.
    let print = |plain: &Plain| {
        Zeroizing::new(
            plain
                .docs
                .iter()
                .map(|doc| store::json_text(doc))
                .collect::<Vec<_>>(),
        )
    };
    if plain.format != Format::Ini && print(plain) != print(&again) {
        return Err(lossy());
    }
    Ok(())
}
