//! The report: what a host is, as it sees itself. The whole state each time, so that a lost one costs latency only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Confirm, Intent, KeysReport, Order, newer};
use crate::status::Outcome;
use crate::{ComponentName, Digest, HostName, Revision, StorePath, Timestamp};

/// Payload type of a signed report (pull); over SSH a report is bare JSON.
pub const REPORT_PAYLOAD_TYPE: &str = "application/vnd.trueup.report+json";

/// What a host says of itself. Read with patience for words of later agents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct Report {
    /// [`super::FORMAT`].
    pub format: u32,
    /// The name under which the controller addressed it last; `None` before the first intent.
    pub host: Option<HostName>,
    /// Who it is.
    pub identity: Identity,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Rises with each report of this host.
    pub sequence: u64,
    /// The host's wall clock.
    pub taken_at: Timestamp,
    /// The intent that the current or last attempt answers.
    pub in_reply_to: Option<Order>,
    /// The greatest `(term, serial)` that was ever begun here.
    pub greatest: Option<Order>,
    /// The program that speaks.
    pub agent: AgentInfo,
    /// What runs and what would boot.
    pub running: Running,
    /// The current attempt, else the last one.
    pub attempt: Option<AttemptReport>,
    /// Last outcome and quarantine of each component, so that a lost database can't re-activate what hurt.
    pub components: Vec<ComponentReport>,
    /// Other deployment tools that were found (`nixos-upgrade.timer`, comin …).
    #[serde(default)]
    pub other_managers: Vec<OtherManager>,
    /// Which keys it trusts; an older agent does not say.
    #[serde(default)]
    pub keys: Option<KeysReport>,
    /// A person's hold on this host.
    #[serde(default)]
    pub hold: Option<Hold>,
    /// Whom it confirms as a witness, or did last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watches: Vec<super::WatchReport>,
    /// What is promised less than usual here and why (volatile state, no OOM protection, init-link loader …).
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Serialize for Report {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, to)
    }
}

impl<'de> Deserialize<'de> for Report {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut value = serde_json::Value::deserialize(from)?;
        let news = newer::reads(&mut value);
        let mut report = Self::deserialize(value).map_err(serde::de::Error::custom)?;
        report.warnings.extend(news);
        Ok(report)
    }
}

/// Which machine this is, whatever address or name it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// Its SSH host keys: `type base64`.
    pub host_keys: Vec<String>,
}

/// The agent that speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentInfo {
    /// Its version.
    pub version: String,
    /// Its store path, if it runs from one.
    pub path: Option<StorePath>,
    /// What it understands: `component/system/1` …
    pub understands: Vec<String>,
}

/// The four closures and what differs between booted and profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// `/run/current-system`.
    pub running: Option<StorePath>,
    /// The specialisation of `running`'s parent that runs, if one does.
    #[serde(default)]
    pub specialisation: Option<String>,
    /// `/nix/var/nix/profiles/system`.
    pub profile: Option<StorePath>,
    /// `/run/booted-system`.
    pub booted: Option<StorePath>,
    /// What a power cut would boot.
    pub boot_default: Option<StorePath>,
    /// `systemd-boot`, `grub`, `extlinux`, `lanzaboote`, `init-link`, `none`, `unknown`.
    pub loader: String,
    /// What only a reboot brings: `kernel`, `initrd`, `kernel-params` …; empty if none is needed.
    #[serde(default)]
    pub reboot_required: Vec<String>,
    /// Did the activation of `running` run to its end?
    pub activation: Activation,
    /// All units that are failed now.
    #[serde(default)]
    pub failed_units: Vec<String>,
}

/// Whether an activation ran to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Activation {
    /// To its end.
    Complete,
    /// Snippets or units of it failed, or it was cut.
    Partial,
}

/// One attempt at an intent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct AttemptReport {
    /// Which intent.
    #[serde(flatten)]
    pub order: Order,
    /// Where it comes from.
    pub revision: Revision,
    /// Its goals: component and digest.
    pub goals: BTreeMap<ComponentName, Digest>,
    /// The closure of the `system` goal.
    pub closure: Option<StorePath>,
    /// Where it stands.
    pub state: AttemptState,
    /// Random, new for each activation; a confirmation must carry it. Present while one is awaited.
    pub nonce: Option<String>,
    /// Seconds left until the host rolls back by itself, while it waits.
    pub deadline_in_secs: Option<u64>,
    /// Who confirms.
    pub confirm: Option<Confirm>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// In which stage, if it failed.
    pub stage: Option<Stage>,
    /// Why, for people: one sentence.
    pub message: Option<String>,
    /// Is the goal at fault (quarantine), by evidence from the host?
    #[serde(default)]
    pub evidence: bool,
    /// Units that failed by it, with their last lines.
    #[serde(default)]
    pub failed_units: Vec<FailedUnit>,
    /// Units that still run from another closure than the one that runs.
    #[serde(default)]
    pub restart_debt: Vec<String>,
    /// What differs from the recorded state after a partial roll-back.
    #[serde(default)]
    pub differs: Vec<String>,
    /// The jobs that an overdue activation waits for.
    #[serde(default)]
    pub waiting_jobs: Vec<String>,
    /// The reboot that it takes, if it takes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootReport>,
    /// When each stage began, in the order in which it did.
    #[serde(default)]
    pub timeline: Vec<(Timestamp, Stage)>,
}

