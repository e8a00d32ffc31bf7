//! YAML as go-yaml v3 prints it: block style, indent 4, quotes only where they are needed. Files that sops wrote come out
//! byte for byte when nothing in them changed.

use base64::Engine;

use crate::store::yaml_scalar::needs_quotes;
use crate::value::{Item, Key, Value};

const INDENT: usize = 4;
/// Longer keys are written with `? `.
const SIMPLE_KEY_MAX: usize = 128;

/// Comments that stood behind a value stay there only if asked: `sops decrypt` moves them above it.
pub(super) fn write(docs: &[Vec<Item>], inline: Inline) -> String {
    let mut out = String::new();
    let moved: Vec<Vec<Item>>;
    let docs = match inline {
        Inline::Keep => docs,
        Inline::Move => {
            moved = docs
                .iter()
                .map(|doc| doc.iter().cloned().map(move_item).collect())
                .collect();
            &moved
        }
    };
    for (number, doc) in docs.iter().enumerate() {
        if number > 0 {
            out.push_str("---\n");
        }
        if doc.iter().all(|item| item.value.is_comment()) {
            map(doc, 0, &mut out);
            out.push_str("{}\n");
        } else {
            map(doc, 0, &mut out);
        }
    }
    out
}

/// What becomes of comments at the end of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inline {
    Keep,
    Move,
}

fn move_item(item: Item) -> Item {
    Item {
        key: item.key,
        value: move_comments(item.value),
    }
}

fn move_comments(value: Value) -> Value {
    match value {
        Value::Comment(comment) if comment.opened => Value::comment(&comment.text, false),
        Value::Map(items) => Value::Map(items.into_iter().map(move_item).collect()),
        Value::List(values) => Value::List(values.into_iter().map(move_comments).collect()),
        other => other,
    }
}

/// The next multiple of the indent, as the reference aligns it.
fn deeper(indent: usize) -> usize {
    INDENT * ((indent + INDENT) / INDENT)
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn map(items: &[Item], indent: usize, out: &mut String) {
    entries(items, indent, true, out);
}

/// `at_margin` is false when the first entry follows `- ` on its line.
fn entries(items: &[Item], indent: usize, mut at_margin: bool, out: &mut String) {
    let mut inline: Option<&str> = None;
    for (number, item) in items.iter().enumerate() {
        if let Value::Comment(comment) = &item.value {
            let next_is_leaf = items
                .get(number + 1)
                .is_some_and(|next| is_leaf(&next.value));
            if comment.inline && next_is_leaf && inline.is_none() && !comment.text.contains('\n') {
                inline = Some(&comment.text);
                continue;
            }
            comment_lines(&comment.text, indent, &mut at_margin, out);
            continue;
        }
        if at_margin {
            pad(indent, out);
        }
        at_margin = true;
        key(&item.key, indent, out);
        value(&item.value, indent, inline.take(), out);
    }
}

fn comment_lines(text: &str, indent: usize, at_margin: &mut bool, out: &mut String) {
    for line in text.split('\n') {
        if *at_margin {
            pad(indent, out);
        }
        *at_margin = true;
        out.push('#');
        out.push_str(line);
        out.push('\n');
    }
}

fn is_leaf(value: &Value) -> bool {
    match value {
        Value::Map(items) => items.is_empty(),
        Value::List(values) => values.is_empty(),
        Value::Comment(_) => false,
        _ => true,
    }
}

fn key(key: &Key, indent: usize, out: &mut String) {
    let text = match key {
        Key::Name(name) if name == "<<" => return out.push_str("!!merge <<:"),
        Key::Name(name) | Key::NotText(name) => name,
        Key::Comment => return,
    };
    let printed = match key {
        Key::NotText(_) => text.clone(),
        _ => single_line(text),
    };
    if printed.len() > SIMPLE_KEY_MAX {
        out.push_str("? ");
        out.push_str(&printed);
        out.push('\n');
        pad(indent, out);
    } else {
        out.push_str(&printed);
    }
    out.push(':');
}

/// What follows `key:`.
fn value(value: &Value, indent: usize, inline: Option<&str>, out: &mut String) {
    match value {
        Value::Map(items) if !items.is_empty() => {
            out.push('\n');
            if items.iter().all(|item| item.value.is_comment()) {
                map(items, deeper(indent), out);
                pad(deeper(indent), out);
                out.push_str("{}\n");
            } else {
                map(items, deeper(indent), out);
            }
        }
        Value::List(values) if !values.is_empty() => {
            out.push('\n');
            list(values, deeper(indent), true, out);
        }
        leaf => {
            out.push(' ');
            scalar(leaf, indent, inline, out);
        }
    }
}

fn list(values: &[Value], indent: usize, mut at_margin: bool, out: &mut String) {
    let mut inline: Option<&str> = None;
    for (number, item) in values.iter().enumerate() {
        if let Value::Comment(comment) = item {
            let next_is_leaf = values.get(number + 1).is_some_and(is_leaf);
            if comment.inline && next_is_leaf && inline.is_none() && !comment.text.contains('\n') {
                inline = Some(&comment.text);
                continue;
            }
            comment_lines(&comment.text, indent, &mut at_margin, out);
            continue;
        }
        if at_margin {
            pad(indent, out);
        }
        at_margin = true;
        out.push_str("- ");
        match item {
            Value::Map(items) if items.iter().any(|item| !item.value.is_comment()) => {
                entries(items, indent + 2, false, out)
            }
            Value::Map(items) if !items.is_empty() => {
                entries(items, indent + 2, false, out);
                pad(indent + 2, out);
                out.push_str("{}\n");
            }
            Value::List(values) if values.iter().any(|value| !value.is_comment()) => {
                list(values, indent + 2, false, out)
            }
            Value::List(_) => out.push_str("[]\n"),
            leaf => scalar(leaf, indent, inline.take(), out),
        }
    }
    if values.iter().all(Value::is_comment) {
        pad(indent, out);
        out.push_str("[]\n");
    }
}

fn scalar(value: &Value, indent: usize, inline: Option<&str>, out: &mut String) {
    if let Some(text) = value.as_text().filter(|text| is_literal(text)) {
        return literal(text, indent, inline, out);
    }
    out.push_str(&one_line(value).unwrap_or_default());
    if let Some(comment) = inline {
        out.push_str(" #");
        out.push_str(comment);
    }
    out.push('\n');
}

/// A single value on one line, empty collections among them.
pub(super) fn one_line(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null | Value::Comment(_) => "null".to_owned(),
        Value::Int(int) => int.to_string(),
        Value::Unsigned(int) => int.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Float(float) => float_text(*float),
        Value::Time(time) => time.clone(),
        Value::Map(items) if items.is_empty() => "{}".to_owned(),
        Value::List(values) if values.is_empty() => "[]".to_owned(),
        Value::Map(_) | Value::List(_) => return None,
        Value::Str(bytes) => match std::str::from_utf8(bytes) {
            Ok("<<") => "!!merge <<".to_owned(),
            Ok(text) => single_line(text),
            Err(_) => format!(
                "!!binary {}",
                base64::engine::general_purpose::STANDARD.encode(bytes)
            ),
        },
    })
}

