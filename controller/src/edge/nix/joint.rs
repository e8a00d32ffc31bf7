//! Builds that are wanted at the same moment share one `nix build`, and closures that are to be signed one `nix store sign`:
//! a commit that concerns ten hosts pays for one process and one look at the store. Each is answered for itself. Who
//! can't be answered from what all were told is built, or signed, alone.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use trueup_engine::ports::{BuildFailure, BuildUpdate, Builder as _};
use trueup_schema::{DrvPath, ErrorClass, StorePath};

use super::build::{End, failure};
use super::info::{self, PathInfo};
use super::log::BuildLog;
use super::{Nix, exec};

/// Derivations of one process: its command line and what it holds in memory stay small.
pub const GROUP_MAX: usize = 32;
/// While others are being evaluated, or come one after the other, they are waited for, but no longer than this. Nobody
/// waits for whom nobody expects.
const GATHER: Duration = Duration::from_millis(150);
/// Who comes with others comes within this: to each belongs a login that begins at the same time.
const LOOK: Duration = Duration::from_millis(25);
/// Who comes while a group builds waits for its end, but no longer than this: it may take hours.
const NEXT: Duration = Duration::from_millis(300);
/// While a group builds, it is asked which closures are there: after this time, then after twice, at most so long.
const EARLY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// Closures whose signatures are remembered until they are asked for.
const KNOWN_MAX: usize = 256;

/// One that waits for its turn.
#[derive(Debug)]
struct Waiter {
    drv: DrvPath,
    out: StorePath,
    updates: mpsc::Sender<BuildUpdate>,
    done: oneshot::Sender<Verdict>,
}

impl Waiter {
    fn tell(self, verdict: Verdict) {
        // Who no longer listens needs no answer.
        let _gone = self.done.send(verdict);
    }
    fn built(self) {
        self.tell(Verdict::Built);
    }
    fn alone(self) {
        self.tell(Verdict::Alone(None));
    }
}

/// What became of one of a group.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is there.
    Built,
    /// It, or something that it needs, was refused.
    Failed(BuildFailure),
    /// Nobody else waits, or it is not known: it is to be built by itself, by who has its turn or beside others.
    Alone(Option<Turn>),
}

/// Whoever holds it gathers the next group.
pub(super) type Turn = tokio::sync::OwnedMutexGuard<()>;

/// Does the work; who comes meanwhile waits for a while, to be one group.
pub(super) async fn holding<T>(turn: Option<Turn>, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => done,
        () = tokio::time::sleep(NEXT) => {
            drop(turn);
            work.await
        }
    }
}

/// A closure that waits to be signed.
#[derive(Debug)]
struct Unsigned {
    closure: Vec<PathInfo>,
    done: oneshot::Sender<Signed>,
}

/// Paths of a closure that nobody vouches for; it is signed if there are none. `None`: it is to be tried alone.
type Signed = Option<Vec<StorePath>>;

