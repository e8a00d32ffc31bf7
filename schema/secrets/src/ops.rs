//! What people do to encrypted files: encrypt, edit, set a key, rotate, change the recipients. Bytes in, bytes out.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::cipher::DataKey;
use crate::document::{Encrypted, Mac, Plain};
use crate::error::Error;
use crate::keys::{self, Identities, Recipient};
use crate::metadata::{AgeKey, Group, Metadata};
use crate::scope::{Scope, ScopeRule};
use crate::seal::{Nonces, respell, seal_file};
use crate::store::{self, Format};
use crate::value::{Item, Value};
use crate::{SOPS_VERSION, shamir};

/// Share numbers are one byte.
const GROUPS_MAX: usize = 255;

/// How a new file is encrypted.
#[derive(Debug, Clone)]
pub struct EncryptSpec {
    pub groups: Vec<Vec<Recipient>>,
    /// With several groups: how many are needed. `None` is all.
    pub shamir_threshold: Option<usize>,
    pub rule: ScopeRule,
    pub mac_only_encrypted: bool,
    pub now: Timestamp,
}

/// A new data key, and perhaps other recipients.
#[derive(Debug, Clone)]
pub struct RotateSpec {
    pub add: Vec<Recipient>,
    pub remove: Vec<Recipient>,
    pub now: Timestamp,
}

/// What `update_keys` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyUpdate {
    UpToDate,
    /// Who was removed has read the value and can read every older commit: rotate the secret itself.
    Changed {
        bytes: Vec<u8>,
        added: Vec<String>,
        removed: Vec<String>,
    },
}

/// Encrypts plain text of a format.
pub fn encrypt(plain: &[u8], format: Format, spec: &EncryptSpec) -> Result<Vec<u8>, Error> {
    let plain = Plain::parse(plain, format)?;
    if plain.docs.is_empty() {
        return Err(Error::Empty);
    }
    if store::has_metadata(format, &plain.docs) {
        return Err(Error::AlreadyEncrypted);
    }
    Scope::new(&spec.rule)?;
    let key = DataKey::random();
    let threshold = threshold(&spec.groups, spec.shamir_threshold)?;
    let rule = match &spec.rule {
        // The reference writes its default down, except in binary files.
        ScopeRule::Default if format != Format::Binary => {
            ScopeRule::UnencryptedSuffix("_unencrypted".into())
        }
        other => other.clone(),
    };
    let mut meta = Metadata {
        groups: seal_key(&key, &spec.groups, threshold)?,
        shamir_threshold: threshold,
        lastmodified: seconds(spec.now),
        mac: String::new(),
        mac_only_encrypted: spec.mac_only_encrypted,
        rule,
        version: SOPS_VERSION.into(),
        unknown: Vec::new(),
    };
    seal_file(&plain, &mut meta, &key, Nonces::default(), None)
}

impl Encrypted {
    /// Replaces the content by what an editor left. `None` when nothing changed: then the file is to stay as it is.
    /// Values that did not change keep their bytes.
    pub fn edit(
        &self,
        identities: &Identities,
        new_plain: &[u8],
        now: Timestamp,
    ) -> Result<Option<Vec<u8>>, Error> {
        let key = self.data_key(identities)?;
        let new = Plain::parse(new_plain, self.format)?;
        if new.docs.is_empty() {
            return Err(Error::Empty);
        }
        if store::has_metadata(self.format, &new.docs) {
            return Err(Error::AlreadyEncrypted);
        }
        self.replace(&key, now, |_| Ok(new))
    }

