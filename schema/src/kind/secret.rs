//! `Secret`: an encrypted value of the repository and where it goes on hosts, as written. Holds no plain text and opens
//! nothing.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    Selector, document,
    overlay::overlay,
    value::{HostKey, ValueError, is_user_name, string_form},
    words,
};

/// Where secrets are on a host: a link to the generation in memory.
pub const SECRETS_DIR: &str = "/run/trueup/secrets";
/// Where those are that users' passwords need, before any user exists.
pub const SECRETS_FOR_USERS_DIR: &str = "/run/trueup/secrets-for-users";
/// The folder of templates within [`SECRETS_DIR`].
pub const RENDERED: &str = "rendered";

document! {
    /// An encrypted value and the hosts that get it.
    Secret, SecretSpec
}

/// What is encrypted where, who gets it, and what happens there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretSpec {
    /// The encrypted file, relative to the repository's root.
    #[cfg_attr(feature = "json-schema", schemars(length(min = 1)))]
    pub source: String,
    /// Default: by the file's name; `.age` is a plain age file, an unknown end is binary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<SecretFormat>,
    /// The string within the file, such as `db/password` or `users/0/token`. Default: the whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "json-schema", schemars(length(min = 1)))]
    pub key: Option<String>,
    /// Which hosts get it.
    pub hosts: Selector,
    /// Whether it is well that no host matches. Default: `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_empty: Option<bool>,
    /// Where a link to it is. Default: `/run/trueup/secrets/NAME`, where it is in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "json-schema", schemars(regex(pattern = "^/.+$")))]
    pub path: Option<String>,
    /// A user's name or number. Default: `root`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// A group's name or number. Default: the owner's own group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Owner>,
    /// Octal, in quotes. Default: `"0400"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<FileMode>,
    /// Of folders that are made for `path`. Default: `"0751"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory_mode: Option<FileMode>,
    /// It is there before users are made, for `hashedPasswordFile`: in `/run/trueup/secrets-for-users`, root's. Needs the
    /// NixOS module on each host. Default: `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed_for_users: Option<bool>,
    /// Units that restart when its content, owner or mode changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_units: Option<Vec<String>>,
    /// Units that reload then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload_units: Option<Vec<String>>,
    /// Texts with values of this and other secrets in them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub templates: Option<Vec<SecretTemplate>>,
}

/// A text in which `<secret:NAME>` stands for the value of the Secret of that name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretTemplate {
    /// Its file's name in `/run/trueup/secrets/rendered`.
    #[cfg_attr(
        feature = "json-schema",
        schemars(regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"))
    )]
    pub name: String,
    /// The text.
    pub content: String,
    /// Where a link to it is. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "json-schema", schemars(regex(pattern = "^/.+$")))]
    pub path: Option<String>,
    /// A user's name or number. Default: `root`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// A group's name or number. Default: the owner's own group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Owner>,
    /// Octal, in quotes. Default: `"0400"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<FileMode>,
    /// Units that restart when the text with its values, owner or mode changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_units: Option<Vec<String>>,
    /// Units that reload then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload_units: Option<Vec<String>>,
}

/// What a fleet's secrets have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FleetSecrets {
    /// Public keys (age or SSH) of people who can read and change every secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admins: Option<Vec<PublicKey>>,
}

/// How a host opens secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HostSecrets {
    /// Whether the host's configuration has trueup's NixOS module, which restores secrets at boot before units and users.
    /// Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<bool>,
    /// Public age keys of the host, besides `ssh.hostKeys`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_keys: Option<Vec<PublicKey>>,
    /// Private keys on the host, SSH or age. Default: `/etc/ssh/ssh_host_ed25519_key` and `/etc/ssh/ssh_host_rsa_key`,
    /// those that are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity_files: Option<Vec<String>>,
}

overlay!(HostSecrets {
    leaf: [module, age_keys, identity_files],
    deep: []
});

