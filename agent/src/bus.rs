//! Asks systemd over its private socket for single properties: `systemctl show` has systemd gather all that there is of
//! each unit, counters of its control group included, which is a hundred times the work. Reads only; whoever asks has
//! another way where this one is closed.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Root's own way to systemd; no bus daemon is needed.
const SOCKET: &str = "/run/systemd/private";
const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "/org/freedesktop/systemd1";
/// One read or write may take so long.
const LIMIT: Duration = Duration::from_secs(20);
/// Questions that are sent before their answers are read: both sides' buffers have room for so many.
const AT_ONCE: usize = 128;
/// A message is never longer: a list of all units takes some 300 bytes a unit.
const MAX_MESSAGE: usize = 16 << 20;
/// Lines of the greeting are short.
const MAX_LINE: usize = 256;

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;

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

/// Object, interface, property.
pub type Question<'a> = (&'a str, &'a str, &'a str);

/// A connection.
#[derive(Debug)]
pub struct Bus {
    stream: UnixStream,
    serial: u32,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl Bus {
    /// Connects and says who we are.
    pub fn open() -> io::Result<Self> {
        let stream = UnixStream::connect(SOCKET)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let mut bus = Self { stream, serial: 0 };
        let uid = rustix::process::geteuid().as_raw().to_string();
        let uid: String = uid.bytes().map(|b| format!("{b:02x}")).collect();
        let hello = format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n");
        bus.stream.write_all(hello.as_bytes())?;
        let line = bus.line()?;
        if !line.starts_with("OK ") {
            return Err(bad("systemd does not know us"));
        }
        Ok(bus)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        let mut byte = [0_u8; 1];
        while line.len() < MAX_LINE {
            self.stream.read_exact(&mut byte)?;
            line.push(byte[0]);
            if line.ends_with(b"\r\n") {
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
        }
        Err(bad("a line without an end"))
    }

    /// All loaded units.
    pub fn units(&mut self) -> io::Result<Vec<Listed>> {
        self.serial += 1;
        let call = call(
            self.serial,
            MANAGER,
            "org.freedesktop.systemd1.Manager",
            "ListUnits",
            &[],
        );
        self.stream.write_all(&call)?;
        let (_, body) = self.reply()?;
        rows(&body.ok_or_else(|| bad("no list of units"))?)
    }

    /// An answer to each question; `None` where there is no such object or property (any more).
    pub fn ask(&mut self, questions: &[Question<'_>]) -> io::Result<Vec<Option<Value>>> {
        let mut answers = vec![None; questions.len()];
        for (n, some) in questions.chunks(AT_ONCE).enumerate() {
            let first = self.serial + 1;
            let mut out = Vec::new();
            for (path, interface, property) in some {
                self.serial += 1;
                let of = [*interface, *property];
                out.extend(call(
                    self.serial,
                    path,
                    "org.freedesktop.DBus.Properties",
                    "Get",
                    &of,
                ));
            }
            self.stream.write_all(&out)?;
            for _ in some {
                let (serial, body) = self.reply()?;
                let place = serial
                    .checked_sub(first)
                    .map(|at| n * AT_ONCE + at as usize)
                    .and_then(|at| answers.get_mut(at))
                    .ok_or_else(|| bad("an answer to no question"))?;
                *place = match body {
                    Some(body) => Some(Reader::new(&body).variant()?),
                    None => None,
                };
            }
        }
        Ok(answers)
    }

    /// The next answer: to which question, and its body, `None` for an error. Signals are passed over.
    fn reply(&mut self) -> io::Result<(u32, Option<Vec<u8>>)> {
        loop {
            let mut head = [0_u8; 16];
            self.stream.read_exact(&mut head)?;
            let word = |at: usize| {
                u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize
            };
            let (body, fields) = (word(4), word(12));
            if head[0] != b'l' || body.max(fields) > MAX_MESSAGE {
                return Err(bad("a message of another kind"));
            }
            let mut rest = vec![0_u8; fields.next_multiple_of(8) + body];
            self.stream.read_exact(&mut rest)?;
            let serial = reply_serial(&rest[..fields])?;
            let body = rest.split_off(fields.next_multiple_of(8));
            match (head[1], serial) {
                (RETURN, Some(serial)) => return Ok((serial, Some(body))),
                (ERROR, Some(serial)) => return Ok((serial, None)),
                _ => {}
            }
        }
    }
}

/// A method call whose arguments are strings.
fn call(serial: u32, path: &str, interface: &str, member: &str, args: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for arg in args {
        text(&mut body, arg);
    }
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
    if !args.is_empty() {
        pad(&mut fields, 8);
        let signature = "s".repeat(args.len());
        fields.extend([8, 1, b'g', 0, u8::try_from(args.len()).unwrap_or(u8::MAX)]);
        fields.extend(signature.as_bytes());
        fields.push(0);
    }
    let mut out = vec![b'l', CALL, 0, 1];
    out.extend(length(body.len()));
    out.extend(serial.to_le_bytes());
    out.extend(length(fields.len()));
    out.extend(fields);
    pad(&mut out, 8);
    out.extend(body);
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
fn reply_serial(fields: &[u8]) -> io::Result<Option<u32>> {
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
fn rows(body: &[u8]) -> io::Result<Vec<Listed>> {
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
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
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
    fn variant(&mut self) -> io::Result<Value> {
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
        let made = call(7, "/a", "i.f", "Get", &["x", "yz"]);
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
