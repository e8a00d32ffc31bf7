//! From a tree to fields, collecting every problem on the way. Knows the forms of values, and no kind.
//!
//! Protocol: `Fields::open`, take each field by name, `Fields::close`. What was taken is what is known: a key that
//! nobody took is an unknown field.

use std::{collections::BTreeMap, ops::RangeInclusive, str::FromStr};

use super::{
    problem::{Problem, ProblemKind},
    source::{Source, Span},
    tree::{Meaning, Node, Value},
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
        if node.is_none() {
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

/// A value that a node may hold.
pub(super) trait Decode: Sized {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self>;
}

/// What a value is, for people.
fn what(node: &Node) -> &'static str {
    match (&node.value, node.meaning()) {
        (Value::List(_), _) => "a list",
        (Value::Map(_), _) => "a mapping",
        (_, Some(Meaning::Null)) => "nothing",
        (_, Some(Meaning::Bool(_))) => "true or false",
        (_, Some(Meaning::Integer | Meaning::Float)) => "a number",
        _ => "text",
    }
}

pub(super) fn wrong_type(r: &mut Reader<'_>, node: &Node, wanted: &str, help: &str) {
    if node.meaning() == Some(Meaning::Null) {
        let help = format!("give it {wanted}, or leave the field out");
        r.report(
            ProblemKind::NoValue,
            node.at(),
            "the field has no value",
            help,
        );
        return;
    }
    let text = format!("{wanted} is expected, and this is {}", what(node));
    r.report(ProblemKind::WrongType, node.at(), text, help);
}

impl Decode for String {
    fn decode(r: &mut Reader<'_>, node: &Node, _: &str) -> Option<Self> {
        match (&node.value, node.meaning()) {
            (Value::Scalar { text, .. }, Some(Meaning::Text)) => Some(text.clone()),
            (Value::Scalar { text, .. }, _) => {
                wrong_type(r, node, "text", &format!("write it in quotes: \"{text}\""));
                None
            }
            _ => {
                wrong_type(r, node, "text", "");
                None
            }
        }
    }
}

impl Decode for bool {
    fn decode(r: &mut Reader<'_>, node: &Node, _: &str) -> Option<Self> {
        if let Some(Meaning::Bool(value)) = node.meaning() {
            return Some(value);
        }
        wrong_type(
            r,
            node,
            "true or false",
            "write `true` or `false`, without quotes",
        );
        None
    }
}

/// At most so many items in any list: a list is written by a person.
const ITEMS_MAX: usize = 1000;

impl<T: Decode> Decode for Vec<T> {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let Value::List(items) = &node.value else {
            wrong_type(
                r,
                node,
                "a list",
                "write it as `[a, b]`, or one item a line after `- `",
            );
            return None;
        };
        if items.len() > ITEMS_MAX {
            let text = format!(
                "a list has at most {ITEMS_MAX} items, and this one {}",
                items.len()
            );
            r.report(ProblemKind::OutOfRange, node.at(), text, "");
            return None;
        }
        let mut whole = true;
        let mut values = Vec::with_capacity(items.len());
        for (n, item) in items.iter().enumerate() {
            match T::decode(r, item, &format!("{path}[{n}]")) {
                Some(value) => values.push(value),
                None => whole = false,
            }
        }
        whole.then_some(values)
    }
}

/// A list of words, each once.
pub(super) fn once_each(r: &mut Reader<'_>, node: Option<&Node>) {
    let Some(Node {
        value: Value::List(items),
        ..
    }) = node
    else {
        return;
    };
    let mut seen = BTreeMap::new();
    for item in items {
        let Value::Scalar { text, .. } = &item.value else {
            continue;
        };
        if let Some(line) = seen.insert(text, item.span.line) {
            let text = format!("`{text}` is in the list twice");
            r.report(
                ProblemKind::DuplicateItem,
                item.at(),
                text,
                format!("the first is in line {line}"),
            );
        }
    }
}

fn int(r: &mut Reader<'_>, node: &Node, name: &str, bounds: &RangeInclusive<u64>) -> Option<u64> {
    let (Value::Scalar { text, .. }, Some(Meaning::Integer)) = (&node.value, node.meaning()) else {
        wrong_type(
            r,
            node,
            "a whole number",
            "write it without quotes, point or leading zeros",
        );
        return None;
    };
    match text.parse::<u64>() {
        Ok(n) if bounds.contains(&n) => Some(n),
        _ => {
            let help = format!("{} to {}", bounds.start(), bounds.end());
            r.report(
                ProblemKind::OutOfRange,
                node.at(),
                format!("`{name}` is {text}"),
                help,
            );
            None
        }
    }
}

/// A number that stands in a list or is needed.
pub(super) fn need_int<T: TryFrom<u64>>(
    fields: &mut Fields<'_>,
    r: &mut Reader<'_>,
    name: &'static str,
    bounds: RangeInclusive<u64>,
) -> Option<T> {
    let node = fields.need_node(r, name)?;
    int(r, node, name, &bounds).and_then(|n| T::try_from(n).ok())
}

