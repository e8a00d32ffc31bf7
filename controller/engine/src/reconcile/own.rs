//! The host that the controller runs on, if it is one of the fleet: which others come before it, and when it is looked at
//! again. The rule is core's.

use std::collections::BTreeSet;

use trueup_core::last::{self, Other};
use trueup_schema::HostName;

use crate::Settings;
use crate::state::{HostCell, State};

fn other<'a>(state: &State, name: &'a HostName, cell: &'a HostCell) -> Other<'a> {
    Other {
        name,
        desired: &cell.record.revision,
        observed: cell.record.status.observed_revision.as_ref(),
        conditions: &cell.record.status.conditions,
        claimed: state.claims.contains_key(name),
        depends_on: &cell.record.manifest.depends_on,
    }
}

fn is_own(cell: &HostCell, settings: &Settings) -> bool {
    last::is_own(&cell.record.memory, settings.machine_id.as_deref())
}

/// Hosts that go before `host`, which is the controller's.
pub(super) fn before(state: &State, host: &HostName, settings: &Settings) -> BTreeSet<HostName> {
    let others: Vec<Other<'_>> = state
        .hosts
        .iter()
        // Two machines of one id would wait for each other.
        .filter(|(name, cell)| *name != host && !is_own(cell, settings))
        .map(|(name, cell)| other(state, name, cell))
        .collect();
    last::before(host, &others)
}

/// Is this host one that the controller's might wait for?
pub(super) fn is_under_way(state: &State, host: &HostName) -> bool {
    let cell = state.hosts.get(host);
    cell.is_some_and(|cell| last::is_under_way(&other(state, host, cell)))
}

/// The controller's own host, to be looked at when another has come to its end.
pub(super) fn own(state: &State, settings: &Settings) -> Option<HostName> {
    settings.machine_id.as_ref()?;
    let own = |(_, cell): &(&HostName, &HostCell)| is_own(cell, settings);
    state.hosts.iter().find(own).map(|(name, _)| name.clone())
}
