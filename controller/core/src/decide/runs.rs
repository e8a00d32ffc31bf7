//! What a host runs, against what it is to run: delivered, not yet delivered, or changed by somebody. Judges only.

use trueup_schema::StorePath;
use trueup_schema::wire::{ComponentReport, Report};

use crate::host::Wanted;

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
pub fn runs(report: &Report, wanted: &Wanted, specialisation: Option<&str>) -> Runs {
    let at = &report.running;
    let Some(component) = system(report) else {
        return Runs::Other;
    };
    if component.confirmed.as_ref() != Some(&wanted.digest) {
        return Runs::Other;
    }
    let chosen = specialisation.is_none() && at.specialisation.is_some();
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
    if !profile {
        return Runs::Drifted(format!(
            "runs {}, but its profile is {}",
            wanted.closure.short(),
            show(&at.profile)
        ));
    }
    Runs::Goal
}
