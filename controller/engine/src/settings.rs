//! The engine's own settings, all given: a plain struct without a default that is missing.

use std::time::Duration;

use crate::ports::Fence;

/// Something was written to the db, or may have changed: look again. Carries no change itself, so that a lost one
/// costs latency only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// A host's nudge, suspension or adoption.
    Key(trueup_schema::HostName),
    /// The trunk (a webhook, `source accept`, a nudge without a host).
    Source,
    /// Failures of builds were forgotten.
    Builds,
    /// Everything.
    All,
}

/// Wakes that may wait; a sender that finds it full sends nothing more, since `All` is under way.
pub const WAKES: usize = 256;

/// A week: a host that was taken out by mistake is missed by then.
pub const RELEASED_ROOTS: Duration = Duration::from_secs(7 * 24 * 3600);

/// See each field.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The term of leadership that the db gave at start.
    pub fence: Fence,
    /// Between two fetches, ±10 %.
    pub poll_interval: Duration,
    /// Between two reports of one host, ±10 %.
    pub report_interval: Duration,
    /// Hosts that are worked on at once.
    pub max_workers: usize,
    /// Builds that are handed to Nix at once; more wait.
    pub max_builds: usize,
    /// How long an intent may be begun.
    pub intent_lifetime: Duration,
    /// Caches (their URLs come from manifests) are pushed to in the background when true.
    pub push_caches: bool,
    /// How long a host that the trunk no longer has is remembered, and its closures kept in the hub's store.
    pub released_roots: Duration,
    /// The controller's version, for the record.
    pub version: String,
    /// The machine that the controller runs on: if it is a host of the fleet, it goes last in each revision.
    pub machine_id: Option<String>,
    /// Something to be told at the start, such as a database that is not the one of the last run.
    pub told_at_start: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            fence: Fence(1),
            poll_interval: Duration::from_secs(60),
            report_interval: Duration::from_secs(300),
            max_workers: 64,
            max_builds: 16,
            intent_lifetime: Duration::from_secs(300),
            push_caches: true,
            released_roots: RELEASED_ROOTS,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine_id: None,
            told_at_start: None,
        }
    }
}
