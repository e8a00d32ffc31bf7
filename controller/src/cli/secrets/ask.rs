//! Asks a person on the terminal: a passphrase without echo, a yes. Never reads standard input, which may be a file.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use secrecy::SecretString;
use zeroize::Zeroizing;

/// Longer than any passphrase.
const LINE_MAX: usize = 4096;

/// The person's terminal, if there is one.
fn terminal() -> Option<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .ok()
}

/// A line of it; `None` without a terminal or at its end.
pub(super) fn line(question: &str) -> Option<Zeroizing<String>> {
    let mut tty = terminal()?;
    write!(tty, "{question}").ok()?;
    read_line(&mut tty)
}

/// A passphrase; `None` without a terminal.
pub(super) fn passphrase(of: &str) -> Option<SecretString> {
    let mut tty = terminal()?;
    let before = tcgetattr(&tty).ok()?;
    let mut quiet = before.clone();
    quiet.local_modes -= LocalModes::ECHO;
    write!(tty, "Passphrase of {of}: ").ok()?;
    tcsetattr(&tty, OptionalActions::Flush, &quiet).ok()?;
    let answer = read_line(&mut tty);
    let _best_effort = tcsetattr(&tty, OptionalActions::Flush, &before);
    let _best_effort = writeln!(tty);
    answer.map(|text| SecretString::from(text.as_str().to_owned()))
}

fn read_line(tty: &mut File) -> Option<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(LINE_MAX));
    let mut one = [0_u8];
    while bytes.len() < LINE_MAX {
        match tty.read(&mut one) {
            Ok(1) if one[0] != b'\n' => bytes.push(one[0]),
            Ok(1) => return String::from_utf8(bytes.to_vec()).ok().map(Zeroizing::new),
            _ => return None,
        }
    }
    None
}
