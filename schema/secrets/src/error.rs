//! What can go wrong, and the class that the `-o json` output and the corpus call it by. No variant holds plain text.

use crate::store::Format;

/// The classes of errors that scripts may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    NoMetadata,
    BadMetadata,
    NoKey,
    ValueAuthFailed,
    ValueNotEncrypted,
    ValueBadBase64,
    UnknownType,
    TypeParseError,
    MacUndecryptable,
    MacMismatch,
    ParseError,
    Other,
}

impl Class {
    /// The name that is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoMetadata => "no_metadata",
            Self::BadMetadata => "bad_metadata",
            Self::NoKey => "no_key",
            Self::ValueAuthFailed => "value_auth_failed",
            Self::ValueNotEncrypted => "value_not_encrypted",
            Self::ValueBadBase64 => "value_bad_base64",
            Self::UnknownType => "unknown_type",
            Self::TypeParseError => "type_parse_error",
            Self::MacUndecryptable => "mac_undecryptable",
            Self::MacMismatch => "mac_mismatch",
            Self::ParseError => "parse_error",
            Self::Other => "other",
        }
    }
}

/// Every failure of this crate. Paths are those of keys, joined by `/`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no sops metadata: the file is not encrypted")]
    NoMetadata,
    #[error("the sops metadata is not valid: {reason}")]
    BadMetadata { reason: String },
    #[error("no identity opens the data key: {reason}")]
    NoKey { reason: String },
    #[error("the value at `{path}` is not authentic")]
    ValueAuth { path: String },
    #[error("the value at `{path}` should be encrypted and is not")]
    ValueNotEncrypted { path: String },
    #[error("the {part} of the value at `{path}` is not base64")]
    ValueBase64 { path: String, part: &'static str },
    #[error("the value at `{path}` has the unknown type `{name}`")]
    UnknownType { path: String, name: String },
    #[error("the value at `{path}` does not read as its type `{name}`")]
    TypeParse { path: String, name: &'static str },
    #[error("the MAC cannot be decrypted: it, or `lastmodified`, was changed")]
    MacUndecryptable,
    #[error("the MAC does not fit the content: something was added, removed, reordered or changed")]
    MacMismatch,
    #[error("not valid {format}, line {line}: {reason}")]
    Parse {
        format: Format,
        line: usize,
        reason: String,
    },
    #[error("the file is already encrypted (it has `sops` metadata)")]
    AlreadyEncrypted,
    #[error("the file is empty; it must hold at least one document")]
    Empty,
    #[error("the key at `{path}` is not a string")]
    KeyNotText { path: String },
    #[error("the value at `{path}` cannot be written: {reason}")]
    Unsupported { path: String, reason: &'static str },
    #[error("`{recipient}` is not a recipient that can be encrypted to: {reason}")]
    BadRecipient { recipient: String, reason: String },
    #[error("identity {source_name}: {reason}")]
    BadIdentity { source_name: String, reason: String },
    #[error("`{path}`: {reason}")]
    Lookup { path: String, reason: String },
    #[error("creation rules: {reason}")]
    CreationRules { reason: String },
    #[error("the age file cannot be opened: {reason}")]
    AgeFile { reason: String },
    #[error("secrets.nix, line {line}: {reason}")]
    SecretsNix { line: usize, reason: String },
}

impl Error {
    /// The class of this error.
    pub fn class(&self) -> Class {
        match self {
            Self::NoMetadata => Class::NoMetadata,
            Self::BadMetadata { .. } => Class::BadMetadata,
            Self::NoKey { .. } => Class::NoKey,
            Self::ValueAuth { .. } => Class::ValueAuthFailed,
            Self::ValueNotEncrypted { .. } => Class::ValueNotEncrypted,
            Self::ValueBase64 { .. } => Class::ValueBadBase64,
            Self::UnknownType { .. } => Class::UnknownType,
            Self::TypeParse { .. } => Class::TypeParseError,
            Self::MacUndecryptable => Class::MacUndecryptable,
            Self::MacMismatch => Class::MacMismatch,
            Self::Parse { .. } => Class::ParseError,
            Self::AlreadyEncrypted
            | Self::Empty
            | Self::KeyNotText { .. }
            | Self::Unsupported { .. }
            | Self::BadRecipient { .. }
            | Self::BadIdentity { .. }
            | Self::Lookup { .. }
            | Self::CreationRules { .. }
            | Self::AgeFile { .. }
            | Self::SecretsNix { .. } => Class::Other,
        }
    }

    pub(crate) fn metadata(reason: impl Into<String>) -> Self {
        Self::BadMetadata {
            reason: reason.into(),
        }
    }
}
