//! INI as go-ini reads and writes it, with its quirks: `;` and `#` end a value, quotes are stripped, sections may repeat.

use crate::error::Error;
use crate::store::Format;
use crate::value::{Item, Value};

const DEFAULT: &str = "DEFAULT";

pub(super) fn read(bytes: &[u8]) -> Result<Vec<Item>, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| bad(1, "it is not UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut sections: Vec<Item> = vec![];
    let mut current: Vec<Item> = Vec::new();
    let mut name = DEFAULT.to_owned();
    let mut comment = String::new();
    let mut lines = text
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .enumerate();
    while let Some((number, line)) = lines.next() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        if line.starts_with(['#', ';']) {
            join(&mut comment, line);
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            let end = rest
                .rfind(']')
                .ok_or_else(|| bad(number + 1, "a section header without `]`"))?;
            close(&mut sections, &name, &mut current);
            name = rest[..end].to_owned();
            if name.is_empty() {
                return Err(bad(number + 1, "a section without a name"));
            }
            if let Some(at) = rest[end + 1..].find(['#', ';']) {
                join(&mut comment, &rest[end + 1 + at..]);
            }
            // The comment of a section is the first item in it, so that is its path.
            push_comment(&mut current, &mut comment);
            if name != DEFAULT {
                sections.push(Item::named(&name, Value::Map(Vec::new())));
            }
            continue;
        }
        let (key, rest) = key(line).ok_or_else(|| bad(number + 1, "a line without `=` or `:`"))?;
        let value = value(rest, &mut comment, &mut || {
            lines.next().map(|(_, line)| line)
        });
        push_comment(&mut current, &mut comment);
        current.push(Item::named(key, Value::text(value)));
    }
    close(&mut sections, &name, &mut current);
    Ok(sections)
}

fn bad(line: usize, reason: &str) -> Error {
    Error::Parse {
        format: Format::Ini,
        line,
        reason: reason.to_owned(),
    }
}

/// Puts what was gathered into the section that was announced.
fn close(sections: &mut Vec<Item>, name: &str, current: &mut Vec<Item>) {
    let items = std::mem::take(current);
    if name == DEFAULT {
        if !items.is_empty() || sections.is_empty() {
            let at = sections
                .iter()
                .position(|item| item.name() == Some(DEFAULT));
            match at.map(|at| &mut sections[at].value) {
                Some(Value::Map(there)) => there.extend(items),
                _ => sections.insert(0, Item::named(DEFAULT, Value::Map(items))),
            }
        }
    } else if let Some(Item {
        value: Value::Map(there),
        ..
    }) = sections.last_mut()
    {
        *there = items;
    }
}

fn join(comment: &mut String, line: &str) {
    if !comment.is_empty() {
        comment.push('\n');
    }
    comment.push_str(line);
}

/// The reference strips the mark of the first line only.
fn push_comment(items: &mut Vec<Item>, comment: &mut String) {
    if comment.is_empty() {
        return;
    }
    let text = std::mem::take(comment);
    let mark = if text.starts_with(';') {
        [';', ' ']
    } else {
        ['#', ' ']
    };
    items.push(Item::comment(text.trim_start_matches(mark), false));
}

fn key(line: &str) -> Option<(String, &str)> {
    for quote in ["\"\"\"", "\"", "`"] {
        if let Some(rest) = line.strip_prefix(quote) {
            let end = rest.find(quote)?;
            let after = &rest[end + quote.len()..];
            let at = after.find(['=', ':'])?;
            return Some((rest[..end].to_owned(), &after[at + 1..]));
        }
    }
    let at = line.find(['=', ':'])?;
    let key = line[..at].trim();
    (!key.is_empty()).then(|| (key.to_owned(), &line[at + 1..]))
}

fn value<'a>(
    rest: &str,
    comment: &mut String,
    more: &mut dyn FnMut() -> Option<&'a str>,
) -> String {
    let line = rest.trim();
    for quote in ["\"\"\"", "`"] {
        if let Some(body) = line.strip_prefix(quote) {
            return match body.rfind(quote) {
                Some(end) => body[..end].to_owned(),
                None => until(quote, body, more),
            };
        }
    }
    let mut line = line.to_owned();
    while line.ends_with('\\') {
        line.pop();
        match more() {
            Some(next) => line.push_str(next.trim()),
            None => break,
        }
    }
    if let Some(at) = line.find(['#', ';']) {
        join(comment, &line[at..]);
        line.truncate(at);
    }
    let line = line.trim();
    for quote in ['\'', '"'] {
        if line.len() > 1
            && line.starts_with(quote)
            && line.ends_with(quote)
            && !line[1..line.len() - 1].contains(quote)
        {
            return line[1..line.len() - 1].to_owned();
        }
    }
    line.to_owned()
}

