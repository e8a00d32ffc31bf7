//! The `secrets` goal: ciphertext and where its values go. Holds nothing that a host other than the one meant could read.

use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::kind::{FileMode, Owner, SecretFormat};

/// What a reader of a `secrets` goal must understand.
pub const SECRETS_V1: &str = "component/secrets/1";

/// The most a goal may have as JSON: signed and in base 64 it must fit into a document of 1 MiB beside the rest.
pub const SECRETS_BYTES_MAX: usize = 640 << 10;

/// Body of the `secrets` goal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretsGoal {
    /// Encrypted files, each once.
    pub files: Vec<SecretFile>,
    /// Values and their places.
    pub secrets: Vec<SecretPlace>,
    /// Texts with values in them.
    pub templates: Vec<SecretTemplate>,
    /// Where the host's private keys are; not part of the digest.
    pub identity_files: Vec<String>,
    /// For so long restarted units are watched; not part of the digest.
    pub settle_secs: u64,
}

/// An encrypted file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretFile {
    /// Its path in the repository, for messages.
    pub source: String,
    /// Its format.
    pub format: SecretFormat,
    /// Its bytes, where they are text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Its bytes in base 64, where they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

/// One value's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretPlace {
    /// Its name, and its file's.
    pub name: String,
    /// Which of the goal's files.
    pub file: usize,
    /// The string within; none: the whole file.
    #[serde(default)]
    pub key: Option<String>,
    /// Where a link to it is.
    #[serde(default)]
    pub path: Option<String>,
    /// Whose it is.
    pub owner: Owner,
    /// Its group; none: the owner's own.
    #[serde(default)]
    pub group: Option<Owner>,
    /// Its permissions.
    pub mode: FileMode,
    /// Those of folders that are made for `path`.
    pub directory_mode: FileMode,
    /// It is there before users are made.
    #[serde(default)]
    pub needed_for_users: bool,
    /// Units that restart when it changed.
    #[serde(default)]
    pub restart_units: Vec<String>,
    /// Units that reload then.
    #[serde(default)]
    pub reload_units: Vec<String>,
}

/// A text with values of secrets in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretTemplate {
    /// Its file's name.
    pub name: String,
    /// The text, with `<secret:NAME>` for values.
    pub content: String,
    /// Where a link to it is.
    #[serde(default)]
    pub path: Option<String>,
    /// Whose it is.
    pub owner: Owner,
    /// Its group; none: the owner's own.
    #[serde(default)]
    pub group: Option<Owner>,
    /// Its permissions.
    pub mode: FileMode,
    /// Units that restart when it changed.
    #[serde(default)]
    pub restart_units: Vec<String>,
    /// Units that reload then.
    #[serde(default)]
    pub reload_units: Vec<String>,
}

/// The digest of a `secrets` goal: over ciphertext and places. Never over plain text, which would tell of it.
#[must_use]
pub fn secrets_digest(goal: &SecretsGoal) -> Digest {
    let meant = SecretsGoal {
        identity_files: Vec::new(),
        settle_secs: 0,
        ..goal.clone()
    };
    let json = serde_json::to_string(&meant).unwrap_or_default();
    Digest::of(format!("{SECRETS_V1}\0{json}").as_bytes())
}

impl SecretsGoal {
    /// Nothing is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty() && self.templates.is_empty()
    }
}
