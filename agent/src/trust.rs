//! Which controller this host obeys: public keys pinned at first contact, or put there by its NixOS module.

use trueup_schema::wire::{INTENT_PAYLOAD_TYPE, Intent, Keys, Signed};

use crate::files::{self, FileError, Layout};

/// More keys than this are not read.
const MAX_KEYS: usize = 16;
const PINNED: &str = "keys/controller.pub";
const MODULE: &str = "/etc/trueup/controller.pub";

/// Why an intent is not believed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// No key is pinned and none came along.
    #[error("no controller's key is pinned here, and the offer brought none")]
    NoKey,
    /// The signature.
    #[error(transparent)]
    Signature(#[from] trueup_schema::wire::SignedError),
    /// What was signed is no intent.
    #[error("the signed bytes are no intent: {0}")]
    Parse(serde_json::Error),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
}

fn lines(text: &str) -> Vec<String> {
    text.lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .take(MAX_KEYS)
        .map(str::to_owned)
        .collect()
}

/// The keys that are trusted here.
#[must_use]
pub fn pinned(layout: &Layout) -> Vec<String> {
    let mut keys = lines(&files::text(layout.file(PINNED)));
    keys.extend(lines(&files::text(MODULE)));
    keys.dedup();
    keys
}

/// The intent, if a pinned key signed it. At first contact `pin` is pinned, once it is seen to have signed.
pub fn verify(layout: &Layout, signed: &Signed, pin: Option<&str>) -> Result<Intent, TrustError> {
    let mut trusted = pinned(layout);
    let first = trusted.is_empty();
    if first {
        trusted.push(pin.ok_or(TrustError::NoKey)?.to_owned());
    }
    let keys = Keys::parse(trusted.iter().map(String::as_str))?;
    let payload = signed.verify(INTENT_PAYLOAD_TYPE, &keys)?;
    let intent = serde_json::from_slice(&payload).map_err(TrustError::Parse)?;
    if first {
        files::write_atomic(&layout.file(PINNED), format!("{}\n", trusted[0]).as_bytes())?;
    }
    Ok(intent)
}
