//! DSSE envelopes with Ed25519 (protocol: secure-systems-lab/dsse, `PAE`). The payload's bytes are what is signed,
//! so a reader never has to agree with the writer on how a structure is printed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature as Ed25519, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

/// An envelope: payload and signatures in base 64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Signed {
    /// What the payload is, e.g. [`super::INTENT_PAYLOAD_TYPE`].
    pub payload_type: String,
    /// Base 64 of the signed bytes.
    pub payload: String,
    /// One for each key that signed; during a rotation several.
    pub signatures: Vec<Signature>,
}

/// One signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Which key: the public key in base 64. A hint for people; every trusted key is tried.
    pub keyid: String,
    /// Base 64 of the 64 bytes.
    pub sig: String,
}

/// The public keys that a reader trusts: a list, so that one can be rotated.
#[derive(Debug, Clone, Default)]
pub struct Keys(pub Vec<VerifyingKey>);

/// Why an envelope is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// Not the kind of payload that was asked for.
    #[error("payload is `{found}`, not `{expected}`")]
    PayloadType {
        /// What it says.
        found: String,
        /// What was asked for.
        expected: &'static str,
    },
    /// Payload or signature is not base 64.
    #[error("the envelope's payload is not base 64")]
    Encoding,
    /// None of the signatures is by a trusted key.
    #[error("no signature by a trusted key ({trusted} trusted)")]
    Untrusted {
        /// How many keys are trusted.
        trusted: usize,
    },
    /// A key is not 32 bytes of base 64 on the curve.
    #[error("`{0}` is not an Ed25519 public key in base 64")]
    Key(String),
}

/// DSSE's pre-authentication encoding: what is really signed.
#[must_use]
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!(
        "DSSEv1 {} {payload_type} {} ",
        payload_type.len(),
        payload.len()
    )
    .into_bytes();
    out.extend_from_slice(payload);
    out
}

/// A public key as text.
#[must_use]
pub fn key_text(key: &VerifyingKey) -> String {
    BASE64.encode(key.as_bytes())
}

impl Signed {
    /// Signs `payload`.
    #[must_use]
    pub fn new(payload_type: &str, payload: &[u8], key: &SigningKey) -> Self {
        let sig = key.sign(&pae(payload_type, payload));
        Self {
            payload_type: payload_type.to_owned(),
            payload: BASE64.encode(payload),
            signatures: vec![Signature {
                keyid: key_text(&key.verifying_key()),
                sig: BASE64.encode(sig.to_bytes()),
            }],
        }
    }

    /// The payload, if a trusted key signed it as what is expected.
    pub fn verify(&self, expected: &'static str, keys: &Keys) -> Result<Vec<u8>, SignedError> {
        if self.payload_type != expected {
            let found = self.payload_type.chars().take(80).collect();
            return Err(SignedError::PayloadType { found, expected });
        }
        let payload = BASE64
            .decode(&self.payload)
            .map_err(|_| SignedError::Encoding)?;
        let message = pae(&self.payload_type, &payload);
        let good = |s: &Signature| {
            BASE64
                .decode(&s.sig)
                .ok()
                .and_then(|b| Ed25519::from_slice(&b).ok())
                .is_some_and(|sig| {
                    keys.0
                        .iter()
                        .any(|k| k.verify_strict(&message, &sig).is_ok())
                })
        };
        if self.signatures.iter().any(good) {
            Ok(payload)
        } else {
            Err(SignedError::Untrusted {
                trusted: keys.0.len(),
            })
        }
    }
}

impl Keys {
    /// From base 64, one key each.
    pub fn parse<'a>(keys: impl IntoIterator<Item = &'a str>) -> Result<Self, SignedError> {
        keys.into_iter()
            .map(|text| {
                let bad = || SignedError::Key(text.chars().take(80).collect());
                let bytes = BASE64.decode(text.trim()).map_err(|_| bad())?;
                let bytes: [u8; 32] = bytes.try_into().map_err(|_| bad())?;
                VerifyingKey::from_bytes(&bytes).map_err(|_| bad())
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "application/vnd.trueup.test+json";

    #[test]
    fn only_a_trusted_key_over_these_bytes_is_believed() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let other = SigningKey::from_bytes(&[8; 32]);
        let trusted = Keys(vec![key.verifying_key()]);
        let good = Signed::new(TYPE, b"payload", &key);
        assert_eq!(good.verify(TYPE, &trusted).unwrap(), b"payload");
        assert!(
            Signed::new(TYPE, b"payload", &other)
                .verify(TYPE, &trusted)
                .is_err()
        );
        assert!(
            good.verify("application/vnd.trueup.other", &trusted)
                .is_err()
        );
        let mut forged = good.clone();
        forged.payload = BASE64.encode(b"other");
        assert!(forged.verify(TYPE, &trusted).is_err());
        assert!(good.verify(TYPE, &Keys::default()).is_err());
    }

    #[test]
    fn pae_is_as_dsse_says() {
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }
}
