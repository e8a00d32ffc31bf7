//! The program on a host: takes a signed intent, activates it under a dead-man, has it confirmed over a fresh
//! connection, commits it, or goes back by itself. No shell, no name service, nothing that waits for a controller.

use std::path::PathBuf;

use trueup_schema::wire::Order;

pub mod activate;
pub mod boot;
pub mod bus;
pub mod changes;
pub mod cli;
pub mod component;
pub mod confirm;
pub mod contact;
pub mod deadman;
pub mod exec;
pub mod files;
pub mod gate;
pub mod grub;
pub mod health;
mod hostkeys;
pub mod journal;
pub mod judge;
pub mod leave;
pub mod lists;
pub mod memory;
pub mod mend;
pub mod network;
pub mod offer;
pub mod oneshot;
mod orphans;
mod plant;
pub mod preflight;
pub mod profile;
pub mod reboot;
pub mod report;
pub mod resume;
#[cfg(feature = "planted")]
pub mod second;
pub mod secrets;
pub mod session;
pub mod store;
pub mod system;
pub mod trust;
pub mod units;
pub mod witness;
pub mod witnessed;

/// What can go wrong in a verb, as told to the person or controller at the other end.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Not root.
    #[error("NotRoot: trueup-agent must run as root (directly, or by `sudo -n`); this is uid {0}")]
    NotRoot(u32),
    /// Wrong arguments.
    #[error("usage: {0}")]
    Usage(String),
    /// A forced command that this key may not give.
    #[error("ForcedCommand/{0}")]
    Forced(gate::Refused),
    /// Standard input is not what it should be.
    #[error("can't read the request: {0}")]
    Request(String),
    /// No such attempt here.
    #[error("no attempt {0} on this host")]
    NoAttempt(String),
    /// A confirmation that does not count.
    #[error("{reason}: {message}")]
    NotConfirmed {
        /// `NotFresh`, `WrongNonce`, `NotAwaiting`, `NotWitness`.
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// An attempt is under way.
    #[error("Busy: the attempt {order} is under way ({phase}); it ends by itself, then ask again")]
    Busy {
        /// Which.
        order: Order,
        /// Where it is.
        phase: String,
    },
    /// The intent is not where it was put.
    #[error("the intent of {0} is gone from the state folder")]
    NoIntent(Order),
    /// A component can't.
    #[error("{component}: {message}")]
    Component {
        /// Which.
        component: String,
        /// Why.
        message: String,
    },
    /// The dead-man does not stand, so nothing may be touched.
    #[error("the dead-man was started and does not stand: {0}")]
    NotArmed(String),
    /// Running a program.
    #[error(transparent)]
    Exec(#[from] exec::ExecError),
    /// A file.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] journal::JournalError),
    /// What a witness is asked, and does not do.
    #[error("Witness: {0}")]
    Witness(String),
    /// Whom to be a witness of.
    #[error("Witness: {0}; nobody is watched")]
    Watch(trust::TrustError),
    /// A list of the controller's keys.
    #[error("{0}; nothing changed")]
    Keys(trust::TrustError),
    /// Standard output is gone.
    #[error("can't answer: {0}")]
    Answer(std::io::Error),
}

/// `<term>-<serial>`.
#[must_use]
pub fn parse_order(text: &str) -> Option<Order> {
    let (term, serial) = text.split_once('-')?;
    let number = |s: &str| -> Option<u64> {
        let plain = (1..=20).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
        if plain { s.parse().ok() } else { None }
    };
    Some(Order {
        term: number(term)?,
        serial: number(serial)?,
    })
}

/// The program itself, as units must name it.
pub fn own_path() -> Result<PathBuf, AgentError> {
    std::env::current_exe().map_err(|e| AgentError::Request(format!("own path: {e}")))
}

/// The store path that this program runs from, if it does.
#[must_use]
pub fn own_store_path() -> Option<trueup_schema::StorePath> {
    let exe = own_path().ok()?;
    let rest = exe.strip_prefix("/nix/store").ok()?;
    let first = rest.components().next()?;
    let path = std::path::Path::new("/nix/store").join(first);
    path.to_str()?.parse().ok()
}

/// 16 random bytes in hex.
#[must_use]
pub fn nonce() -> String {
    use std::fmt::Write as _;
    use std::io::Read as _;
    let mut bytes = [0_u8; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    if read.is_err() {
        // Not secret then, but still unlike any other attempt's: the nonce is a name, SSH is the guard.
        bytes[..8].copy_from_slice(&journal::boottime().to_le_bytes());
        bytes[8..12].copy_from_slice(&std::process::id().to_le_bytes());
    }
    bytes.iter().fold(String::new(), |mut out, b| {
        let _fits = write!(out, "{b:02x}");
        out
    })
}
