//! Documents against each other: names, selectors, dependencies; then the merge to what holds. Reads no YAML.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    circles::circles,
    decode::nearest,
    problem::{Problem, ProblemKind},
    read::{Document, File, Spec},
    settled::{resolved_alert, resolved_fleet},
    source::{Source, Span},
    sources::SecretSources,
};
use crate::{
    HostName,
    kind::{
        FleetManifests, FleetSpec, HostDefaults, Kind, Labels, ResolvedAlert, ResolvedBuilder,
        ResolvedCache, ResolvedHost, Selector, merge,
    },
};

pub(super) struct Cross<'a> {
    pub(super) files: &'a [File],
    problems: Vec<Problem>,
    /// Labels of each host whose metadata could be read.
    labels: BTreeMap<HostName, &'a Labels>,
    /// Whether all hosts are known, so that "no such host" can be said.
    pub(super) whole: bool,
}

impl<'a> Cross<'a> {
    pub fn new(files: &'a [File]) -> Self {
        let hosts = || documents(files).filter(|d| d.kind == Kind::Host);
        let labels = hosts()
            .filter_map(|d| d.meta.as_ref())
            .filter_map(|m| Some((m.name.parse().ok()?, &m.labels)));
        Self {
            files,
            problems: Vec::new(),
            labels: labels.collect(),
            whole: files.iter().all(|f| f.whole) && hosts().all(|d| d.meta.is_some()),
        }
    }

    /// Every rule over several documents, and what they come to; only without a single problem does that hold.
    pub fn run(mut self, sources: Option<&dyn SecretSources>) -> (FleetManifests, Vec<Problem>) {
        self.duplicate_names();
        let fleet = self.fleet();
        let (name, spec) = match fleet {
            Some((document, spec)) => {
                self.overrides(document, spec);
                (
                    document
                        .meta
                        .as_ref()
                        .map(|m| m.name.clone())
                        .unwrap_or_default(),
                    spec.clone(),
                )
            }
            None => (String::new(), FleetSpec::default()),
        };
        let mut hosts = self.hosts(&spec);
        self.cycles(&hosts);
        self.witnesses(&hosts);
        let (checks, selected) = self.checks();
        self.health(&mut hosts, &checks, &selected);
        let alerts = self.alerts();
        let caches = self.caches();
        let fleet = resolved_fleet(name, spec);
        let secrets = self.secrets(&hosts, &fleet, sources);
        let builders = self.builders();
        let manifests = FleetManifests {
            fleet,
            hosts,
            checks,
            alerts,
            caches,
            secrets,
            builders,
        };
        (manifests, self.problems)
    }

