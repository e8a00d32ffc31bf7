//! The forced command: what a key may ask for over SSH where `authorized_keys` names this agent. It reads words of a small
//! alphabet, and runs its own verbs and Nix's store protocol. It knows no shell, and does not run another agent than itself.

use std::os::unix::net::UnixDatagram;
use std::path::Path;

use trueup_schema::StorePath;

use crate::exec;
use crate::{AgentError, own_path, parse_order};

/// What sshd puts the command into that was asked for; not there: a shell was.
pub const COMMAND: &str = "SSH_ORIGINAL_COMMAND";
/// What is refused ends with this. Not 126 or 127: those would say that there is no agent here, and another be brought.
pub const REFUSED: u8 = 77;
/// A longer command is not read; `want` of a few hundred paths is 32 KiB.
const MAX_COMMAND: usize = 64 << 10;
/// Words of a command.
const MAX_WORDS: usize = 1024;
/// Of a refused command, so much is told in the log.
const TOLD: usize = 160;
/// The agent that a controller brought to hosts without a forced command; asked for by `trueup doctor`.
const BROUGHT: &str = "/nix/var/nix/gcroots/trueup/agent/bin/trueup-agent";
/// The kernel's and systemd's place for log lines.
const LOG: &str = "/dev/log";
/// Facility auth, severity warning.
const PRIORITY: u32 = 4 * 8 + 4;
/// Where sudo is: NixOS, others.
const SUDO: [&str; 2] = ["/run/wrappers/bin/sudo", "/usr/bin/sudo"];
/// An Ed25519 signature in base 64.
const SIGNATURE: usize = 88;
/// What the controller sets of Nix at this end. Numbers and truth values only: an option may name a program.
const NIX_OPTIONS: [&str; 4] = [
    "connect-timeout",
    "stalled-download-timeout",
    "download-attempts",
    "fallback",
];
/// What `trueup doctor` looks at, word for word.
const LOOKS: [&[&str]; 2] = [
    &["df", "-Pk", "/nix/store", "/boot", "/boot/efi"],
    &["date", "-u", "-Iseconds"],
];

/// What is run for a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// Nothing: is anybody there?
    Nothing,
    /// A verb of this agent.
    Verb {
        /// Verb and arguments.
        args: Vec<String>,
        /// `sudo -n` was asked for.
        as_root: bool,
    },
    /// A program of this host, by name.
    Tool(Vec<String>),
}

/// Why a command is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No command.
    #[error("Shell: this key has no shell here; it is for the trueup controller")]
    Shell,
    /// A byte that no word of ours has.
    #[error(
        "Alphabet: byte 0x{0:02x} is in no word that the controller says (letters, digits, `/._+=:,@-`)"
    )]
    Alphabet(u8),
    /// Too long.
    #[error("TooLong: more than {MAX_COMMAND} bytes or {MAX_WORDS} words")]
    TooLong,
    /// Another program.
    #[error("Program: `{0}` is none that this key may run: the agent, `nix-daemon --stdio`")]
    Program(String),
    /// A verb that is not the controller's.
    #[error("Verb: `{0}` is not for this key")]
    Verb(String),
    /// Arguments that the controller never gives.
    #[error("Arguments: `{0}` does not take these arguments over this key")]
    Arguments(String),
    /// No sudo here.
    #[error("Sudo: there is no sudo in {}", SUDO.join(" or "))]
    Sudo,
}

fn short(word: &str) -> String {
    word.chars().take(TOLD).collect()
}

/// Words apart by single blanks; some versions of Nix put each into single quotes.
fn words(command: &str) -> Result<Vec<&str>, Refused> {
    if command.is_empty() {
        return Err(Refused::Shell);
    }
    if command.len() > MAX_COMMAND {
        return Err(Refused::TooLong);
    }
    let mut words = Vec::new();
    for part in command.split(' ') {
        let quoted = part.strip_prefix('\'').and_then(|p| p.strip_suffix('\''));
        let word = quoted.unwrap_or(part);
        let odd = |b: &u8| !(b.is_ascii_alphanumeric() || b"/._-+=:,@".contains(b));
        if let Some(byte) = word.bytes().find(|b| odd(b)) {
            return Err(Refused::Alphabet(byte));
        }
        if word.is_empty() {
            return Err(Refused::Alphabet(b' '));
        }
        words.push(word);
        if words.len() > MAX_WORDS {
            return Err(Refused::TooLong);
        }
    }
    Ok(words)
}

