//! A host's whole standing, owned: what a [`HostView`] borrows. Made from stored records, or from a supposition, so that
//! a plan can be drawn without an engine. It judges nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use trueup_schema::kind::{Adopt, ResolvedHost};
use trueup_schema::status::{Actor, Condition, Outcome};
use trueup_schema::wire::{
    Activation, AgentInfo, ComponentReport, FORMAT, Identity, Report, Running,
};
use trueup_schema::{HostName, Revision, Timestamp};

use crate::course::{Heading, Place};
use crate::host::{
    Adoption, Claim, ClosureStage, HostView, Left, Memory, Nudge, Suspension, Wanted,
    WantedSecrets, Work,
};
use crate::rollback::Back;

/// See [`HostView`] for each field.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Standing {
    pub manifest: ResolvedHost,
    pub revision: Revision,
    pub place: Place,
    pub memory: Memory,
    pub conditions: Vec<Condition>,
    pub evaluation: Work<Wanted>,
    pub secrets: Option<WantedSecrets>,
    pub closure: Work<()>,
    pub heading: Option<Heading>,
    pub claim: Option<Claim>,
    pub suspension: Option<Suspension>,
    pub adoption: Option<Adoption>,
    pub nudge: Option<Nudge>,
    pub rollback: Option<Back>,
    pub left: Option<Left>,
    pub waits_for: BTreeSet<HostName>,
}

impl Standing {
    /// As decisions take it.
    #[must_use]
    pub fn view(&self, adopt: Adopt, report_interval: Duration) -> HostView<'_> {
        HostView {
            manifest: &self.manifest,
            revision: &self.revision,
            place: self.place,
            adopt,
            memory: &self.memory,
            conditions: &self.conditions,
            evaluation: &self.evaluation,
            secrets: self.secrets.as_ref(),
            closure: &self.closure,
            closure_stage: ClosureStage::Building,
            heading: self.heading.as_ref(),
            claim: self.claim.as_ref(),
            denied: None,
            suspension: self.suspension.as_ref(),
            adoption: self.adoption.as_ref(),
            nudge: self.nudge.as_ref(),
            rollback: self.rollback.as_ref(),
            left: self.left.as_ref(),
            released: false,
            waits_for: &self.waits_for,
            report_interval,
        }
    }

    /// A host that is well: adopted, answering, running `runs` as confirmed, and with what it is to be built. What
    /// `trueup plan` supposes of hosts when there is no controller to ask.
    #[must_use]
    pub fn supposed(
        manifest: ResolvedHost,
        revision: Revision,
        runs: Option<&Wanted>,
        evaluation: Work<Wanted>,
        now: Timestamp,
    ) -> Self {
        let identity = Identity {
            machine_id: "supposed".to_owned(),
            host_keys: Vec::new(),
        };
        let memory = Memory {
            report: Some(supposed_report(&identity, runs, now)),
            seen_at: Some(now),
            tried_at: Some(now),
            ..Memory::default()
        };
        let adoption = Adoption {
            host: manifest.name.clone(),
            identity: Some(identity),
            by: Actor::controller(),
            at: now,
        };
        Self {
            manifest,
            revision,
            place: Place::default(),
            memory,
            conditions: Vec::new(),
            evaluation,
            secrets: None,
            closure: Work::Done(()),
            heading: None,
            claim: None,
            suspension: None,
            adoption: Some(adoption),
            nudge: None,
            rollback: None,
            left: None,
            waits_for: BTreeSet::new(),
        }
    }
}

fn supposed_report(identity: &Identity, runs: Option<&Wanted>, now: Timestamp) -> Report {
    let closure = runs.map(|w| w.closure.clone());
    let digest = runs.map(|w| w.digest.clone());
    Report {
        format: FORMAT,
        host: None,
        identity: identity.clone(),
        boot_id: "supposed".to_owned(),
        sequence: 0,
        taken_at: now,
        in_reply_to: None,
        greatest: None,
        agent: AgentInfo {
            version: "supposed".to_owned(),
            path: None,
            understands: Vec::new(),
        },
        running: Running {
            running: closure.clone(),
            specialisation: None,
            profile: closure.clone(),
            booted: closure.clone(),
            boot_default: closure,
            loader: "unknown".to_owned(),
            reboot_required: Vec::new(),
            activation: Activation::Complete,
            failed_units: Vec::new(),
        },
        attempt: None,
        components: vec![ComponentReport {
            name: "system".parse().expect("a DNS label"),
            confirmed: digest.clone(),
            observed: digest.clone(),
            last: digest.map(|d| (d, Outcome::Succeeded)),
            quarantined: Vec::new(),
        }],
        other_managers: Vec::new(),
        watches: Vec::new(),
        keys: None,
        hold: None,
        warnings: Vec::new(),
    }
}
