//! The `secrets` component: everything is opened before anything changes, a whole generation is made in memory, one link
//! moves. Plain text is never on a disk, in a message or in a report.
//!
//! *Order*: it comes before `system` in an intent, so that units of the new closure find their secrets. Units of changed
//! secrets are then left to switch-to-configuration; alone, they are restarted here.

mod kept;
mod links;
mod memory;
mod observe;
mod open;
mod own;
mod people;
mod record;
mod units;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use trueup_core::agent::{Fault, Recorded};
use trueup_schema::status::Outcome;
use trueup_schema::wire::{Activation, Goal, SecretsGoal, Stage};

use crate::component::{Applied, Committed, Component, Context, Observed, Refusal, Verified};
use crate::files;
use crate::files::Layout;
use crate::{AgentError, activate};

pub use kept::restore;
pub use observe::{Looked, look};
pub use open::{Opened, open};
pub use own::own;
pub use record::Generation;

/// The component's name.
const NAME: &str = "secrets";

/// Where secrets are, below a folder that tests may choose.
#[derive(Debug, Clone)]
pub struct Places {
    /// `/run/trueup`.
    pub root: PathBuf,
    /// Mount a file system in memory there, as on a host.
    pub mount: bool,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            root: "/run/trueup".into(),
            mount: true,
        }
    }
}

impl Places {
    /// The folder of generations.
    #[must_use]
    pub fn generations(&self) -> PathBuf {
        self.root.join("secrets.d")
    }
    /// The link to the one that holds.
    #[must_use]
    pub fn link(&self) -> PathBuf {
        self.root.join("secrets")
    }
    /// The link to its part for users.
    #[must_use]
    pub fn users_link(&self) -> PathBuf {
        self.root.join("secrets-for-users")
    }
}

/// Why secrets can't be as they should. No message holds plain text.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// Somebody else's folder.
    #[error(
        "{path} belongs to uid {uid}, who could put something else in the place of secrets: if it is a controller's (its \
         unit has RuntimeDirectory=trueup), give that another `listen.socket`, such as /run/trueup-controller/api.sock"
    )]
    NotOurs {
        /// Which.
        path: PathBuf,
        /// Whose.
        uid: u32,
    },
    /// The goal's body.
    #[error("the goal does not read: {0}")]
    Body(String),
    /// A file of the goal can't be opened.
    #[error("{file}: {source}{hint}")]
    Open {
        /// Its path in the repository.
        file: String,
        /// Why.
        source: trueup_secrets::Error,
        /// What was tried.
        hint: String,
        /// Is the file at fault?
        evidence: bool,
    },
    /// A key of it is not a value.
    #[error("Secret `{secret}`, {file}: {source}")]
    Key {
        /// Whose.
        secret: String,
        /// Its path in the repository.
        file: String,
        /// Why.
        source: trueup_secrets::Error,
    },
    /// A template's text has a value that is no text.
    #[error("template `{template}`: there is no secret `{name}` on this host")]
    Template {
        /// Which.
        template: String,
        /// Of whom.
        name: String,
    },
    /// A user or group that is not there.
    #[error("{what} `{name}` of `{of}` is not known on this host: make it, or write its number")]
    Owner {
        /// `owner` or `group`.
        what: &'static str,
        /// Who.
        name: String,
        /// Of which secret or template.
        of: String,
    },
    /// A path that somebody else's file has.
    #[error("{} is a file that trueup did not put there: move it away, then try again", .0.display())]
    Occupied(PathBuf),
    /// No file system in memory.
    #[error("no file system in memory at {}: {why}", .path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A file or folder.
    #[error("{what} {}: {source}", .path.display())]
    File {
        /// What was done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// State on disk.
    #[error(transparent)]
    State(#[from] files::FileError),
}

impl SecretsError {
    /// Is the goal at fault, so that trying again is in vain?
    fn is_evidence(&self) -> bool {
        matches!(
            self,
            Self::Body(_)
                | Self::Open { evidence: true, .. }
                | Self::Key { .. }
                | Self::Template { .. }
        )
    }

    fn file<'p>(
        what: &'static str,
        path: &'p std::path::Path,
    ) -> impl Fn(std::io::Error) -> Self + use<'p> {
        move |source| Self::File {
            what,
            path: path.to_owned(),
            source,
        }
    }
}

impl From<SecretsError> for AgentError {
    fn from(error: SecretsError) -> Self {
        Self::Component {
            component: "secrets".to_owned(),
            message: error.to_string(),
        }
    }
}

/// What was there before, kept with the attempt.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Before {
    /// The generation that held.
    generation: Option<u64>,
    /// Where that one had links.
    links: Vec<PathBuf>,
    /// Where the new one has them.
    new_links: Vec<PathBuf>,
    /// Links of others that ours replaced, with what they pointed to.
    replaced: Vec<(PathBuf, PathBuf)>,
}

