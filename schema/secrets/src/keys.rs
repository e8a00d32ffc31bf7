//! Who can read: identities that open age stanzas, recipients that files are sealed to. No passphrase is asked for.

use std::fmt;
use std::io::{Read, Write};

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::INPUT_BYTES_MAX;
use crate::error::Error;
use crate::ssh_to_age;

/// More identities than this in one call is a mistake.
const IDENTITIES_MAX: usize = 1_000;

/// The most work that a sealed key file may ask for, as a power of two; `age` itself writes 18.
const SCRYPT_WORK_MAX: u8 = 20;

/// Identities, all of which are tried.
#[derive(Default)]
pub struct Identities(Vec<Known>);

struct Known {
    identity: Box<dyn age::Identity + Send + Sync>,
    /// The public half, where the key tells it.
    recipient: Option<String>,
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities(<redacted; {}>)", self.0.len())
    }
}

impl Identities {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the identities of an age key file: one a line, `#` and empty lines skipped.
    pub fn add_age(&mut self, text: &str) -> Result<(), Error> {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let identity: age::x25519::Identity = line.parse().map_err(|_| {
                bad_identity(&format!("line {}", number + 1), "not an age identity")
            })?;
            let recipient = Some(identity.to_public().to_string());
            self.push(Box::new(identity), recipient)?;
        }
        Ok(())
    }

    /// Adds an SSH private key for native ssh-ed25519 and ssh-rsa stanzas.
    pub fn add_ssh(&mut self, pem: &[u8], passphrase: Option<&SecretString>) -> Result<(), Error> {
        let key = ssh_key(pem, passphrase)?;
        self.push(Box::new(key), None)
    }

    /// Adds an SSH private key, converted: it opens what was sealed to `age1...` of its public half.
    pub fn add_ssh_to_age(
        &mut self,
        pem: &[u8],
        passphrase: Option<&SecretString>,
    ) -> Result<(), Error> {
        let identity = ssh_to_age::ssh_private_to_age(pem, passphrase)?;
        self.add_age(identity.expose_secret())
    }

    /// Adds an SSH host key in both forms: a file may name either. Keys that have no age form are added natively only.
    pub fn add_host_key(&mut self, pem: &[u8]) -> Result<(), Error> {
        let key = ssh_key(pem, None)?;
        if let Ok(identity) = ssh_to_age::ssh_private_to_age(pem, None) {
            self.add_age(identity.expose_secret())?;
        }
        self.push(Box::new(key), None)
    }

    fn push(
        &mut self,
        identity: Box<dyn age::Identity + Send + Sync>,
        recipient: Option<String>,
    ) -> Result<(), Error> {
        if self.0.len() >= IDENTITIES_MAX {
            return Err(bad_identity("list", "too many identities"));
        }
        self.0.push(Known {
            identity,
            recipient,
        });
        Ok(())
    }

    /// The recipients whose private halves are here, with whether that half alone opens the file.
    pub(crate) fn who_opens<'a>(&'a self, file: &'a [u8]) -> impl Iterator<Item = (&'a str, bool)> {
        self.0.iter().filter_map(move |known| {
            let decryptor = age::Decryptor::new_buffered(ArmoredReader::new(file)).ok()?;
            let only = std::iter::once(&*known.identity as &dyn age::Identity);
            Some((known.recipient.as_deref()?, decryptor.decrypt(only).is_ok()))
        })
    }

    /// Opens an age file, armored or binary.
    pub(crate) fn open(&self, file: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
        let decryptor = age::Decryptor::new_buffered(ArmoredReader::new(file))
            .map_err(|error| error.to_string())?;
        let identities = self
            .0
            .iter()
            .map(|known| &*known.identity as &dyn age::Identity);
        let reader = decryptor
            .decrypt(identities)
            .map_err(|error| error.to_string())?;
        let mut plain = Zeroizing::new(Vec::new());
        let limit = INPUT_BYTES_MAX as u64;
        reader
            .take(limit + 1)
            .read_to_end(&mut plain)
            .map_err(|error| error.to_string())?;
        if plain.len() as u64 > limit {
            return Err("it is larger than is reasonable".into());
        }
        Ok(plain)
    }
}

/// Whether a private SSH key opens with a passphrase only.
pub fn needs_passphrase(pem: &[u8]) -> bool {
    matches!(
        age::ssh::Identity::from_buffer(pem, None),
        Ok(age::ssh::Identity::Encrypted(_))
    )
}

/// Whether an age key file is itself sealed, as `age -p` does.
pub fn is_sealed_key_file(bytes: &[u8]) -> bool {
    bytes.starts_with(b"age-encryption.org/v1")
        || bytes.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----")
}

/// Opens such a file: its text is that of an age key file.
pub fn open_key_file(bytes: &[u8], passphrase: &SecretString) -> Result<SecretString, Error> {
    let refuse = |reason| bad_identity("a sealed key file", reason);
    let passphrase = age::secrecy::SecretString::from(passphrase.expose_secret().to_owned());
    let mut identity = age::scrypt::Identity::new(passphrase);
    // Of the file's choosing, so bounded: 2^22 is a minute and 4 GiB.
    identity.set_max_work_factor(SCRYPT_WORK_MAX);
    let known = Identities(vec![Known {
        identity: Box::new(identity),
        recipient: None,
    }]);
    let plain = known
        .open(bytes)
        .map_err(|_| refuse("the passphrase does not open it"))?;
    let text = std::str::from_utf8(&plain).map_err(|_| refuse("it is not an age key file"))?;
    Ok(SecretString::from(text.to_owned()))
}

