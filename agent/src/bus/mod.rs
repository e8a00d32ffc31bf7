//! Speaks with systemd over its private socket: `systemctl show` has systemd gather all that there is of each unit, counters
//! of its control group included, which is a hundred times the work of a few properties, and each program of systemd's
//! takes longer to start than the host takes to answer. Whoever asks here has another way where this one is closed.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

mod wire;

use wire::{Args, Reader, bad, call, reply_serial, rows};
pub use wire::{Listed, Property, Value};

/// Root's own way to systemd; no bus daemon is needed.
const SOCKET: &str = "/run/systemd/private";
const MANAGER: &str = "/org/freedesktop/systemd1";
const MANAGER_INTERFACE: &str = "org.freedesktop.systemd1.Manager";
/// One read or write may take so long.
const LIMIT: Duration = Duration::from_secs(20);
/// Questions that are sent before their answers are read: both sides' buffers have room for so many.
const AT_ONCE: usize = 128;
/// A message is never longer: a list of all units takes some 300 bytes a unit.
const MAX_MESSAGE: usize = 16 << 20;
/// Lines of the greeting are short.
const MAX_LINE: usize = 256;

const RETURN: u8 = 2;
const ERROR: u8 = 3;

/// Object, interface, property.
pub type Question<'a> = (&'a str, &'a str, &'a str);

/// A connection.
#[derive(Debug)]
pub struct Bus {
    stream: UnixStream,
    serial: u32,
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
        rows(&self.manager("ListUnits", &Args::default())?)
    }

    /// Makes a unit without a file and queues its start; `beside` is what it starts, if it is a timer.
    pub fn start_transient(
        &mut self,
        name: &str,
        properties: &[(String, Property)],
        beside: Option<(&str, &[(String, Property)])>,
    ) -> io::Result<()> {
        let args = Args::of_transient(name, properties, beside);
        self.manager("StartTransientUnit", &args).map(|_| ())
    }

    /// Queues a stop.
    pub fn stop(&mut self, name: &str) -> io::Result<()> {
        let args = Args::of_texts(&[name, "replace"]);
        self.manager("StopUnit", &args).map(|_| ())
    }

    fn manager(&mut self, member: &str, args: &Args) -> io::Result<Vec<u8>> {
        self.serial += 1;
        let call = call(self.serial, MANAGER, MANAGER_INTERFACE, member, args);
        self.stream.write_all(&call)?;
        let (_, body) = self.reply()?;
        body.ok_or_else(|| bad("systemd refused"))
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
                    &Args::of_texts(&of),
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

/// What a unit is called on the bus.
#[must_use]
pub fn path_of(unit: &str) -> String {
    let mut path = format!("{MANAGER}/unit/");
    for (at, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_path_has_letters_and_numbers_only() {
        let made = super::path_of("trueup-deadman-3.12-a1.service");
        assert!(
            made.ends_with("/unit/trueup_2ddeadman_2d3_2e12_2da1_2eservice"),
            "{made}"
        );
        assert!(super::path_of("9p.mount").ends_with("/_39p_2emount"));
    }
}
