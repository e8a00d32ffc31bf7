//! Plain age files: what they look like.

const BINARY: &[u8] = b"age-encryption.org/v1";
const ARMOR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";

/// Whether these bytes begin like an age file.
pub(super) fn looks_like(bytes: &[u8]) -> bool {
    bytes.starts_with(BINARY) || bytes.starts_with(ARMOR)
}

/// Whether it is in the form with letters only.
pub(super) fn is_armored(bytes: &[u8]) -> bool {
    bytes.starts_with(ARMOR)
}
