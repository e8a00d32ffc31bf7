//! A witness: another host whose agent confirms an activation, on a connection of its own. What it is told, what it signs,
//! and how the host that is confirmed sees that it was this one. Signatures are SSHSIG's, by the witness's SSH host key, in a
//! namespace of ours: no key of anybody travels, and what it signed means nothing elsewhere.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha512};

use super::{AttemptState, Order};
use crate::HostName;

/// DSSE payload type of a [`Watch`].
pub const WATCH_PAYLOAD_TYPE: &str = "application/vnd.trueup.watch+json";

/// What a reader must understand of an intent that a witness confirms.
pub const WITNESS_V1: &str = "witness/1";

/// Namespace of the signatures, as `ssh-keygen -Y` calls it.
pub const WITNESS_NAMESPACE: &str = "witness@trueup";

/// The one type of host keys that a witness signs with.
pub const WITNESS_KEY_TYPE: &str = "ssh-ed25519";

/// Host keys of a [`Watch`].
pub const WATCH_KEYS_MAX: usize = 16;

/// Who confirms, in an intent: only what this key signed counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Witness {
    /// Which host.
    pub host: HostName,
    /// Its SSH host key: `ssh-ed25519 BASE64`.
    pub key: String,
}

/// What the controller asks of a witness before it offers: to go to a host until it has confirmed this attempt there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watch {
    /// [`super::FORMAT`].
    pub format: u32,
    /// The witness. Another one refuses.
    pub witness: Witness,
    /// Its `/etc/machine-id` as recorded at adoption.
    pub machine_id: Option<String>,
    /// The host that is to be confirmed.
    pub host: HostName,
    /// Where it will be: address or name, as its manifest says.
    pub address: String,
    /// Port of its sshd.
    pub port: u16,
    /// Login there.
    pub user: String,
    /// Its pinned keys, `TYPE BASE64`.
    pub host_keys: Vec<String>,
    /// The attempt.
    #[serde(flatten)]
    pub order: Order,
    /// After this it is not begun.
    pub expires_at: Timestamp,
    /// For so long the witness goes there.
    pub for_secs: u64,
}

/// What the host answers to a witness that asks after an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Challenge {
    /// Where the attempt stands; `None`: it has not begun.
    pub state: Option<AttemptState>,
    /// To be signed, while the attempt waits.
    pub nonce: Option<String>,
    /// A later attempt has begun: this one is over.
    pub over: bool,
}

/// What a witness has done of late, in its report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct WatchReport {
    /// For which host.
    pub host: HostName,
    /// Which attempt.
    #[serde(flatten)]
    pub order: Order,
    /// How often it went there.
    pub tries: u64,
    /// It has confirmed.
    pub confirmed: bool,
    /// It still goes there.
    pub goes_on: bool,
    /// How the last try ended, for people.
    pub said: String,
}

/// The bytes that a witness signs: SSHSIG's, of who saw whom, which attempt, and the nonce of its activation.
fn testimony(witness: &HostName, host: &HostName, order: Order, nonce: &str) -> Vec<u8> {
    let text = format!("trueup witness 1\n{witness}\n{host}\n{order}\n{nonce}\n");
    let hash = Sha512::digest(text.as_bytes());
    let mut out = b"SSHSIG".to_vec();
    for part in [WITNESS_NAMESPACE.as_bytes(), b"", b"sha512", &hash] {
        put(&mut out, part);
    }
    out
}

fn put(out: &mut Vec<u8>, part: &[u8]) {
    let len = u32::try_from(part.len()).expect("names and hashes are short");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(part);
}

/// Signs as the witness, in base 64.
#[must_use]
pub fn testify(
    key: &SigningKey,
    witness: &HostName,
    host: &HostName,
    order: Order,
    nonce: &str,
) -> String {
    BASE64.encode(key.sign(&testimony(witness, host, order, nonce)).to_bytes())
}

impl Witness {
    /// The key, if it is one that signs.
    fn verifying_key(&self) -> Option<VerifyingKey> {
        let (kind, data) = self.key.split_once(' ')?;
        let data = BASE64
            .decode(data.split_whitespace().next()?.as_bytes())
            .ok()?;
        let mut head = Vec::new();
        put(&mut head, WITNESS_KEY_TYPE.as_bytes());
        head.extend_from_slice(&32_u32.to_be_bytes());
        let bytes: [u8; 32] = data.strip_prefix(head.as_slice())?.try_into().ok()?;
        (kind == WITNESS_KEY_TYPE).then_some(())?;
        VerifyingKey::from_bytes(&bytes).ok()
    }

    /// Did this witness see this attempt of this host wait with this nonce?
    #[must_use]
    pub fn saw(&self, host: &HostName, order: Order, nonce: &str, signature: &str) -> bool {
        let signature = BASE64.decode(signature).ok();
        let signature = signature.and_then(|b| Signature::from_slice(&b).ok());
        let (Some(key), Some(signature)) = (self.verifying_key(), signature) else {
            return false;
        };
        key.verify_strict(&testimony(&self.host, host, order, nonce), &signature)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn name(text: &str) -> HostName {
        text.parse().unwrap()
    }

    fn line(key: &SigningKey) -> String {
        let mut blob = Vec::new();
        put(&mut blob, WITNESS_KEY_TYPE.as_bytes());
        put(&mut blob, key.verifying_key().as_bytes());
        format!("{WITNESS_KEY_TYPE} {} root@web-1", BASE64.encode(blob))
    }

    #[test]
    fn only_the_named_witness_and_only_of_this_attempt_is_believed() {
        let (key, thief) = (
            SigningKey::from_bytes(&[7; 32]),
            SigningKey::from_bytes(&[8; 32]),
        );
        let (witness, hub) = (name("web-1"), name("hub"));
        let order = Order { term: 1, serial: 7 };
        let named = Witness {
            host: witness.clone(),
            key: line(&key),
        };
        let said = testify(&key, &witness, &hub, order, "0a1b");
        assert!(named.saw(&hub, order, "0a1b", &said));

        let later = Order { term: 1, serial: 8 };
        assert!(!named.saw(&hub, later, "0a1b", &said), "another attempt");
        assert!(!named.saw(&hub, order, "0a1c", &said), "another activation");
        assert!(
            !named.saw(&witness, order, "0a1b", &said),
            "of another host"
        );
        let forged = testify(&thief, &witness, &hub, order, "0a1b");
        assert!(!named.saw(&hub, order, "0a1b", &forged), "by another key");
        let other = testify(&key, &name("web-2"), &hub, order, "0a1b");
        assert!(!named.saw(&hub, order, "0a1b", &other), "as another host");
        for bad in ["", "AAAA", "not base 64!"] {
            assert!(!named.saw(&hub, order, "0a1b", bad), "{bad}");
        }
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            "ssh-rsa AAAAB3NzaC1yc2E=",
        ] {
            let named = Witness {
                host: witness.clone(),
                key: bad.to_owned(),
            };
            assert!(!named.saw(&hub, order, "0a1b", &said), "{bad}");
        }
    }
}
