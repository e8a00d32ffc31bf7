//! Asks Nix which store paths are valid: its daemon over the socket, as any client of it, or `nix-store` where there is none.
//! A program of Nix' takes longer to start than the daemon to answer. It asks nothing else, and changes nothing.
//! (Nix: `src/libstore/worker-protocol.hh`, `daemon.cc`; all numbers are little-endian and 64 bits wide.)

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use trueup_schema::StorePath;

use crate::AgentError;
use crate::exec;

const SOCKET: &str = "/nix/var/nix/daemon-socket/socket";
/// `nix-store --check-validity` of one path.
const VALIDITY_LIMIT: Duration = Duration::from_secs(60);
/// The daemon opens its database for each client.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
const CLIENT: u64 = 0x6e69_7863;
const DAEMON: u64 = 0x6478_696f;
/// 1.35, of Nix 2.15: what both speak is the older one's.
const VERSION: u64 = 0x0123;
/// Major versions other than 1 are another protocol.
const MAJOR: u64 = 0xff00;
/// Since then the daemon says its own version,
const SAYS_VERSION: u64 = 0x0121;
/// and whether it trusts us.
const SAYS_TRUST: u64 = 0x0123;
const IS_VALID_PATH: u64 = 1;
/// Of what comes before an answer: a line of its log, and the end of them.
const LOG_NEXT: u64 = 0x6f6c_6d67;
const LOG_LAST: u64 = 0x616c_7473;
/// A line of the log, or a version.
const MAX_TEXT: u64 = 1 << 20;
/// Lines before one answer.
const MAX_LINES: usize = 1000;

/// What the database does not know as valid: a file that is there may be a broken half copy. What is not there is not
/// valid, and nobody need be asked.
pub fn missing(needs: &[StorePath]) -> Result<Vec<StorePath>, AgentError> {
    let (there, mut missing): (Vec<StorePath>, Vec<StorePath>) = needs
        .iter()
        .cloned()
        .partition(|path| fs::symlink_metadata(path.as_str()).is_ok());
    if there.is_empty() {
        return Ok(missing);
    }
    let valid = match by_daemon(Path::new(SOCKET), &there) {
        Ok(valid) => valid,
        // There is none, or it speaks another way.
        Err(_) => by_program(&there)?,
    };
    let told = there.into_iter().zip(valid);
    missing.extend(told.filter(|(_, valid)| !valid).map(|(path, _)| path));
    Ok(missing)
}

fn by_program(paths: &[StorePath]) -> Result<Vec<bool>, AgentError> {
    let nix_store = exec::tool("nix-store")?;
    let mut valid = Vec::new();
    for path in paths {
        let args = ["--check-validity", path.as_str()];
        valid.push(exec::run(&nix_store, &args, VALIDITY_LIMIT)?.code == 0);
    }
    Ok(valid)
}

/// Asks the daemon that listens there.
pub fn by_daemon(socket: &Path, paths: &[StorePath]) -> io::Result<Vec<bool>> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    ask(&mut &stream, &mut &stream, paths)
}

fn ask(from: &mut impl Read, to: &mut impl Write, paths: &[StorePath]) -> io::Result<Vec<bool>> {
    send(to, &[CLIENT])?;
    if number(from)? != DAEMON {
        return Err(bad("not a Nix daemon"));
    }
    let theirs = number(from)?;
    if theirs & MAJOR != VERSION & MAJOR {
        return Err(bad("another protocol"));
    }
    let version = theirs.min(VERSION);
    // No wish about processors, and no space held back.
    send(to, &[VERSION, 0, 0])?;
    if version >= SAYS_VERSION {
        skip_text(from)?;
    }
    if version >= SAYS_TRUST {
        number(from)?;
    }
    skip_log(from)?;
    let mut valid = Vec::new();
    for path in paths {
        let mut call = Vec::new();
        send(&mut call, &[IS_VALID_PATH, path.as_str().len() as u64])?;
        call.extend(path.as_str().as_bytes());
        call.resize(call.len().next_multiple_of(8), 0);
        to.write_all(&call)?;
        skip_log(from)?;
        valid.push(number(from)? != 0);
    }
    Ok(valid)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn send(to: &mut impl Write, numbers: &[u64]) -> io::Result<()> {
    let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    to.write_all(&bytes)
}

fn number(from: &mut impl Read) -> io::Result<u64> {
    let mut eight = [0; 8];
    from.read_exact(&mut eight)?;
    Ok(u64::from_le_bytes(eight))
}

fn skip_text(from: &mut impl Read) -> io::Result<()> {
    let len = number(from)?;
    if len > MAX_TEXT {
        return Err(bad("a text that is too long"));
    }
    let padded = len.next_multiple_of(8);
    let passed = io::copy(&mut from.take(padded), &mut io::sink())?;
    if passed == padded {
        Ok(())
    } else {
        Err(bad("a text that ends too soon"))
    }
}

/// Up to the end of what comes before an answer. What else may come there is an error, or an offer that nobody asked for.
fn skip_log(from: &mut impl Read) -> io::Result<()> {
    for _ in 0..MAX_LINES {
        match number(from)? {
            LOG_LAST => return Ok(()),
            LOG_NEXT => skip_text(from)?,
            _ => return Err(bad("the daemon refused")),
        }
    }
    Err(bad("a log without an end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "/nix/store/00000000000000000000000000000000-a";

    fn said(numbers: &[u64]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
    }

    fn asked(daemon: &[u8]) -> io::Result<(Vec<bool>, Vec<u8>)> {
        let mut to = Vec::new();
        let paths = [A.parse().expect("a path"), A.parse().expect("a path")];
        let valid = ask(&mut &daemon[..], &mut to, &paths)?;
        Ok((valid, to))
    }

    /// A daemon of 1.38 that has something to say.
    fn newer() -> Vec<u8> {
        let mut all = said(&[DAEMON, 0x0126, 6]);
        all.extend(b"2.26.3\0\0");
        all.extend(said(&[1, LOG_LAST, LOG_NEXT, 3]));
        all.extend(b"hi!\0\0\0\0\0");
        all.extend(said(&[LOG_LAST, 1, LOG_LAST, 0]));
        all
    }

    #[test]
    fn a_newer_daemon_is_understood_past_its_log() {
        let (valid, to) = asked(&newer()).expect("answered");
        assert_eq!(valid, [true, false]);
        assert_eq!(to[..32], said(&[CLIENT, VERSION, 0, 0]));
        assert_eq!(to[32..48], said(&[IS_VALID_PATH, A.len() as u64]));
        // Two calls, each path filled up to a multiple of eight.
        assert_eq!(to.len(), 32 + 2 * (16 + A.len().next_multiple_of(8)));
    }

    #[test]
    fn an_older_daemon_says_less() {
        let daemon = said(&[DAEMON, 0x0115, LOG_LAST, LOG_LAST, 0, LOG_LAST, 1]);
        assert_eq!(asked(&daemon).expect("answered").0, [false, true]);
    }

    #[test]
    fn who_is_no_daemon_or_ends_too_soon_is_not_believed() {
        let whole = newer();
        for cut in 0..whole.len() {
            assert!(asked(&whole[..cut]).is_err(), "cut at {cut}");
        }
        for wrong in [
            said(&[CLIENT, 0x0126]),
            said(&[DAEMON, 0x0226]),
            said(&[DAEMON, 0x0115, LOG_LAST, 0x6378_7470]),
            said(&[DAEMON, 0x0126, u64::MAX]),
        ] {
            assert!(asked(&wrong).is_err(), "{wrong:?}");
        }
    }
}
