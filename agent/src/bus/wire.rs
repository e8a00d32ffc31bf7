//! D-Bus' own form, as far as systemd is asked and told by it (the "D-Bus Specification", sections "Marshaling" and "Message
//! Protocol"). Little-endian; what is read is bounded by what was read.

use std::io;

/// Whom all is addressed to.
const SERVICE: &str = "org.freedesktop.systemd1";
const CALL: u8 = 1;

/// What a property is, as far as any that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `s`, `o`.
    Text(String),
    /// `u`, `t`, `i`.
    Number(u64),
    /// `b`.
    Bool(bool),
    /// `ay`.
    Bytes(Vec<u8>),
    /// `as`.
    Texts(Vec<String>),
}

/// A row of `ListUnits`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// `sshd.service`.
    pub name: String,
    /// `loaded` …
    pub load: String,
    /// `active` …
    pub active: String,
    /// `running` …
    pub sub: String,
    /// What properties are asked of.
    pub path: String,
    /// A job of it is queued.
    pub job: bool,
}

pub(super) fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// What a unit that is made is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Property {
    /// `s`
    Text(String),
    /// `b`
    Bool(bool),
    /// `i`
    Signed(i32),
    /// `t`
    Number(u64),
    /// `a(sasb)`: one program with its words.
    Command(Vec<String>),
    /// `a(st)`: microseconds from that base.
    Timer(&'static str, u64),
}

/// The arguments of a call, one after the other.
#[derive(Debug, Default)]
pub(super) struct Args {
    signature: String,
    bytes: Vec<u8>,
}

impl Args {
    /// Strings.
    pub(super) fn of_texts(args: &[&str]) -> Self {
        let mut bytes = Vec::new();
        for arg in args {
            text(&mut bytes, arg);
        }
        let signature = "s".repeat(args.len());
        Self { signature, bytes }
    }

    /// Of `StartTransientUnit`: `ssa(sv)a(sa(sv))`. Fails where there is a unit of this name.
    pub(super) fn of_transient(
        name: &str,
        properties: &[(String, Property)],
        beside: Option<(&str, &[(String, Property)])>,
    ) -> Self {
        let mut args = Self::of_texts(&[name, "fail"]);
        let bytes = &mut args.bytes;
        array(bytes, 8, |bytes| all_properties(bytes, properties));
        array(bytes, 8, |bytes| {
            if let Some((name, properties)) = beside {
                pad(bytes, 8);
                text(bytes, name);
                array(bytes, 8, |bytes| all_properties(bytes, properties));
            }
        });
        args.signature.push_str("a(sv)a(sa(sv))");
        args
    }
}

fn all_properties(out: &mut Vec<u8>, all: &[(String, Property)]) {
    for (name, value) in all {
        pad(out, 8);
        text(out, name);
        value.write(out);
    }
}

impl Property {
    /// As a variant.
    fn write(&self, out: &mut Vec<u8>) {
        signature(
            out,
            match self {
                Self::Text(_) => "s",
                Self::Bool(_) => "b",
                Self::Signed(_) => "i",
                Self::Number(_) => "t",
                Self::Command(_) => "a(sasb)",
                Self::Timer(..) => "a(st)",
            },
        );
        match self {
            Self::Text(value) => text(out, value),
            Self::Bool(value) => word(out, u32::from(*value).to_le_bytes()),
            Self::Signed(value) => word(out, value.to_le_bytes()),
            Self::Number(value) => wide(out, *value),
            Self::Command(words) => array(out, 8, |out| {
                pad(out, 8);
                text(out, words.first().map_or("", String::as_str));
                array(out, 4, |out| words.iter().for_each(|w| text(out, w)));
                // A failure of it is one.
                word(out, [0; 4]);
            }),
            Self::Timer(base, micros) => array(out, 8, |out| {
                pad(out, 8);
                text(out, base);
                wide(out, *micros);
            }),
        }
    }
}

/// Its length counts neither itself nor the padding before the first element.
fn array(out: &mut Vec<u8>, align: usize, elements: impl FnOnce(&mut Vec<u8>)) {
    pad(out, 4);
    let at = out.len();
    out.extend([0; 4]);
    pad(out, align);
    let from = out.len();
    elements(out);
    let len = length(out.len() - from);
    out[at..at + 4].copy_from_slice(&len);
}