    /// Sets one value. `path` is `a/b/0` or `["a"]["b"][0]`, `json` is a JSON value. Missing maps are made; an index one
    /// past the end appends. `None` when the value was there already.
    pub fn set(
        &self,
        identities: &Identities,
        path: &str,
        json: &str,
        now: Timestamp,
    ) -> Result<Option<Vec<u8>>, Error> {
        let key = self.data_key(identities)?;
        let value = store::read_json_value(json)?;
        let steps = steps(path)?;
        if self.format != Format::Binary && steps.first().is_some_and(|step| step == "sops") {
            return Err(Error::Lookup {
                path: path.into(),
                reason: "`sops` is the metadata".into(),
            });
        }
        self.replace(&key, now, |old| {
            let mut docs = old.docs.clone();
            let mut root = Value::Map(docs.first_mut().map(std::mem::take).unwrap_or_default());
            assign(&mut root, &steps, value, path)?;
            if let (Value::Map(items), Some(first)) = (root, docs.first_mut()) {
                *first = items;
            }
            Ok(Plain {
                format: old.format,
                docs,
            })
        })
    }

    fn replace(
        &self,
        key: &DataKey,
        now: Timestamp,
        change: impl FnOnce(&Plain) -> Result<Plain, Error>,
    ) -> Result<Option<Vec<u8>>, Error> {
        let (old, nonces) = self.decrypt_keeping_nonces(key)?;
        let new = change(&old)?;
        if new.to_editor()? == old.to_editor()? {
            return Ok(None);
        }
        let mut meta = self.meta.clone();
        meta.lastmodified = seconds(now);
        if version_numbers(&meta.version) < version_numbers(SOPS_VERSION) {
            meta.version = SOPS_VERSION.into();
        }
        seal_file(&new, &mut meta, key, nonces, Some(self)).map(Some)
    }

    /// A new data key: everything is sealed anew, with fresh nonces.
    pub fn rotate(&self, identities: &Identities, spec: &RotateSpec) -> Result<Vec<u8>, Error> {
        let old = self.data_key(identities)?;
        let plain = self.decrypt_with(&old, Mac::Verify)?;
        self.only_age("rotating")?;
        let mut groups = self.recipients()?;
        if let Some(first) = groups.first_mut() {
            first.extend(spec.add.iter().cloned());
        }
        for group in &mut groups {
            group.retain(|recipient| !spec.remove.contains(recipient));
            dedup(group);
        }
        let key = DataKey::random();
        let mut meta = self.meta.clone();
        meta.groups = seal_key(&key, &groups, self.meta.threshold())?;
        meta.lastmodified = seconds(spec.now);
        seal_file(&plain, &mut meta, &key, Nonces::default(), Some(self))
    }

    /// The recipients now, group by group.
    pub fn recipients(&self) -> Result<Vec<Vec<Recipient>>, Error> {
        let parse = |group: &Group| {
            group
                .age
                .iter()
                .map(|key| Recipient::parse(&key.recipient))
                .collect()
        };
        self.meta.groups.iter().map(parse).collect()
    }

    /// Whether the holder of all these recipients' keys reaches the threshold, as far as the labels tell. A host has two:
    /// see [`Recipient::of_host_key`].
    pub fn names_enough_of(&self, recipients: &[Recipient]) -> bool {
        let holds = |key: &AgeKey| {
            recipients
                .iter()
                .any(|recipient| recipient.as_str() == Recipient::normal(&key.recipient))
        };
        let groups = self
            .meta
            .groups
            .iter()
            .filter(|group| group.age.iter().any(holds))
            .count();
        groups >= self.meta.threshold()
    }

    /// Who would be added and who removed, for a look before it is done; needs no key. `None` is up to date.
    pub fn key_changes(&self, groups: &[Vec<Recipient>]) -> Option<(Vec<String>, Vec<String>)> {
        let label = |group: &Group| {
            group
                .age
                .iter()
                .map(|key| Recipient::normal(&key.recipient))
                .collect::<BTreeSet<_>>()
        };
        let now: Vec<_> = self.meta.groups.iter().map(label).collect();
        let then: Vec<BTreeSet<_>> = groups
            .iter()
            .map(|group| group.iter().map(ToString::to_string).collect())
            .collect();
        if now == then {
            return None;
        }
        let all =
            |groups: &[BTreeSet<String>]| groups.iter().flatten().cloned().collect::<BTreeSet<_>>();
        let (now, then) = (all(&now), all(&then));
        Some((
            then.difference(&now).cloned().collect(),
            now.difference(&then).cloned().collect(),
        ))
    }

