//! What one report of one real host costs over SSH: the controller with the programs that it starts, and the whole host,
//! by the kernel's count. With a new connection each time, as at default intervals, and over one that is still open.

use std::time::Instant;

use anyhow::{Context, Result};
use trueup_tests::harness::Host;

use crate::Asked;
use crate::numbers::{Outcome, Series};
use crate::rig::{PATIENCE, Rig};
use crate::thousand;

const RUNS: usize = 20;
const SHORT: usize = 5;
/// A report of each host so often, by default.
const INTERVAL_SECS: f64 = 300.0;
const FLEET: f64 = 1000.0;

pub fn run(asked: &Asked) -> Result<Outcome> {
    let runs = asked.runs.unwrap_or(if asked.short { SHORT } else { RUNS });
    let rig = Rig::start(1)?;
    let mut outcome = Outcome::default();
    let done = measure(&rig, runs, &mut outcome);
    done.map_err(|e| rig.explain(e))?;
    Ok(outcome)
}

fn measure(rig: &Rig, runs: usize, outcome: &mut Outcome) -> Result<()> {
    let (sha1, _) = rig.merge(&rig.trueup, &rig.trueup.hosts, "taken over")?;
    rig.log.until(&sha1, &rig.trueup.hosts, "ready", PATIENCE)?;
    let name = &rig.trueup.hosts[0];
    let host = rig.host(name);
    let mut command = Series::default();
    for _ in 0..runs {
        let began = Instant::now();
        rig.trueup_says(&["get", "hosts", "-o", "json"])?;
        command.add(began.elapsed().as_secs_f64() * 1e3);
    }
    for (how, fresh) in [("a new connection", true), ("an open connection", false)] {
        rig.trueup_says(&["reconcile", "--host", name, "--wait"])?;
        let mut wall = Series::default();
        // What it costs to ask for the host's count is part of the count.
        let (first, second) = (spent_by(host)?, spent_by(host)?);
        let controller = thousand::spent(rig.controller_pid())?;
        for _ in 0..runs {
            if fresh {
                rig.disconnect();
            }
            let began = Instant::now();
            rig.trueup_says(&["reconcile", "--host", name, "--wait"])?;
            wall.add(began.elapsed().as_secs_f64() * 1e3);
        }
        let controller = (thousand::spent(rig.controller_pid())? - controller) / runs as f64;
        let on_host = (spent_by(host)? - second - (second - first)) / runs as f64;
        let one = |value: f64| [value * 1e3].into_iter().collect::<Series>();
        outcome.row(format!("{how}: asked by a person → answered"), "ms", wall);
        outcome.row(
            format!("{how}: processor of controller and ssh, mean of {runs}"),
            "ms",
            one(controller),
        );
        outcome.row(
            format!("{how}: processor of the host, mean of {runs}"),
            "ms",
            one(on_host),
        );
        if fresh {
            let share = controller * FLEET / INTERVAL_SECS * 100.0;
            outcome.note(format!(
                "1,000 hosts that report each {INTERVAL_SECS:.0} s, one by one as here: {share:.1} % of a core for controller and ssh"
            ));
        }
    }
    outcome.row("of each answer the command itself", "ms", command);
    Ok(())
}

/// Seconds of processor time of all that runs on a host.
fn spent_by(host: &Host) -> Result<f64> {
    let text = host.read(&["cat", "/sys/fs/cgroup/cpu.stat"]);
    let micros = text.lines().find_map(|l| l.strip_prefix("usage_usec "));
    let micros: f64 = micros.context("no usage_usec in cpu.stat")?.parse()?;
    Ok(micros / 1e6)
}
