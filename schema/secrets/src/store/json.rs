//! JSON with order, duplicates and the difference between 1 and 1.0 kept; printed as Go prints it.

use crate::error::Error;
use crate::store::Format;
use crate::value::{Item, Value};

/// Nobody indents by more.
const INDENT_MAX: usize = 16;

/// Reads one object; what follows it is ignored, as the reference does.
pub(super) fn read(format: Format, bytes: &[u8]) -> Result<Vec<Item>, Error> {
    let text = String::from_utf8_lossy(bytes);
    let mut reader = Reader {
        format,
        text: &text,
        at: 0,
        nodes: 0,
    };
    reader.blanks();
    if reader.peek() != Some(b'{') {
        return Err(reader.error("the top level must be an object"));
    }
    match reader.value(0)? {
        Value::Map(items) => Ok(items),
        _ => Err(reader.error("the top level must be an object")),
    }
}

/// One JSON value on its own, as `set` takes it.
pub(crate) fn read_value(text: &str) -> Result<Value, Error> {
    let mut reader = Reader {
        format: Format::Json,
        text,
        at: 0,
        nodes: 0,
    };
    let value = reader.value(0)?;
    reader.blanks();
    if reader.at < text.len() {
        return Err(reader.error("there is more after the value"));
    }
    Ok(value)
}

struct Reader<'a> {
    format: Format,
    text: &'a str,
    at: usize,
    nodes: usize,
}

