//! Values of manifests: text, numbers, lists, words, and values that parse themselves. Each says what it wants instead.

use std::{collections::BTreeMap, ops::RangeInclusive, str::FromStr};

use super::{
    decode::{Fields, Reader, nearest},
    problem::ProblemKind,
    tree::{Meaning, Node, Value},
};
use crate::kind::Duration;

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
    if matches!(node.value, Value::Broken) {
        return;
    }
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

pub(super) fn int(
    r: &mut Reader<'_>,
    node: &Node,
    name: &str,
    bounds: &RangeInclusive<u64>,
) -> Option<u64> {
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
    crate::kind::RebootWindow, BadWindow, "write hours in UTC, with days before them or without: `02:00-04:30`, `sat,sun 22:00-02:00`, `mon-fri 03:00-04:00`";
    crate::kind::HostKey, BadHostKey, "copy it from the host's /etc/ssh/ssh_host_ed25519_key.pub";
    crate::kind::Jump, BadJump, "write `[user@]host[:port]`";
    crate::Address, BadAddress, "write an IP address or a host name; user and port belong to `ssh`";
    crate::System, BadSystem, "write it as Nix does: `x86_64-linux`, `aarch64-linux`";
    crate::kind::FileMode, BadMode, "octal and in quotes: \"0400\", \"0440\"";
    crate::kind::PublicKey, BadPublicKey, "`age1…`, `ssh-ed25519 AAAA…` or `ssh-rsa AAAA…`, as `age-keygen -y` or ssh-keygen print it";
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
    SecretFormat,
    Severity,
    Signatures,
    UnconfirmedBoot,
);