/// Reads a command. Pure: what is allowed depends on nothing else.
pub fn parse(command: &str) -> Result<Run, Refused> {
    let words = words(command)?;
    let (as_root, words) = match words.as_slice() {
        ["sudo", "-n", "--", rest @ ..] => (true, rest),
        all => (false, all),
    };
    let Some((program, args)) = words.split_first() else {
        return Err(Refused::Program("sudo".to_owned()));
    };
    let owned = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    if is_agent(program) {
        verb(args)?;
        let args = owned(args);
        return Ok(Run::Verb { args, as_root });
    }
    match (*program, args) {
        ("true", []) => Ok(Run::Nothing),
        ("nix-daemon" | "nix-store", _) if as_root => Err(Refused::Program(short(program))),
        ("nix-daemon", _) if is_daemon(args) => Ok(Run::Tool(owned(words))),
        ("nix-store", ["--serve"] | ["--serve", "--write"]) => Ok(Run::Tool(owned(words))),
        ("nix-daemon" | "nix-store", _) => Err(Refused::Arguments(short(program))),
        _ if LOOKS.contains(&words) => Ok(Run::Tool(owned(words))),
        _ => Err(Refused::Program(short(program))),
    }
}

/// The controller names the agent that it would have brought. Whichever it names, the one that runs is this one.
fn is_agent(program: &str) -> bool {
    let named = || {
        let path = program.strip_suffix("/bin/trueup-agent")?;
        path.parse::<StorePath>().ok()
    };
    program == BROUGHT || named().is_some()
}

fn is_order(word: &str) -> bool {
    parse_order(word).is_some()
}