fn until<'a>(quote: &str, first: &str, more: &mut dyn FnMut() -> Option<&'a str>) -> String {
    let mut out = first.to_owned();
    while let Some(next) = more() {
        out.push('\n');
        if let Some(end) = next.find(quote) {
            out.push_str(&next[..end]);
            break;
        }
        out.push_str(next);
    }
    out
}

pub(super) fn write(sections: &[Item]) -> Result<Vec<u8>, Error> {
    let mut out = String::new();
    let mut first = true;
    for section in sections {
        match (&section.value, section.name()) {
            (Value::Comment(text), _) => comment(&text.text, &mut out),
            (Value::Map(items), Some(name)) => {
                let head = items.first().filter(|item| item.value.is_comment());
                if let Some(Value::Comment(text)) = head.map(|item| &item.value) {
                    comment(&text.text, &mut out);
                }
                let items = &items[usize::from(head.is_some())..];
                if name != DEFAULT || !first {
                    if name.contains(['\n', ']']) {
                        return Err(Error::Unsupported {
                            path: name.to_owned(),
                            reason: "ini cannot hold this name",
                        });
                    }
                    out.push_str(&format!("[{name}]\n"));
                }
                first = false;
                write_section(name, items, &mut out)?;
                if name != DEFAULT || !items.is_empty() {
                    out.push('\n');
                }
            }
            (_, name) => {
                let path = name.unwrap_or_default().to_owned();
                return Err(Error::Unsupported {
                    path,
                    reason: "ini holds sections of single values only",
                });
            }
        }
    }
    out.truncate(out.trim_end_matches('\n').len());
    if !out.is_empty() {
        out.push('\n');
    }
    Ok(out.into_bytes())
}

fn write_section(section: &str, items: &[Item], out: &mut String) -> Result<(), Error> {
    let names = items.iter().filter_map(Item::name).map(quote_key);
    let width = names.map(|key| key.chars().count()).max().unwrap_or(0);
    for item in items {
        if let Value::Comment(text) = &item.value {
            comment(&text.text, out);
            continue;
        }
        let key = item.name().unwrap_or_default();
        let unsupported = |reason| Error::Unsupported {
            path: format!("{section}/{key}"),
            reason,
        };
        if key.is_empty() || key.contains('\n') {
            return Err(unsupported("ini cannot hold this key"));
        }
        let bytes = item
            .value
            .canonical()
            .ok_or_else(|| unsupported("ini holds single values only"))?;
        let value = std::str::from_utf8(&bytes).map_err(|_| unsupported("ini holds UTF-8 only"))?;
        out.push_str(&format!(
            "{:width$} = {}\n",
            quote_key(key),
            quote_value(value)
        ));
    }
    Ok(())
}

fn comment(text: &str, out: &mut String) {
    for line in text.split('\n') {
        let (mark, text) = match line.chars().next() {
            Some(mark @ ('#' | ';')) => (mark, &line[1..]),
            _ => (';', line),
        };
        out.push_str(&format!("{mark} {}\n", text.trim()));
    }
}

fn quote_key(key: &str) -> String {
    if key.contains('`') {
        format!("\"\"\"{key}\"\"\"")
    } else if key.contains(['"', '=', ':']) || key.starts_with(['#', ';', '[']) || key.trim() != key
    {
        format!("`{key}`")
    } else {
        key.to_owned()
    }
}

fn quote_value(value: &str) -> String {
    if value.contains(['\n', '`']) {
        format!("\"\"\"{value}\"\"\"")
    } else if value.contains(['#', ';']) {
        format!("`{value}`")
    } else if value.trim() != value || value.ends_with('\\') || is_quoted(value) {
        // A value in quotes would lose them on reading.
        format!("\"{value}\"")
    } else {
        value.to_owned()
    }
}

fn is_quoted(value: &str) -> bool {
    value.len() > 1
        && (value.starts_with('"') && value.ends_with('"')
            || value.starts_with('\'') && value.ends_with('\''))
}
