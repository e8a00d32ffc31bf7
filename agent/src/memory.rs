//! What a host remembers past all attempts: what runs confirmed, how the last try ended, what it will not try again. And
//! which attempts it forgets.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use trueup_core::agent::{End, Phase};
use trueup_schema::status::Outcome;
use trueup_schema::wire::{Goal, Order};
use trueup_schema::{ComponentName, Digest};

use crate::component::Context;
use crate::files::{self, Layout};
use crate::{AgentError, journal};

/// Digests kept in quarantine for each component; the oldest go first.
const MAX_QUARANTINE: usize = 64;

/// What is kept of a component, past all attempts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Kept {
    /// The goal that runs, confirmed.
    pub confirmed: Option<Digest>,
    /// How the last attempt ended.
    pub last: Option<(Digest, Outcome)>,
    /// Goals that are not tried again.
    pub quarantined: Vec<Digest>,
}

impl Kept {
    /// What hurt is no goal that could be confirmed any more, whatever it was before.
    fn put_away(&mut self, digest: &Digest) {
        self.quarantined.push(digest.clone());
        let over = self.quarantined.len().saturating_sub(MAX_QUARANTINE);
        self.quarantined.drain(..over);
        self.confirmed.take_if(|d| d == digest);
    }
}

/// A goal hurt outside of any attempt.
pub fn quarantine(layout: &Layout, component: &str, digest: &Digest) -> Result<(), AgentError> {
    let mut all = read(layout)?;
    for (name, kept) in &mut all {
        if name.as_str() == component && !kept.quarantined.contains(digest) {
            kept.put_away(digest);
            kept.last = Some((digest.clone(), Outcome::RolledBack));
        }
    }
    Ok(write(layout, &all)?)
}

/// All components' memory.
pub type Memory = BTreeMap<ComponentName, Kept>;

/// Reads it.
pub fn read(layout: &Layout) -> Result<Memory, files::FileError> {
    Ok(files::read_json(&layout.file("last.json"))?.unwrap_or_default())
}

/// Writes it.
pub fn write(layout: &Layout, memory: &Memory) -> Result<(), files::FileError> {
    files::write_json(&layout.file("last.json"), memory)
}

/// What is remembered of an end, before the journal says that it ended.
pub fn conclude(ctx: &Context, phase: Phase, end: &End) -> Result<(), AgentError> {
    let mut all = read(&ctx.layout)?;
    for Goal {
        component, digest, ..
    } in &ctx.intent.goals
    {
        let kept = all.entry(component.clone()).or_default();
        kept.last = Some((digest.clone(), end.outcome));
        let committed = end.outcome == Outcome::Succeeded
            || (end.outcome == Outcome::RebootRequired && phase >= Phase::Committing);
        if committed {
            kept.confirmed = Some(digest.clone());
            kept.quarantined.retain(|d| d != digest);
        }
        let blamed = end.evidence && end.component.as_ref().is_none_or(|c| c == component);
        if blamed && !kept.quarantined.contains(digest) {
            kept.put_away(digest);
        }
    }
    write(&ctx.layout, &all)?;
    prune(&ctx.layout, ctx.order());
    Ok(())
}

/// Roots and folders of the attempts before the one before this go.
fn prune(layout: &Layout, current: Order) {
    let mut older: Vec<Order> = journal::orders(layout)
        .into_iter()
        .filter(|o| *o < current)
        .collect();
    older.pop();
    for order in older {
        for root in roots_of(order) {
            let _gone = fs::remove_file(root);
        }
        let _gone = fs::remove_dir_all(layout.attempt(order));
        let _gone = fs::remove_file(layout.journal(order));
    }
}

/// The links that keep what an attempt needs from the garbage collector.
fn roots_of(order: Order) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(files::ROOTS).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let rest = ["candidate-", "recorded-", "agent-"]
            .iter()
            .find_map(|kind| name.strip_prefix(kind))
            .and_then(|rest| rest.strip_prefix(&order.to_string()));
        if rest.is_some_and(|r| r.is_empty() || r.starts_with('.')) {
            found.push(entry.path());
        }
    }
    found
}
