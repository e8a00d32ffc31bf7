//! What happens in an attempt on a host: the records of its journal. Values only; which may follow which is the
//! machine's business.

use serde::{Deserialize, Serialize};
use trueup_schema::status::Outcome;
use trueup_schema::wire::{Activation, FailedUnit, Order, Stage};
use trueup_schema::{ComponentName, Digest, Revision, StorePath};

/// A moment of one boot: absolute `CLOCK_BOOTTIME`, so that neither a set clock nor a suspend moves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Nanoseconds since boot.
    pub at: u64,
}

/// What an attempt is at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// Which intent.
    pub order: Order,
    /// Where it comes from.
    pub revision: Revision,
    /// Component and digest, in the order in which they are applied.
    pub goals: Vec<(ComponentName, Digest)>,
    /// Nobody needs to confirm.
    pub unattended: bool,
    /// The SSH session that offered: it can't confirm.
    pub session: Option<Session>,
}

/// An SSH connection's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// Its process id.
    pub pid: u32,
    /// Start of it in nanoseconds of boot time, as exact as the kernel tells.
    pub started: u64,
}

/// What was there before anything changed: where a roll-back goes to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recorded {
    /// `/run/current-system`.
    pub running: Option<StorePath>,
    /// Below `running`'s top level, when a specialisation of it ran.
    pub running_link: Option<String>,
    /// The system profile.
    pub profile: Option<StorePath>,
    /// What a power cut would boot.
    pub boot_default: Option<StorePath>,
    /// By which loader, as in a report.
    #[serde(default)]
    pub loader: Option<String>,
    /// What was booted.
    #[serde(default)]
    pub booted: Option<StorePath>,
    /// The attempt goes by a reboot.
    #[serde(default)]
    pub by_reboot: bool,
    /// What a power cycle boots then, until it is confirmed.
    #[serde(default)]
    pub fallback: Option<StorePath>,
}

/// How a closure is to be booted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootSet {
    /// What is to come up.
    pub closure: StorePath,
    /// The loader's entry that is booted once; `None`: it is the boot default.
    pub once: Option<String>,
    /// The boot before.
    pub boot_id: String,
}

/// Why an attempt goes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// In which stage.
    pub stage: Stage,
    /// One sentence for people.
    pub message: String,
    /// Is the goal at fault, by what this host saw?
    pub evidence: bool,
    /// Units that failed by it.
    #[serde(default)]
    pub failed_units: Vec<FailedUnit>,
    /// The component whose goal is at fault, where that is known; else all of them.
    #[serde(default)]
    pub component: Option<ComponentName>,
}

impl Fault {
    /// One that says nothing against the goal.
    #[must_use]
    pub fn new(stage: Stage, message: String) -> Self {
        Self {
            stage,
            message,
            evidence: false,
            failed_units: Vec::new(),
            component: None,
        }
    }

    /// One that the goal is to blame for.
    #[must_use]
    pub fn evident(stage: Stage, message: String) -> Self {
        Self {
            evidence: true,
            ..Self::new(stage, message)
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// Its name.
    pub outcome: Outcome,
    /// In which stage, if it failed.
    pub stage: Option<Stage>,
    /// One sentence for people.
    pub message: Option<String>,
    /// Is the goal at fault?
    #[serde(default)]
    pub evidence: bool,
    /// What differs after a partial roll-back.
    #[serde(default)]
    pub differs: Vec<String>,
    /// Units that still run from the other closure.
    #[serde(default)]
    pub restart_debt: Vec<String>,
    /// The component whose goal is at fault, where that is known; else all of them.
    #[serde(default)]
    pub component: Option<ComponentName>,
}

impl End {
    /// One of this name, with nothing more to say.
    #[must_use]
    pub fn of(outcome: Outcome) -> Self {
        Self {
            outcome,
            stage: None,
            message: None,
            evidence: false,
            differs: Vec::new(),
            restart_debt: Vec::new(),
            component: None,
        }
    }
}

/// What happened. Each is written and synced before the effect that follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Event {
    /// The offer was taken.
    Accepted(Accepted),
    /// Every component can do it; nothing was touched.
    Staged,
    /// Roots are set, the present is written down.
    Recorded(Recorded),
    /// Both lines of the dead-man stand, for the activation's limit.
    Armed {
        /// When the agent itself gives up.
        deadline: Moment,
    },
    /// A component is about to be applied (again, after a crash).
    Applying {
        /// Which.
        component: ComponentName,
    },
    /// The activation is overdue.
    Overdue {
        /// What systemd waits for.
        jobs: Vec<String>,
    },
    /// The loader boots the closure next; the host is rebooted.
    BootSet(BootSet),
    /// It was booted, and runs.
    CameUp,
    /// A component is in effect.
    Applied {
        /// Which.
        component: ComponentName,
        /// Did it run to its end?
        activation: Activation,
    },
    /// The dead-man stands for the confirmation's deadline; units settle meanwhile.
    Awaiting {
        /// What the confirmation must carry.
        nonce: String,
        /// When activation had ended: the confirming session must be younger.
        since: Moment,
        /// When the host gives up.
        deadline: Moment,
    },
    /// Units and checks are good after the settle time.
    JudgedGood,
    /// A fresh connection carried the nonce.
    Confirmed,
    /// The dead-man is off; from here on it is committed.
    Committing,
    /// The component's state is now what boots (the profile, for `system`).
    ProfileSet,
    /// The boot entry was asked for; it is read back before the end.
    BootAsked,
    /// On the way back.
    RollingBack(Fault),
    /// A component is as it was.
    Reverted {
        /// Which.
        component: ComponentName,
    },
    /// All are taken back; somebody has to be able to get in.
    AwaitingContact {
        /// Until when that is waited for.
        until: Moment,
    },
    /// The host is about to be rebooted into its old boot default, because nothing else helped.
    LastResort,
    /// The host booted anew meanwhile.
    Rebooted {
        /// The new boot.
        boot_id: String,
    },
    /// Decided.
    Ended(End),
}

impl Event {
    /// Its name, for people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accepted(_) => "accepted",
            Self::Staged => "staged",
            Self::Recorded(_) => "recorded",
            Self::Armed { .. } => "armed",
            Self::Applying { .. } => "applying",
            Self::Overdue { .. } => "overdue",
            Self::BootSet(_) => "bootSet",
            Self::CameUp => "cameUp",
            Self::Applied { .. } => "applied",
            Self::Awaiting { .. } => "awaiting",
            Self::JudgedGood => "judgedGood",
            Self::Confirmed => "confirmed",
            Self::Committing => "committing",
            Self::ProfileSet => "profileSet",
            Self::BootAsked => "bootAsked",
            Self::RollingBack(_) => "rollingBack",
            Self::Reverted { .. } => "reverted",
            Self::AwaitingContact { .. } => "awaitingContact",
            Self::LastResort => "lastResort",
            Self::Rebooted { .. } => "rebooted",
            Self::Ended(_) => "ended",
        }
    }

    /// The stage that this event begins, for the timeline.
    #[must_use]
    pub fn stage(&self) -> Option<Stage> {
        Some(match self {
            Self::Accepted(_) => Stage::Accept,
            Self::Staged => Stage::Record,
            Self::Recorded(_) => Stage::Arm,
            Self::Applying { .. } => Stage::Activate,
            Self::Awaiting { .. } => Stage::Confirm,
            Self::Committing => Stage::Profile,
            Self::ProfileSet | Self::BootSet(_) => Stage::Boot,
            Self::RollingBack(_) => Stage::RollBack,
            _ => return None,
        })
    }
}
