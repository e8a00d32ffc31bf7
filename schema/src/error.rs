//! The four classes that decide everything downstream. An error is classed once, where it arises.

use serde::{Deserialize, Serialize};

/// Who has to act on a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum ErrorClass {
    /// Time may mend it: back off and try again.
    Transient,
    /// The revision is wrong: tell its author, wait for a commit.
    Desired,
    /// The machine is wrong: stall it until something changes or a person nudges.
    Host,
    /// We are wrong: report, never loop.
    Bug,
}
