//! Sends alerts to a webhook, signed with HMAC-SHA256. On a thread of its own; whether and what to send is decided
//! elsewhere, and so is whether to try again.

use std::time::Duration;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// A sink that does not answer holds up the next alert for so long, at most.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The header with the signature, as GitHub's webhooks have it, so that receivers exist.
pub const SIGNATURE_HEADER: &str = "X-Trueup-Signature-256";

/// Why an alert was not delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sending an alert to {url}: {why}")]
pub struct WebhookError {
    /// Where, without a query: that may hold a token.
    pub url: String,
    /// Why.
    pub why: String,
}

/// A sink.
#[derive(Clone)]
pub struct Webhook {
    url: String,
    secret: Option<Vec<u8>>,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Webhook({})", shown(&self.url))
    }
}

fn shown(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}

/// `sha256=<hex>` over the body.
#[must_use]
pub fn signature(secret: &[u8], body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

impl Webhook {
    /// To a URL, signed if there is a secret.
    #[must_use]
    pub fn new(url: String, secret: Option<Vec<u8>>) -> Self {
        Self { url, secret }
    }

    /// Sends one JSON body; `Ok` means that the sink answered with 2xx.
    pub async fn send(&self, body: Vec<u8>) -> Result<(), WebhookError> {
        let this = self.clone();
        let url = shown(&self.url);
        match tokio::task::spawn_blocking(move || this.send_now(&body)).await {
            Ok(result) => result,
            Err(e) => Err(WebhookError {
                url,
                why: e.to_string(),
            }),
        }
    }

    fn send_now(&self, body: &[u8]) -> Result<(), WebhookError> {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .max_redirects(0)
            .build();
        let mut request = ureq::Agent::new_with_config(config)
            .post(&self.url)
            .header("Content-Type", "application/json")
            .header("User-Agent", concat!("trueup/", env!("CARGO_PKG_VERSION")));
        if let Some(secret) = &self.secret {
            request = request.header(SIGNATURE_HEADER, signature(secret, body));
        }
        let err = |why: String| WebhookError {
            url: shown(&self.url),
            why,
        };
        let answer = request.send(body).map_err(|e| err(e.to_string()))?;
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(err(format!("it answered {}", answer.status())))
        }
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