/// A form of text: which rule it is, and how it looks when it is right.
pub(super) struct Rule {
    pub kind: ProblemKind,
    pub what: &'static str,
    pub help: &'static str,
    pub check: fn(&str) -> bool,
}

impl Rule {
    pub fn read(&self, r: &mut Reader<'_>, node: &Node) -> Option<String> {
        let text = String::decode(r, node, "")?;
        if (self.check)(&text) {
            return Some(text);
        }
        r.report(
            self.kind,
            node.at(),
            format!("`{text}` is not {}", self.what),
            self.help,
        );
        None
    }
}

/// A value that parses itself. A number where text with a form is wanted is first of all a wrong form.
pub(super) fn form<T: FromStr>(
    r: &mut Reader<'_>,
    node: &Node,
    kind: ProblemKind,
    help: &str,
) -> Option<T>
where
    T::Err: std::fmt::Display,
{
    let Value::Scalar { text, .. } = &node.value else {
        wrong_type(r, node, "text", help);
        return None;
    };
    if node.meaning() == Some(Meaning::Null) {
        wrong_type(r, node, "text", help);
        return None;
    }
    match text.parse::<T>() {
        Err(error) => {
            r.report(kind, node.at(), error.to_string(), help);
            None
        }
        // Right in form, but `true` or a number to every other reader of YAML.
        Ok(_) if node.meaning() != Some(Meaning::Text) => String::decode(r, node, "").and(None),
        Ok(value) => Some(value),
    }
}

macro_rules! forms {
    ($($type:ty, $kind:ident, $help:literal;)+) => {
        $(impl Decode for $type {
            fn decode(r: &mut Reader<'_>, node: &Node, _: &str) -> Option<Self> {
                form(r, node, ProblemKind::$kind, $help)
            }
        })+
    };
}

forms! {
    Duration, BadDuration, "write a whole number and s, m or h: `90s`, `5m`, `2h`";
    crate::kind::Selector, BadSelector, "write terms joined by commas: `role=web`, `env!=dev`, `gpu`, `!gpu`; `*` is every host";
    crate::kind::HostKey, BadHostKey, "copy it from the host's /etc/ssh/ssh_host_ed25519_key.pub";
    crate::kind::Jump, BadJump, "write `[user@]host[:port]`";
    crate::Address, BadAddress, "write an IP address or a host name; user and port belong to `ssh`";
    crate::System, BadSystem, "write it as Nix does: `x86_64-linux`, `aarch64-linux`";
    crate::HostName, BadName, "a DNS label: lower-case letters, digits and inner `-`, at most 63";
}

/// A choice among words.
pub(super) fn word<T: Copy>(
    r: &mut Reader<'_>,
    node: &Node,
    words: &[(&'static str, T)],
    not_yet: &[&str],
) -> Option<T> {
    let Value::Scalar { text, .. } = &node.value else {
        wrong_type(r, node, "a word", &one_of(words, not_yet));
        return None;
    };
    if node.meaning() == Some(Meaning::Null) {
        wrong_type(r, node, "a word", &one_of(words, not_yet));
        return None;
    }
    if not_yet.contains(&text.as_str()) {
        let help = format!("this version has: {}", built(words, not_yet));
        r.report(
            ProblemKind::NotYet,
            node.at(),
            format!("`{text}` is not built yet"),
            help,
        );
        return None;
    }
    if let Some((_, value)) = words.iter().find(|(w, _)| w == text) {
        return Some(*value);
    }
    let all: Vec<_> = words.iter().map(|(w, _)| *w).collect();
    let help = match nearest(text, all.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => one_of(words, not_yet),
    };
    r.report(
        ProblemKind::UnknownWord,
        node.at(),
        format!("`{text}` is none of the words of this field"),
        help,
    );
    None
}

fn built<T>(words: &[(&'static str, T)], not_yet: &[&str]) -> String {
    let built: Vec<_> = words
        .iter()
        .map(|(w, _)| *w)
        .filter(|w| !not_yet.contains(w))
        .collect();
    built.join(", ")
}

fn one_of<T>(words: &[(&'static str, T)], not_yet: &[&str]) -> String {
    format!("one of: {}", built(words, not_yet))
}

macro_rules! word_fields {
    ($($type:ident),+ $(,)?) => {
        $(impl Decode for crate::kind::$type {
            fn decode(r: &mut Reader<'_>, node: &Node, _: &str) -> Option<Self> {
                word(r, node, Self::WORDS, Self::NOT_YET)
            }
        })+
    };
}

word_fields!(
    Adopt,
    Confirm,
    Delivery,
    DiscoverFrom,
    DriftPolicy,
    FailedUnitsPolicy,
    Mode,
    OnTimeout,
    Reboot,
    Severity,
    Signatures,
);
