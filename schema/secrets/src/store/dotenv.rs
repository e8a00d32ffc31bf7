//! dotenv as sops reads it: no quotes, no expansion; the only escape is `\n`.

use crate::error::Error;
use crate::store::Format;
use crate::value::{Item, Value};

pub(super) fn read(bytes: &[u8]) -> Result<Vec<Item>, Error> {
    let mut items = Vec::new();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        if let [b'#', text @ ..] = line {
            items.push(Item::comment(&String::from_utf8_lossy(text), false));
            continue;
        }
        let bad = |reason: &str| Error::Parse {
            format: Format::Dotenv,
            line: number + 1,
            reason: reason.to_owned(),
        };
        let at = line
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or_else(|| bad("there is no `=`"))?;
        let key = std::str::from_utf8(&line[..at]).map_err(|_| bad("the key is not UTF-8"))?;
        items.push(Item::named(
            key,
            Value::Str(zeroize::Zeroizing::new(replace(
                &line[at + 1..],
                b"\\n",
                b"\n",
            ))),
        ));
    }
    Ok(items)
}

pub(super) fn write(items: &[Item]) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    for item in items {
        if let Value::Comment(comment) = &item.value {
            out.push(b'#');
            out.extend(comment.text.replace('\n', "\\n").as_bytes());
            out.push(b'\n');
            continue;
        }
        let key = item.name().unwrap_or_default();
        let bad = |reason| Error::Unsupported {
            path: key.to_owned(),
            reason,
        };
        if key.contains(['\n', '='])
            || key.starts_with('#')
            || (key.is_empty() && item.value == Value::Null)
        {
            return Err(bad("dotenv cannot hold this key"));
        }
        let value = item
            .value
            .canonical()
            .ok_or_else(|| bad("dotenv holds single values only"))?;
        out.extend(key.as_bytes());
        out.push(b'=');
        out.extend(replace(&value, b"\n", b"\\n"));
        out.push(b'\n');
    }
    Ok(out)
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        if rest.starts_with(from) {
            out.extend(to);
            rest = &rest[from.len()..];
        } else {
            out.push(rest[0]);
            rest = &rest[1..];
        }
    }
    out
}
