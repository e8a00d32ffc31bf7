//! From a tree to fields, collecting every problem on the way. Knows no kind.
//!
//! Protocol: `Fields::open`, take each field by name, `Fields::close`. What was taken is what is known: a key that
//! nobody took is an unknown field.

use std::{collections::BTreeMap, ops::RangeInclusive};

use super::{
    forms::{Decode, Rule, int, wrong_type},
    problem::{Problem, ProblemKind},
    source::{Source, Span},
    tree::{Node, Value},
};
use crate::kind::Duration;

/// Where problems go while one document is read.
pub(super) struct Reader<'a> {
    pub source: &'a Source,
    /// As messages call the document: ``Host `web-1` ``.
    pub subject: String,
    pub problems: Vec<Problem>,
}

impl Reader<'_> {
    pub fn report(
        &mut self,
        kind: ProblemKind,
        at: Span,
        message: impl AsRef<str>,
        help: impl AsRef<str>,
    ) {
        self.problems
            .push(Problem::new(kind, self.source, at, message).help(help));
    }

    fn place(&self, path: &str) -> String {
        match path {
            "" | "spec" => self.subject.clone(),
            path => format!("`{path}` of {}", self.subject),
        }
    }
}

/// The fields of one mapping.
pub(super) struct Fields<'n> {
    node: &'n Node,
    path: String,
    known: Vec<&'static str>,
    later: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    pub fn open(r: &mut Reader<'_>, node: &'n Node, path: &str) -> Option<Self> {
        match &node.value {
            Value::Map(_) => Some(Self {
                node,
                path: path.to_owned(),
                known: Vec::new(),
                later: Vec::new(),
            }),
            _ => {
                wrong_type(r, node, "a mapping", "");
                None
            }
        }
    }

    /// The value of a field, which is known from here on.
    pub fn node(&mut self, name: &'static str) -> Option<&'n Node> {
        self.known.push(name);
        self.node.get(name).map(|entry| &entry.value)
    }

    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    pub fn opt<T: Decode>(&mut self, r: &mut Reader<'_>, name: &'static str) -> Option<T> {
        let node = self.node(name)?;
        T::decode(r, node, &self.path(name))
    }

    pub fn need<T: Decode>(&mut self, r: &mut Reader<'_>, name: &'static str) -> Option<T> {
        let node = self.need_node(r, name)?;
        T::decode(r, node, &self.path(name))
    }

    pub fn need_node(&mut self, r: &mut Reader<'_>, name: &'static str) -> Option<&'n Node> {
        let node = self.node(name);
        if node.is_none() && !self.misspelt(name) {
            let text = format!("{} lacks the field `{name}`", r.place(&self.path));
            r.report(
                ProblemKind::MissingField,
                self.node.at(),
                text,
                format!("add `{name}:` here"),
            );
        }
        node
    }

    /// Whether a key is there that means this field: it will be told as unknown, and once is enough.
    fn misspelt(&self, name: &str) -> bool {
        let Value::Map(entries) = &self.node.value else {
            return false;
        };
        entries
            .iter()
            .any(|e| nearest(&e.key, std::iter::once(name)).is_some())
    }

    /// A number within bounds.
    pub fn int<T: TryFrom<u64>>(
        &mut self,
        r: &mut Reader<'_>,
        name: &'static str,
        bounds: RangeInclusive<u64>,
    ) -> Option<T> {
        let node = self.node(name)?;
        int(r, node, name, &bounds).and_then(|n| T::try_from(n).ok())
    }

    /// A duration within bounds.
    pub fn duration(
        &mut self,
        r: &mut Reader<'_>,
        name: &'static str,
        bounds: RangeInclusive<u64>,
    ) -> Option<Duration> {
        let node = self.node(name)?;
        let value = Duration::decode(r, node, name)?;
        if bounds.contains(&value.as_secs()) {
            return Some(value);
        }
        let (low, high) = (
            Duration::from_secs(*bounds.start()),
            Duration::from_secs(*bounds.end()),
        );
        r.report(
            ProblemKind::OutOfRange,
            node.at(),
            format!("`{name}` is {value}"),
            format!("{low} to {high}"),
        );
        None
    }

    /// Text that a check accepts.
    pub fn text(&mut self, r: &mut Reader<'_>, name: &'static str, rule: &Rule) -> Option<String> {
        let node = self.node(name)?;
        rule.read(r, node)
    }

    /// A field that the design has and this version does not.
    pub fn later(&mut self, r: &mut Reader<'_>, name: &'static str) {
        // Known to the reader, though no help offers it.
        if let Some(entry) = self.node.get(name) {
            let text = format!("`{}` is not built yet", self.path(name));
            r.report(ProblemKind::NotYet, entry.at, text, "leave it out for now");
        }
        self.later.push(name);
    }

    /// Whether a field is there.
    pub fn has(&self, name: &str) -> bool {
        self.node.get(name).is_some()
    }

    pub fn key(&self, name: &str) -> Span {
        self.node.get(name).map_or_else(|| self.node.at(), |e| e.at)
    }

    /// Every key that nobody took is unknown, and a key given twice is once too many.
    pub fn close(self, r: &mut Reader<'_>) {
        let Value::Map(entries) = &self.node.value else {
            return;
        };
        duplicate_keys(r, self.node);
        for entry in entries.iter().filter(|e| {
            !self.known.contains(&e.key.as_str()) && !self.later.contains(&e.key.as_str())
        }) {
            let text = format!("unknown field `{}` in {}", entry.key, r.place(&self.path));
            let help = if entry.key == "<<" {
                "merge keys are not part of YAML 1.2; `defaults` and `overrides` of the Fleet do this".to_owned()
            } else {
                nearest(&entry.key, self.known.iter().copied())
                    .map(|near| format!("did you mean `{near}`?"))
                    .unwrap_or_else(|| format!("known here: {}", self.known.join(", ")))
            };
            r.report(ProblemKind::UnknownField, entry.at, text, help);
        }
    }
}

pub(super) fn duplicate_keys(r: &mut Reader<'_>, node: &Node) {
    let Value::Map(entries) = &node.value else {
        return;
    };
    let mut first: BTreeMap<&str, Span> = BTreeMap::new();
    for entry in entries {
        match first.get(entry.key.as_str()) {
            Some(at) => {
                let text = format!("`{}` is given twice", entry.key);
                r.report(
                    ProblemKind::DuplicateKey,
                    entry.at,
                    text,
                    format!("the first is in line {}", at.line),
                );
            }
            None => {
                first.insert(&entry.key, entry.at);
            }
        }
    }
}

/// The known word that somebody probably meant.
pub(super) fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['_', '-'], "");
    let given = plain(given);
    known
        .map(|word| (strsim::damerau_levenshtein(&given, &plain(word)), word))
        .filter(|(distance, word)| *distance <= (word.len().max(given.len()) / 3).max(1))
        .min()
        .map(|(_, word)| word)
}