    fn source(&self, document: &Document) -> &'a Source {
        &self.files[document.file].source
    }

    pub(super) fn report(
        &mut self,
        document: &Document,
        kind: ProblemKind,
        at: Span,
        message: String,
        help: String,
    ) {
        self.problems
            .push(Problem::new(kind, self.source(document), at, message).help(help));
    }

    fn duplicate_names(&mut self) {
        let files = self.files;
        let mut first: BTreeMap<(Kind, &str), &Document> = BTreeMap::new();
        for document in documents(files) {
            let Some(meta) = &document.meta else { continue };
            match first.get(&(document.kind, meta.name.as_str())) {
                Some(other) => {
                    let at = at(document, &["metadata", "name"]);
                    let there = format!(
                        "{}:{}",
                        self.source(other).path,
                        self::at(other, &["metadata", "name"]).line
                    );
                    let text = format!("there is a {} `{}` already", document.kind, meta.name);
                    self.report(
                        document,
                        ProblemKind::DuplicateName,
                        at,
                        text,
                        format!("the first is at {there}"),
                    );
                }
                None => {
                    first.insert((document.kind, &meta.name), document);
                }
            }
        }
    }

    /// The one fleet.
    fn fleet(&mut self) -> Option<(&'a Document, &'a FleetSpec)> {
        let files = self.files;
        let mut found = documents(files).filter(|d| d.kind == Kind::Fleet);
        let Some(first) = found.next() else {
            if files.iter().all(|f| f.whole) {
                let text = "there is no Fleet document";
                let help = "write one: `apiVersion: trueup/v1alpha1`, `kind: Fleet`, `metadata: {name: …}`, `spec: {}`";
                self.problems
                    .push(Problem::of_file(ProblemKind::NoFleet, "", text).help(help));
            }
            return None;
        };
        for second in found {
            let there = format!("{}:{}", self.source(first).path, at(first, &["kind"]).line);
            let text = "a repository has one Fleet, and this is another".to_owned();
            self.report(
                second,
                ProblemKind::SecondFleet,
                at(second, &["kind"]),
                text,
                format!("the first is at {there}"),
            );
        }
        match &first.spec {
            Spec::Fleet(Some(spec)) => Some((first, spec)),
            _ => None,
        }
    }

    fn overrides(&mut self, document: &'a Document, spec: &FleetSpec) {
        for (n, over) in spec.overrides.iter().flatten().enumerate() {
            let n = n.to_string();
            let path = ["spec", "overrides", &n, "selector"];
            self.selector(document, &path, &over.selector, over.allow_empty);
        }
    }

    /// A selector that matches no host is most often misspelt.
    pub(super) fn selector(
        &mut self,
        document: &Document,
        path: &[&str],
        selector: &Selector,
        allow_empty: Option<bool>,
    ) {
        let matched = self.labels.values().any(|labels| selector.matches(labels));
        if matched || allow_empty == Some(true) || !self.whole {
            return;
        }
        let of = document.meta.as_ref().map_or_else(
            || document.kind.to_string(),
            |m| format!("{} `{}`", document.kind, m.name),
        );
        let text = format!("selector `{selector}` of {of} matches no host");
        let problem = Problem::new(
            ProblemKind::EmptySelector,
            self.source(document),
            at(document, path),
            text,
        )
        .help("correct it, or say `allowEmpty: true` beside it")
        .note(self.labels_of(selector));
        self.problems.push(problem);
    }

    /// `labels in the fleet: role=web (2), role=db (1)`: of the keys that the selector has, else of all.
    fn labels_of(&self, selector: &Selector) -> String {
        let keys: BTreeSet<&str> = selector.keys().collect();
        let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for (key, value) in self.labels.values().flat_map(|l| l.iter()) {
            *counts.entry((key, value)).or_default() += 1;
        }
        let known = counts.keys().any(|(key, _)| keys.contains(key));
        let mut shown: Vec<_> = counts
            .iter()
            .filter(|((key, _), _)| !known || keys.contains(key))
            .collect();
        shown.sort_by_key(|(pair, count)| (std::cmp::Reverse(**count), **pair));
        if shown.is_empty() {
            return "no host has a label".to_owned();
        }
        // A fleet may label each host with its own serial number.
        let more = if shown.len() > 12 { ", …" } else { "" };
        let words: Vec<_> = shown
            .iter()
            .take(12)
            .map(|((k, v), n)| format!("{k}={v} ({n})"))
            .collect();
        format!("labels in the fleet: {}{more}", words.join(", "))
    }

    fn hosts(&mut self, fleet: &FleetSpec) -> BTreeMap<HostName, ResolvedHost> {
        let files = self.files;
        let defaults: HostDefaults = fleet.defaults.clone().unwrap_or_default();
        let overrides = fleet.overrides.clone().unwrap_or_default();
        let mut hosts = BTreeMap::new();
        for document in documents(files) {
            let (Some(meta), Spec::Host(Some(spec))) = (&document.meta, &document.spec) else {
                continue;
            };
            let Ok(name) = meta.name.parse::<HostName>() else {
                continue;
            };
            for (n, other) in spec.depends_on.iter().flatten().enumerate() {
                self.depends_on(document, other, n);
            }
            let layers = merge::layers(&defaults, &overrides, &meta.labels);
            match merge::host(&name, meta, spec, layers) {
                Some(host) => {
                    self.window(document, &host);
                    hosts.entry(name).or_insert(host);
                }
                None => self.no_system(document, &name),
            }
        }
        hosts
    }

    /// Not told of a host or a fleet whose own system was wrong: that was told.
    fn no_system(&mut self, document: &Document, name: &HostName) {
        let own = document.node.find(&["spec", "system"], None).is_some();
        let files = self.files;
        let fleet_unread = documents(files).filter(|d| d.kind == Kind::Fleet).any(|d| {
            matches!(d.spec, Spec::Fleet(None))
                || d.node.find(&["spec", "defaults", "system"], None).is_some()
        });
        if own || fleet_unread || !files.iter().all(|f| f.whole) {
            return;
        }
        let text = format!("Host `{name}` has no `system`, and the Fleet's defaults have none");
        let help = "add `system: x86_64-linux` here, or to `spec.defaults` of the Fleet".to_owned();
        self.report(
            document,
            ProblemKind::NoSystem,
            at(document, &["spec"]),
            text,
            help,
        );
    }

    fn depends_on(&mut self, document: &Document, other: &HostName, n: usize) {
        if self.labels.contains_key(other) || !self.whole {
            return;
        }
        let help = self.meant(other);
        let at = at(document, &["spec", "dependsOn", &n.to_string()]);
        self.report(
            document,
            ProblemKind::UnknownHost,
            at,
            format!("there is no host `{other}`"),
            help,
        );
    }

    pub(super) fn is_host(&self, name: &HostName) -> bool {
        self.labels.contains_key(name)
    }

    /// Which host may have been meant by a name that none has.
    pub(super) fn meant(&self, other: &HostName) -> String {
        match nearest(other.as_str(), self.labels.keys().map(HostName::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "names of Host documents are meant".to_owned(),
        }
    }

    /// Each circle once, told at the host of its least name.
    fn cycles(&mut self, hosts: &BTreeMap<HostName, ResolvedHost>) {
        let files = self.files;
        for circle in circles(hosts) {
            let Some(first) = circle.first() else {
                continue;
            };
            let Some(document) = documents(files).find(|d| {
                d.kind == Kind::Host && d.meta.as_ref().is_some_and(|m| m.name == first.as_str())
            }) else {
                continue;
            };
            let mut words: Vec<_> = circle.iter().map(|h| format!("`{h}`")).collect();
            words.push(format!("`{first}`"));
            let text = format!(
                "hosts wait for each other in a circle: {}",
                words.join(" → ")
            );
            let at = at(document, &["spec", "dependsOn"]);
            self.report(
                document,
                ProblemKind::DependencyCycle,
                at,
                text,
                "take one of them out of `dependsOn`".to_owned(),
            );
        }
    }

    fn alerts(&mut self) -> BTreeMap<String, ResolvedAlert> {
        let files = self.files;
        let mut alerts = BTreeMap::new();
        for document in documents(files) {
            let (Some(meta), Spec::Alert(Some(spec))) = (&document.meta, &document.spec) else {
                continue;
            };
            if let Some(hosts) = &spec.hosts {
                self.selector(document, &["spec", "hosts"], hosts, spec.allow_empty);
            }
            alerts
                .entry(meta.name.clone())
                .or_insert_with(|| resolved_alert(meta, spec));
        }
        alerts
    }

    fn builders(&self) -> BTreeMap<String, ResolvedBuilder> {
        let read = documents(self.files).filter_map(|d| match (&d.meta, &d.spec) {
            (Some(meta), Spec::Builder(Some(spec))) => Some(ResolvedBuilder {
                name: meta.name.clone(),
                address: spec.address.clone(),
                user: spec.user.clone().unwrap_or_else(|| "root".to_owned()),
                systems: spec.systems.clone(),
                max_jobs: spec.max_jobs.unwrap_or(1),
                speed_factor: spec.speed_factor.unwrap_or(1),
                supported_features: spec.supported_features.clone().unwrap_or_default(),
                mandatory_features: spec.mandatory_features.clone().unwrap_or_default(),
                host_key: spec.host_key.clone(),
                ssh_key: spec.ssh_key.clone(),
            }),
            _ => None,
        });
        read.map(|b| (b.name.clone(), b)).collect()
    }

    fn caches(&self) -> BTreeMap<String, ResolvedCache> {
        let read = documents(self.files).filter_map(|d| match (&d.meta, &d.spec) {
            (Some(meta), Spec::Cache(Some(spec))) => Some(ResolvedCache {
                name: meta.name.clone(),
                url: spec.url.clone(),
                public_key: spec.public_key.clone(),
                credentials_file: spec.credentials_file.clone(),
                push: spec.push.unwrap_or(false),
            }),
            _ => None,
        });
        read.map(|cache| (cache.name.clone(), cache)).collect()
    }
}

pub(super) fn documents(files: &[File]) -> impl Iterator<Item = &Document> {
    files.iter().flat_map(|f| &f.documents)
}

/// The place of a value, or of the nearest that is there above it.
pub(super) fn at(document: &Document, path: &[&str]) -> Span {
    (0..=path.len())
        .rev()
        .find_map(|n| document.node.find(&path[..n], None))
        .map_or_else(|| document.node.at(), super::tree::Node::at)
}
