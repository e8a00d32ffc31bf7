//! What a host runs, against what it is to run: delivered, not yet delivered, or changed by somebody. Judges only.

use trueup_schema::kind::{Delivery, Mode, ResolvedHost};
use trueup_schema::wire::{ComponentReport, Report};
use trueup_schema::{Digest, StorePath, Timestamp};

use crate::host::{HostView, Wanted, WantedSecrets};
use crate::way::Way;

/// The component `system` of a report.
#[must_use]
pub fn system(report: &Report) -> Option<&ComponentReport> {
    report
        .components
        .iter()
        .find(|c| c.name.as_str() == "system")
}

/// What a host runs, against a goal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runs {
    /// The goal, confirmed.
    Goal,
    /// The goal was confirmed, and somebody changed the host since.
    Drifted(String),
    /// Something else: the goal is still to be delivered.
    Other,
}

/// Compares a report with a goal. A specialisation of the goal's closure that a person chose is no drift.
#[must_use]
pub fn runs(report: &Report, wanted: &Wanted, manifest: &ResolvedHost) -> Runs {
    let at = &report.running;
    let Some(component) = system(report) else {
        return Runs::Other;
    };
    if component.confirmed.as_ref() != Some(&wanted.digest) {
        return Runs::Other;
    }
    let chosen = manifest.specialisation.is_none() && at.specialisation.is_some();
    let same = component.observed.as_ref() == Some(&wanted.digest)
        || at.running.as_ref() == Some(&wanted.closure);
    let show = |p: &Option<StorePath>| p.as_ref().map_or("nothing".to_owned(), StorePath::short);
    let profile = at.profile.as_ref() == Some(&wanted.closure);
    if !(same || chosen && profile) {
        return Runs::Drifted(format!(
            "runs {}, should run {}",
            show(&at.running),
            wanted.closure.short()
        ));
    }
    // Tried out, it is not what boots.
    if !profile && manifest.activation.mode != Mode::Test {
        return Runs::Drifted(format!(
            "runs {}, but its profile is {}",
            wanted.closure.short(),
            show(&at.profile)
        ));
    }
    Runs::Goal
}

/// The same, by the host's policy: of one that is observed only, whoever brought it to its goal.
#[must_use]
pub fn runs_there(view: &HostView<'_>, report: &Report, wanted: &Wanted) -> Runs {
    let specialisation = view.manifest.specialisation.as_deref();
    if view.manifest.delivery != Delivery::Observe {
        return runs(report, wanted, view.manifest);
    }
    let at = &report.running;
    let profile = at.profile.as_ref() == Some(&wanted.closure);
    let below = profile && specialisation.is_none_or(|s| at.specialisation.as_deref() == Some(s));
    let plain = at.running.as_ref() == Some(&wanted.closure) && specialisation.is_none();
    if plain || (below && at.specialisation.is_some()) {
        return Runs::Goal;
    }
    let there = at.running.as_ref();
    Runs::Drifted(format!(
        "runs {}, the trunk says {}",
        there.map_or("nothing".to_owned(), StorePath::short),
        wanted.closure.short()
    ))
}

/// Whether a host has its secrets. Without any there is nothing to deliver, and nothing to ask an older agent for.
#[must_use]
pub fn has_secrets(report: &Report, wanted: Option<&WantedSecrets>) -> Runs {
    let Some(wanted) = wanted else {
        return Runs::Goal;
    };
    let there = report
        .components
        .iter()
        .find(|c| c.name.as_str() == "secrets");
    let confirmed = there.and_then(|c| c.confirmed.as_ref());
    if wanted.empty && confirmed.is_none() {
        return Runs::Goal;
    }
    if confirmed != Some(&wanted.digest) {
        return Runs::Other;
    }
    if there.and_then(|c| c.observed.as_ref()) == Some(&wanted.digest) {
        return Runs::Goal;
    }
    let told: Vec<&str> = report
        .warnings
        .iter()
        .filter_map(|w| w.strip_prefix("secrets: "))
        .collect();
    Runs::Drifted(if told.is_empty() {
        "its secrets are not those that were delivered".to_owned()
    } else {
        format!("its secrets were changed: {}", told.join(", "))
    })
}

/// What a claim is for: `system`, and the digest of `secrets`. Secrets alone where what runs is right, or is left as it
/// is; both where both differ, so that one way back takes both.
/// Secrets go before a closure that may take a reboot, and not at all where nothing is to be changed.
#[must_use]
pub fn parts(
    view: &HostView<'_>,
    report: &Report,
    wanted: &Wanted,
    now: Timestamp,
) -> (bool, Option<Digest>) {
    let way = Way::now(view.manifest, report, wanted, now);
    let secrets = match has_secrets(report, view.secrets) {
        Runs::Goal => None,
        Runs::Drifted(_) | Runs::Other if view.manifest.activation.mode == Mode::DryActivate => {
            None
        }
        Runs::Drifted(_) | Runs::Other => view.secrets.map(|s| s.digest.clone()),
    };
    let system = match runs_there(view, report, wanted) {
        Runs::Goal => false,
        Runs::Drifted(_) => secrets.is_none(),
        Runs::Other => secrets.is_none() || !way.may_go_by_reboot(),
    };
    (system, secrets)
}