/// See the module.
#[derive(Debug)]
pub struct SecretsComponent {
    goal: SecretsGoal,
    digest: trueup_schema::Digest,
    places: Places,
    opened: Option<Opened>,
}

impl SecretsComponent {
    /// From its goal.
    pub fn new(goal: &Goal) -> Result<Self, AgentError> {
        Ok(Self {
            goal: body(goal)?,
            digest: goal.digest.clone(),
            places: Places::default(),
            opened: None,
        })
    }

    fn before_file(ctx: &Context) -> PathBuf {
        ctx.layout.attempt(ctx.order()).join("secrets.json")
    }

    fn before(ctx: &Context) -> Result<Before, SecretsError> {
        Ok(files::read_json(&Self::before_file(ctx))?.unwrap_or_default())
    }

    fn opened(&mut self, with_system: bool) -> Result<Opened, SecretsError> {
        match self.opened.take() {
            Some(opened) => Ok(opened),
            None => open(&self.goal, &self.digest, with_system),
        }
    }

    /// The generation from before, if it is still in memory.
    fn previous(&self, before: &Before) -> Option<Generation> {
        Generation::read(&self.places, before.generation?)
            .ok()
            .flatten()
    }

    fn put(&mut self, ctx: &Context) -> Result<units::Changes, SecretsError> {
        let with_system = activate::system_goal(ctx).is_some();
        let before = Self::before(ctx)?;
        let opened = self.opened(with_system)?;
        memory::ready(&self.places)?;
        let old = self.previous(&before);
        let new = opened.write(&self.places)?;
        memory::switch(&self.places, new.number)?;
        links::place(&self.places, old.as_ref(), &new)?;
        if with_system {
            own::watch(&self.places, &new);
        }
        Ok(units::changes(old.as_ref(), &new))
    }

    /// A power cut took the memory and left links on the disk. The early unit may have brought back what was committed
    /// half-way and is not to last: then the set from before takes its place.
    fn after_boot(&self, layout: &Layout, before: &Before) -> Result<units::Changes, SecretsError> {
        let current = || Generation::current(&self.places);
        let half = |g: &Generation| g.digest == self.digest;
        let now = current()?.filter(half);
        let lasts = kept::digest(layout).as_ref() == Some(&self.digest);
        let mut changes = units::Changes::default();
        if let Some(now) = now.filter(|_| !lasts) {
            kept::bring_back(layout, &self.places, false)?;
            match current()?.filter(|g| !half(g)) {
                Some(old) => changes = units::changes(Some(&now), &old),
                None => {
                    memory::forget(&self.places)?;
                    links::take_away(&self.places, &now);
                    memory::remove(&self.places, now.number);
                }
            }
        }
        if !lasts {
            let stale = before
                .new_links
                .iter()
                .filter(|path| !before.links.contains(path));
            stale.for_each(|path| links::remove(&self.places, path));
            links::bring_back(&before.replaced);
        }
        Ok(changes)
    }

    fn back(&mut self, ctx: &Context) -> Result<units::Changes, SecretsError> {
        let before = Self::before(ctx)?;
        let now = Generation::current(&self.places)?;
        let Some(now) = now.filter(|g| Some(g.number) != before.generation) else {
            return Ok(units::Changes::default()); // never moved, or moved back already
        };
        match self.previous(&before) {
            Some(old) => {
                memory::switch(&self.places, old.number)?;
                links::place(&self.places, Some(&now), &old)?;
                links::bring_back(&before.replaced);
                memory::remove(&self.places, now.number);
                Ok(units::changes(Some(&now), &old))
            }
            None => {
                memory::forget(&self.places)?;
                links::take_away(&self.places, &now);
                links::bring_back(&before.replaced);
                memory::remove(&self.places, now.number);
                Ok(units::Changes::default())
            }
        }
    }
}

/// A goal's body.
pub fn body(goal: &Goal) -> Result<SecretsGoal, AgentError> {
    serde_json::from_value(goal.body.clone()).map_err(|e| SecretsError::Body(e.to_string()).into())
}

/// This process holds plain text from here on: no core file, no debugger, no swap, as far as the kernel lets us.
pub fn hold_nothing_back() {
    use rustix::mm::{MlockAllFlags, mlockall};
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _best_effort = setrlimit(Resource::Core, none);
    let _best_effort = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if rustix::process::geteuid().is_root() {
        let _best_effort = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE);
    }
}

impl Component for SecretsComponent {
    fn observe(&self, layout: &Layout) -> Result<Observed, AgentError> {
        let found = look(layout, &self.places, Some(&self.digest));
        let in_effect = found.digest.as_ref() == Some(&self.digest);
        Ok(Observed {
            in_effect,
            lasting: in_effect && found.lasting,
        })
    }

