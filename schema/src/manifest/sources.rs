//! Secrets against hosts, against each other and against the repository's files. What is in an encrypted file is the
//! caller's to say ([`SecretSources`]): this crate knows no cryptography.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    cross::{Cross, at, documents},
    decode::nearest,
    problem::ProblemKind,
    read::{Document, Spec},
    settled::resolved_secret,
};
use crate::{
    HostName,
    kind::{Kind, ResolvedFleet, ResolvedHost, ResolvedSecret, SECRETS_DIR, placeholders},
};

/// Folders that hold nothing but what the agent puts there.
const OURS: &str = "/run/trueup";
/// Types of SSH host keys that age has.
const KEY_TYPES: [&str; 2] = ["ssh-ed25519", "ssh-rsa"];
/// Hosts that one message names.
const NAMED: usize = 8;

/// What is wrong with a secret's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFault {
    /// The rule.
    pub kind: ProblemKind,
    /// The field of `spec` that it is told at.
    pub field: &'static str,
    /// What is wrong, without a full stop.
    pub message: String,
    /// What to do.
    pub help: String,
}

/// Somebody who can look into the repository's encrypted files.
pub trait SecretSources {
    /// Everything that is wrong with one secret's file, for the hosts that get it.
    fn look(
        &self,
        secret: &ResolvedSecret,
        hosts: &[&ResolvedHost],
        fleet: &ResolvedFleet,
    ) -> Vec<SourceFault>;
}

impl<'a> Cross<'a> {
    /// All secrets, with every rule about them.
    pub(super) fn secrets(
        &mut self,
        hosts: &BTreeMap<HostName, ResolvedHost>,
        fleet: &ResolvedFleet,
        sources: Option<&dyn SecretSources>,
    ) -> BTreeMap<String, ResolvedSecret> {
        let mut secrets: BTreeMap<String, (&Document, ResolvedSecret)> = BTreeMap::new();
        let files = self.files;
        for document in documents(files) {
            let (Some(meta), Spec::Secret(Some(spec))) = (&document.meta, &document.spec) else {
                continue;
            };
            self.selector(document, &["spec", "hosts"], &spec.hosts, spec.allow_empty);
            let mut secret = resolved_secret(meta, spec);
            let chosen = hosts
                .values()
                .filter(|h| secret.selector.matches(&h.labels));
            secret.hosts = chosen.map(|h| h.name.clone()).collect();
            secrets
                .entry(meta.name.clone())
                .or_insert((document, secret));
        }
        let whole =
            self.whole && documents(files).all(|d| d.kind != Kind::Secret || d.meta.is_some());
        for (document, secret) in secrets.values() {
            self.able_hosts(document, secret, hosts);
            if whole {
                self.templates(document, secret, &secrets);
            }
            if let Some(sources) = sources {
                let chosen: Vec<&ResolvedHost> =
                    secret.hosts.iter().filter_map(|h| hosts.get(h)).collect();
                for fault in sources.look(secret, &chosen, fleet) {
                    let place = at(document, &["spec", fault.field]);
                    self.report(document, fault.kind, place, fault.message, fault.help);
                }
            }
        }
        self.collisions(&secrets);
        secrets
            .into_iter()
            .map(|(name, (_, secret))| (name, secret))
            .collect()
    }

    /// Hosts that could never open it.
    fn able_hosts(
        &mut self,
        document: &Document,
        secret: &ResolvedSecret,
        hosts: &BTreeMap<HostName, ResolvedHost>,
    ) {
        let chosen = || secret.hosts.iter().filter_map(|name| hosts.get(name));
        let able = |h: &ResolvedHost| {
            let ssh = &h.ssh.host_keys;
            !h.secrets.age_keys.is_empty() || ssh.iter().any(|k| KEY_TYPES.contains(&k.kind()))
        };
        let unable: Vec<&str> = chosen()
            .filter(|h| !able(h))
            .map(|h| h.name.as_str())
            .collect();
        if let Some(first) = unable.first() {
            let text = format!(
                "{} gets this secret and has no key to open it",
                list(&unable)
            );
            let help = format!(
                "add its ed25519 key to `spec.ssh.hostKeys` of Host `{first}`: `ssh-keyscan -t ed25519 ADDRESS`, checked against the host"
            );
            let place = at(document, &["spec", "hosts"]);
            self.report(document, ProblemKind::NoHostKey, place, text, help);
        }
        let bare: Vec<&str> = chosen()
            .filter(|h| !h.secrets.module)
            .map(|h| h.name.as_str())
            .collect();
        if secret.needed_for_users && !bare.is_empty() {
            let text = format!(
                "a secret for users needs trueup's NixOS module, and {} is not said to have it",
                list(&bare)
            );
            let help = "import the module and set `spec.secrets.module: true` of the Host or in the Fleet's defaults";
            let place = at(document, &["spec", "neededForUsers"]);
            self.report(
                document,
                ProblemKind::NeedsModule,
                place,
                text,
                help.to_owned(),
            );
        }
    }

