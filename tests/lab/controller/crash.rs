//! The controller dies at each point that the engine names, and at random: every goal is activated once, every nudge is
//! handled, the event log has no gap. Judged by the lines of switch-to-configuration in the hosts' own journals.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::{THREE, three};
use crate::harness::wait;
use trueup_engine::CRASH_POINTS;
use trueup_tests::programs;
use trueup_tests::world::World;

/// Long: an attempt must not be rolled back because a controller was away for a moment on a busy machine.
const DEFAULTS: &str =
    "    activation: {confirmTimeout: 180s, settle: 0s}\n    drift: {interval: 10s}\n";
/// A point is passed on the way to convergence, or soon after.
const DIES_MAX: Duration = Duration::from_secs(180);
const ABORT: i32 = 6;
const RANDOM_KILLS: u32 = 20;
const KILLS_PER_COMMIT: u32 = 4;
/// A whole convergence takes about this long, so that kills hit all of it.
const KILL_WITHIN_MS: u64 = 6000;
/// What the API gives at once; more happens in no round.
const EVENTS: &str = "1000";

/// What has to hold in the end.
#[derive(Default)]
struct Ledger {
    /// Host and closure, and in which round it was wanted.
    goals: BTreeMap<(String, String), String>,
    events: BTreeMap<(u64, u64), Value>,
    commits: Vec<String>,
    nudges: Vec<String>,
}

impl Ledger {
    /// All three have what was merged; what happened is written down.
    fn converged(&mut self, world: &World, round: &str) {
        if let Err(error) = world.all_ready(&THREE) {
            panic!("{round}: {error:#}\n{}", world.log_tail());
        }
        self.commits.push(world.head().to_owned());
        for (name, status) in world.statuses().unwrap() {
            let closure = status["desiredClosure"].as_str().unwrap().to_owned();
            self.goals.insert((name, closure), round.to_owned());
        }
        for id in &self.nudges {
            let handled = || {
                let nudge = world.api(&format!("/v1/nudges/{id}")).unwrap();
                nudge["status"]["handledAt"].is_string().then_some(())
            };
            wait(world.patience, handled)
                .unwrap_or_else(|| panic!("{round}: nudge {id} is not handled"));
        }
        self.nudges.clear();
        self.read_events(world);
    }

    fn read_events(&mut self, world: &World) {
        let text = world.trueup(&["events", "--limit", EVENTS, "-o", "json"]);
        let list: Value = serde_json::from_str(&text.unwrap()).unwrap();
        let before = self.events.len();
        let events = list["items"].as_array().unwrap();
        let mut known = 0;
        for event in events {
            let event = &event["status"];
            let id = event["id"].as_str().unwrap();
            let (rev, n) = id.split_once('-').unwrap();
            let key = (rev.parse().unwrap(), n.parse().unwrap());
            if self.events.insert(key, event.clone()).is_some() {
                known += 1;
            }
        }
        assert!(
            known > 0 || before == 0,
            "more events than are shown at once"
        );
    }

    fn count(&self, reason: &str, of: impl Fn(&Value) -> bool) -> usize {
        let is = |e: &&Value| e["reason"] == reason && of(e);
        self.events.values().filter(is).count()
    }

    /// Everything that must be true after all rounds.
    fn holds(&self, world: &World) {
        for name in THREE {
            let switches = world.switches(name).unwrap();
            for ((_, closure), round) in self.goals.iter().filter(|((n, _), _)| n == name) {
                let times = switches.get(closure).copied().unwrap_or_default();
                assert_eq!(times, 1, "{round}: {name} switched to {closure}");
            }
        }
        // Within one commit to the database events are numbered without a hole; each commit of the trunk was accepted
        // once; each goal succeeded once, however often the controller died around it.
        let mut of: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (rev, n) in self.events.keys() {
            of.entry(*rev).or_default().push(*n);
        }
        for (rev, numbers) in of {
            let first = numbers[0];
            let whole: Vec<u64> = (first..first + numbers.len() as u64).collect();
            assert_eq!(numbers, whole, "events of {rev}");
            assert!(first <= 1, "events of {rev} begin at {first}");
        }
        for commit in &self.commits {
            let of = |e: &Value| e["subject"].to_string().contains(commit.as_str());
            assert_eq!(
                self.count("RevisionAccepted", of),
                1,
                "{commit} was accepted"
            );
            for name in THREE {
                let of = |e: &Value| {
                    e["subject"].to_string().contains(name)
                        && e["revision"].to_string().contains(commit.as_str())
                };
                assert_eq!(self.count("Succeeded", of), 1, "{name} at {commit}");
                assert!(
                    self.count("ActivationStarted", of) <= 1,
                    "{name} at {commit}"
                );
            }
        }
        let asked = self.count("NudgeRequested", |_| true);
        assert_eq!(asked, self.count("NudgeHandled", |_| true), "nudges");
        assert!(asked > 0);
    }
}

