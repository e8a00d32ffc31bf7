//! The document model all stores share: ordered, with comments and duplicates kept. Plain text is wiped on drop and
//! never printed.

use std::fmt;

use zeroize::Zeroizing;

/// One value. `Str` is bytes because a binary file is one.
#[derive(Clone, PartialEq)]
pub enum Value {
    Null,
    Str(Zeroizing<Vec<u8>>),
    Int(i64),
    /// Above i64: YAML can say it, sops cannot encrypt it.
    Unsigned(u64),
    Float(f64),
    Bool(bool),
    /// In the canonical form that is hashed and encrypted.
    Time(String),
    Comment(Comment),
    Map(Vec<Item>),
    List(Vec<Value>),
}

/// A comment, its text from behind the mark.
#[derive(Clone, PartialEq)]
pub struct Comment {
    pub text: Zeroizing<String>,
    /// It stood on the line of the value that follows it here.
    pub inline: bool,
    /// It was sealed: `sops decrypt` prints such a one on a line of its own.
    pub opened: bool,
}

/// An entry of a map; a comment is an entry without a name.
#[derive(Clone, PartialEq, Debug)]
pub struct Item {
    pub key: Key,
    pub value: Value,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Key {
    Name(String),
    /// YAML allows keys that are numbers; sops does not.
    NotText(String),
    Comment,
}

impl Value {
    pub fn text(text: impl AsRef<[u8]>) -> Self {
        Self::Str(Zeroizing::new(text.as_ref().to_vec()))
    }

    pub(crate) fn comment(text: &str, inline: bool) -> Self {
        Self::Comment(Comment {
            text: Zeroizing::new(text.to_owned()),
            inline,
            opened: false,
        })
    }

    /// The string, when it is one and is UTF-8.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Str(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    pub fn is_comment(&self) -> bool {
        matches!(self, Self::Comment(_))
    }

    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Str(_) => "string",
            Self::Int(_) | Self::Unsigned(_) => "integer",
            Self::Float(_) => "float",
            Self::Bool(_) => "bool",
            Self::Time(_) => "time",
            Self::Comment(_) => "comment",
            Self::Map(_) => "map",
            Self::List(_) => "list",
        }
    }

    /// The bytes that are hashed and encrypted; none for null and for collections.
    pub(crate) fn canonical(&self) -> Option<Zeroizing<Vec<u8>>> {
        let bytes = match self {
            Self::Str(bytes) => return Some(bytes.clone()),
            Self::Comment(comment) => comment.text.as_bytes().to_vec(),
            Self::Int(int) => int.to_string().into_bytes(),
            Self::Unsigned(int) => int.to_string().into_bytes(),
            Self::Float(float) => float_text(*float).into_bytes(),
            Self::Bool(true) => b"True".to_vec(),
            Self::Bool(false) => b"False".to_vec(),
            Self::Time(time) => time.clone().into_bytes(),
            Self::Null | Self::Map(_) | Self::List(_) => return None,
        };
        Some(Zeroizing::new(bytes))
    }
}

impl Item {
    pub fn named(name: impl Into<String>, value: Value) -> Self {
        Self {
            key: Key::Name(name.into()),
            value,
        }
    }

    pub(crate) fn comment(text: &str, inline: bool) -> Self {
        Self {
            key: Key::Comment,
            value: Value::comment(text, inline),
        }
    }

    pub fn name(&self) -> Option<&str> {
        match &self.key {
            Key::Name(name) => Some(name),
            Key::NotText(_) | Key::Comment => None,
        }
    }
}

/// The first entry of that name.
pub(crate) fn get<'a>(items: &'a [Item], name: &str) -> Option<&'a Value> {
    items
        .iter()
        .find(|item| item.name() == Some(name))
        .map(|item| &item.value)
}

/// Shortest decimal without an exponent, infinities spelled as sops hashes them.
pub(crate) fn float_text(float: f64) -> String {
    if float.is_infinite() {
        return if float > 0.0 {
            "+Inf".into()
        } else {
            "-Inf".into()
        };
    }
    format!("{float}")
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Map(items) => f.debug_list().entries(items).finish(),
            Self::List(items) => f.debug_list().entries(items).finish(),
            _ => f.write_str("<redacted>"),
        }
    }
}

impl fmt::Debug for Comment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}