    fn stage(&mut self, ctx: &Context) -> Result<(), Refusal> {
        let with_system = activate::system_goal(ctx).is_some();
        let opened = self
            .opened(with_system)
            .and_then(|opened| links::free(&self.places, &opened).map(|()| opened));
        match opened {
            Ok(opened) => {
                self.opened = Some(opened);
                Ok(())
            }
            Err(error) => Err(Refusal {
                outcome: Outcome::Failed,
                stage: Stage::Preflight,
                message: error.to_string(),
                evidence: error.is_evidence(),
            }),
        }
    }

    fn record(&mut self, ctx: &Context, _: &mut Recorded) -> Result<(), AgentError> {
        let opened = self.opened(activate::system_goal(ctx).is_some())?;
        let now = Generation::current(&self.places)?;
        let before = Before {
            generation: now.as_ref().map(|g| g.number),
            links: now.map(|g| g.links()).unwrap_or_default(),
            new_links: links::wanted(&opened),
            replaced: links::others(&self.places, &opened),
        };
        self.opened = Some(opened);
        files::write_json(&Self::before_file(ctx), &before)?;
        kept::set_aside(&ctx.layout, &ctx.dir())?;
        units::remember(ctx)
    }

    fn apply(
        &mut self,
        ctx: &Context,
        _recorded: &Recorded,
        _overdue: &mut dyn FnMut(Vec<String>) -> Result<(), AgentError>,
    ) -> Result<Applied, AgentError> {
        let changes = match self.put(ctx) {
            Ok(changes) => changes,
            Err(error) => {
                return Ok(Applied::Faulty(Fault {
                    component: Some(NAME.parse().expect("a DNS label")),
                    stage: Stage::Activate,
                    message: error.to_string(),
                    evidence: error.is_evidence(),
                    failed_units: Vec::new(),
                }));
            }
        };
        if activate::system_goal(ctx).is_some() {
            units::leave_to_switch(&changes)?;
            return Ok(Applied::Done(Activation::Complete));
        }
        Ok(match units::act(ctx, &changes) {
            Ok(()) => Applied::Done(Activation::Complete),
            Err(fault) => Applied::Faulty(fault),
        })
    }

    fn judge(&mut self, ctx: &Context) -> Result<Option<Fault>, AgentError> {
        let Some(now) = Generation::current(&self.places)? else {
            return Ok(None);
        };
        if let Some(owned) = now.own(&self.places)? {
            // Users whom nobody saw coming: a name service's, say.
            units::act(ctx, &owned)
                .map_or_else(|fault| Ok(Some(fault)), |()| units::judge(ctx, &now))
        } else {
            units::judge(ctx, &now)
        }
    }

    fn is_ours(&self, _: &Context, _: &Recorded) -> Result<(), String> {
        let now = Generation::current(&self.places).ok().flatten();
        match now {
            Some(now) if now.digest == self.digest => Ok(()),
            None if self.goal.is_empty() => Ok(()),
            _ => Err("somebody moved the secrets meanwhile".to_owned()),
        }
    }

    fn commit(&mut self, ctx: &Context, _: &Recorded) -> Result<(), AgentError> {
        Ok(kept::keep(&ctx.layout, &self.digest, &self.goal)?)
    }

    fn seal(&mut self, _: &Context, _: &Recorded) -> Result<Committed, AgentError> {
        memory::prune(&self.places)?;
        Ok(Committed::plainly())
    }

    fn uncommit(&mut self, ctx: &Context, _: &Recorded) -> Result<(), AgentError> {
        Ok(kept::put_back(&ctx.layout, &ctx.dir())?)
    }

    fn after_power_cut(&mut self, ctx: &Context, _: &Recorded) -> Result<(), AgentError> {
        let changes = self.after_boot(&ctx.layout, &Self::before(ctx)?)?;
        units::act(ctx, &changes).map_err(|fault| AgentError::Component {
            component: NAME.to_owned(),
            message: fault.message,
        })
    }

    fn revert(&mut self, ctx: &Context, _: &Recorded) -> Result<(), AgentError> {
        let changes = self.back(ctx)?;
        // The system went back before, in reverse order: what its switch started has read the new secrets.
        match units::act(ctx, &changes) {
            Ok(()) => Ok(()),
            Err(fault) => Err(AgentError::Component {
                component: "secrets".to_owned(),
                message: fault.message,
            }),
        }
    }

    fn verify(&mut self, ctx: &Context, _: &Recorded) -> Result<Verified, AgentError> {
        let before = Self::before(ctx)?;
        let now = Generation::current(&self.places)?;
        let back = now.as_ref().map(|g| g.number) == before.generation;
        let differs = match now {
            Some(now) if back => now.differences(&self.places),
            _ => Vec::new(),
        };
        Ok(Verified {
            back,
            differs,
            restart_debt: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests;