/// Three hosts converge while it dies, none after the others.
fn all_at_once(world: &World) {
    let three = |text: String| text.replace("maxConcurrent: 2", "maxConcurrent: 3");
    world.edit("fleet/fleet.yaml", three).unwrap();
}

fn change(world: &mut World, what: &str) {
    let message = [("message", what)];
    let changes = [
        ("web-1", "web", &message[..]),
        ("web-2", "web", &message[..]),
        ("db-1", "db", &message[..]),
    ];
    world.commit(what, &changes).unwrap();
}

/// A person asks, and at once the controller is gone.
fn nudge_and_kill(world: &mut World, ledger: &mut Ledger) {
    if world.pid().is_some() {
        ledger.nudges.push(world.nudge("web-1").unwrap());
        world.kill();
    }
}

#[test]
fn killed_at_each_named_point_it_activates_each_goal_once() {
    let Some(mut world) = three(programs::trueup_with_crash_points(), DEFAULTS) else {
        return;
    };
    all_at_once(&world);
    let mut ledger = Ledger::default();
    // An alert that is told of everything, so that the points of its delivery are passed too; nobody listens there.
    let alert = "apiVersion: trueup/v1alpha1\nkind: Alert\nmetadata: {name: deaf}\nspec:\n  severity: info\n  \
                 webhook: {url: 'http://127.0.0.1:9/', secretFile: /etc/hostname}\n";
    std::fs::write(world.repo().join("fleet/alerts.yaml"), alert).unwrap();
    // A host is adopted once in its life: that point first.
    let mut points = CRASH_POINTS.to_vec();
    points.sort_by_key(|point| *point != "adopt.after-commit");
    for point in points {
        nudge_and_kill(&mut world, &mut ledger);
        change(&mut world, point);
        world.start(&[("TRUEUP_CRASH_AT", point)]).unwrap();
        let ended = world.ended(DIES_MAX);
        let signal = ended.and_then(|status| status.signal());
        assert_eq!(
            signal,
            Some(ABORT),
            "{point}: {ended:?}\n{}",
            world.log_tail()
        );
        assert!(world.log().contains(&format!("died at {point}")), "{point}");
        world.start_and_wait().unwrap();
        ledger.converged(&world, point);
        println!("{point}: passed, and each goal once");
    }
    ledger.holds(&world);
}

#[test]
fn killed_at_random_it_activates_each_goal_once() {
    let Some(mut world) = three(programs::trueup(), DEFAULTS) else {
        return;
    };
    let given = std::env::var("TRUEUP_KILL_SEED").ok();
    let seed = given.map_or_else(clock, |text| text.parse().unwrap());
    println!("TRUEUP_KILL_SEED={seed}");
    let mut random = seed.max(1);
    all_at_once(&world);
    let mut ledger = Ledger::default();
    for round in 0..RANDOM_KILLS / KILLS_PER_COMMIT {
        nudge_and_kill(&mut world, &mut ledger);
        change(&mut world, &format!("random {round}"));
        world.start(&[]).unwrap();
        for _ in 0..KILLS_PER_COMMIT {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let after = Duration::from_millis(random % KILL_WITHIN_MS);
            // Not waiting for anything: the moment is what is random.
            std::thread::sleep(after);
            println!("round {round}: killed after {after:?}");
            world.kill();
            world.start(&[]).unwrap();
        }
        ledger.converged(&world, &format!("round {round} of seed {seed}"));
    }
    ledger.holds(&world);
}

fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_micros() as u64
}

#[test]
fn the_program_that_is_shipped_has_no_crash_points() {
    assert!(programs::has_crash_points(
        programs::trueup_with_crash_points()
    ));
    assert!(!programs::has_crash_points(programs::trueup()));
}