    /// Seals the same data key to other recipients. No value, MAC or date is touched. The threshold is the file's, capped
    /// at the number of groups, unless one is given.
    pub fn update_keys(
        &self,
        identities: &Identities,
        groups: &[Vec<Recipient>],
        wanted: Option<usize>,
    ) -> Result<KeyUpdate, Error> {
        let groups: Vec<Vec<Recipient>> = groups
            .iter()
            .map(|group| {
                let mut group = group.clone();
                dedup(&mut group);
                group
            })
            .collect();
        let file = (self.meta.shamir_threshold != 0)
            .then_some(self.meta.shamir_threshold.min(groups.len()));
        let threshold = threshold(&groups, wanted.or(file))?;
        let same_threshold = groups.len() <= 1 || threshold == self.meta.threshold();
        let (added, removed) = match self.key_changes(&groups) {
            None if same_threshold => return Ok(KeyUpdate::UpToDate),
            None => (Vec::new(), Vec::new()),
            Some(changes) => changes,
        };
        let key = self.data_key(identities)?;
        self.decrypt_with(&key, Mac::Verify)?;
        if groups.len() > 1 || self.meta.groups.len() > 1 {
            self.only_age("changing the groups of")?;
        }
        let mut meta = self.meta.clone();
        meta.groups = seal_key(&key, &groups, threshold)?;
        if let ([new], [old]) = (&mut meta.groups[..], &self.meta.groups[..]) {
            // The data key is the same, so what other services hold of it stays good.
            new.others.clone_from(&old.others);
        }
        meta.shamir_threshold = threshold;
        let good = |bytes: &Vec<u8>| {
            Self::parse(bytes, self.format).and_then(|file| file.decrypt_with(&key, Mac::Verify))
        };
        let bytes = match respell(self, &self.docs, &meta).filter(|bytes| good(bytes).is_ok()) {
            Some(bytes) => bytes,
            None => store::write_encrypted(self.format, &self.docs, &meta.to_items())?,
        };
        good(&bytes)?;
        Ok(KeyUpdate::Changed {
            bytes,
            added,
            removed,
        })
    }

    fn only_age(&self, what: &str) -> Result<(), Error> {
        let other = self.meta.groups.iter().flat_map(|group| &group.others);
        let mut used =
            other.filter(|(_, list)| matches!(list, Value::List(list) if !list.is_empty()));
        match used.next() {
            None => Ok(()),
            Some((name, _)) => Err(Error::BadRecipient {
                recipient: name.clone(),
                reason: format!("{what} a file with keys of this service needs sops itself"),
            }),
        }
    }
}

fn dedup(group: &mut Vec<Recipient>) {
    let mut seen = BTreeSet::new();
    group.retain(|recipient| seen.insert(recipient.clone()));
}

/// 0 for one group.
fn threshold(groups: &[Vec<Recipient>], wanted: Option<usize>) -> Result<usize, Error> {
    let refuse = |reason: &str| {
        Err(Error::BadRecipient {
            recipient: "key groups".into(),
            reason: reason.to_owned(),
        })
    };
    match (groups.len(), wanted) {
        (0, _) => refuse("there are none"),
        _ if groups.iter().any(Vec::is_empty) => refuse("a group has no recipients"),
        (1, _) => Ok(0),
        (count, _) if count > GROUPS_MAX => refuse("there are more than 255"),
        (count, None | Some(0)) => Ok(count),
        (count, Some(some)) if some >= 2 && some <= count => Ok(some),
        _ => refuse("the threshold must lie between 2 and the number of groups"),
    }
}

