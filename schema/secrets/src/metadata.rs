//! The `sops` block: who holds the data key, the MAC, the rule. Keys of services other than age are kept, never used.

use crate::error::Error;
use crate::scope::{RULE_NAMES, ScopeRule};
use crate::time;
use crate::value::{Item, Value, get};

const FLAT_GROUP: [&str; 7] = [
    "age", "pgp", "kms", "gcp_kms", "azure_kv", "hc_vault", "hckms",
];

/// A recipient and the data key (or a share of it) sealed to it.
#[derive(Debug, Clone, PartialEq)]
pub struct AgeKey {
    pub recipient: String,
    pub enc: String,
}

/// Keys any of which gives the group's share.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Group {
    pub age: Vec<AgeKey>,
    /// (service, list), as read.
    pub others: Vec<(String, Value)>,
}

/// The metadata of one file.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    pub groups: Vec<Group>,
    /// 0 when the file names none.
    pub shamir_threshold: usize,
    pub lastmodified: String,
    pub mac: String,
    pub mac_only_encrypted: bool,
    pub rule: ScopeRule,
    pub version: String,
    /// Keys that sops of today does not know.
    pub unknown: Vec<(String, Value)>,
}

impl Metadata {
    pub(crate) fn from_items(items: &[Item]) -> Result<Self, Error> {
        let rule = ScopeRule::from_fields(RULE_NAMES.into_iter().filter_map(|name| {
            get(items, name)
                .and_then(Value::as_text)
                .map(|text| (name, text))
        }))
        .map_err(Error::metadata)?;
        let groups = groups(items)?;
        let lastmodified = text(items, "lastmodified")?.unwrap_or_default();
        if time::rfc3339_seconds(&lastmodified).is_none() {
            return Err(Error::metadata("`lastmodified` is not an RFC 3339 time"));
        }
        let version = text(items, "version")?.unwrap_or_default();
        if !is_version(&version) {
            return Err(Error::metadata("`version` is missing or not a version"));
        }
        let known = |name: &str| {
            FLAT_GROUP.contains(&name)
                || RULE_NAMES.contains(&name)
                || [
                    "key_groups",
                    "shamir_threshold",
                    "lastmodified",
                    "mac",
                    "mac_only_encrypted",
                    "version",
                ]
                .contains(&name)
        };
        let unknown = items
            .iter()
            .filter_map(|item| Some((item.name()?, &item.value)));
        Ok(Self {
            groups,
            shamir_threshold: threshold(items)?,
            lastmodified,
            mac: text(items, "mac")?.unwrap_or_default(),
            mac_only_encrypted: flag(items, "mac_only_encrypted")?,
            rule,
            version,
            unknown: unknown
                .filter(|(name, _)| !known(name))
                .map(|(name, value)| (name.to_owned(), value.clone()))
                .collect(),
        })
    }

    /// The additional data of the MAC.
    pub(crate) fn mac_aad(&self) -> String {
        time::rfc3339_seconds(&self.lastmodified).unwrap_or_default()
    }

    /// How many groups are needed.
    pub(crate) fn threshold(&self) -> usize {
        match self.shamir_threshold {
            _ if self.groups.len() <= 1 => 1,
            0 => self.groups.len(),
            some => some,
        }
    }

    pub(crate) fn to_items(&self) -> Vec<Item> {
        let mut items: Vec<Item> = self
            .unknown
            .iter()
            .map(|(name, value)| Item::named(name, value.clone()))
            .collect();
        let mut put = |name: &str, value| items.push(Item::named(name, value));
        match &self.groups[..] {
            [group] => group_items(group, false)
                .into_iter()
                .for_each(|item| put(item.name().unwrap_or_default(), item.value.clone())),
            groups => {
                put(
                    "key_groups",
                    Value::List(
                        groups
                            .iter()
                            .map(|group| Value::Map(group_items(group, true)))
                            .collect(),
                    ),
                );
                if self.shamir_threshold != 0 {
                    put(
                        "shamir_threshold",
                        Value::Int(i64::try_from(self.shamir_threshold).unwrap_or(i64::MAX)),
                    );
                }
            }
        }
        put("lastmodified", Value::text(&self.lastmodified));
        if !self.mac.is_empty() {
            put("mac", Value::text(&self.mac));
        }
        if self.mac_only_encrypted {
            put("mac_only_encrypted", Value::Bool(true));
        }
        if let Some((name, text)) = self.rule.field() {
            put(name, Value::text(text));
        }
        put("version", Value::text(&self.version));
        items.sort_by(|a, b| a.name().cmp(&b.name()));
        items
    }
}

