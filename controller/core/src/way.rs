//! By which way a closure comes to a host now: live, by a reboot, or only shown. From the manifest and the time; whether a
//! reboot is needed at all the host says, who has both closures.

use serde::{Deserialize, Serialize};
use trueup_schema::kind::{self, Reboot, ResolvedHost, UnconfirmedBoot};
use trueup_schema::wire::{Mode, Report};
use trueup_schema::{StorePath, Timestamp};

use crate::decide::{Runs, runs};
use crate::host::Wanted;

/// What a host is told of it. An attempt that ended "only a reboot brings it" is tried again when this changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Way {
    /// The mode of the goal.
    pub mode: Mode,
    /// The host may be rebooted now.
    pub may_reboot: bool,
    /// Also where a power cycle could not undo it.
    pub unconfirmed: bool,
}

impl Way {
    /// By the manifest alone.
    #[must_use]
    pub fn of(manifest: &ResolvedHost, now: Timestamp) -> Self {
        let mode = match manifest.activation.mode {
            kind::Mode::Switch => Mode::Switch,
            kind::Mode::Boot => Mode::Boot,
            kind::Mode::Test => Mode::Test,
            kind::Mode::DryActivate => Mode::DryActivate,
        };
        let reboots = matches!(mode, Mode::Switch | Mode::Boot) && allows(manifest, now);
        Self {
            mode,
            may_reboot: reboots,
            unconfirmed: manifest.activation.unconfirmed_boot == UnconfirmedBoot::Allow,
        }
    }

    /// A host that runs its goal and needs a reboot is booted into what it runs.
    #[must_use]
    pub fn now(manifest: &ResolvedHost, report: &Report, wanted: &Wanted, now: Timestamp) -> Self {
        let way = Self::of(manifest, now);
        let due = way.may_reboot
            && !report.running.reboot_required.is_empty()
            && runs(report, wanted, manifest) == Runs::Goal;
        Self {
            mode: if due { Mode::Boot } else { way.mode },
            ..way
        }
    }

    /// It may come to a reboot: then the closure goes alone, since a reboot takes what others have only in memory.
    #[must_use]
    pub fn may_go_by_reboot(self) -> bool {
        self.mode == Mode::Boot || self.mode == Mode::Switch && self.may_reboot
    }
}

fn allows(manifest: &ResolvedHost, now: Timestamp) -> bool {
    match manifest.reboot {
        Reboot::Never => false,
        Reboot::WhenRequired => true,
        Reboot::Window => manifest.reboot_window.is_some_and(|w| w.is_open(now)),
    }
}

/// When a reboot that is needed may be made, if that is only a question of time.
#[must_use]
pub fn opens(manifest: &ResolvedHost, now: Timestamp) -> Option<Timestamp> {
    let window = manifest
        .reboot_window
        .filter(|_| manifest.reboot == Reboot::Window)?;
    window.next_opening(now).filter(|_| !window.is_open(now))
}

/// What a host needs a reboot for, and who makes it, for people.
#[must_use]
pub fn debt(manifest: &ResolvedHost, what: &[String], now: Timestamp) -> String {
    let what = what.join(", ");
    let who = match (manifest.reboot, manifest.reboot_window) {
        (Reboot::Never, _) => "; by hand, since `reboot` is never".to_owned(),
        (Reboot::WhenRequired, _) => String::new(),
        (Reboot::Window, Some(window)) => opens(manifest, now).map_or_else(
            || format!("; its window ({window} UTC) is open"),
            |at| format!("; its window ({window} UTC) opens at {at}"),
        ),
        (Reboot::Window, None) => "; it has no window".to_owned(),
    };
    format!("only a reboot brings {what}{who}")
}

/// What an attempt that says it succeeded by a reboot must show; else what it does not.
pub fn verify(
    boot: &trueup_schema::wire::BootReport,
    report: &Report,
    closure: &StorePath,
) -> Result<(), String> {
    let show = |p: &Option<StorePath>| p.as_ref().map_or("nothing".to_owned(), StorePath::short);
    if report.running.booted.as_ref() != Some(closure) {
        return Err(format!(
            "it said that {} came up, and {} is what was booted",
            closure.short(),
            show(&report.running.booted)
        ));
    }
    if boot.once.is_some() && report.boot_id == boot.from {
        return Err(format!(
            "it said that {} came up, and its boot id is the one before the reboot",
            closure.short()
        ));
    }
    Ok(())
}
