//! The five formats, each to and from the one document model. Where the `sops` block lives in a file is known here only.

mod dotenv;
mod ini;
mod json;
mod splice;
mod yaml_read;
mod yaml_scalar;
mod yaml_write;

use std::fmt;

use crate::error::Error;
use crate::flat;
use crate::value::{Item, Value};

pub(crate) use json::{
    read_value as read_json_value, reindent as reindent_json, to_text as json_text,
};
pub(crate) use splice::splice;
pub(crate) use yaml_write::Inline;

/// A format of files that sops encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Yaml,
    Json,
    Dotenv,
    Ini,
    Binary,
}

impl Format {
    /// By the end of a file's name, as sops chooses.
    pub fn of_path(path: &str) -> Self {
        match path.rsplit_once('.').map(|(_, extension)| extension) {
            Some("yaml" | "yml") => Self::Yaml,
            Some("json") => Self::Json,
            Some("env") => Self::Dotenv,
            Some("ini") => Self::Ini,
            _ => Self::Binary,
        }
    }

    /// By the name that people write.
    pub fn named(name: &str) -> Option<Self> {
        [
            Self::Yaml,
            Self::Json,
            Self::Dotenv,
            Self::Ini,
            Self::Binary,
        ]
        .into_iter()
        .find(|format| format.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Yaml => "yaml",
            Self::Json => "json",
            Self::Dotenv => "dotenv",
            Self::Ini => "ini",
            Self::Binary => "binary",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

pub(crate) type Docs = Vec<Vec<Item>>;

/// Reads plain text.
pub(crate) fn read_plain(format: Format, bytes: &[u8]) -> Result<Docs, Error> {
    bounded(format, bytes)?;
    match format {
        Format::Binary => Ok(vec![vec![Item::named("data", Value::text(bytes))]]),
        _ => read(format, bytes),
    }
}

/// Reads an encrypted file: its content, and its metadata when there is some.
pub(crate) fn read_encrypted(
    format: Format,
    bytes: &[u8],
) -> Result<(Docs, Option<Vec<Item>>), Error> {
    bounded(format, bytes)?;
    let mut docs = read(format, bytes)?;
    let meta = take_metadata(format, &mut docs)?;
    Ok((docs, meta))
}

fn bounded(format: Format, bytes: &[u8]) -> Result<(), Error> {
    if bytes.len() > crate::INPUT_BYTES_MAX {
        return Err(Error::Parse {
            format,
            line: 0,
            reason: "the file is larger than is reasonable".into(),
        });
    }
    Ok(())
}

fn read(format: Format, bytes: &[u8]) -> Result<Docs, Error> {
    match format {
        Format::Yaml => yaml_read::read(bytes),
        Format::Json | Format::Binary => json::read(format, bytes).map(|doc| vec![doc]),
        Format::Dotenv => dotenv::read(bytes).map(|doc| vec![doc]),
        Format::Ini => ini::read(bytes).map(|doc| vec![doc]),
    }
}

/// Whether plain text holds what would be taken for metadata.
pub(crate) fn has_metadata(format: Format, docs: &Docs) -> bool {
    let first = docs.first().map(Vec::as_slice).unwrap_or_default();
    match format {
        Format::Binary => false,
        Format::Dotenv => first
            .iter()
            .any(|item| item.name().is_some_and(|name| name.starts_with("sops_"))),
        Format::Yaml | Format::Json | Format::Ini => {
            first.iter().any(|item| item.name() == Some("sops"))
        }
    }
}

fn take_metadata(format: Format, docs: &mut Docs) -> Result<Option<Vec<Item>>, Error> {
    if format == Format::Dotenv {
        return take_dotenv(docs);
    }
    let mut found = None;
    for (number, doc) in docs.iter_mut().enumerate() {
        let (taken, kept) = std::mem::take(doc)
            .into_iter()
            .partition(|item| item.name() == Some("sops"));
        *doc = kept;
        let taken: Vec<Item> = taken;
        if number == 0 {
            if taken.len() > 1 {
                return Err(Error::metadata("there are two `sops` entries"));
            }
            found = taken.into_iter().next().map(|item| item.value);
        }
    }
    match (format, found) {
        // `sops: null` is as if there were none.
        (_, None | Some(Value::Null)) => Ok(None),
        (Format::Ini, Some(Value::Map(items))) => {
            let pairs: Vec<_> = items
                .iter()
                .filter_map(|item| Some((item.name()?.to_owned(), unescape(&item.value))))
                .collect();
            flat::unflatten(&pairs).map(Some)
        }
        (_, Some(Value::Map(items))) => Ok(Some(items)),
        (_, Some(_)) => Err(Error::metadata("the `sops` entry is not a map")),
    }
}

fn take_dotenv(docs: &mut Docs) -> Result<Option<Vec<Item>>, Error> {
    let Some(doc) = docs.first_mut() else {
        return Ok(None);
    };
    let is_meta = |item: &Item| item.name().is_some_and(|name| name.starts_with("sops_"));
    let (taken, kept): (Vec<Item>, Vec<Item>) = std::mem::take(doc).into_iter().partition(is_meta);
    *doc = kept;
    if taken.is_empty() {
        return Ok(None);
    }
    let pairs = taken
        .into_iter()
        .filter_map(|item| Some((item.name()?.strip_prefix("sops_")?.to_owned(), item.value)));
    flat::unflatten(&pairs.collect::<Vec<_>>()).map(Some)
}

/// ini: line ends as two characters; 3.13.0 escaped them once more than its successors.
fn unescape(value: &Value) -> Value {
    match value.as_text() {
        Some(text) => Value::text(text.replace("\\\\n", "\n").replace("\\n", "\n")),
        None => value.clone(),
    }
}

/// Prints plain text.
pub(crate) fn write_plain(
    format: Format,
    docs: &[Vec<Item>],
    inline: Inline,
) -> Result<Vec<u8>, Error> {
    let first = docs.first().map(Vec::as_slice).unwrap_or_default();
    match format {
        Format::Binary => match crate::value::get(first, "data") {
            Some(Value::Str(bytes)) => Ok(bytes.to_vec()),
            Some(other) => Ok(other
                .canonical()
                .map(|bytes| bytes.to_vec())
                .unwrap_or_default()),
            None => Err(Error::Lookup {
                path: "data".into(),
                reason: "there is no such key".into(),
            }),
        },
        _ => write(format, docs, None, inline),
    }
}

/// Prints an encrypted file with its metadata.
pub(crate) fn write_encrypted(
    format: Format,
    docs: &[Vec<Item>],
    meta: &[Item],
) -> Result<Vec<u8>, Error> {
    write(format, docs, Some(meta), Inline::Keep)
}

fn write(
    format: Format,
    docs: &[Vec<Item>],
    meta: Option<&[Item]>,
    inline: Inline,
) -> Result<Vec<u8>, Error> {
    let with_block = |doc: &[Item], block: Option<Vec<Item>>| {
        let mut doc = doc.to_vec();
        doc.extend(block.map(|items| Item::named("sops", Value::Map(items))));
        doc
    };
    let first = docs.first().map(Vec::as_slice).unwrap_or_default();
    let text = match format {
        Format::Yaml => {
            let docs: Vec<_> = docs
                .iter()
                .map(|doc| with_block(doc, meta.map(<[Item]>::to_vec)))
                .collect();
            yaml_write::write(&docs, inline)
        }
        Format::Json | Format::Binary => {
            json::to_text(&with_block(first, meta.map(<[Item]>::to_vec))) + "\n"
        }
        Format::Dotenv => {
            let mut doc = first.to_vec();
            let pairs = meta.map(flat::flatten).unwrap_or_default();
            doc.extend(
                pairs
                    .into_iter()
                    .map(|(key, value)| Item::named(format!("sops_{key}"), value)),
            );
            return dotenv::write(&doc);
        }
        Format::Ini => {
            let block = meta.map(|items| {
                let escape = |value: Value| match value.as_text() {
                    Some(text) => Value::text(text.replace('\n', "\\n")),
                    None => value,
                };
                flat::flatten(items)
                    .into_iter()
                    .map(|(key, value)| Item::named(key, escape(value)))
                    .collect()
            });
            return ini::write(&with_block(first, block));
        }
    };
    Ok(text.into_bytes())
}