fn word(out: &mut Vec<u8>, four: [u8; 4]) {
    pad(out, 4);
    out.extend(four);
}

fn wide(out: &mut Vec<u8>, value: u64) {
    pad(out, 8);
    out.extend(value.to_le_bytes());
}

fn signature(out: &mut Vec<u8>, value: &str) {
    out.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
    out.extend(value.as_bytes());
    out.push(0);
}

/// A method call.
pub(super) fn call(serial: u32, path: &str, interface: &str, member: &str, args: &Args) -> Vec<u8> {
    let mut fields = Vec::new();
    for (code, sign, value) in [
        (1_u8, b'o', path),
        (2, b's', interface),
        (3, b's', member),
        (6, b's', SERVICE),
    ] {
        pad(&mut fields, 8);
        fields.extend([code, 1, sign, 0]);
        text(&mut fields, value);
    }
    if !args.signature.is_empty() {
        pad(&mut fields, 8);
        fields.extend([8, 1, b'g', 0]);
        signature(&mut fields, &args.signature);
    }
    let mut out = vec![b'l', CALL, 0, 1];
    out.extend(length(args.bytes.len()));
    out.extend(serial.to_le_bytes());
    out.extend(length(fields.len()));
    out.extend(fields);
    pad(&mut out, 8);
    out.extend(&args.bytes);
    out
}

fn length(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes()
}

fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

fn text(out: &mut Vec<u8>, value: &str) {
    pad(out, 4);
    out.extend(length(value.len()));
    out.extend(value.as_bytes());
    out.push(0);
}

/// Header fields begin at a multiple of 8 of the message, so their own offsets are right.
pub(super) fn reply_serial(fields: &[u8]) -> io::Result<Option<u32>> {
    const REPLY_SERIAL: u8 = 5;
    let mut r = Reader::new(fields);
    let mut serial = None;
    while r.at < fields.len() {
        r.align(8);
        let code = r.byte()?;
        // Of its fields an answer has numbers, texts and a signature.
        match (r.signature()?.as_str(), code) {
            ("u", REPLY_SERIAL) => serial = Some(r.number()?),
            ("u", _) => drop(r.number()?),
            ("g", _) => drop(r.signature()?),
            ("s" | "o", _) => drop(r.text()?),
            _ => return Err(bad("a header of another kind")),
        }
    }
    Ok(serial)
}

/// `a(ssssssouso)`.
pub(super) fn rows(body: &[u8]) -> io::Result<Vec<Listed>> {
    let mut r = Reader::new(body);
    let end = r.number()? as usize;
    r.align(8);
    let end = r.at.saturating_add(end);
    let mut all = Vec::new();
    while r.at < end {
        r.align(8);
        let name = r.text()?;
        let _description = r.text()?;
        let (load, active, sub) = (r.text()?, r.text()?, r.text()?);
        let _following = r.text()?;
        let path = r.text()?;
        let job = r.number()? != 0;
        let (_kind, _path) = (r.text()?, r.text()?);
        all.push(Listed {
            name,
            load,
            active,
            sub,
            path,
            job,
        });
    }
    Ok(all)
}

