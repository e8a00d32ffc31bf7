//! `.sops.yaml`: which recipients and which scope a new file at a path gets; and such a file written for people who use
//! sops itself. Finding the file is the caller's business.

use crate::error::Error;
use crate::keys::Recipient;
use crate::scope::{RULE_NAMES, ScopeRule, compile};
use crate::store::{self, Format};
use crate::value::{Item, Value, get};

/// Merges within merges deeper than this are a mistake.
const MERGE_DEPTH_MAX: usize = 8;

/// The rules of one `.sops.yaml`, in order. They are judged when they are reached, as sops does.
#[derive(Debug, Clone)]
pub struct CreationRules(Vec<Vec<Item>>);

/// What a file at a path gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreationRule {
    pub groups: Vec<Vec<Recipient>>,
    pub shamir_threshold: Option<usize>,
    pub rule: ScopeRule,
    pub mac_only_encrypted: bool,
}

impl CreationRules {
    /// `None` when the file has no `creation_rules` at all: that is as if there were no file.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, Error> {
        let (docs, _) = store::read_encrypted(Format::Yaml, bytes)?;
        let Some(list) = docs.first().and_then(|doc| get(doc, "creation_rules")) else {
            return Ok(None);
        };
        let Value::List(rules) = list else {
            return Err(bad("`creation_rules` is not a list"));
        };
        let rules = rules
            .iter()
            .filter(|rule| !rule.is_comment())
            .map(|rule| match rule {
                Value::Map(items) => Ok(items.clone()),
                _ => Err(bad("a rule is not a map")),
            });
        rules
            .collect::<Result<_, _>>()
            .map(|rules| Some(Self(rules)))
    }

    /// The first rule whose `path_regex` is found in `path`, which is relative to the folder of the `.sops.yaml`.
    pub fn for_path(&self, path: &str) -> Result<CreationRule, Error> {
        for rule in &self.0 {
            let pattern = get(rule, "path_regex")
                .and_then(Value::as_text)
                .unwrap_or_default();
            if pattern.is_empty() || compile(pattern).map_err(bad)?.is_match(path) {
                return read_rule(rule);
            }
        }
        Err(bad("no matching creation rules found"))
    }
}

fn bad(reason: impl Into<String>) -> Error {
    Error::CreationRules {
        reason: reason.into(),
    }
}

fn read_rule(rule: &[Item]) -> Result<CreationRule, Error> {
    let fields = RULE_NAMES.into_iter().filter_map(|name| {
        get(rule, name)
            .and_then(Value::as_text)
            .map(|text| (name, text))
    });
    let scope = ScopeRule::from_fields(fields).map_err(bad)?;
    let groups = match get(rule, "key_groups") {
        Some(Value::List(groups)) if !groups.is_empty() => {
            let groups = groups.iter().filter(|group| !group.is_comment());
            groups
                .map(|group| read_group(group, 0))
                .collect::<Result<_, _>>()?
        }
        None | Some(Value::Null | Value::List(_)) => vec![read_keys(rule)?],
        Some(_) => return Err(bad("`key_groups` is not a list")),
    };
    let shamir_threshold = match get(rule, "shamir_threshold") {
        None | Some(Value::Null) => None,
        Some(Value::Int(number)) => {
            Some(usize::try_from(*number).map_err(|_| bad("`shamir_threshold` is negative"))?)
        }
        Some(_) => return Err(bad("`shamir_threshold` is not a number")),
    };
    let mac_only_encrypted = matches!(get(rule, "mac_only_encrypted"), Some(Value::Bool(true)));
    Ok(CreationRule {
        groups,
        shamir_threshold,
        rule: scope,
        mac_only_encrypted,
    })
}

fn read_group(group: &Value, depth: usize) -> Result<Vec<Recipient>, Error> {
    let Value::Map(items) = group else {
        return Err(bad("a key group is not a map"));
    };
    if depth > MERGE_DEPTH_MAX {
        return Err(bad("`merge` is nested too deeply"));
    }
    let mut all = Vec::new();
    if let Some(Value::List(merged)) = get(items, "merge") {
        for group in merged.iter().filter(|group| !group.is_comment()) {
            all.extend(read_group(group, depth + 1)?);
        }
    }
    all.extend(read_keys(items)?);
    let mut unique: Vec<Recipient> = Vec::new();
    for recipient in all {
        if !unique.contains(&recipient) {
            unique.push(recipient);
        }
    }
    Ok(unique)
}

/// `age`: a list, or one string with commas.
fn read_keys(items: &[Item]) -> Result<Vec<Recipient>, Error> {
    let texts: Vec<String> = match get(items, "age") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::List(list)) => {
            let texts = list
                .iter()
                .filter(|value| !value.is_comment())
                .map(|value| value.as_text().map(str::to_owned));
            texts
                .collect::<Option<_>>()
                .ok_or_else(|| bad("`age` holds something that is not a string"))?
        }
        Some(value) => vec![
            value
                .as_text()
                .ok_or_else(|| bad("`age` is not a string"))?
                .to_owned(),
        ],
    };
    let parts = texts
        .iter()
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts.map(Recipient::parse).collect()
}

/// A `.sops.yaml` that gives each path its groups, most special first as given.
pub fn generate(files: &[(String, Vec<Vec<Recipient>>)]) -> Result<Vec<u8>, Error> {
    let group = |group: &Vec<Recipient>| {
        let keys = group
            .iter()
            .map(|recipient| Value::text(recipient.as_str()))
            .collect();
        Value::Map(vec![Item::named("age", Value::List(keys))])
    };
    let rules = files.iter().map(|(path, groups)| {
        let pattern = Value::text(format!("^{}$", regex::escape(path)));
        let groups = Value::List(groups.iter().map(group).collect());
        Value::Map(vec![
            Item::named("path_regex", pattern),
            Item::named("key_groups", groups),
        ])
    });
    let doc = vec![Item::named("creation_rules", Value::List(rules.collect()))];
    store::write_plain(Format::Yaml, &[doc], store::Inline::Keep)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_rules_are_found_again() {
        let (_, recipient) = crate::generate_identity();
        let files = vec![("a/b.yaml".to_owned(), vec![vec![recipient.clone()]])];
        let rules = CreationRules::parse(&generate(&files).expect("prints"))
            .expect("parses")
            .expect("has rules");
        assert_eq!(
            rules.for_path("a/b.yaml").expect("matches").groups,
            vec![vec![recipient]]
        );
        assert!(rules.for_path("a/bxyaml").is_err());
    }

    #[test]
    fn a_file_without_rules_is_no_file() {
        assert!(
            CreationRules::parse(b"stores: {}\n")
                .expect("parses")
                .is_none()
        );
        let empty = CreationRules::parse(b"creation_rules: []\n")
            .expect("parses")
            .expect("has rules");
        assert!(empty.for_path("x").is_err());
    }
}