/// One group holds the key itself, several hold a share each.
fn seal_key(
    key: &DataKey,
    groups: &[Vec<Recipient>],
    threshold: usize,
) -> Result<Vec<Group>, Error> {
    let refuse = || Error::BadRecipient {
        recipient: "key groups".into(),
        reason: "the groups do not fit the threshold".into(),
    };
    if groups.iter().any(Vec::is_empty) {
        return Err(Error::BadRecipient {
            recipient: "key groups".into(),
            reason: "a group would have no recipients".into(),
        });
    }
    let seal_group = |share: &[u8], group: &[Recipient]| -> Result<Group, Error> {
        let age = group.iter().map(|recipient| {
            keys::seal_key(share, recipient).map(|enc| AgeKey {
                recipient: recipient.to_string(),
                enc,
            })
        });
        Ok(Group {
            age: age.collect::<Result<_, _>>()?,
            others: Vec::new(),
        })
    };
    match groups {
        [] => Err(refuse()),
        [group] => Ok(vec![seal_group(key.bytes(), group)?]),
        groups => {
            let shares = shamir::split(key.bytes(), groups.len(), threshold).ok_or_else(refuse)?;
            shares
                .iter()
                .zip(groups)
                .map(|(share, group)| seal_group(share, group))
                .collect()
        }
    }
}

fn seconds(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn version_numbers(version: &str) -> Vec<u64> {
    version
        .split(['.', '-', '+'])
        .take(3)
        .map(|part| part.parse().unwrap_or(0))
        .collect()
}

/// `["a"]["b"][0]` as sops has it, or `a/b/0`.
fn steps(path: &str) -> Result<Vec<String>, Error> {
    let bad = || Error::Lookup {
        path: path.to_owned(),
        reason: "write it as a/b/0 or [\"a\"][\"b\"][0]".into(),
    };
    if !path.starts_with('[') {
        return if path.is_empty() {
            Err(bad())
        } else {
            Ok(path.split('/').map(str::to_owned).collect())
        };
    }
    let list = store::read_json_value(&path.replace("][", ",")).map_err(|_| bad())?;
    let Value::List(steps) = list else {
        return Err(bad());
    };
    let step = |step: &Value| match step {
        Value::Int(index) => Some(index.to_string()),
        other => other.as_text().map(str::to_owned),
    };
    steps
        .iter()
        .map(step)
        .collect::<Option<Vec<_>>>()
        .filter(|steps| !steps.is_empty())
        .ok_or_else(bad)
}

fn assign(node: &mut Value, steps: &[String], value: Value, path: &str) -> Result<(), Error> {
    let fail = |reason: String| Error::Lookup {
        path: path.to_owned(),
        reason,
    };
    let Some((step, rest)) = steps.split_first() else {
        *node = value;
        return Ok(());
    };
    let child = match node {
        Value::Map(items) => {
            let at = items
                .iter()
                .position(|item| item.name() == Some(step))
                .unwrap_or_else(|| {
                    items.push(Item::named(step, Value::Map(Vec::new())));
                    items.len() - 1
                });
            &mut items[at].value
        }
        Value::List(values) => {
            let index: usize = step
                .parse()
                .map_err(|_| fail(format!("`{step}` is not an index of a list")))?;
            let shown: Vec<usize> = (0..values.len())
                .filter(|at| !values[*at].is_comment())
                .collect();
            match shown.get(index) {
                Some(at) => &mut values[*at],
                None if index == shown.len() => {
                    values.push(Value::Map(Vec::new()));
                    values
                        .last_mut()
                        .ok_or_else(|| fail("the list is empty".into()))?
                }
                None => return Err(fail(format!("the list has {} items", shown.len()))),
            }
        }
        other => {
            return Err(fail(format!(
                "`{step}` is looked for in a {}",
                other.type_name()
            )));
        }
    };
    assign(child, rest, value, path)
}