/// Who waits, and what was learnt of those that were built.
#[derive(Debug, Default)]
pub(super) struct Joint {
    waiting: Mutex<Vec<Waiter>>,
    /// Held by who gathers a group, and while it builds for a while.
    turn: Arc<tokio::sync::Mutex<()>>,
    known: Mutex<Vec<(StorePath, Vec<PathInfo>)>>,
    unsigned: Mutex<Vec<Unsigned>>,
    /// Held by who signs for all that wait.
    signing: tokio::sync::Mutex<()>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing is left half changed by a panic in here.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Joint {
    /// The first that wait. The rest comes next.
    fn group(&self) -> Vec<Waiter> {
        let mut waiting = locked(&self.waiting);
        waiting.retain(|w| !w.done.is_closed());
        let many = waiting.len().min(GROUP_MAX);
        waiting.drain(..many).collect()
    }

    /// A closure that was looked at when it was built, once.
    pub(super) fn take_known(&self, path: &StorePath) -> Option<Vec<PathInfo>> {
        let mut known = locked(&self.known);
        let at = known.iter().position(|(p, _)| p == path)?;
        Some(known.swap_remove(at).1)
    }
}

impl Nix {
    /// Builds it with all others that are wanted now. Whoever's turn it is begins the process for the group.
    pub(super) async fn build_jointly(
        &self,
        drv: &DrvPath,
        out: &StorePath,
        logs: &Path,
        updates: &mpsc::Sender<BuildUpdate>,
    ) -> Verdict {
        let (done, mut told) = oneshot::channel();
        locked(&self.joint.waiting).push(Waiter {
            drv: drv.clone(),
            out: out.clone(),
            updates: updates.clone(),
            done,
        });
        loop {
            let turn = tokio::select! {
                biased;
                verdict = &mut told => return verdict.unwrap_or(Verdict::Alone(None)),
                turn = self.joint.turn.clone().lock_owned() => turn,
            };
            // Who is woken together asks together.
            tokio::task::yield_now().await;
            self.gather().await;
            let group = self.joint.group();
            match &group[..] {
                [] => {
                    // Ours was taken by the group before.
                    drop(turn);
                    return told.await.unwrap_or(Verdict::Alone(None));
                }
                [one] if one.drv == *drv => return Verdict::Alone(Some(turn)),
                _ => {}
            }
            // Beside us: whoever drove it would have to wait for the slowest.
            let (nix, logs) = (self.clone(), logs.to_owned());
            exec::beside(async move { holding(Some(turn), nix.build_group(group, &logs)).await });
        }
    }

    /// Waits for those that are being evaluated, or come one after the other.
    async fn gather(&self) {
        let all = self.settings.evaluations.max(1);
        let evaluating = || self.evaluating.available_permits() < all;
        let waiting = || locked(&self.joint.waiting).len();
        let until = tokio::time::Instant::now() + GATHER;
        let mut seen = waiting();
        let mut goes_on = seen > 1 || evaluating();
        while goes_on && tokio::time::Instant::now() < until {
            tokio::time::sleep(LOOK).await;
            let now = waiting();
            goes_on = now != seen || evaluating();
            seen = now;
        }
    }

    /// Builds for all, and tells each as soon as its own is there. Ends when nobody listens any more.
    async fn build_group(&self, mut group: Vec<Waiter>, logs: &Path) {
        let drvs: Vec<DrvPath> = group.iter().map(|w| w.drv.clone()).collect();
        let drvs: Vec<&DrvPath> = drvs.iter().collect();
        let updates: Vec<_> = group.iter().map(|w| w.updates.clone()).collect();
        let mut log = BuildLog::new(logs);
        let end = {
            let work = self.follow(&drvs, &mut log, &updates);
            tokio::pin!(work);
            let mut pause = EARLY.0;
            loop {
                let nobody = futures::future::join_all(group.iter_mut().map(|w| w.done.closed()));
                tokio::select! {
                    end = &mut work => break end,
                    _ = nobody => return,
                    () = tokio::time::sleep(pause) => {}
                }
                // One that takes hours holds up none that is there: who waits for the rest remains.
                let outs: Vec<StorePath> = group.iter().map(|w| w.out.clone()).collect();
                let there = tokio::select! {
                    end = &mut work => break end,
                    there = self.valid_of(&outs) => there,
                };
                let (built, rest): (Vec<_>, _) =
                    group.into_iter().partition(|w| there.contains(&w.out));
                group = rest;
                built.into_iter().for_each(Waiter::built);
                pause = (pause * 2).min(EARLY.1);
            }
        };
        let exit = match end {
            Ok(End::Exit(exit)) => exit,
            // A machine was lost, or Nix did not run: each finds its own way.
            Ok(End::Lost(_)) | Err(_) => return group.into_iter().for_each(Waiter::alone),
        };
        if exit.ok() {
            self.look_at_all(&group).await;
            return group.into_iter().for_each(Waiter::built);
        }
        for waiter in group {
            let verdict = self.verdict(&waiter, &log, &exit).await;
            waiter.tell(verdict);
        }
    }

