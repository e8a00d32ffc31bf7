//! Hosts: offer, copy, confirm, observe. No step awaits a host's answer to an activation: it comes as a report.

use async_trait::async_trait;
use futures::stream::LocalBoxStream;
use trueup_schema::wire::{Farewell, Intent, OfferReply, Order, Report, Signed, Watch};
use trueup_schema::{Address, ErrorClass, HostName, StorePath, System};

/// How to reach one host: from the manifest of the revision that is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// For logs and for the report stream.
    pub host: HostName,
    /// Its platform, for the agent's package.
    pub system: System,
    /// Where.
    pub address: Address,
    /// Port of sshd.
    pub port: u16,
    /// Login.
    pub user: String,
    /// Use passwordless sudo.
    pub become_root: bool,
    /// Pinned host keys: `type base64`. Empty: refused.
    pub host_keys: Vec<String>,
    /// Jump hosts, as ssh takes them.
    pub jump: Vec<String>,
}

/// What went wrong, for the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportFault {
    /// No connection: address, port, route, time-out.
    Unreachable,
    /// Another host key than pinned.
    HostKey,
    /// Login refused.
    Auth,
    /// Not root and no passwordless sudo.
    Privilege,
    /// A copy failed.
    Copy,
    /// The host refuses unsigned or untrusted paths.
    Untrusted,
    /// The agent could not be brought or does not run there.
    Agent,
    /// The answer was not understood or too long.
    Protocol,
}

/// Why a host could not be asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{host}: {message}")]
pub struct TransportError {
    /// Which.
    pub host: HostName,
    /// What, for the engine.
    pub fault: TransportFault,
    /// For people, with the next step to take.
    pub message: String,
}

impl TransportError {
    /// Who has to act.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self.fault {
            TransportFault::Unreachable | TransportFault::Copy => ErrorClass::Transient,
            TransportFault::HostKey
            | TransportFault::Auth
            | TransportFault::Privilege
            | TransportFault::Untrusted
            | TransportFault::Agent => ErrorClass::Host,
            TransportFault::Protocol => ErrorClass::Bug,
        }
    }
}

/// Reports as they come: from sessions that follow an activation, later from hosts that pull.
pub type ReportStream = LocalBoxStream<'static, (HostName, Report)>;

/// The port. Each call is bounded in time by the edge and safe to repeat.
#[async_trait(?Send)]
pub trait Hosts {
    /// Opens the shared connection ahead of need, while a build runs, and asks over it which of these paths the host
    /// lacks; what it lacks is rooted there. An empty list: it has them all.
    async fn prepare(
        &self,
        target: &Target,
        paths: &[StorePath],
    ) -> Result<Vec<StorePath>, TransportError>;
    /// Offers an intent. After `Begun` the edge follows the activation and feeds [`Hosts::reports`].
    async fn offer(&self, target: &Target, intent: &Signed) -> Result<OfferReply, TransportError>;
    /// Copies closures to the host, substituting there where it can.
    async fn copy(&self, target: &Target, paths: &[StorePath]) -> Result<(), TransportError>;
    /// Confirms over a connection that began after the activation ended: never a reused one. Tries beside tries,
    /// each with its own limit, for at most `within_secs`. Returns the report that the attempt ended with.
    async fn confirm(
        &self,
        target: &Target,
        order: Order,
        nonce: &str,
        within_secs: u64,
    ) -> Result<Report, TransportError>;
    /// Asks a host to be the witness of another: it goes there by itself from now on. Asked again, the later word holds.
    async fn witness(&self, witness: &Target, watch: &Signed) -> Result<(), TransportError>;
    /// Has the agent take away what is trueup's on the host; what runs stays as it is. Safe to repeat.
    async fn leave(&self, target: &Target) -> Result<Farewell, TransportError>;
    /// Asks for a report.
    async fn observe(&self, target: &Target) -> Result<Report, TransportError>;
    /// All reports that came by themselves. Taken once.
    fn reports(&self) -> ReportStream;
}

/// Signs intents with the fleet's key.
pub trait Signer {
    /// The public key in base 64: the fleet's name for itself.
    fn cluster(&self) -> String;
    /// Signs.
    fn sign(&self, intent: &Intent) -> Signed;
    /// Signs whom a witness is to confirm.
    fn sign_watch(&self, watch: &Watch) -> Signed;
}