/// The shortest form, with an exponent below 1e-4 and from 1e6 where the digits do not fill it (measured on the reference).
fn float_text(float: f64) -> String {
    if float.is_nan() {
        return ".nan".into();
    }
    if float.is_infinite() {
        return if float > 0.0 {
            ".inf".into()
        } else {
            "-.inf".into()
        };
    }
    let text = format!("{float:e}");
    let Some((mantissa, exponent)) = text.split_once('e') else {
        return text;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
    let limit = if digits > 21 {
        i32::try_from(digits).unwrap_or(21)
    } else {
        21
    };
    // Go's %g with the shortest precision switches at 21, the encoder of the reference was measured to switch at 6.
    if float != 0.0 && (exponent < -4 || exponent >= limit.min(6)) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    format!("{float}")
}

/// A multi-line string that block style can hold.
fn is_literal(text: &str) -> bool {
    text.contains('\n') && !text.ends_with(' ') && !text.contains(" \n") && text.chars().all(is_printable) && !text.contains('\r')
        // A block cannot tell leading blanks of its first line from indentation without a hint that readers disagree on.
        && !text.starts_with([' ', '\n', '\t'])
        && !text.contains('\t')
}

fn literal(text: &str, indent: usize, inline: Option<&str>, out: &mut String) {
    out.push('|');
    if !text.ends_with('\n') {
        out.push('-');
    } else if text.ends_with("\n\n") {
        out.push('+');
    }
    if let Some(comment) = inline {
        out.push_str(" #");
        out.push_str(comment);
    }
    out.push('\n');
    let body = text.strip_suffix('\n').unwrap_or(text);
    for line in body.split('\n') {
        if !line.is_empty() {
            pad(deeper(indent), out);
            out.push_str(line);
        }
        out.push('\n');
    }
}

fn single_line(text: &str) -> String {
    if text.is_empty() || needs_quotes(text) {
        return double_quoted(text);
    }
    match style(text) {
        Style::Plain => text.to_owned(),
        Style::Single => format!("'{}'", text.replace('\'', "''")),
        Style::Double => double_quoted(text),
    }
}

enum Style {
    Plain,
    Single,
    Double,
}

/// The analysis of the reference's emitter, for block context.
fn style(text: &str) -> Style {
    if text.contains(['\n', '\t']) || !text.chars().all(is_printable) {
        return Style::Double;
    }
    let edge_blank = text.starts_with(' ') || text.ends_with(' ');
    let followed_by_blank = |at: usize| matches!(text.as_bytes().get(at), None | Some(b' '));
    let first_is_mark = match text.as_bytes()[0] {
        b'#' | b',' | b'[' | b']' | b'{' | b'}' | b'&' | b'*' | b'!' | b'|' | b'>' | b'\''
        | b'"' | b'%' | b'@' | b'`' => true,
        b'?' | b':' | b'-' => followed_by_blank(1),
        _ => false,
    };
    let inner_mark = text.char_indices().skip(1).any(|(at, c)| match c {
        ':' => followed_by_blank(at + 1),
        '#' => text.as_bytes()[at - 1] == b' ',
        _ => false,
    });
    let document_mark = text.starts_with("---") || text.starts_with("...");
    if edge_blank || first_is_mark || inner_mark || document_mark {
        Style::Single
    } else {
        Style::Plain
    }
}

fn is_printable(c: char) -> bool {
    matches!(c, '\n' | '\t' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}')
        && !matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}')
}

fn double_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\0"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\u{1b}' => out.push_str("\\e"),
            '\u{85}' => out.push_str("\\N"),
            '\u{a0}' => out.push_str("\\_"),
            '\u{2028}' => out.push_str("\\L"),
            '\u{2029}' => out.push_str("\\P"),
            c if is_printable(c) => out.push(c),
            c => {
                let code = u32::from(c);
                out.push_str(&match code {
                    0..=0xff => format!("\\x{code:02X}"),
                    0x100..=0xffff => format!("\\u{code:04X}"),
                    _ => format!("\\U{code:08X}"),
                });
            }
        }
    }
    out.push('"');
    out
}
