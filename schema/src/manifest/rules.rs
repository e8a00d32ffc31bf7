//! The forms of plain text in manifests: what a path, a URL, a unit's name may look like.

use super::{forms::Rule, problem::ProblemKind};
use crate::kind::text;

/// `metadata.name` and names of checks.
pub(super) const NAME: Rule = Rule {
    kind: ProblemKind::BadName,
    what: "a name",
    help: "a DNS label: lower-case letters, digits and inner `-`, at most 63",
    check: |s| s.parse::<crate::HostName>().is_ok(),
};

pub(super) const LABEL_VALUE: Rule = Rule {
    kind: ProblemKind::BadLabel,
    what: "a label's value",
    help: "letters, digits, `-`, `_` and `.`, at most 63; longer text goes into annotations",
    check: text::is_label_value,
};

pub(super) const LABEL_KEY: Rule = Rule {
    kind: ProblemKind::BadLabel,
    what: "a label's key",
    help: "letters, digits, `-`, `_`, `.` and one `/`, at most 63",
    check: text::is_label_key,
};

pub(super) const USER: Rule = Rule {
    kind: ProblemKind::BadUser,
    what: "a user's name",
    help: "lower-case letters, digits, `-` and `_`, at most 32",
    check: text::is_user_name,
};

pub(super) const UNIT: Rule = Rule {
    kind: ProblemKind::BadUnit,
    what: "a unit's name",
    help: "with its suffix: `nginx.service`, `postgresql.socket`",
    check: is_unit,
};

pub(super) const ATTRIBUTE: Rule = Rule {
    kind: ProblemKind::BadTarget,
    what: "an attribute",
    help: "names joined by dots: `nixosConfigurations.web-1.config.system.build.toplevel`, without the flake's own reference",
    check: is_attribute,
};

pub(super) const REPOSITORY_FILE: Rule = Rule {
    kind: ProblemKind::BadTarget,
    what: "a file of the repository",
    help: "a path from the repository's root, without `..`: `hosts/web-1.nix`",
    check: is_repository_file,
};

pub(super) const ABSOLUTE_PATH: Rule = Rule {
    kind: ProblemKind::BadPath,
    what: "an absolute path",
    help: "a file on the controller's machine: `/etc/trueup/webhook.key`",
    check: |s| {
        s.len() > 1
            && s.len() <= 4096
            && s.starts_with('/')
            && !s.split('/').any(|p| p == "..")
            && !s.contains(char::is_control)
    },
};

pub(super) const WEB_URL: Rule = Rule {
    kind: ProblemKind::BadUrl,
    what: "a URL for a webhook",
    help: "write `https://HOST/PATH` or `http://HOST/PATH`; a password has no place in it",
    check: |s| web_host(s).is_some(),
};

pub(super) const CACHE_URL: Rule = Rule {
    kind: ProblemKind::BadUrl,
    what: "a cache's URL",
    help: "write `file:///PATH`, `https://HOST/PATH`, `s3://BUCKET` or `ssh-ng://HOST`, without a password",
    check: is_cache_url,
};

pub(super) const FEATURE: Rule = Rule {
    kind: ProblemKind::BadFeature,
    what: "a feature of a builder",
    help: "a word as derivations ask for it: `kvm`, `big-parallel`",
    check: |s| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
        s.len() <= 63 && s.starts_with(|c: char| c.is_ascii_alphanumeric()) && s.bytes().all(inner)
    },
};

pub(super) const BUILDER_KEY: Rule = Rule {
    kind: ProblemKind::BadPath,
    what: "an absolute path without blanks",
    help: "a file on the hub, as Nix takes it in a line: `/etc/trueup/builder.key`",
    check: |s| (ABSOLUTE_PATH.check)(s) && s.bytes().all(|b| b.is_ascii_graphic() && b != b';'),
};

pub(super) const CACHE_LOGIN: Rule = Rule {
    kind: ProblemKind::BadPath,
    what: "an absolute path without blanks",
    help: "a file on the controller's machine: `/etc/trueup/cache.netrc`",
    check: BUILDER_KEY.check,
};

pub(super) const PROBE_URL: Rule = Rule {
    kind: ProblemKind::BadUrl,
    what: "a URL that the agent can ask",
    help: "the agent resolves no names: `http://127.0.0.1:8080/health`, an IP address or `localhost`",
    check: is_probe_url,
};

pub(super) const IP: Rule = Rule {
    kind: ProblemKind::BadAddress,
    what: "an IP address",
    help: "the agent resolves no names: write `127.0.0.1`, `::1` or another IP address",
    check: |s| s.parse::<std::net::IpAddr>().is_ok(),
};

