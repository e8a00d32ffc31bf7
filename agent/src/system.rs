//! The `system` component: a NixOS closure, by its own `switch-to-configuration`. Judged by links, lists and units.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use trueup_core::agent::{Fault, Recorded};
use trueup_schema::StorePath;
use trueup_schema::status::Outcome;
use trueup_schema::wire::{
    Activation, FailedUnit, FailedUnitsPolicy, Goal, Mode, OnTimeout, Stage, SystemGoal,
};

use crate::component::{Applied, Committed, Component, Context, Observed, Refusal, Verified};
use crate::exec;
use crate::files::{self, FileError, Layout};
use crate::plant::{self, Bug};
use crate::units::seen;
use crate::units::{self, Units};
use crate::{AgentError, boot, health, judge, lists, mend, orphans, preflight, profile, reboot};

mod asked;
mod looks;

/// Exit code of a held lock.
const LOCKED: i32 = 11;
/// What is said of it.
const LOCK_HELD: &str = "another switch holds the lock";
/// Exit code of another init interface.
const OTHER_INIT: i32 = 100;
/// A held lock is waited for so often; past that it is for the controller to come again …
const LOCK_TRIES: u32 = 10;
/// … so long each.
const LOCK_PAUSE: Duration = Duration::from_secs(1);
/// The way back, one run of it.
const REVERT_LIMIT: Duration = Duration::from_secs(600);
/// The boot script.
const COMMIT_LIMIT: Duration = Duration::from_secs(300);
/// The pre-switch check of the closure.
const CHECK_LIMIT: Duration = Duration::from_secs(120);
/// The link is read again so long after the way back: an orphan may move it.
const CALM: Duration = Duration::from_millis(1500);
/// Names in differences are cut here.
const MAX_NAMED: usize = 32;

/// See the module.
#[derive(Debug)]
pub struct SystemComponent {
    goal: SystemGoal,
    /// What it was judged by, if that was in this process.
    judged: Option<Units>,
}

/// What runs when the goal is in effect: the closure, or its specialisation.
#[must_use]
pub fn target(goal: &SystemGoal) -> PathBuf {
    let top = PathBuf::from(goal.closure.as_str());
    match &goal.specialisation {
        Some(name) if !name.contains('/') && !name.starts_with('.') => {
            let below = top.join("specialisation").join(name);
            fs::canonicalize(&below).unwrap_or(below)
        }
        _ => top,
    }
}

/// Sets the system profile.
pub fn set_profile(path: &StorePath) -> Result<(), FileError> {
    profile::set(Path::new(files::PROFILE), path)
}

/// A file of the attempt that a program writes into.
pub(crate) fn log_file(ctx: &Context, name: &str) -> Result<File, FileError> {
    let path = ctx.dir().join(name);
    let opened = OpenOptions::new().append(true).create(true).open(&path);
    opened.map_err(|source| FileError::Write { path, source })
}

/// What NixOS' own tools pass.
pub(crate) const ENV: [(&str, &str); 2] = [
    (
        "LOCALE_ARCHIVE",
        "/run/current-system/sw/lib/locale/locale-archive",
    ),
    ("NIXOS_INSTALL_BOOTLOADER", "0"),
];

impl SystemComponent {
    /// From its goal.
    pub fn new(goal: &Goal) -> Result<Self, AgentError> {
        let goal =
            serde_json::from_value(goal.body.clone()).map_err(|e| AgentError::Component {
                component: "system".to_owned(),
                message: e.to_string(),
            })?;
        Ok(Self { goal, judged: None })
    }

    fn target(&self) -> PathBuf {
        target(&self.goal)
    }

    fn runs(&self) -> bool {
        fs::canonicalize(files::CURRENT).ok() == Some(self.target())
    }

    /// Runs `test` to its end, however long, telling once each limit; `None`: stopped at the limit.
    fn test(
        &self,
        ctx: &Context,
        overdue: &mut dyn FnMut(Vec<String>) -> Result<(), AgentError>,
    ) -> Result<Option<i32>, AgentError> {
        let log = log_file(ctx, "activate.log")?;
        let program = self.target().join("bin/switch-to-configuration");
        let mut child = exec::start(&program, &["test"], &ENV, &log)?;
        let limit = Duration::from_secs(self.goal.activation_timeout_secs);
        loop {
            match exec::wait(&mut child, limit) {
                Ok(Some(status)) => return Ok(Some(status.code().unwrap_or(-1))),
                Ok(None) => overdue(units::jobs())?,
                Err(_) => return Ok(Some(-1)),
            }
            if self.goal.on_timeout == OnTimeout::Rollback {
                return Ok(None);
            }
        }
    }

