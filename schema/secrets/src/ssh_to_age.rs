//! An ed25519 SSH key as an age X25519 key, the way ssh-to-age does it. Other key types are refused.

use bech32::{Bech32, Hrp};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

use crate::error::Error;

/// The age recipient of an SSH public key line; lines of known_hosts and ssh-keyscan are read too.
pub fn ssh_public_to_age(line: &str) -> Result<String, Error> {
    let bad = |reason: &str| Error::BadRecipient {
        recipient: shorten(line),
        reason: reason.to_owned(),
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words
        .iter()
        .position(|word| *word == "ssh-ed25519")
        .ok_or_else(|| bad("only ssh-ed25519 keys convert"))?;
    let blob = words.get(at + 1).ok_or_else(|| bad("the key is missing"))?;
    let recipient = format!("ssh-ed25519 {blob}")
        .parse::<age::ssh::Recipient>()
        .map_err(|_| bad("not a public key"))?;
    match recipient {
        age::ssh::Recipient::SshEd25519(_, point) => {
            encode("age", point.to_montgomery().as_bytes()).ok_or_else(|| bad("not a public key"))
        }
        age::ssh::Recipient::SshRsa(..) => Err(bad("only ssh-ed25519 keys convert")),
    }
}

/// The age identity of an OpenSSH private key file; `passphrase` for a key that has one.
pub fn ssh_private_to_age(
    pem: &[u8],
    passphrase: Option<&SecretString>,
) -> Result<SecretString, Error> {
    let mut key = ssh_key::PrivateKey::from_openssh(pem)
        .map_err(|_| refused("only OpenSSH ed25519 keys convert"))?;
    if key.is_encrypted() {
        let passphrase = passphrase.ok_or_else(|| refused("it needs a passphrase"))?;
        key = key
            .decrypt(passphrase.expose_secret())
            .map_err(|_| refused("the passphrase does not open it"))?;
    }
    let pair = key
        .key_data()
        .ed25519()
        .ok_or_else(|| refused("only ed25519 keys convert"))?;
    let mut hash = Sha512::digest(pair.private.as_ref());
    let lower = encode("age-secret-key-", &hash[..32]).map(Zeroizing::new);
    zeroize::Zeroize::zeroize(hash.as_mut_slice());
    lower
        .map(|lower| SecretString::from(lower.to_uppercase()))
        .ok_or_else(|| refused("it has no age form"))
}

fn encode(prefix: &str, bytes: &[u8]) -> Option<String> {
    bech32::encode::<Bech32>(Hrp::parse(prefix).ok()?, bytes).ok()
}

fn refused(reason: &str) -> Error {
    Error::BadIdentity {
        source_name: "an SSH key".into(),
        reason: reason.to_owned(),
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}