/// Reads a body, which never goes beyond its end.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let end = self.at.checked_add(count);
        let found = end.and_then(|end| self.bytes.get(self.at..end));
        self.at = end.unwrap_or(usize::MAX);
        found.ok_or_else(|| bad("a message that ends too soon"))
    }
    fn byte(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }
    fn number(&mut self) -> io::Result<u32> {
        self.align(4);
        let four = self.take(4)?;
        Ok(u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
    }
    fn wide(&mut self) -> io::Result<u64> {
        self.align(8);
        let mut eight = [0_u8; 8];
        eight.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(eight))
    }
    fn text(&mut self) -> io::Result<String> {
        let len = self.number()? as usize;
        let text = String::from_utf8_lossy(self.take(len)?).into_owned();
        self.take(1)?;
        Ok(text)
    }
    fn signature(&mut self) -> io::Result<String> {
        let len = usize::from(self.byte()?);
        let text = String::from_utf8_lossy(self.take(len)?).into_owned();
        self.take(1)?;
        Ok(text)
    }
    pub(super) fn variant(&mut self) -> io::Result<Value> {
        Ok(match self.signature()?.as_str() {
            "s" | "o" => Value::Text(self.text()?),
            "u" | "i" => Value::Number(u64::from(self.number()?)),
            "t" => Value::Number(self.wide()?),
            "b" => Value::Bool(self.number()? != 0),
            "ay" => {
                let len = self.number()? as usize;
                Value::Bytes(self.take(len)?.to_vec())
            }
            "as" => {
                let end = self.number()? as usize;
                let end = self.at.saturating_add(end);
                let mut texts = Vec::new();
                while self.at < end {
                    texts.push(self.text()?);
                }
                Value::Texts(texts)
            }
            _ => return Err(bad("a property of another kind")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_what_the_specification_says() {
        let made = call(7, "/a", "i.f", "Get", &Args::of_texts(&["x", "yz"]));
        assert_eq!(made.len() % 4, 3, "the body is not padded");
        assert_eq!(made[..4], [b'l', 1, 0, 1]);
        // Two strings: 4 + 1 + 1, padding 2, 4 + 2 + 1.
        assert_eq!(made[4..8], 15_u32.to_le_bytes());
        assert_eq!(made[8..12], 7_u32.to_le_bytes());
        let fields = u32::from_le_bytes([made[12], made[13], made[14], made[15]]) as usize;
        let body = &made[(16 + fields).next_multiple_of(8)..];
        let mut r = Reader::new(body);
        assert_eq!(
            (r.text().unwrap(), r.text().unwrap()),
            ("x".into(), "yz".into())
        );
        assert_eq!(r.at, body.len());
        assert_eq!(reply_serial(&made[16..16 + fields]).unwrap(), None);
    }

    #[test]
    fn a_list_of_units_is_read_row_by_row() {
        let mut rows_in = Vec::new();
        for (name, job) in [("a.service", 0_u32), ("bcd.socket", 4)] {
            pad(&mut rows_in, 8);
            for word in [name, "what it is", "loaded", "active", "running", "", "/x"] {
                text(&mut rows_in, word);
            }
            pad(&mut rows_in, 4);
            rows_in.extend(job.to_le_bytes());
            text(&mut rows_in, "");
            text(&mut rows_in, "/");
        }
        // The rows begin at 8, and so are aligned as they were made.
        let mut body = length(rows_in.len()).to_vec();
        pad(&mut body, 8);
        body.extend(rows_in);
        let found = rows(&body).unwrap();
        let told: Vec<_> = found.iter().map(|l| (l.name.as_str(), l.job)).collect();
        assert_eq!(told, [("a.service", false), ("bcd.socket", true)]);
        assert_eq!(found[1].sub, "running");
        for cut in [0, 5, body.len() / 2, body.len() - 1] {
            assert!(rows(&body[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn properties_of_each_kind_are_read() {
        let of = |signature: &str, value: &[u8]| {
            let mut body = vec![u8::try_from(signature.len()).unwrap()];
            body.extend(signature.as_bytes());
            body.push(0);
            pad(&mut body, 4);
            body.extend(value);
            Reader::new(&body).variant()
        };
        assert_eq!(of("b", &[1, 0, 0, 0]).unwrap(), Value::Bool(true));
        assert_eq!(of("u", &[9, 0, 0, 0]).unwrap(), Value::Number(9));
        assert_eq!(
            of("ay", &[2, 0, 0, 0, 5, 6]).unwrap(),
            Value::Bytes(vec![5, 6])
        );
        assert_eq!(of("as", &[0, 0, 0, 0]).unwrap(), Value::Texts(Vec::new()));
        let mut two = vec![14, 0, 0, 0];
        text(&mut two, "a");
        text(&mut two, "b");
        assert_eq!(
            of("as", &two).unwrap(),
            Value::Texts(vec!["a".into(), "b".into()])
        );
        assert!(of("as", &[200, 0, 0, 0, 1]).is_err(), "longer than it is");
        assert!(of("a{sv}", &[0, 0, 0, 0]).is_err());
        assert_eq!(of("t", &[0; 12]).unwrap(), Value::Number(0));
    }
}