    /// Those of these that the hub has, by one question; what can't be told is not there yet.
    async fn valid_of(&self, paths: &[StorePath]) -> BTreeSet<StorePath> {
        let mut args: Vec<OsString> = ["path-info", "--offline", "--json"]
            .map(OsString::from)
            .into();
        args.extend(paths.iter().map(|p| p.as_str().into()));
        let told = self.must(args, super::QUESTION_WALL, Vec::new()).await;
        told.map(|json| info::valid(&json)).unwrap_or_default()
    }

    /// Some of the group failed. Nix says which derivations did; whose they are is told by what each needs.
    async fn verdict(&self, waiter: &Waiter, log: &BuildLog, exit: &exec::Exit) -> Verdict {
        let Some(needs) = self.requisites(&waiter.drv).await else {
            return Verdict::Alone(None);
        };
        let needs: BTreeSet<&str> = needs.iter().map(DrvPath::as_str).collect();
        let ours = log.only(|drv| needs.contains(drv));
        if ours.errors.is_empty() {
            return match self.is_valid(&waiter.out).await {
                true => Verdict::Built,
                false => Verdict::Alone(None),
            };
        }
        let failed = failure(&waiter.drv, &ours, exit, &self.machines).failure;
        // What is no builder's own word may be another time's luck, and is tried by itself.
        if failed.class == ErrorClass::Desired && needs.contains(failed.drv.as_str()) {
            Verdict::Failed(failed)
        } else {
            Verdict::Alone(None)
        }
    }

    /// Signs it with all others that are to be signed now. Gives the paths that nobody vouches for.
    pub(super) async fn sign_jointly(
        &self,
        closure: Vec<PathInfo>,
    ) -> Result<Vec<StorePath>, String> {
        let (done, mut told) = oneshot::channel();
        let own = closure.clone();
        locked(&self.joint.unsigned).push(Unsigned { closure, done });
        let turn = self.joint.signing.lock().await;
        // Who is woken together asks together.
        tokio::task::yield_now().await;
        let mut group = std::mem::take(&mut *locked(&self.joint.unsigned));
        group.retain(|u| !u.done.is_closed());
        if !group.is_empty() {
            let mut all: BTreeMap<&StorePath, &PathInfo> = BTreeMap::new();
            for info in group.iter().flat_map(|u| &u.closure) {
                all.entry(&info.path).or_insert(info);
            }
            let union = all.into_values().cloned().collect();
            let unknown = self.sign_all(union).await;
            for Unsigned { closure, done } in group {
                let of_it = |unknown: &Vec<StorePath>| {
                    let theirs = unknown.iter();
                    theirs
                        .filter(|p| closure.iter().any(|i| i.path == **p))
                        .cloned()
                        .collect()
                };
                // Who no longer listens needs no answer.
                let _gone = done.send(unknown.as_ref().ok().map(of_it));
            }
        }
        drop(turn);
        match told.try_recv().ok().flatten() {
            Some(unknown) => Ok(unknown),
            // Somebody else's path may be what failed.
            None => self.sign_all(own).await,
        }
    }

    /// One look for all instead of one each, for who signs next. What goes wrong here is told there.
    async fn look_at_all(&self, group: &[Waiter]) {
        let outs: Vec<&StorePath> = group.iter().map(|w| &w.out).collect();
        let Ok(all) = self.closures(&outs).await else {
            return;
        };
        let mut known = locked(&self.joint.known);
        if known.len() + group.len() > KNOWN_MAX {
            known.clear();
        }
        for waiter in group {
            let closure = info::closure(&all, &waiter.out);
            known.retain(|(path, _)| *path != waiter.out);
            known.extend(closure.map(|c| (waiter.out.clone(), c)));
        }
    }
}