    fn said(&self, ctx: &Context, what: &str) -> bool {
        files::text(ctx.dir().join("activate.log")).contains(what)
    }

    /// A reboot takes everything that another component has only in memory.
    fn alone(&self, ctx: &Context) -> Result<(), Refusal> {
        let message = match (ctx.intent.goals.len(), &self.goal.specialisation) {
            (1, None) => return Ok(()),
            (1, Some(name)) => format!("NotYet: a reboot into the specialisation {name}"),
            _ => "a goal that takes a reboot is delivered alone".to_owned(),
        };
        Err(Refusal {
            outcome: Outcome::Failed,
            stage: Stage::Preflight,
            message,
            evidence: false,
        })
    }
}

fn fault(message: String) -> Applied {
    Applied::Faulty(Fault::evident(Stage::Activate, message))
}

fn untouched(outcome: Outcome, message: &str, evidence: bool) -> Applied {
    Applied::Untouched(Refusal {
        outcome,
        stage: Stage::Activate,
        message: message.to_owned(),
        evidence,
    })
}

impl Component for SystemComponent {
    fn needs(&self) -> Vec<StorePath> {
        vec![self.goal.closure.clone()]
    }

    fn not_yet(&self) -> Option<String> {
        let boot = self.goal.mode == Mode::Boot && self.goal.specialisation.is_some();
        boot.then(|| "a specialisation can't be booted yet; its parent can".to_owned())
    }

    fn observe(&self, _layout: &Layout) -> Result<Observed, AgentError> {
        let default = boot::detect().closure;
        let in_effect = self.runs();
        let boots = files::store_path(files::PROFILE).as_ref() == Some(&self.goal.closure)
            && (default.is_none() || default.as_ref() == Some(&self.goal.closure));
        let lasting = in_effect
            && match self.goal.mode {
                Mode::Switch => boots,
                Mode::Boot => boots && !reboot::is_needed(&self.goal.closure),
                Mode::Test | Mode::DryActivate => true,
            };
        Ok(Observed { in_effect, lasting })
    }

    fn stage(&mut self, ctx: &Context) -> Result<(), Refusal> {
        if self.goal.mode == Mode::DryActivate {
            return Err(self.dry_activate(ctx));
        }
        let by_reboot = reboot::is_the_way(&self.goal);
        preflight::check(&self.goal, &self.target(), by_reboot)?;
        if by_reboot {
            return self.alone(ctx);
        }
        self.pre_switch_check(ctx)
    }

    fn record(&mut self, ctx: &Context, into: &mut Recorded) -> Result<(), AgentError> {
        let order = ctx.order();
        let roots = Path::new(files::ROOTS);
        let running = fs::canonicalize(files::CURRENT).ok();
        if let Some(path) = &running {
            files::root(path, &roots.join(format!("recorded-{order}")))?;
        }
        if let Some(own) = crate::own_store_path() {
            files::root(
                Path::new(own.as_str()),
                &roots.join(format!("agent-{order}")),
            )?;
        }
        into.running = running.and_then(|p| p.to_str()?.parse().ok());
        into.profile = files::store_path(files::PROFILE);
        let default = boot::detect();
        into.boot_default = default.closure;
        into.loader = Some(default.loader.to_owned());
        into.booted = files::store_path(files::BOOTED);
        into.by_reboot = reboot::is_the_way(&self.goal);
        if into.by_reboot {
            into.fallback = reboot::fallback(&self.goal.closure);
        }
        // Of a reboot they are looked at after the boot.
        looks::record(ctx, into.by_reboot)
    }