/// What an activation's nonce looks like.
#[must_use]
pub fn is_nonce(word: &str) -> bool {
    (1..=64).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Reads what a witness says over its own key: two verbs, and no program.
pub fn parse_witness(command: &str) -> Result<Run, Refused> {
    let words = words(command)?;
    let is_signature = |w: &str| {
        w.len() == SIGNATURE
            && w.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
    };
    let good = match words.as_slice() {
        ["challenge", "--order", order] => is_order(order),
        [
            "testify",
            "--order",
            order,
            "--nonce",
            nonce,
            "--signature",
            signature,
        ] => is_order(order) && is_nonce(nonce) && is_signature(signature),
        [name @ ("challenge" | "testify"), ..] => return Err(Refused::Arguments(short(name))),
        _ => {
            return Err(Refused::Verb(
                words.first().map_or(String::new(), |w| short(w)),
            ));
        }
    };
    if !good {
        return Err(Refused::Arguments(short(words[0])));
    }
    let args = words.iter().map(|w| (*w).to_owned()).collect();
    let as_root = true;
    Ok(Run::Verb { args, as_root })
}

/// A verb with exactly the arguments that the controller gives it.
fn verb(args: &[&str]) -> Result<(), Refused> {
    let Some((name, rest)) = args.split_first() else {
        return Err(Refused::Verb(String::new()));
    };
    let good = match (*name, rest) {
        ("report" | "watch" | "adopt-info" | "keys" | "leave" | "witness", rest) => rest.is_empty(),
        ("version", rest) => matches!(rest, [] | ["-o", "json"]),
        ("want", ["--stay", paths @ ..] | paths) => {
            !paths.is_empty() && paths.iter().all(|p| p.parse::<StorePath>().is_ok())
        }
        ("offer", rest) => matches!(rest, [] | ["--follow"]),
        ("confirm", ["--order", order, "--nonce", nonce]) => is_order(order) && is_nonce(nonce),
        ("confirm", _) => false,
        (other, _) => return Err(Refused::Verb(short(other))),
    };
    if good {
        Ok(())
    } else {
        Err(Refused::Arguments(short(name)))
    }
}

/// `nix-daemon [--option NAME VALUE]… --stdio`.
fn is_daemon(args: &[&str]) -> bool {
    let Some((last, options)) = args.split_last() else {
        return false;
    };
    let plain = |v: &str| {
        matches!(v, "true" | "false")
            || (1..=6).contains(&v.len()) && v.bytes().all(|b| b.is_ascii_digit())
    };
    let (triples, rest) = options.as_chunks::<3>();
    *last == "--stdio"
        && rest.is_empty()
        && triples
            .iter()
            .all(|[o, name, value]| *o == "--option" && NIX_OPTIONS.contains(name) && plain(value))
}

/// The verb `ssh-command`: reads what sshd was asked for, and answers the verb to run here, if it is one. Does not return
/// where another program takes this one's place.
pub fn ssh_command(rest: &[String]) -> Result<Option<Vec<String>>, AgentError> {
    forced(rest, "ssh-command", parse)
}

/// The verb `ssh-witness`: the same for the key of a witness.
pub fn ssh_witness(rest: &[String]) -> Result<Option<Vec<String>>, AgentError> {
    forced(rest, "ssh-witness", parse_witness)
}

fn forced(
    rest: &[String],
    name: &str,
    parse: fn(&str) -> Result<Run, Refused>,
) -> Result<Option<Vec<String>>, AgentError> {
    if !rest.is_empty() {
        return Err(AgentError::Usage(format!("{name} takes no arguments")));
    }
    let command = std::env::var_os(COMMAND).unwrap_or_default();
    let command = String::from_utf8_lossy(command.as_encoded_bytes());
    let run = parse(&command).map_err(|e| refuse(&command, e))?;
    let root = rustix::process::geteuid().is_root();
    match run {
        Run::Nothing => Ok(None),
        Run::Verb { args, as_root } if root || !as_root => Ok(Some(args)),
        Run::Verb { args, .. } => {
            let sudo = SUDO.iter().map(Path::new).find(|p| p.exists());
            let sudo = sudo.ok_or_else(|| refuse(&command, Refused::Sudo))?;
            let own = own_path()?;
            let own = own.to_string_lossy();
            let mut all = vec!["-n", "--", &*own];
            all.extend(args.iter().map(String::as_str));
            Err(exec::replace(sudo, &all).into())
        }
        Run::Tool(words) => {
            let tool = exec::tool(&words[0])?;
            let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
            Err(exec::replace(&tool, &args).into())
        }
    }
}

fn refuse(command: &str, why: Refused) -> AgentError {
    let from = std::env::var("SSH_CONNECTION").unwrap_or_default();
    let from = from.split(' ').next().unwrap_or("?").to_owned();
    let shown: String = command
        .chars()
        .take(TOLD)
        .flat_map(char::escape_default)
        .collect();
    let text = format!("refused over a forced command, from {from}: {why}; asked for: {shown}");
    let line = format!("<{PRIORITY}>trueup-agent[{}]: {text}", std::process::id());
    // A host without a log refuses all the same.
    let _told = UnixDatagram::unbound().and_then(|s| s.send_to(line.as_bytes(), LOG));
    AgentError::Forced(why)
}

/// The verb `authorized-key`: the line of `authorized_keys` for a public key of the controller.
pub fn line(rest: &[String]) -> Result<String, AgentError> {
    line_for(rest, "authorized-key", "ssh-command")
}

/// The verb `witness-key`: the line for the host key of a witness.
pub fn witness_line(rest: &[String]) -> Result<String, AgentError> {
    line_for(rest, "witness-key", "ssh-witness")
}

fn line_for(rest: &[String], verb: &str, command: &str) -> Result<String, AgentError> {
    let usage = || AgentError::Usage(format!("{verb} 'TYPE BASE64 [COMMENT]'"));
    let key = rest.join(" ");
    let mut parts = key.split_whitespace();
    let (Some(kind), Some(data)) = (parts.next(), parts.next()) else {
        return Err(usage());
    };
    let kind_ok = ["ssh-", "ecdsa-", "sk-"]
        .iter()
        .any(|p| kind.starts_with(p));
    let data_ok = data
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
    if !kind_ok || !data_ok || key.chars().any(char::is_control) {
        return Err(usage());
    }
    let own = own_path()?;
    let own = own.to_string_lossy().into_owned();
    if own.contains(['"', ' ', '\\']) {
        return Err(AgentError::Request(format!(
            "{own} can't stand in a line of authorized_keys: run the agent from its store path"
        )));
    }
    Ok(format!("restrict,command=\"{own} {command}\" {key}"))
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