words! {
    /// The format of an encrypted file.
    pub enum SecretFormat {
        /// sops.
        Yaml = "yaml",
        /// sops.
        Json = "json",
        /// sops.
        Dotenv = "dotenv",
        /// sops.
        Ini = "ini",
        /// sops: any bytes.
        Binary = "binary",
        /// A plain age file, as agenix has it.
        Age = "age",
    }
}

impl SecretFormat {
    /// By the end of a file's name, as sops chooses.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path);
        match name.rsplit_once('.').map(|(_, end)| end) {
            Some("yaml" | "yml") => Self::Yaml,
            Some("json") => Self::Json,
            Some("env") => Self::Dotenv,
            Some("ini") => Self::Ini,
            Some("age") => Self::Age,
            _ => Self::Binary,
        }
    }

    /// Whether a key within the file can be named.
    #[must_use]
    pub fn has_keys(self) -> bool {
        !matches!(self, Self::Binary | Self::Age)
    }
}

/// A user or a group: by name, or by number where no name is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// Looked up on the host.
    Name(String),
    /// As it is.
    Id(u32),
}

impl Owner {
    /// `root`.
    #[must_use]
    pub fn root() -> Self {
        Self::Id(0)
    }
}

impl FromStr for Owner {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError(format!("`{text}` is not a user or group"));
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            // The greatest number means "no change" to chown.
            let id = text.parse().ok().filter(|id| *id != u32::MAX);
            return id.map(Self::Id).ok_or_else(wrong);
        }
        if is_user_name(text) {
            Ok(Self::Name(text.to_owned()))
        } else {
            Err(wrong())
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Id(id) => write!(f, "{id}"),
        }
    }
}

impl Serialize for Owner {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Name(name) => to.serialize_str(name),
            Self::Id(id) => to.serialize_u32(*id),
        }
    }
}

impl<'de> Deserialize<'de> for Owner {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Seen;
        impl de::Visitor<'_> for Seen {
            type Value = Owner;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a number")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Owner, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, id: u64) -> Result<Owner, E> {
                id.to_string().parse().map_err(E::custom)
            }
        }
        from.deserialize_any(Seen)
    }
}

#[cfg(feature = "json-schema")]
impl schemars::JsonSchema for Owner {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Owner".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": ["string", "integer"],
            "description": "A name, or a number.",
            "pattern": "^([a-z_][a-z0-9_-]{0,31}|[0-9]{1,10})$",
            "minimum": 0,
            "maximum": 4_294_967_294_u32
        })
    }
}

/// Permissions: `0400`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileMode(u32);

impl FileMode {
    /// Of a file that only its owner reads.
    pub const FILE: Self = Self(0o400);
    /// Of folders: to pass through, not to list.
    pub const DIRECTORY: Self = Self(0o751);

