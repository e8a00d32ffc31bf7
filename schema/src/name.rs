//! Newtypes for whatever travels. Each parses what it accepts and refuses the rest, so that no value of these
//! types can be read as an option by a program that it is passed to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A name that was refused, with what was expected instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not {expected}")]
pub struct InvalidName {
    /// The text as given, shortened.
    pub value: String,
    /// What would have been right, for people.
    pub expected: &'static str,
}

fn invalid(value: &str, expected: &'static str) -> InvalidName {
    InvalidName {
        value: value.chars().take(80).collect(),
        expected,
    }
}

macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(s: &str) -> Result<Self, InvalidName> {
                let ok: fn(&str) -> bool = $check;
                if ok(s) { Ok(Self(s.to_owned())) } else { Err(invalid(s, $expected)) }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }
        #[cfg(feature = "json-schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "description": $expected })
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let s = String::deserialize(d)?;
                s.parse().map_err(de::Error::custom)
            }
        }
    };
}

/// RFC 1123: letters, digits and inner hyphens, at most 63.
fn is_dns_label(s: &str) -> bool {
    (1..=63).contains(&s.len())
        && s.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !s.starts_with('-')
        && !s.ends_with('-')
}

/// Nix: 32 characters of base 32 without `e o u t`, a hyphen, a name of at most 211.
fn is_store_path(s: &str) -> bool {
    let Some(rest) = s.strip_prefix("/nix/store/") else {
        return false;
    };
    let Some((hash, name)) = rest.split_at_checked(32) else {
        return false;
    };
    let base32 = |b: u8| b.is_ascii_digit() || (b.is_ascii_lowercase() && !b"eout".contains(&b));
    let name_ok = |b: u8| b.is_ascii_alphanumeric() || b"+-._?=".contains(&b);
    let Some(name) = name.strip_prefix('-') else {
        return false;
    };
    hash.bytes().all(base32) && (1..=211).contains(&name.len()) && name.bytes().all(name_ok)
}

fn is_host_address(s: &str) -> bool {
    if s.parse::<std::net::IpAddr>().is_ok() {
        return true;
    }
    (1..=253).contains(&s.len())
        && s.split('.').all(|l| {
            (1..=63).contains(&l.len())
                && l.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !l.starts_with('-')
        })
}

text_newtype!(
    /// A host of the fleet: `metadata.name` of its manifest, a DNS label. Not its identity, which is machine-id and host key.
    HostName, "a DNS label (lower-case letters, digits, inner hyphens, at most 63)", is_dns_label
);
text_newtype!(
    /// What a host is made of: `system`, `secrets`, `containers`.
    ComponentName, "a component's name (a DNS label)", is_dns_label
);
text_newtype!(
    /// A valid path directly below `/nix/store`.
    StorePath, "a store path (/nix/store/<32 base-32>-<name>)", is_store_path
);
text_newtype!(
    /// The store path of a derivation.
    DrvPath, "a derivation (/nix/store/<32 base-32>-<name>.drv)",
    |s| is_store_path(s) && s.ends_with(".drv")
);
text_newtype!(
    /// Nix' name of a platform: `x86_64-linux`.
    System, "a system such as x86_64-linux",
    |s| (3..=40).contains(&s.len()) && s.contains('-') && !s.starts_with('-')
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
);
text_newtype!(
    /// An IP address or a host name: never an option of ssh.
    Address, "an IP address or a host name", is_host_address
);
text_newtype!(
    /// SHA-256 in lower-case hex: what one component is to be.
    Digest, "a SHA-256 digest (64 hex digits)",
    |s| s.len() == 64 && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
);

impl StorePath {
    /// The 32 characters that identify it.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.0["/nix/store/".len()..][..32]
    }
    /// What follows the hash.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0["/nix/store/".len() + 33..]
    }
    /// As tables show it: `fz03…-nixos-system-web-2-26.05`.
    #[must_use]
    pub fn short(&self) -> String {
        format!("{}…-{}", &self.hash()[..4], self.name())
    }
}

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(hex::encode(sha2::Sha256::digest(bytes)))
    }
    /// The first eight digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..8]
    }
}

/// A commit of the trunk, written `main@sha1:<40 hex>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    branch: String,
    sha1: String,
}

impl Revision {
    /// From a branch and the 40 hex digits of a commit.
    pub fn new(branch: &str, sha1: &str) -> Result<Self, InvalidName> {
        format!("{branch}@sha1:{sha1}").parse()
    }
    /// The branch.
    #[must_use]
    pub fn branch(&self) -> &str {
        &self.branch
    }
    /// The commit's 40 hex digits.
    #[must_use]
    pub fn sha1(&self) -> &str {
        &self.sha1
    }
    /// As tables show it: `main@sha1:7c0ffee`.
    #[must_use]
    pub fn short(&self) -> String {
        format!("{}@sha1:{}", self.branch, &self.sha1[..7])
    }
}

impl FromStr for Revision {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let bad = || invalid(s, "a revision (BRANCH@sha1:<40 hex>)");
        let (branch, sha1) = s.split_once("@sha1:").ok_or_else(bad)?;
        let branch_ok = (1..=200).contains(&branch.len())
            && !branch.starts_with('-')
            && !branch.contains("..")
            && branch
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b"~^:?*[\\".contains(&b));
        let hex_ok = sha1.len() == 40
            && sha1
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if branch_ok && hex_ok {
            Ok(Self {
                branch: branch.to_owned(),
                sha1: sha1.to_owned(),
            })
        } else {
            Err(bad())
        }
    }
}
impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@sha1:{}", self.branch, self.sha1)
    }
}
impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
#[cfg(feature = "json-schema")]
impl schemars::JsonSchema for Revision {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Revision".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string", "description": "a commit of the trunk", "pattern": "^[^@]+@sha1:[0-9a-f]{40}$",
        })
    }
}
impl Serialize for Revision {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Revision {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_an_option_is_no_name() {
        for s in [
            "-oProxyCommand=x",
            "",
            "a b",
            "web_1",
            "Web",
            "-x",
            "x-",
            &"a".repeat(64),
        ] {
            assert!(s.parse::<HostName>().is_err(), "{s}");
        }
        for s in ["-oProxyCommand=x", "a b", "", "a/b", "x.-y", "$(id)"] {
            assert!(s.parse::<Address>().is_err(), "{s}");
        }
        for s in ["10.0.0.1", "fe80::1", "web-1.example.org", "web_1"] {
            assert!(s.parse::<Address>().is_ok(), "{s}");
        }
    }

    #[test]
    fn a_store_path_is_exact() {
        let ok = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60";
        let p: StorePath = ok.parse().unwrap();
        assert_eq!(p.short(), "00bg…-net-tools-1.60");
        for s in [
            "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la",
            "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x/bin",
            "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44le-x",
            "/nix/store/../etc-x",
        ] {
            assert!(s.parse::<StorePath>().is_err(), "{s}");
        }
        assert!(ok.parse::<DrvPath>().is_err());
    }

    #[test]
    fn a_revision_round_trips() {
        let text = format!("main@sha1:{}", "7c0ffee".repeat(6).get(..40).unwrap());
        let r: Revision = text.parse().unwrap();
        assert_eq!(r.to_string(), text);
        assert_eq!(r.short(), "main@sha1:7c0ffee");
        assert!("main@sha1:123".parse::<Revision>().is_err());
        assert!(
            format!("-x@sha1:{}", "a".repeat(40))
                .parse::<Revision>()
                .is_err()
        );
    }
}