    /// Each placeholder is a secret that all hosts of the template get.
    fn templates(
        &mut self,
        document: &Document,
        secret: &ResolvedSecret,
        all: &BTreeMap<String, (&Document, ResolvedSecret)>,
    ) {
        for (n, template) in secret.templates.iter().enumerate() {
            let n = n.to_string();
            let place = at(document, &["spec", "templates", &n, "content"]);
            let names: BTreeSet<&str> = placeholders(&template.content).collect();
            for name in names {
                let Some((_, other)) = all.get(name) else {
                    let help = match nearest(name, all.keys().map(String::as_str)) {
                        Some(near) => format!("did you mean `<secret:{near}>`?"),
                        None => "names of Secret documents are meant".to_owned(),
                    };
                    let text = format!("there is no Secret `{name}`");
                    self.report(document, ProblemKind::UnknownSecret, place, text, help);
                    continue;
                };
                let without: Vec<&str> = secret
                    .hosts
                    .difference(&other.hosts)
                    .map(HostName::as_str)
                    .collect();
                if !without.is_empty() {
                    let text = format!("Secret `{name}` does not go to {}", list(&without));
                    let help = format!(
                        "widen `hosts` of `{name}`, or put the template with a Secret of fewer hosts"
                    );
                    self.report(document, ProblemKind::UnknownSecret, place, text, help);
                }
            }
        }
    }

    /// On each host every file has a place of its own, and none lies below another. A pair is told once.
    fn collisions(&mut self, secrets: &BTreeMap<String, (&Document, ResolvedSecret)>) {
        let mut by_host: BTreeMap<&HostName, BTreeMap<String, &str>> = BTreeMap::new();
        let mut told = BTreeSet::new();
        for (name, (document, secret)) in secrets {
            for (path, field) in places(secret) {
                let span = at(document, &field.split('.').collect::<Vec<_>>());
                let reserved = field.ends_with("path")
                    && (path == OURS || path.starts_with(&format!("{OURS}/")));
                if reserved {
                    let text = format!("`{path}` lies where trueup keeps secrets itself");
                    let help =
                        format!("leave `path` out: the secret is in {SECRETS_DIR} in any case");
                    self.report(document, ProblemKind::PathCollision, span, text, help);
                    continue;
                }
                for host in &secret.hosts {
                    let taken = by_host.entry(host).or_default();
                    if let Some((other_path, other)) = clash(taken, &path) {
                        if told.insert((path.clone(), name.as_str())) {
                            let text = if other_path == path {
                                format!("`{path}` on {host} is taken by Secret `{other}`")
                            } else {
                                format!(
                                    "`{path}` and `{other_path}` of Secret `{other}` can't both be files on {host}"
                                )
                            };
                            let help = "give one of them another `path` or name".to_owned();
                            self.report(document, ProblemKind::PathCollision, span, text, help);
                        }
                    } else {
                        taken.insert(path.clone(), name);
                    }
                }
            }
        }
    }
}

/// Every place that a secret takes on a host, with the field that says so.
fn places(secret: &ResolvedSecret) -> Vec<(String, String)> {
    let mut all = vec![(secret.place(), "metadata.name".to_owned())];
    all.extend(
        secret
            .path
            .iter()
            .map(|path| (path.clone(), "spec.path".to_owned())),
    );
    for (n, template) in secret.templates.iter().enumerate() {
        all.push((template.place(), format!("spec.templates.{n}.name")));
        if let Some(path) = &template.path {
            all.push((path.clone(), format!("spec.templates.{n}.path")));
        }
    }
    all
}

/// The same path, one above, or one below.
fn clash<'t>(taken: &BTreeMap<String, &'t str>, path: &str) -> Option<(String, &'t str)> {
    let above = path.match_indices('/').map(|(n, _)| &path[..n]);
    let found = above.chain([path]).find_map(|p| taken.get_key_value(p));
    let below = || {
        let inside = format!("{path}/");
        taken
            .range(inside.clone()..)
            .next()
            .filter(|(p, _)| p.starts_with(&inside))
    };
    let (path, name) = found.or_else(below)?;
    Some((path.clone(), name))
}

/// `web-1, web-2 and 3 more`.
fn list(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(NAMED).map(|n| format!("`{n}`")).collect();
    match names.len().checked_sub(NAMED).filter(|more| *more > 0) {
        Some(more) => format!("{} and {more} more", shown.join(", ")),
        None => shown.join(", "),
    }
}