    /// As chmod(2) takes it.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl FromStr for FileMode {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let octal =
            (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let bits = u32::from_str_radix(text, 8).ok().filter(|_| octal);
        // A secret that runs as somebody is none.
        match bits.filter(|bits| bits & 0o7000 == 0) {
            Some(bits) => Ok(Self(bits)),
            None => Err(ValueError(format!("`{text}` is not a file's mode"))),
        }
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// A public key that files are encrypted to: `age1…`, `ssh-ed25519 AAAA…` or `ssh-rsa AAAA…`; a comment is dropped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(String);

impl PublicKey {
    /// Without a comment.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `age1` and 58 characters of bech32.
const AGE_KEY_LEN: usize = 62;

impl FromStr for PublicKey {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let text = text.trim();
        if text.starts_with("ssh-ed25519 ") || text.starts_with("ssh-rsa ") {
            return text.parse::<HostKey>().map(|key| Self(key.to_string()));
        }
        let age = text.len() == AGE_KEY_LEN
            && text.starts_with("age1")
            && text[4..]
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if age {
            Ok(Self(text.to_owned()))
        } else if text.starts_with("AGE-SECRET-KEY-") {
            // Not told again.
            Err(ValueError(
                "this is a private key: it does not belong into Git, and is to be replaced"
                    .to_owned(),
            ))
        } else {
            Err(ValueError(format!(
                "`{text}` is not an age or SSH public key"
            )))
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

string_form!(FileMode, "Permissions in octal: `0400`.", "^0?[0-7]{3}$");
string_form!(
    PublicKey,
    "A public key that files are encrypted to: `age1…`, `ssh-ed25519 AAAA…` or `ssh-rsa AAAA…`.",
    "^\\s*(age1[a-z0-9]{58}|ssh-(ed25519|rsa)\\s+[A-Za-z0-9+/]+={0,2}(\\s.*)?)\\s*$"
);

/// The names within `<secret:NAME>` of a text, in order.
pub fn placeholders(content: &str) -> impl Iterator<Item = &str> {
    pieces(content).filter_map(|piece| match piece {
        Piece::Secret(name) => Some(name),
        Piece::Text(_) => None,
    })
}

/// A part of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// As it is.
    Text(&'a str),
    /// The value of the secret of that name.
    Secret(&'a str),
}

/// A template's parts, in order.
pub fn pieces(content: &str) -> impl Iterator<Item = Piece<'_>> {
    const OPEN: &str = "<secret:";
    let mut rest = content;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let name_of = |text: &str| -> Option<usize> {
            let inner = text.strip_prefix(OPEN)?;
            inner.find('>').filter(|end| *end > 0)
        };
        if let Some(end) = name_of(rest) {
            let (name, after) = rest[OPEN.len()..].split_at(end);
            rest = &after[1..];
            return Some(Piece::Secret(name));
        }
        // What begins like a placeholder and is none is text.
        let from = usize::from(rest.starts_with(OPEN));
        let end = rest[from..]
            .match_indices(OPEN)
            .map(|(at, _)| at + from)
            .find(|at| name_of(&rest[*at..]).is_some())
            .unwrap_or(rest.len());
        let (text, after) = rest.split_at(end);
        rest = after;
        Some(Piece::Text(text))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_template_falls_into_its_parts() {
        let all: Vec<_> = pieces("a=<secret:x>\nb=<secret:y-z><secret: <secret:").collect();
        assert_eq!(
            all,
            [
                Piece::Text("a="),
                Piece::Secret("x"),
                Piece::Text("\nb="),
                Piece::Secret("y-z"),
                Piece::Text("<secret: <secret:"),
            ]
        );
        assert_eq!(pieces("").count(), 0);
    }

    #[test]
    fn owners_are_names_or_numbers() {
        assert_eq!("1000".parse::<Owner>().unwrap(), Owner::Id(1000));
        assert_eq!(
            "postgres".parse::<Owner>().unwrap(),
            Owner::Name("postgres".to_owned())
        );
        for bad in ["", "-1", "4294967295", "99999999999", "Root", "a b"] {
            assert!(bad.parse::<Owner>().is_err(), "{bad}");
        }
        let json = serde_json::to_string(&[Owner::Id(3), Owner::Name("x".into())]).unwrap();
        assert_eq!(json, "[3,\"x\"]");
        assert_eq!(
            serde_json::from_str::<Vec<Owner>>(&json).unwrap(),
            [Owner::Id(3), Owner::Name("x".into())]
        );
    }

    #[test]
    fn modes_are_octal_and_run_as_nobody() {
        assert_eq!("0440".parse::<FileMode>().unwrap().bits(), 0o440);
        assert_eq!("400".parse::<FileMode>().unwrap().to_string(), "0400");
        for bad in ["", "4755", "0800", "r--", "00400", "40"] {
            assert!(bad.parse::<FileMode>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_private_key_is_refused_and_not_told_again() {
        let error = "AGE-SECRET-KEY-1QQQ".parse::<PublicKey>().unwrap_err();
        assert!(!error.to_string().contains("QQQ"));
    }
}