pub(super) const HOST_PATH: Rule = Rule {
    kind: ProblemKind::BadPath,
    what: "a path on the host",
    help: "absolute, without `..`, `//` and a `/` at the end: `/etc/app/token`",
    check: is_host_path,
};

pub(super) const SECRET_KEY: Rule = Rule {
    kind: ProblemKind::BadKey,
    what: "a key within a file",
    help: "names and indices joined by `/`: `db/password`, `users/0/token`",
    check: |s| {
        (1..=1024).contains(&s.len())
            && !s.split('/').any(str::is_empty)
            && !s.contains(char::is_control)
    },
};

pub(super) const TEMPLATE_NAME: Rule = Rule {
    kind: ProblemKind::BadName,
    what: "a template's name",
    help: "a file's name: letters, digits, `_`, `-` and inner `.`, at most 128",
    check: |s| {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        (1..=128).contains(&s.len()) && !s.starts_with(['.', '-']) && s.bytes().all(good)
    },
};

pub(super) const PUBLIC_KEY: Rule = Rule {
    kind: ProblemKind::BadPublicKey,
    what: "a public key of a cache",
    help: "`NAME:BASE64`, as `nix key convert-secret-to-public` prints it",
    check: is_public_key,
};

fn is_unit(s: &str) -> bool {
    const SUFFIXES: [&str; 10] = [
        "service",
        "socket",
        "target",
        "timer",
        "mount",
        "automount",
        "path",
        "device",
        "slice",
        "scope",
    ];
    let good = |b: u8| b.is_ascii_alphanumeric() || b":_.\\@-".contains(&b);
    let suffix = s
        .rsplit_once('.')
        .is_some_and(|(name, suffix)| !name.is_empty() && SUFFIXES.contains(&suffix));
    s.len() <= 255 && !s.starts_with('-') && suffix && s.bytes().all(good)
}

fn is_host_path(s: &str) -> bool {
    let part = |p: &str| !p.is_empty() && p != "." && p != "..";
    let absolute = s.strip_prefix('/');
    absolute.is_some_and(|rest| rest.split('/').all(part))
        && s.len() <= 1024
        && !s.contains(char::is_control)
}

fn is_attribute(s: &str) -> bool {
    let part = |p: &str| {
        let inner = p.strip_prefix('"').and_then(|p| p.strip_suffix('"'));
        let quoted = inner.is_some_and(|p| !p.is_empty() && !p.contains(['"', '\\', '$']));
        let bare = !p.is_empty()
            && !p.starts_with('-')
            && p.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_'-".contains(&b));
        quoted || bare
    };
    // A dot within quotes belongs to the name.
    let mut quoted = false;
    let mut parts = s.split(|c: char| {
        quoted ^= c == '"';
        c == '.' && !quoted
    });
    (1..=512).contains(&s.len()) && parts.all(part)
}

fn is_repository_file(s: &str) -> bool {
    let s = s.strip_prefix("./").unwrap_or(s);
    let part = |p: &str| !p.is_empty() && p != ".." && p != "." && !p.starts_with('-');
    (1..=1024).contains(&s.len()) && !s.contains(char::is_control) && s.split('/').all(part)
}

/// The host of an `http` or `https` URL without user and password.
fn web_host(s: &str) -> Option<&str> {
    let rest = s
        .strip_prefix("https://")
        .or_else(|| s.strip_prefix("http://"))?;
    if s.len() > 2048 || s.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next()?;
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, after.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port_is_well = port.is_none_or(|p| p.parse::<u16>().is_ok_and(|n| n > 0));
    (port_is_well && host.parse::<crate::Address>().is_ok()).then_some(host)
}

fn is_probe_url(s: &str) -> bool {
    web_host(s).is_some_and(|host| host == "localhost" || host.parse::<std::net::IpAddr>().is_ok())
}

fn is_cache_url(s: &str) -> bool {
    match s.split_once("://") {
        Some(("file", path)) => path.len() > 1 && (ABSOLUTE_PATH.check)(path),
        Some(("http" | "https", _)) => web_host(s).is_some(),
        Some(("s3" | "ssh-ng", rest)) => {
            // The bucket, or the machine; a password would lie in Git and in every message.
            let authority = rest.split(['/', '?']).next().unwrap_or_default();
            let word = |b: u8| b.is_ascii_alphanumeric() || b"-._@[]:".contains(&b);
            let graphic = s.len() <= 2048 && s.bytes().all(|b| b.is_ascii_graphic());
            let login = authority.rsplit_once('@').map_or("", |(user, _)| user);
            let named = authority.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[');
            graphic && named && authority.bytes().all(word) && !login.contains(':')
        }
        _ => false,
    }
}

fn is_public_key(s: &str) -> bool {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    s.split_once(':').is_some_and(|(name, key)| {
        let named = !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        named && STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 32)
    })
}
