//! Sinks of alerts: one message to one sink, once. Whether, what and when again is the engine's matter.

use async_trait::async_trait;
use trueup_schema::ErrorClass;
use trueup_schema::kind::ResolvedAlert;

/// Why a sink did not take a message.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct AlertError {
    /// `Transient`: it may take it later. `Desired`: it understood and said no; the manifest or the sink is wrong.
    pub class: ErrorClass,
    /// For people; without the secret, and without a URL's query, which may hold one.
    pub message: String,
}

/// The port.
#[async_trait(?Send)]
pub trait Alerts {
    /// Sends a JSON body, signed with the key that lies in the sink's `secretFile` now. `delivery` is the same at each try,
    /// so that a receiver can tell a message that comes twice. Bounded in time.
    async fn send(
        &self,
        sink: &ResolvedAlert,
        delivery: &str,
        body: Vec<u8>,
    ) -> Result<(), AlertError>;
}