fn ssh_key(pem: &[u8], passphrase: Option<&SecretString>) -> Result<age::ssh::Identity, Error> {
    let refuse = |reason| bad_identity("an SSH key", reason);
    let identity =
        age::ssh::Identity::from_buffer(pem, None).map_err(|_| refuse("not a private SSH key"))?;
    match (identity, passphrase) {
        (key @ age::ssh::Identity::Unencrypted(_), _) => Ok(key),
        (age::ssh::Identity::Encrypted(key), Some(passphrase)) => key
            .decrypt(age::secrecy::SecretString::from(
                passphrase.expose_secret().to_owned(),
            ))
            .map(age::ssh::Identity::from)
            .map_err(|_| refuse("the passphrase does not open it")),
        (age::ssh::Identity::Encrypted(_), None) => Err(refuse("it needs a passphrase")),
        (age::ssh::Identity::Unsupported(_), _) => {
            Err(refuse("only ed25519 and RSA keys can be used"))
        }
    }
}

fn bad_identity(source: &str, reason: &str) -> Error {
    Error::BadIdentity {
        source_name: source.to_owned(),
        reason: reason.to_owned(),
    }
}

/// A recipient as it stands in a file: `age1...`, `ssh-ed25519 ...`, `ssh-rsa ...`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recipient(String);

impl Recipient {
    /// Reads and checks a recipient.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let recipient = Self(Self::normal(text));
        recipient.age().map(|_| recipient.clone())
    }

    /// The recipients that a host's public SSH key stands for: itself, and its age form when it is ed25519. A file may
    /// name either, and they are not the same recipient.
    pub fn of_host_key(line: &str) -> Result<Vec<Self>, Error> {
        let native = Self::parse(line)?;
        let converted = ssh_to_age::ssh_public_to_age(line).ok().map(Self);
        Ok(converted.into_iter().chain([native]).collect())
    }

    /// Without the comment behind an SSH key, which is not part of it.
    pub(crate) fn normal(text: &str) -> String {
        let mut words = text.split_whitespace();
        match (words.next(), words.next()) {
            (Some(name), Some(blob)) if name.starts_with("ssh-") => format!("{name} {blob}"),
            _ => text.trim().to_owned(),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn age(&self) -> Result<Box<dyn age::Recipient + Send>, Error> {
        let refuse = |reason: &str| {
            Err(Error::BadRecipient {
                recipient: self.0.chars().take(80).collect(),
                reason: reason.to_owned(),
            })
        };
        let text = self.0.as_str();
        if text.starts_with("age1pq1") {
            return refuse("hybrid post-quantum recipients are not supported yet");
        }
        if text.starts_with("ssh-") {
            return match text.parse::<age::ssh::Recipient>() {
                Ok(recipient) => Ok(Box::new(recipient)),
                Err(_) => refuse(
                    "only valid ssh-ed25519 and ssh-rsa (2048 bits or more) keys can be used",
                ),
            };
        }
        match text.parse::<age::x25519::Recipient>() {
            Ok(recipient) => Ok(Box::new(recipient)),
            Err(_) if text.starts_with("age1") && text[4..].contains('1') => {
                refuse("recipients of age plugins are not supported yet")
            }
            Err(_) => refuse("not an age or SSH public key"),
        }
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Seals bytes to all recipients in one age file.
pub(crate) fn seal(plain: &[u8], recipients: &[Recipient], armor: bool) -> Result<Vec<u8>, Error> {
    let failed = |reason: String| Error::AgeFile { reason };
    let ready = recipients
        .iter()
        .map(Recipient::age)
        .collect::<Result<Vec<_>, _>>()?;
    let refs = ready
        .iter()
        .map(|recipient| &**recipient as &dyn age::Recipient);
    let encryptor =
        age::Encryptor::with_recipients(refs).map_err(|error| failed(error.to_string()))?;
    let format = if armor {
        Format::AsciiArmor
    } else {
        Format::Binary
    };
    let write = || -> std::io::Result<Vec<u8>> {
        let mut writer = encryptor.wrap_output(ArmoredWriter::wrap_output(Vec::new(), format)?)?;
        writer.write_all(plain)?;
        writer.finish()?.finish()
    };
    write().map_err(|error| failed(error.to_string()))
}

/// Seals a data key or a share of one to a single recipient, armored, as `enc` wants it.
pub(crate) fn seal_key(plain: &[u8], recipient: &Recipient) -> Result<String, Error> {
    let armored = seal(plain, std::slice::from_ref(recipient), true)?;
    let mut text = String::from_utf8(armored).map_err(|_| Error::AgeFile {
        reason: "the armor is not text".into(),
    })?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// A fresh X25519 identity, for tests and for hosts without a key of their own.
pub fn generate_identity() -> (SecretString, Recipient) {
    let identity = age::x25519::Identity::generate();
    let secret = SecretString::from(identity.to_string().expose_secret().to_owned());
    (secret, Recipient(identity.to_public().to_string()))
}
