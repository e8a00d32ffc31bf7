//! Checks of health: who gets which, and that each that is named is there.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    cross::{Cross, at, documents},
    decode::nearest,
    problem::ProblemKind,
    read::{Document, Spec},
    settled::resolved_check,
};
use crate::{
    HostName,
    kind::{Kind, ResolvedCheck, ResolvedHost, Selector, merge},
};

impl Cross<'_> {
    /// Checks, and for each the hosts that it selects itself.
    pub(super) fn checks(
        &mut self,
    ) -> (BTreeMap<String, ResolvedCheck>, BTreeMap<String, Selector>) {
        let files = self.files;
        let (mut checks, mut selected) = (BTreeMap::new(), BTreeMap::new());
        for document in documents(files) {
            let (Some(meta), Spec::Check(Some(spec))) = (&document.meta, &document.spec) else {
                continue;
            };
            if let Some(hosts) = &spec.hosts {
                self.selector(document, &["spec", "hosts"], hosts, spec.allow_empty);
                selected.insert(meta.name.clone(), hosts.clone());
            }
            if let Some(check) = resolved_check(meta, spec) {
                checks.entry(meta.name.clone()).or_insert(check);
            }
        }
        (checks, selected)
    }

    /// Each host gets the checks that it, an override or the defaults name, and those that select it.
    pub(super) fn health(
        &mut self,
        hosts: &mut BTreeMap<HostName, ResolvedHost>,
        checks: &BTreeMap<String, ResolvedCheck>,
        selected: &BTreeMap<String, Selector>,
    ) {
        let files = self.files;
        let names: BTreeSet<&str> = documents(files)
            .filter(|d| d.kind == Kind::Check)
            .filter_map(|d| Some(d.meta.as_ref()?.name.as_str()))
            .collect();
        let all_known = files.iter().all(|f| f.whole)
            && documents(files).all(|d| d.kind != Kind::Check || d.meta.is_some());
        for document in documents(files) {
            for (path, health) in named_health(document) {
                for (n, check) in health.iter().enumerate() {
                    if names.contains(check.as_str()) || !all_known {
                        continue;
                    }
                    let mut path: Vec<&str> = path.iter().map(String::as_str).collect();
                    let n = n.to_string();
                    path.push(&n);
                    let help = match nearest(check, names.iter().copied()) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => "names of Check documents are meant".to_owned(),
                    };
                    let text = format!("there is no Check `{check}`");
                    self.report(
                        document,
                        ProblemKind::UnknownCheck,
                        at(document, &path),
                        text,
                        help,
                    );
                }
            }
        }
        for host in hosts.values_mut() {
            let by_selector = selected
                .iter()
                .filter(|(_, s)| s.matches(&host.labels))
                .map(|(name, _)| name.clone());
            let wanted: BTreeSet<String> = self
                .named_for(host)
                .into_iter()
                .chain(by_selector)
                .collect();
            host.activation.health = wanted
                .iter()
                .filter_map(|name| checks.get(name))
                .cloned()
                .collect();
        }
    }

    /// Checks named for a host by itself, else by the last override that names any, else by the defaults.
    fn named_for(&self, host: &ResolvedHost) -> Vec<String> {
        let own = documents(self.files)
            .filter(|d| {
                d.meta
                    .as_ref()
                    .is_some_and(|m| m.name == host.name.as_str())
            })
            .find_map(|d| match &d.spec {
                Spec::Host(Some(spec)) => spec.activation.as_ref()?.health.clone(),
                _ => None,
            });
        own.or_else(|| {
            documents(self.files).find_map(|d| match &d.spec {
                Spec::Fleet(Some(spec)) => {
                    let defaults = spec.defaults.clone().unwrap_or_default();
                    let overrides = spec.overrides.as_deref().unwrap_or_default();
                    merge::layers(&defaults, overrides, &host.labels)
                        .activation?
                        .health
                }
                _ => None,
            })
        })
        .unwrap_or_default()
    }
}

/// Every list of checks that a document names, with its path.
fn named_health(document: &Document) -> Vec<(Vec<String>, Vec<String>)> {
    let path = |parts: &[&str]| parts.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
    let health = |a: &Option<crate::kind::Activation>| a.as_ref().and_then(|a| a.health.clone());
    match &document.spec {
        Spec::Host(Some(spec)) => health(&spec.activation)
            .map(|h| (path(&["spec", "activation", "health"]), h))
            .into_iter()
            .collect(),
        Spec::Fleet(Some(spec)) => {
            let defaults = spec.defaults.as_ref().and_then(|d| health(&d.activation));
            let defaults =
                defaults.map(|h| (path(&["spec", "defaults", "activation", "health"]), h));
            let overrides = spec
                .overrides
                .iter()
                .flatten()
                .enumerate()
                .filter_map(|(n, over)| {
                    let n = n.to_string();
                    health(&over.set.activation).map(|h| {
                        (
                            path(&["spec", "overrides", &n, "set", "activation", "health"]),
                            h,
                        )
                    })
                });
            defaults.into_iter().chain(overrides).collect()
        }
        _ => Vec::new(),
    }
}