fn groups(items: &[Item]) -> Result<Vec<Group>, Error> {
    let flat = group(items)?;
    if !flat.age.is_empty()
        || flat
            .others
            .iter()
            .any(|(_, list)| matches!(list, Value::List(list) if !list.is_empty()))
    {
        return Ok(vec![flat]);
    }
    let groups = match get(items, "key_groups") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::List(list)) => list
            .iter()
            .filter(|value| !value.is_comment())
            .map(|value| match value {
                Value::Map(items) => group(items),
                _ => Err(Error::metadata("a key group is not a map")),
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(Error::metadata("`key_groups` is not a list")),
    };
    if groups.is_empty() {
        return Err(Error::metadata("no keys found in file"));
    }
    Ok(groups)
}

fn group(items: &[Item]) -> Result<Group, Error> {
    let mut group = Group::default();
    for name in FLAT_GROUP {
        match (name, get(items, name)) {
            (_, None | Some(Value::Null)) => {}
            ("age", Some(Value::List(list))) => {
                group.age = list
                    .iter()
                    .filter(|value| !value.is_comment())
                    .map(age_key)
                    .collect::<Result<_, _>>()?;
            }
            (_, Some(list @ Value::List(_))) => group.others.push((name.to_owned(), list.clone())),
            (name, Some(_)) => return Err(Error::metadata(format!("`{name}` is not a list"))),
        }
    }
    Ok(group)
}

fn age_key(value: &Value) -> Result<AgeKey, Error> {
    let Value::Map(items) = value else {
        return Err(Error::metadata("an entry of `age` is not a map"));
    };
    let field = |name| text(items, name).map(Option::unwrap_or_default);
    Ok(AgeKey {
        recipient: field("recipient")?,
        enc: field("enc")?,
    })
}

fn group_items(group: &Group, in_list: bool) -> Vec<Item> {
    let keys = group.age.iter().map(|key| {
        Value::Map(vec![
            Item::named("enc", Value::text(&key.enc)),
            Item::named("recipient", Value::text(&key.recipient)),
        ])
    });
    let mut items = Vec::new();
    if !group.age.is_empty() {
        items.push(Item::named("age", Value::List(keys.collect())));
    }
    items.extend(
        group
            .others
            .iter()
            .map(|(name, list)| Item::named(name, list.clone())),
    );
    if in_list && get(&items, "hc_vault").is_none() {
        items.push(Item::named("hc_vault", Value::List(Vec::new())));
    }
    items.sort_by(|a, b| a.name().cmp(&b.name()));
    items
}

fn text(items: &[Item], name: &str) -> Result<Option<String>, Error> {
    match get(items, name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value {
            Value::Str(_) => value.as_text().map(|text| Some(text.to_owned())),
            // Scalars are weakly typed there, but a YAML timestamp is a type of its own and refused.
            Value::Int(int) => Some(Some(int.to_string())),
            Value::Float(float) => Some(Some(float.to_string())),
            _ => None,
        }
        .ok_or_else(|| Error::metadata(format!("`{name}` is not a string"))),
    }
}

fn flag(items: &[Item], name: &str) -> Result<bool, Error> {
    match get(items, name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(Value::Int(int)) => Ok(*int != 0),
        Some(value) => match value.as_text() {
            Some("" | "0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(false),
            Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(true),
            _ => Err(Error::metadata(format!("`{name}` is not a bool"))),
        },
    }
}

fn threshold(items: &[Item]) -> Result<usize, Error> {
    let number = match get(items, "shamir_threshold") {
        None | Some(Value::Null) => Some(0),
        Some(Value::Int(int)) => Some(*int),
        Some(value) => value.as_text().and_then(|text| text.parse().ok()),
    };
    number
        .and_then(|number| usize::try_from(number).ok())
        .ok_or_else(|| Error::metadata("`shamir_threshold` is not a number"))
}

/// Three numbers, perhaps with a pre-release behind.
fn is_version(text: &str) -> bool {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<&str> = core.split('.').collect();
    parts.len() == 3
        && parts
            .iter()
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}