    fn apply(
        &mut self,
        ctx: &Context,
        recorded: &Recorded,
        overdue: &mut dyn FnMut(Vec<String>) -> Result<(), AgentError>,
    ) -> Result<Applied, AgentError> {
        if recorded.by_reboot {
            return Ok(match reboot::prepare(ctx, &self.goal, recorded) {
                Ok(set) => Applied::BootSet(set),
                Err(refusal) => Applied::Untouched(refusal),
            });
        }
        let target = self.target();
        let mut code = Some(LOCKED);
        for try_no in 0..LOCK_TRIES {
            lists::filter(&target);
            code = self.test(ctx, overdue)?;
            if code != Some(LOCKED) || self.runs() {
                break;
            }
            if try_no + 1 < LOCK_TRIES {
                thread::sleep(LOCK_PAUSE);
            }
        }
        put_init_link_back(recorded)?;
        let there = self.runs();
        Ok(match code {
            None => {
                let secs = self.goal.activation_timeout_secs;
                fault(format!("the activation did not end within {secs} s"))
            }
            Some(LOCKED) if !there => untouched(Outcome::Failed, LOCK_HELD, false),
            Some(OTHER_INIT) if !there => untouched(
                Outcome::RebootRequired,
                "the init interface differs: only a reboot brings it",
                false,
            ),
            Some(_) if !there && self.said(ctx, "Pre-switch checks failed") => untouched(
                Outcome::Failed,
                "the closure's pre-switch checks refused",
                true,
            ),
            Some(code) if !there => fault(format!(
                "the closure did not become the running one (exit {code})"
            )),
            Some(_) if self.said(ctx, "Failed to run activate script") => {
                fault("the activation script failed".to_owned())
            }
            Some(code @ (1 | 101 | -1)) => fault(format!(
                "switch-to-configuration ended half-way (exit {code})"
            )),
            Some(_) => {
                let before = looks::before(ctx)?;
                if mend::a_socket_changed(&before) {
                    mend::restart_changed_sockets(&before, &units::sockets()?);
                }
                Applied::Done(Activation::Complete)
            }
        })
    }

    fn judge(&mut self, ctx: &Context) -> Result<Option<Fault>, AgentError> {
        let before = looks::before(ctx)?;
        let now = units::for_judging()?;
        seen::keep(&ctx.layout, &now);
        let mut harmed = judge::harmed(&before, &now, &self.goal.failed_units);
        self.judged = Some(now);
        if harmed.is_empty() || self.goal.failed_units.policy == FailedUnitsPolicy::Report {
            let confirm = ctx.intent.confirm.timeout_secs;
            let left = confirm.saturating_sub(self.goal.settle_secs);
            let end = Instant::now() + Duration::from_secs(left);
            let said = health::failing(&self.goal.health, &self.target(), end);
            return Ok(said.map(|message| Fault::evident(Stage::Judge, message)));
        }
        harmed.truncate(MAX_NAMED);
        for unit in &mut harmed {
            unit.log = units::log(&unit.name);
        }
        let names: Vec<&str> = harmed
            .iter()
            .map(|u: &FailedUnit| u.name.as_str())
            .collect();
        let message = format!("harmed by it: {}", names.join(", "));
        Ok(Some(Fault {
            failed_units: harmed,
            ..Fault::evident(Stage::Judge, message)
        }))
    }

    fn is_ours(&self, _ctx: &Context, recorded: &Recorded) -> Result<(), String> {
        if !self.runs() {
            let now = fs::canonicalize(files::CURRENT).unwrap_or_default();
            return Err(format!(
                "somebody switched meanwhile: {} runs",
                now.display()
            ));
        }
        let profile = files::store_path(files::PROFILE);
        if profile != recorded.profile && profile.as_ref() != Some(&self.goal.closure) {
            let now = profile.map_or("nothing".to_owned(), |p| p.to_string());
            return Err(format!("somebody set the profile meanwhile: {now}"));
        }
        Ok(())
    }

    fn commit(&mut self, _ctx: &Context, recorded: &Recorded) -> Result<(), AgentError> {
        if self.goal.mode == Mode::Test {
            return Ok(());
        }
        if recorded.by_reboot {
            reboot::forget();
        }
        Ok(set_profile(&self.goal.closure)?)
    }