impl AttemptReport {
    /// An attempt at this intent that has only come to `state`, without any trouble.
    #[must_use]
    pub fn of(intent: &Intent, closure: Option<StorePath>, state: AttemptState) -> Self {
        let goals = intent.goals.iter();
        Self {
            order: intent.order,
            revision: intent.revision.clone(),
            goals: goals
                .map(|g| (g.component.clone(), g.digest.clone()))
                .collect(),
            closure,
            state,
            nonce: None,
            deadline_in_secs: None,
            confirm: Some(intent.confirm.clone()),
            outcome: None,
            stage: None,
            message: None,
            evidence: false,
            failed_units: Vec::new(),
            restart_debt: Vec::new(),
            differs: Vec::new(),
            waiting_jobs: Vec::new(),
            boot: None,
            timeline: Vec::new(),
        }
    }
}

/// A reboot into a closure that nobody has seen boot yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct BootReport {
    /// The boot id before it.
    pub from: String,
    /// The loader's entry that is booted once; `None`: the closure is the boot default, unconfirmed.
    pub once: Option<String>,
    /// What a power cycle boots meanwhile.
    pub fallback: Option<StorePath>,
    /// It came up.
    pub came_up: bool,
}

/// Where an attempt stands, as the controller needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum AttemptState {
    /// Accepted, closures not there yet.
    Offered,
    /// The closure is being activated (preflight to judgement).
    Activating,
    /// About to reboot into the closure, or rebooting.
    Rebooting,
    /// Running, not confirmed: confirm over a new connection.
    AwaitingConfirmation,
    /// Confirmed: profile and boot default are being set.
    Committing,
    /// On the way back.
    RollingBack,
    /// Decided; see outcome.
    Ended,
}

/// The stages of an attempt (DESIGN section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// The offer was taken.
    Accept,
    /// Nothing touched: identity, order, system, space, inhibitors.
    Preflight,
    /// Roots and what is recorded.
    Record,
    /// The dead-man.
    Arm,
    /// `switch-to-configuration test`.
    Activate,
    /// Units, checks, settle.
    Judge,
    /// Waiting for the confirmation.
    Confirm,
    /// Profile.
    Profile,
    /// Boot default.
    Boot,
    /// Back to the recorded path.
    RollBack,
}

/// A unit that failed by an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct FailedUnit {
    /// Its name.
    pub name: String,
    /// `failed`, `auto-restart`, `inactive`: what it is instead of active.
    pub state: String,
    /// Why it counts, for people.
    pub why: String,
    /// The last lines of its journal.
    pub log: Vec<String>,
}

/// A component on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentReport {
    /// Which.
    pub name: ComponentName,
    /// The goal that runs, confirmed.
    pub confirmed: Option<Digest>,
    /// The goal that is in effect now, confirmed or not, if it is one that we know.
    pub observed: Option<Digest>,
    /// How the last attempt at this component ended, and at which goal.
    pub last: Option<(Digest, Outcome)>,
    /// Goals that are not tried again.
    #[serde(default)]
    pub quarantined: Vec<Digest>,
}

/// Another tool that deploys to this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct OtherManager {
    /// Its name.
    pub name: String,
    /// How it was found.
    pub evidence: String,
}

/// Other tools that deploy to a NixOS host by themselves, and the unit that shows each.
pub const OTHER_MANAGERS: [(&str, &str); 6] = [
    ("nixos-upgrade", "nixos-upgrade.timer"),
    ("comin", "comin.service"),
    ("cachix-agent", "cachix-agent.service"),
    ("system-manager", "system-manager.target"),
    ("bento", "bento-upgrade.timer"),
    ("npins-deploy", "npins-deploy.timer"),
];

/// A hold that a person laid on the host, there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// Until when.
    pub until: Timestamp,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
}

/// The agent's first line in answer to an offer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "answer")]
pub enum OfferReply {
    /// All closures are there and valid: the attempt has begun (or had begun before; offering twice is safe).
    Begun {
        /// Which.
        order: Order,
    },
    /// These are missing. Their GC links are made: copy them and offer again.
    Need {
        /// Store paths.
        paths: Vec<StorePath>,
    },
    /// The goals run already, confirmed: nothing was done.
    Already {
        /// Which.
        order: Order,
    },
    /// Another attempt is under way; its reports come first.
    Busy {
        /// Which.
        order: Order,
    },
    /// Refused; nothing was touched.
    Refused {
        /// Named as in DESIGN: `IdentityMismatch`, `OrderTooLow`, `WrongSystem`, `Expired`, `Quarantined`, `Held`,
        /// `Unsupported`, `Untrusted`, `JournalCorrupt`, `NotYet` …
        reason: String,
        /// For people.
        message: String,
        /// The greatest order seen, for `OrderTooLow`.
        greatest: Option<Order>,
    },
}
