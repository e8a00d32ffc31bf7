//! `Alert`, `Cache` and `Builder` field by field: where events, closures and derivations go.

use super::{
    decode::{Fields, Reader, nearest},
    forms::{Decode, once_each},
    kinds::texts,
    problem::ProblemKind,
    rules,
    tree::Node,
};
use crate::{
    kind::{AlertSpec, BuilderSpec, CacheSpec, Webhook},
    status::Reason,
};

impl Decode for AlertSpec {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let webhook = f.need(r, "webhook");
        let severity = f.opt(r, "severity");
        let kinds = f.node("kinds").and_then(|n| kinds(r, n));
        let hosts = f.opt(r, "hosts");
        let allow_empty = f.opt(r, "allowEmpty");
        let suspend = f.opt(r, "suspend");
        f.close(r);
        Some(Self {
            webhook: webhook?,
            severity,
            kinds,
            hosts,
            allow_empty,
            suspend,
        })
    }
}

/// Reasons of events.
fn kinds(r: &mut Reader<'_>, node: &Node) -> Option<Vec<String>> {
    let words: Vec<String> = Vec::decode(r, node, "kinds")?;
    once_each(r, Some(node));
    if words.is_empty() {
        r.report(
            ProblemKind::OutOfRange,
            node.at(),
            "`kinds` is empty: no event would pass",
            "leave it out for all events",
        );
    }
    for (n, word) in words.iter().enumerate() {
        if reason(word).is_none() {
            let at = node.find(&[], Some(n)).map_or(node.at(), Node::at);
            let help = match nearest(word, EVENTS.into_iter()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("such as: {}", EVENTS.join(", ")),
            };
            r.report(
                ProblemKind::UnknownWord,
                at,
                format!("`{word}` is no event"),
                help,
            );
        }
    }
    Some(words)
}

/// The reason of that name.
pub(super) fn reason(word: &str) -> Option<Reason> {
    serde_json::from_value(serde_json::Value::String(word.to_owned())).ok()
}

/// Reasons that people most often want to hear of: what a help text offers.
const EVENTS: [&str; 16] = [
    "RevisionRejected",
    "SourceFetchFailed",
    "HistoryRewritten",
    "EvaluationFailed",
    "BuildFailed",
    "IdentityMismatch",
    "Unreachable",
    "ActivationFailed",
    "ConfirmTimedOut",
    "HealthCheckFailed",
    "RebootRequired",
    "RolledBack",
    "RollbackFailed",
    "Quarantined",
    "Drifted",
    "Succeeded",
];

impl Decode for Webhook {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let url = f
            .need_node(r, "url")
            .and_then(|n| rules::WEB_URL.read(r, n));
        let secret_file = f
            .need_node(r, "secretFile")
            .and_then(|n| rules::ABSOLUTE_PATH.read(r, n));
        f.close(r);
        Some(Self {
            url: url?,
            secret_file: secret_file?,
        })
    }
}

impl Decode for CacheSpec {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let url = f
            .need_node(r, "url")
            .and_then(|n| rules::CACHE_URL.read(r, n));
        let public_key = f.text(r, "publicKey", &rules::PUBLIC_KEY);
        let login = f.node("credentialsFile");
        let credentials_file = login.and_then(|n| rules::CACHE_LOGIN.read(r, n));
        if let (Some(node), Some(url)) = (login, &url)
            && ["file://", "ssh-ng://"].iter().any(|s| url.starts_with(s))
        {
            r.report(
                ProblemKind::BadUrl,
                node.at(),
                "a login is for `http(s)://` and `s3://` alone",
                "leave it out; for `ssh-ng://` write the key's file into the URL: `?ssh-key=FILE`",
            );
        }
        let push = f.opt(r, "push");
        for name in ["signingKey", "priority", "retention"] {
            f.later(r, name);
        }
        f.close(r);
        Some(Self {
            url: url?,
            public_key,
            credentials_file,
            push,
        })
    }
}

/// Builds at once, and how fast.
const BUILDER_NUMBERS: std::ops::RangeInclusive<u64> = 1..=1000;

impl Decode for BuilderSpec {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let address = f.need(r, "address");
        let user = f.text(r, "user", &rules::USER);
        let at = f.need_node(r, "systems");
        let systems = at.and_then(|n| Vec::decode(r, n, "systems"));
        once_each(r, at);
        if let (Some(at), Some(list)) = (at, &systems)
            && <[crate::System]>::is_empty(list)
        {
            let help = "write it as Nix does: `[x86_64-linux]`";
            r.report(
                ProblemKind::BadSystem,
                at.at(),
                "a builder without a system builds nothing",
                help,
            );
        }
        let max_jobs = f.int(r, "maxJobs", BUILDER_NUMBERS);
        let speed_factor = f.int(r, "speedFactor", BUILDER_NUMBERS);
        let mut features = |name| f.node(name).and_then(|n| texts(r, n, &rules::FEATURE));
        let supported_features = features("supportedFeatures");
        let mandatory_features = features("mandatoryFeatures");
        let host_key = f.need(r, "hostKey");
        let ssh_key = f.text(r, "sshKey", &rules::BUILDER_KEY);
        f.later(r, "port");
        f.close(r);
        Some(Self {
            address: address?,
            user,
            systems: systems?,
            max_jobs,
            speed_factor,
            supported_features,
            mandatory_features,
            host_key: host_key?,
            ssh_key,
        })
    }
}