    fn seal(&mut self, ctx: &Context, recorded: &Recorded) -> Result<Committed, AgentError> {
        if self.goal.mode == Mode::Test {
            return Ok(Committed::plainly());
        }
        profile::trim(Path::new(files::PROFILE), self.goal.keep_generations);
        let top = Path::new(self.goal.closure.as_str());
        let program = top.join("bin/switch-to-configuration");
        let log = log_file(ctx, "boot.log")?;
        let code = exec::run_logged(&program, &["boot"], &ENV, &log, COMMIT_LIMIT)?;
        if recorded.loader.as_deref() == Some(boot::INIT_LINK) {
            boot::put_init_link(&self.goal.closure)?;
        }
        let now = boot::detect();
        let told = now.closure.is_some();
        let right = now.closure.as_ref() == Some(&self.goal.closure);
        if right || (!told && code == Some(0)) {
            let before = looks::before(ctx)?;
            let now = self.judged.take().map_or_else(units::for_judging, Ok)?;
            return Ok(Committed::Done {
                reboot_required: preflight::reboot_required(Path::new(files::BOOTED), top),
                restart_debt: mend::restart_debt(&[&before], &now),
            });
        }
        let default = now
            .closure
            .as_ref()
            .map_or("not known".to_owned(), ToString::to_string);
        let code = code.map_or("was killed at its limit".to_owned(), |c| {
            format!("ended with {c}")
        });
        Ok(Committed::Without(format!(
            "`boot` {code}, and the boot default is {default}: a power cut would not boot what runs"
        )))
    }

    fn uncommit(&mut self, _ctx: &Context, recorded: &Recorded) -> Result<(), AgentError> {
        let profile = files::store_path(files::PROFILE);
        if let Some(old) = &recorded.profile
            && profile.as_ref() == Some(&self.goal.closure)
            && profile.as_ref() != Some(old)
        {
            set_profile(old)?;
        }
        Ok(())
    }

    fn after_power_cut(&mut self, ctx: &Context, recorded: &Recorded) -> Result<(), AgentError> {
        // What came up is left as it is, unconfirmed: the next attempt finds it, or the next power cycle ends it.
        if recorded.by_reboot && !reboot::is_up(&self.goal.closure) {
            reboot::take_back(ctx, &self.goal, recorded, recorded.fallback.as_ref());
        }
        Ok(())
    }

    fn revert(&mut self, ctx: &Context, recorded: &Recorded) -> Result<(), AgentError> {
        if recorded.by_reboot {
            let up = reboot::is_up(&self.goal.closure);
            let default = if up {
                &recorded.fallback
            } else {
                &recorded.boot_default
            };
            reboot::take_back(ctx, &self.goal, recorded, default.as_ref());
            return Ok(());
        }
        orphans::stop_rest_of_group();
        let by_number = files::store_path(files::PROFILE);
        let back = if plant::is(Bug::RollbackByGenerationNumber) {
            &by_number
        } else {
            &recorded.running
        };
        let Some(back) = back else {
            return Err(AgentError::Component {
                component: "system".to_owned(),
                message: "no system ran before: nothing to go back to".to_owned(),
            });
        };
        let before = looks::before(ctx)?;
        let during = looks::during(ctx)?;
        let target = Path::new(back.as_str());
        let program = target.join("bin/switch-to-configuration");
        let log = log_file(ctx, "rollback.log")?;
        let mut env = ENV.to_vec();
        env.push(("NIXOS_NO_CHECK", "1"));
        for _ in 0..LOCK_TRIES {
            lists::filter(target);
            let code = exec::run_logged(&program, &["test"], &env, &log, REVERT_LIMIT)?;
            let there = files::store_path(files::CURRENT).as_ref() == Some(back);
            if there && code != Some(LOCKED) {
                break;
            }
            thread::sleep(LOCK_PAUSE);
        }
        put_init_link_back(recorded)?;
        let after = units::snapshot()?;
        mend::restart_changed_sockets(&during, &after);
        mend::restore(&before, &after);
        let debt = mend::restart_debt(&[&before, &during], &after);
        mend::restart_where_allowed(&debt, &after);
        Ok(())
    }

    fn verify(&mut self, ctx: &Context, recorded: &Recorded) -> Result<Verified, AgentError> {
        thread::sleep(CALM);
        let running = files::store_path(files::CURRENT);
        let mut found = Verified {
            back: recorded.running.is_some() && running == recorded.running,
            ..Verified::default()
        };
        if files::store_path(files::PROFILE) != recorded.profile {
            found
                .differs
                .push("the profile is not what it was".to_owned());
        }
        if boot::detect().closure != recorded.boot_default {
            found
                .differs
                .push("the boot default is not what it was".to_owned());
        }
        looks::compare(ctx, &mut found)?;
        Ok(found)
    }
}

/// On containers `test` itself moves what the next boot takes: put back, until the commit.
fn put_init_link_back(recorded: &Recorded) -> Result<(), AgentError> {
    if recorded.loader.as_deref() == Some(boot::INIT_LINK)
        && let Some(old) = &recorded.boot_default
    {
        boot::put_init_link(old)?;
    }
    Ok(())
}