impl Reader<'_> {
    fn error(&self, reason: &str) -> Error {
        let line = self.text.as_bytes()[..self.at.min(self.text.len())]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        Error::Parse {
            format: self.format,
            line,
            reason: reason.to_owned(),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, depth: usize) -> Result<Value, Error> {
        self.nodes += 1;
        if depth > crate::DEPTH_MAX || self.nodes > crate::NODES_MAX {
            return Err(self.error("it is nested too deeply or has too many values"));
        }
        self.blanks();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(Value::text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => self.word(),
            None => Err(self.error("unexpected end")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, Error> {
        self.at += 1;
        let mut items = Vec::new();
        self.blanks();
        if self.take(b'}') {
            return Ok(Value::Map(items));
        }
        loop {
            self.blanks();
            if self.peek() != Some(b'"') {
                return Err(self.error("a key was expected"));
            }
            let key = self.string()?;
            self.blanks();
            if !self.take(b':') {
                return Err(self.error("`:` was expected"));
            }
            items.push(Item::named(key, self.value(depth + 1)?));
            self.blanks();
            if self.take(b'}') {
                return Ok(Value::Map(items));
            }
            if !self.take(b',') {
                return Err(self.error("`,` or `}` was expected"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, Error> {
        self.at += 1;
        let mut values = Vec::new();
        self.blanks();
        if self.take(b']') {
            return Ok(Value::List(values));
        }
        loop {
            values.push(self.value(depth + 1)?);
            self.blanks();
            if self.take(b']') {
                return Ok(Value::List(values));
            }
            if !self.take(b',') {
                return Err(self.error("`,` or `]` was expected"));
            }
        }
    }

    fn word(&mut self) -> Result<Value, Error> {
        let words = [
            ("null", Value::Null),
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
        ];
        for (word, value) in words {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.error("a value was expected"))
    }

    fn number(&mut self) -> Result<Value, Error> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') && self.digits() == 0 {
            return Err(self.error("not a number"));
        }
        if self.take(b'.') && self.digits() == 0 {
            return Err(self.error("not a number"));
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'-') || self.take(b'+');
            if self.digits() == 0 {
                return Err(self.error("not a number"));
            }
        }
        let text = &self.text[start..self.at];
        if let Ok(int) = text.parse::<i64>() {
            return Ok(Value::Int(int));
        }
        match text.parse::<f64>() {
            Ok(float) if float.is_finite() => Ok(Value::Float(float)),
            _ => Err(self.error("the number is out of range")),
        }
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    fn string(&mut self) -> Result<String, Error> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let stop = rest
                .find(|c: char| c == '"' || c == '\\' || c < ' ')
                .ok_or_else(|| self.error("unexpected end"))?;
            out.push_str(&rest[..stop]);
            self.at += stop;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    self.at += 1;
                    out.push(self.escape()?);
                }
                _ => return Err(self.error("a control character in a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Error> {
        let mark = self.peek().ok_or_else(|| self.error("unexpected end"))?;
        self.at += 1;
        Ok(match mark {
            b'"' | b'\\' | b'/' => char::from(mark),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return Err(self.error("an unknown escape")),
        })
    }

    /// A lone surrogate becomes U+FFFD.
    fn unicode(&mut self) -> Result<char, Error> {
        let first = self.hex()?;
        if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with("\\u") {
            let back = self.at;
            self.at += 2;
            let second = self.hex()?;
            if (0xdc00..0xe000).contains(&second) {
                let joined = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(joined).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back;
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&mut self) -> Result<u32, Error> {
        let digits = self
            .text
            .get(self.at..self.at + 4)
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let value = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let value = value.ok_or_else(|| self.error("four hexadecimal digits were expected"))?;
        self.at += 4;
        Ok(value)
    }
}

/// Indented by tabs, no newline at the end, comments dropped.
pub(crate) fn to_text(items: &[Item]) -> String {
    let mut out = String::new();
    map(items, 0, &mut out);
    out
}

/// `printed` with the indentation of `model`, when that has blanks. Strings hold no raw tabs, so those at the start of
/// lines are all ours.
pub(crate) fn reindent(printed: &str, model: &str) -> Option<String> {
    let second = model.lines().nth(1)?;
    let width = second.len() - second.trim_start_matches(' ').len();
    if width == 0 || width > INDENT_MAX {
        return None;
    }
    let mut out = String::with_capacity(printed.len());
    for line in printed.split_inclusive('\n') {
        let body = line.trim_start_matches('\t');
        out.extend(std::iter::repeat_n(' ', width * (line.len() - body.len())));
        out.push_str(body);
    }
    Some(out)
}

fn map(items: &[Item], depth: usize, out: &mut String) {
    let shown: Vec<&Item> = items
        .iter()
        .filter(|item| !item.value.is_comment())
        .collect();
    if shown.is_empty() {
        return out.push_str("{}");
    }
    out.push('{');
    for (number, item) in shown.iter().enumerate() {
        next(number, depth + 1, out);
        let key = match &item.key {
            crate::value::Key::Name(name) | crate::value::Key::NotText(name) => name.as_str(),
            crate::value::Key::Comment => "",
        };
        quote(key, out);
        out.push_str(": ");
        value(&item.value, depth + 1, out);
    }
    line(depth, out);
    out.push('}');
}

fn value(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Null | Value::Comment(_) => out.push_str("null"),
        Value::Str(bytes) => quote(&String::from_utf8_lossy(bytes), out),
        Value::Int(int) => out.push_str(&int.to_string()),
        Value::Unsigned(int) => out.push_str(&int.to_string()),
        Value::Float(float) if float.is_finite() => out.push_str(&float_text(*float)),
        // JSON has no word for these.
        Value::Float(float) => quote(&crate::value::float_text(*float), out),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Time(time) => quote(time, out),
        Value::Map(items) => map(items, depth, out),
        Value::List(values) => list(values, depth, out),
    }
}

fn list(values: &[Value], depth: usize, out: &mut String) {
    let shown: Vec<&Value> = values.iter().filter(|value| !value.is_comment()).collect();
    if shown.is_empty() {
        return out.push_str("[]");
    }
    out.push('[');
    for (number, item) in shown.iter().enumerate() {
        next(number, depth + 1, out);
        value(item, depth + 1, out);
    }
    line(depth, out);
    out.push(']');
}

fn next(number: usize, depth: usize, out: &mut String) {
    if number > 0 {
        out.push(',');
    }
    line(depth, out);
}

fn line(depth: usize, out: &mut String) {
    out.push('\n');
    out.extend(std::iter::repeat_n('\t', depth));
}

/// Go's: plain between 1e-6 and 1e21, else the exponent with a sign and no leading zero.
fn float_text(float: f64) -> String {
    let size = float.abs();
    if size == 0.0 || (1e-6..1e21).contains(&size) {
        return format!("{float}");
    }
    let text = format!("{float:e}");
    if text.contains("e-") {
        text
    } else {
        text.replace('e', "e+")
    }
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)))
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
