//! Sends alerts to webhooks, signed with HMAC-SHA256. On a thread of its own; whether and what to send is decided
//! elsewhere, and so is whether to try again.

use std::io::Read as _;
use std::time::Duration;

use async_trait::async_trait;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use trueup_engine::ports::{AlertError, Alerts};
use trueup_schema::ErrorClass;
use trueup_schema::kind::ResolvedAlert;

/// A sink that does not answer holds up its next alert for so long, at most.
const TIMEOUT: Duration = Duration::from_secs(5);
/// More than any key; a wrong path may name anything.
const SECRET_MAX: u64 = 64 * 1024;
/// The header with the signature, as GitHub's webhooks have it, so that receivers exist.
pub const SIGNATURE_HEADER: &str = "X-Trueup-Signature-256";
/// The header with what is the same at each try of one message.
pub const DELIVERY_HEADER: &str = "X-Trueup-Delivery";
/// Answers that say "later" and not "no".
const LATER: [u16; 3] = [408, 425, 429];

/// All sinks: each message names its own. It keeps nothing, so that a changed key counts from the next message on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Webhooks;

#[async_trait(?Send)]
impl Alerts for Webhooks {
    async fn send(
        &self,
        sink: &ResolvedAlert,
        delivery: &str,
        body: Vec<u8>,
    ) -> Result<(), AlertError> {
        let (sink, delivery) = (sink.clone(), delivery.to_owned());
        let sent = tokio::task::spawn_blocking(move || send_now(&sink, &delivery, &body));
        sent.await.unwrap_or_else(|e| {
            Err(AlertError {
                class: ErrorClass::Bug,
                message: format!("sending an alert: {e}"),
            })
        })
    }
}

/// Without the query, which may hold a token.
fn shown(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

/// `sha256=<hex>` over the body.
#[must_use]
pub fn signature(secret: &[u8], body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

/// The key, without the line's end that editors leave.
fn secret(path: &str) -> Result<Vec<u8>, AlertError> {
    let err = |why: &str| AlertError {
        class: ErrorClass::Host,
        message: format!("reading the key in {path} (`secretFile`): {why}"),
    };
    let file = std::fs::File::open(path).map_err(|e| err(&e.to_string()))?;
    let mut key = Vec::new();
    file.take(SECRET_MAX + 1)
        .read_to_end(&mut key)
        .map_err(|e| err(&e.to_string()))?;
    while key.last().is_some_and(u8::is_ascii_whitespace) {
        key.pop();
    }
    if key.is_empty() {
        return Err(err("it is empty; put a long random line there"));
    }
    if key.len() as u64 > SECRET_MAX {
        return Err(err("it is too long for a key"));
    }
    Ok(key)
}

fn send_now(sink: &ResolvedAlert, delivery: &str, body: &[u8]) -> Result<(), AlertError> {
    let err = |class, why: String| AlertError {
        class,
        message: format!("sending to {}: {why}", shown(&sink.url)),
    };
    let key = secret(&sink.secret_file)?;
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .max_redirects(0)
        .http_status_as_error(false)
        .build();
    let answer = ureq::Agent::new_with_config(config)
        .post(&sink.url)
        .header("Content-Type", "application/json")
        .header("User-Agent", concat!("trueup/", env!("CARGO_PKG_VERSION")))
        .header(SIGNATURE_HEADER, signature(&key, body))
        .header(DELIVERY_HEADER, delivery)
        .send(body)
        .map_err(|e| err(ErrorClass::Transient, plain(&e)))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let no = status.is_client_error() && !LATER.contains(&status.as_u16());
    let class = if no {
        ErrorClass::Desired
    } else {
        ErrorClass::Transient
    };
    Err(err(class, format!("it answered {status}")))
}

/// Errors about the URL itself would repeat it with its query.
fn plain(e: &ureq::Error) -> String {
    match e {
        ureq::Error::BadUri(_) => "it is no URL that can be sent to".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_as_known_elsewhere() {
        // GitHub's documented example.
        assert_eq!(
            signature(b"It's a Secret to Everybody", b"Hello, World!"),
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        );
    }
}
