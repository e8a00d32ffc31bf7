//! What an agent says when it takes trueup away from its host.

use serde::{Deserialize, Serialize};

/// The answer of `trueup-agent leave`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Farewell {
    /// What was removed, for people.
    #[serde(default)]
    pub removed: Vec<String>,
    /// What stays, until when and why.
    #[serde(default)]
    pub stays: Vec<String>,
}

impl Farewell {
    /// One line for each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let removed = self.removed.iter().map(|r| format!("removed {r}"));
        let stays = self.stays.iter().map(|s| format!("stays: {s}"));
        removed.chain(stays).collect()
    }
}
