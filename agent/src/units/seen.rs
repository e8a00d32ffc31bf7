//! What a report tells of units. It is kept from each look, so that who tells how an attempt goes need not ask systemd:
//! a connection costs it 2 ms, and an attempt looks for itself.

use serde::{Deserialize, Serialize};
use trueup_schema::wire::{OTHER_MANAGERS, OtherManager};

use super::{Units, failed, states};
use crate::files::{self, Layout};
use crate::journal;

/// Of one look.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// When: units of another boot are other units.
    boot_id: String,
    /// Units that are failed.
    pub failed: Vec<String>,
    /// Who else manages this host.
    pub managers: Vec<OtherManager>,
}

impl Seen {
    fn of(units: &Units) -> Self {
        let is_up = |unit: &str| {
            let unit = units.get(unit);
            unit.is_some_and(|u| u.load == "loaded" && u.active != "inactive")
        };
        let managers = OTHER_MANAGERS
            .iter()
            .filter(|(_, unit)| is_up(unit))
            .map(|(name, unit)| OtherManager {
                name: (*name).to_owned(),
                evidence: format!("{unit} is active"),
            });
        Self {
            boot_id: journal::boot_id(),
            failed: failed(units),
            managers: managers.collect(),
        }
    }

    /// What is lost is looked at anew.
    fn keep(&self, layout: &Layout) {
        if kept(layout).as_ref() != Some(self) {
            let _looked_at_anew = files::note(&layout.file("seen"), self);
        }
    }
}

fn kept(layout: &Layout) -> Option<Seen> {
    files::noted(&layout.file("seen"))
}

/// What these units say, kept for the next report.
pub fn keep(layout: &Layout, units: &Units) -> Seen {
    let seen = Seen::of(units);
    seen.keep(layout);
    seen
}

/// Asks systemd.
#[must_use]
pub fn look(layout: &Layout) -> Seen {
    keep(layout, &states().unwrap_or_default())
}

/// As it was at the last look of this boot.
#[must_use]
pub fn last(layout: &Layout) -> Seen {
    kept(layout)
        .filter(|seen| seen.boot_id == journal::boot_id())
        .unwrap_or_else(|| look(layout))
}

#[cfg(test)]
mod tests {
    use super::super::Unit;
    use super::*;

    fn layout(root: &std::path::Path) -> Layout {
        Layout {
            root: root.to_owned(),
        }
    }

    #[test]
    fn what_was_seen_is_told_until_the_next_look() {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = layout(dir.path());
        let unit = |active: &str| Unit {
            load: "loaded".to_owned(),
            active: active.to_owned(),
            ..Unit::default()
        };
        let (_, manager) = OTHER_MANAGERS[0];
        let units = Units::from([
            ("a.service".to_owned(), unit("failed")),
            (manager.to_owned(), unit("active")),
        ]);
        keep(&layout, &units);
        let told = last(&layout);
        assert_eq!(told.failed, ["a.service"]);
        assert_eq!(told.managers.len(), 1);
        keep(&layout, &Units::new());
        assert_eq!(last(&layout).failed, [""; 0]);
    }

    #[test]
    fn units_of_another_boot_are_others() {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = layout(dir.path());
        let old = Seen {
            boot_id: "another".to_owned(),
            failed: vec!["never.service".to_owned()],
            managers: Vec::new(),
        };
        old.keep(&layout);
        assert!(!last(&layout).failed.contains(&"never.service".to_owned()));
    }
}
