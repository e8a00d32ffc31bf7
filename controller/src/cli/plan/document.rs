//! A plan as a document: what `-o json` prints, and what tables and pull requests are made from. What is not known is
//! absent, never guessed.

use serde::Serialize;
use trueup_engine::ports::Head;
use trueup_schema::kind::Reboot as Policy;
use trueup_schema::{HostName, Revision, StorePath, Timestamp};

use super::units::Units;
use crate::secrets::SecretChange;

/// What one revision would change against another.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    pub api_version: &'static str,
    pub kind: &'static str,
    /// None: compared with an empty fleet.
    pub from: Option<Commit>,
    pub to: Commit,
    pub summary: Summary,
    pub hosts: Vec<HostPlan>,
    /// What a reader should know of how this was made.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Commit {
    pub revision: Revision,
    pub subject: String,
    pub author: String,
    pub committed_at: Timestamp,
}

impl From<&Head> for Commit {
    fn from(h: &Head) -> Self {
        Self {
            revision: h.revision.clone(),
            subject: h.subject.clone(),
            author: h.author.clone(),
            committed_at: h.at,
        }
    }
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub hosts: usize,
    pub changed: usize,
    pub unchanged: usize,
    pub new: usize,
    pub removed: usize,
    pub fails: usize,
    /// Evaluations that this took, of both revisions.
    pub evaluated: usize,
}

impl Summary {
    pub fn count(&mut self, change: Change) {
        self.hosts += 1;
        let slot = match change {
            Change::Changed => &mut self.changed,
            Change::Unchanged => &mut self.unchanged,
            Change::New => &mut self.new,
            Change::Removed => &mut self.removed,
            Change::Fails => &mut self.fails,
        };
        *slot += 1;
    }
    pub fn is_change(&self) -> bool {
        self.changed + self.new + self.removed > 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    Changed,
    Unchanged,
    New,
    /// Gone from the fleet; the host itself is not touched.
    Removed,
    /// Its evaluation or its build fails.
    Fails,
}

impl Change {
    pub fn word(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::New => "new",
            Self::Removed => "removed",
            Self::Fails => "fails",
        }
    }
}

/// One host.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPlan {
    pub name: HostName,
    pub change: Change,
    /// Fields of its manifest, defaults filled in.
    pub manifest: Vec<Field>,
    /// Its secrets, from ciphertext alone.
    pub secrets: Vec<SecretChange>,
    pub closure_from: Option<StorePath>,
    pub closure_to: Option<StorePath>,
    #[serde(flatten)]
    pub effects: Effects,
    /// What Nix warned of.
    pub warnings: Vec<String>,
    /// The controller runs on it, so it goes last in the revision.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub goes_last: bool,
    /// Why it fails.
    pub problem: Option<String>,
    /// Nix's own words.
    pub trace: Option<String>,
}

impl HostPlan {
    pub fn new(name: &HostName, change: Change) -> Self {
        Self {
            name: name.clone(),
            change,
            manifest: Vec::new(),
            secrets: Vec::new(),
            closure_from: None,
            closure_to: None,
            effects: Effects::default(),
            warnings: Vec::new(),
            goes_last: false,
            problem: None,
            trace: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Field {
    pub field: String,
    pub from: serde_json::Value,
    pub to: serde_json::Value,
}

/// What a new closure means for the machine, as far as it is known.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Effects {
    pub packages: Option<Packages>,
    pub size: Option<Size>,
    pub units: Option<Units>,
    pub reboot: Option<Reboot>,
}

/// From what it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Known {
    /// From both closures, which are built.
    Closures,
    /// From the derivations: packages that only the build needs are among them.
    Derivations,
}

#[derive(Debug, Clone, Serialize)]
pub struct Packages {
    pub known: Known,
    pub changes: Vec<Package>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Package {
    pub name: String,
    pub from: Vec<String>,
    pub to: Vec<String>,
}

/// In bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Size {
    pub from: u64,
    pub to: u64,
    /// Of what a host that runs the one lacks of the other.
    pub download: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Reboot {
    pub known: Known,
    /// What only a reboot brings; empty: none is needed.
    pub because: Vec<String>,
    /// What the manifest says of reboots.
    pub policy: Policy,
}
