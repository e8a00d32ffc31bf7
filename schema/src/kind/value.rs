//! Values that people write as a string with a form: durations, addresses, host keys. Each checks itself when made.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use crate::Address;

/// A string that has not the form it must have; the text says which form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(pub String);

/// The longest duration: a year. What is longer is a slip of the pen.
const DURATION_MAX_SECS: u64 = 365 * 24 * 3600;

/// A length of time as people write it: `90s`, `5m`, `2h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration {
    secs: u64,
}

impl Duration {
    /// So many seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self { secs }
    }

    /// So many minutes.
    #[must_use]
    pub const fn from_mins(mins: u64) -> Self {
        Self { secs: mins * 60 }
    }

    /// In whole seconds.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.secs
    }

    /// As the standard library has it.
    #[must_use]
    pub const fn get(self) -> std::time::Duration {
        std::time::Duration::from_secs(self.secs)
    }
}

impl FromStr for Duration {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError(format!("`{text}` is not a duration"));
        let unit = text.chars().last().ok_or_else(wrong)?;
        let scale = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => return Err(wrong()),
        };
        let digits = &text[..text.len() - unit.len_utf8()];
        if digits.is_empty() || digits.len() > 9 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        let count: u64 = digits.parse().map_err(|_| wrong())?;
        let secs = count * scale;
        if secs > DURATION_MAX_SECS {
            return Err(ValueError(format!("`{text}` is longer than a year")));
        }
        Ok(Self { secs })
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.secs {
            0 => f.write_str("0s"),
            s if s % 3600 == 0 => write!(f, "{}h", s / 3600),
            s if s % 60 == 0 => write!(f, "{}m", s / 60),
            s => write!(f, "{s}s"),
        }
    }
}

/// A machine on the way: `[user@]host[:port]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Jump(String);

impl Jump {
    /// As `ssh -J` takes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Jump {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError(format!("`{text}` is not [user@]host[:port]"));
        let (user, rest) = match text.split_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, text),
        };
        if user.is_some_and(|u| !is_user_name(u)) {
            return Err(wrong());
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(v6) => {
                let (host, after) = v6.split_once(']').ok_or_else(wrong)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
                (
                    None,
                    if after.is_empty() {
                        None
                    } else {
                        Some(after.strip_prefix(':').ok_or_else(wrong)?)
                    },
                )
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (Some(host), Some(port)),
                None => (Some(rest), None),
            },
        };
        if let Some(host) = host {
            host.parse::<Address>().map_err(|_| wrong())?;
        }
        if port.is_some_and(|p| p.parse::<u16>().map_or(true, |n| n == 0)) {
            return Err(wrong());
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Jump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A user's name as useradd(8) takes it; never an option, never a path.
pub(crate) fn is_user_name(text: &str) -> bool {
    let first = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    first
        && text.len() <= 32
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

/// Key types that OpenSSH has for hosts. `ssh-dss` is not among them.
const HOST_KEY_TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// A host's public key, `TYPE BASE64` as in `/etc/ssh/ssh_host_ed25519_key.pub`; a comment is dropped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostKey {
    kind: String,
    base64: String,
}

impl HostKey {
    /// The type, such as `ssh-ed25519`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The key itself in base64.
    #[must_use]
    pub fn base64(&self) -> &str {
        &self.base64
    }
}

impl FromStr for HostKey {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let mut words = text.split_ascii_whitespace();
        let (Some(kind), Some(base64)) = (words.next(), words.next()) else {
            return Err(ValueError("a host key is `TYPE BASE64`".to_owned()));
        };
        if !HOST_KEY_TYPES.contains(&kind) {
            return Err(ValueError(format!("`{kind}` is not a type of host key")));
        }
        let bytes = STANDARD
            .decode(base64)
            .map_err(|_| ValueError("the key is not base64".to_owned()))?;
        // The blob begins with its own type, length first: a cut or mixed-up key is seen here and not at first contact.
        let named = bytes
            .get(..4)
            .and_then(|l| <[u8; 4]>::try_from(l).ok())
            .map(u32::from_be_bytes);
        let inner = named.and_then(|n| bytes.get(4..4 + usize::try_from(n).ok()?));
        if inner != Some(kind.as_bytes()) {
            return Err(ValueError(format!(
                "the key's bytes are not those of a {kind} key"
            )));
        }
        Ok(Self {
            kind: kind.to_owned(),
            base64: base64.to_owned(),
        })
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.base64)
    }
}

/// Conversions that serde's `try_from` and `into` want, and a string's JSON Schema.
macro_rules! string_form {
    ($name:ident, $description:literal, $pattern:literal) => {
        impl TryFrom<String> for $name {
            type Error = ValueError;
            fn try_from(text: String) -> Result<Self, ValueError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }

        #[cfg(feature = "json-schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "description": $description, "pattern": $pattern })
            }
        }
    };
}
pub(crate) use string_form;

string_form!(
    Duration,
    "A length of time: `90s`, `5m`, `2h`; at most a year.",
    "^[0-9]{1,9}[smh]$"
);
string_form!(
    Jump,
    "A machine on the way: `[user@]host[:port]`.",
    "^[A-Za-z0-9_\\[][A-Za-z0-9_.:@\\[\\]-]*$"
);
string_form!(
    HostKey,
    "A host's public key: `TYPE BASE64`.",
    "^\\s*\\S+\\s+[A-Za-z0-9+/]+={0,2}(\\s.*)?$"
);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn durations_are_seconds_minutes_or_hours() {
        for (text, secs) in [("90s", 90), ("5m", 300), ("2h", 7200), ("0s", 0)] {
            assert_eq!(text.parse::<Duration>().unwrap().as_secs(), secs);
        }
        for text in [
            "",
            "90",
            "5 m",
            "-1s",
            "1d",
            "1.5h",
            "s",
            "9999999999s",
            "9000h",
            "5é",
        ] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
        assert_eq!("120s".parse::<Duration>().unwrap().to_string(), "2m");
    }

    #[test]
    fn a_jump_may_name_user_and_port() {
        for text in [
            "bastion",
            "root@bastion:2222",
            "a@10.0.0.1",
            "[fd00::1]:22",
            "u@[fd00::1]",
        ] {
            assert!(text.parse::<Jump>().is_ok(), "{text}");
        }
        for text in [
            "-J",
            "a@-b",
            "x:0",
            "x:99999",
            "A B@x",
            "[nope]:1",
            "[fd00::1]x",
        ] {
            assert!(text.parse::<Jump>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_key_carries_its_own_type() {
        let good = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS root@web-1";
        let key: HostKey = good.parse().unwrap();
        assert_eq!(key.kind(), "ssh-ed25519");
        assert!(
            good.replace("ssh-ed25519 ", "ssh-rsa ")
                .parse::<HostKey>()
                .is_err()
        );
        assert!("ssh-ed25519 AAAA".parse::<HostKey>().is_err());
        assert!("ssh-ed25519".parse::<HostKey>().is_err());
    }
}
