//! From a merge to hosts that run it and boot it, by trueup and by hand in turn: one host, then ten at a time.

use anyhow::{Context, Result, ensure};

use crate::Asked;
use crate::hand::{self, Way};
use crate::numbers::{Outcome, Series};
use crate::rig::{self, PATIENCE, Rig};
use crate::stages::{At, Marks};

const RUNS: usize = 10;
const MANY: usize = 10;
/// One host: by hand and so much, and …
const MORE: f64 = 1.15;
/// … so many seconds, since a confirmation over a new connection is what a person leaves out.
const BESIDE: f64 = 0.3;
/// The stages' times and what the clock said in all may differ so much, in seconds.
const UNEXPLAINED: f64 = 0.05;

/// A host's way, stage by stage: a mark of the log (`*`: of the trunk), or of the host itself.
const WAY: [(&str, &str); 14] = [
    ("woken", "merge → seen"),
    ("fetched", "fetched"),
    ("opened", "read and checked out"),
    ("accepted", "accepted"),
    ("evaluated", "evaluated"),
    ("built", "built"),
    ("signed", "signed"),
    ("copied", "offered, copied"),
    ("begun", "offered again, begun on the host"),
    ("running", "→ running (by the host's journal)"),
    ("awaiting", "told that it waits"),
    ("committed", "confirmed → committed (by the host's link)"),
    ("confirmed", "told that it is committed"),
    ("ready", "recorded: Ready"),
];
const TRUNK: [&str; 4] = ["woken", "fetched", "opened", "accepted"];

/// One run of trueup's side.
struct Run {
    /// All hosts run it, seconds after the merge.
    running: f64,
    /// All boot it.
    committed: f64,
    /// trueup says so.
    ready: f64,
    /// Of the host that was last: each stage of [`WAY`].
    stages: Vec<f64>,
    /// What no stage explains.
    rest: f64,
    /// The same host's own account: each stage of the agent, by its journal.
    agent: Vec<(String, f64)>,
}

pub fn run(asked: &Asked) -> Result<Outcome> {
    let runs = asked.runs.unwrap_or(if asked.short { 3 } else { RUNS });
    let many = asked.hosts.unwrap_or(MANY);
    let rig = Rig::start(many)?;
    let mut outcome = Outcome::default();
    let done = measure(&rig, many, runs, &mut outcome);
    done.map_err(|e| rig.explain(e))?;
    Ok(outcome)
}

fn measure(rig: &Rig, many: usize, runs: usize, outcome: &mut Outcome) -> Result<()> {
    let (sha1, _) = rig.merge(&rig.trueup, &rig.trueup.hosts, "taken over")?;
    rig.log.until(&sha1, &rig.trueup.hosts, "ready", PATIENCE)?;
    println!("trueup's side is Ready");
    alternate(rig, 1, runs, outcome)?;
    if many > 1 {
        alternate(rig, many, runs, outcome)?;
    }
    nothing(rig, outcome)
}

fn alternate(rig: &Rig, count: usize, runs: usize, outcome: &mut Outcome) -> Result<()> {
    let (ours, theirs) = (&rig.trueup.hosts[..count], &rig.hand.hosts[..count]);
    let (mut all, mut typed, mut care) = (Vec::new(), Vec::new(), Vec::new());
    // The first of each is to warm caches, and counts for nothing.
    for n in 0..=runs {
        let word = format!("{count} hosts, run {n}");
        let ran = one(rig, ours, &word)?;
        let by_hand = |way| {
            rig.calm()?;
            rig.merge(&rig.hand, theirs, &format!("{word}, {way:?}"))?;
            let (times, tops) = hand::deploy(rig, theirs, way)?;
            let mut ran: At = 0.0;
            for (name, top) in theirs.iter().zip(&tops) {
                ran = ran.max(rig::seen_by(rig.host(name), top)?.0);
            }
            anyhow::Ok((times, ran))
        };
        let (as_typed, with_care) = (by_hand(Way::AsTyped)?, by_hand(Way::WithCare)?);
        println!(
            "{word}: trueup {:.2} s running, {:.2} s committed, {:.2} s told; by hand as typed {:.2} s, with care {:.2} s",
            ran.running,
            ran.committed,
            ran.ready,
            as_typed.0.switched - as_typed.0.began,
            with_care.0.switched - with_care.0.began,
        );
        if n > 0 {
            typed.push(as_typed);
            care.push(with_care);
            all.push(ran);
        }
    }
    let hosts = if count == 1 {
        "one host".to_owned()
    } else {
        format!("{count} hosts")
    };
    let series = |of: &dyn Fn(&Run) -> f64| all.iter().map(of).collect::<Series>();
    type Ran = [(hand::Times, At)];
    let theirs = |way: &Ran, of: &dyn Fn(&hand::Times, At) -> At| {
        way.iter()
            .map(|(t, ran)| of(t, *ran) - t.began)
            .collect::<Series>()
    };
    let ready = series(&|r| r.ready);
    let hand = theirs(&typed, &|t, _| t.switched);
    let careful = theirs(&care, &|t, _| t.switched);
    outcome.row(
        format!("{hosts}, trueup: merge → running"),
        "s",
        series(&|r| r.running),
    );
    outcome.row(
        format!("{hosts}, trueup: merge → committed"),
        "s",
        series(&|r| r.committed),
    );
    outcome.row(
        format!("{hosts}, trueup: merge → told so"),
        "s",
        ready.clone(),
    );
    for (name, way, end) in [("as typed", &typed, &hand), ("with care", &care, &careful)] {
        outcome.row(
            format!("{hosts}, by hand {name}: → running"),
            "s",
            theirs(way, &|_, ran| ran),
        );
        outcome.row(format!("{hosts}, by hand {name}: → end"), "s", end.clone());
    }
    let who = if count == 1 { "" } else { " (the last host)" };
    for (n, (_, label)) in WAY.iter().enumerate() {
        outcome.row(
            format!("  trueup: {label}{who}"),
            "s",
            all.iter().map(|r| r.stages[n]).collect(),
        );
    }
    let names: Vec<String> = all
        .iter()
        .flat_map(|r| r.agent.iter().map(|(s, _)| s.clone()))
        .collect();
    let mut seen = std::collections::BTreeSet::new();
    for name in names.into_iter().filter(|n| seen.insert(n.clone())) {
        let of = |r: &Run| Some(r.agent.iter().find(|(s, _)| *s == name)?.1);
        outcome.row(
            format!("    the agent's own account: {name}"),
            "s",
            all.iter().filter_map(of).collect(),
        );
    }
    for (name, way) in [("as typed", &typed), ("with care", &care)] {
        let stage = |of: &dyn Fn(&hand::Times) -> At| way.iter().map(|(t, _)| of(t)).collect();
        let row = |what: &str| format!("  by hand {name}: {what}");
        outcome.row(row("nix eval"), "s", stage(&|t| t.evaluated - t.began));
        outcome.row(row("nix build"), "s", stage(&|t| t.built - t.evaluated));
        outcome.row(row("nix copy"), "s", stage(&|t| t.copied - t.built));
        outcome.row(row("ssh switch"), "s", stage(&|t| t.switched - t.copied));
    }
    // One host is held to the better way; of ten, what a person types is run for all at the same time.
    let (limit, rule) = if count == 1 {
        (
            careful.median() * MORE + BESIDE,
            "by hand with care + 15 % + 300 ms",
        )
    } else {
        (hand.median(), "by hand as typed")
    };
    outcome.promise(
        format!(
            "{hosts}: {:.2} s from the merge until told so, at most {limit:.2} s ({rule})",
            ready.median()
        ),
        ready.median() <= limit,
    );
    let rest = all.iter().map(|r| r.rest).fold(0.0, f64::max);
    outcome.promise(
        format!(
            "{hosts}: the stages add up, {:.0} ms at most unexplained",
            rest * 1e3
        ),
        rest <= UNEXPLAINED,
    );
    Ok(())
}

fn one(rig: &Rig, hosts: &[String], word: &str) -> Result<Run> {
    rig.disconnect();
    rig.calm()?;
    rig.log.truncate()?;
    let clock = std::time::Instant::now();
    let (sha1, merged) = rig.merge(&rig.trueup, hosts, word)?;
    let from_clock = merged - (crate::stages::now() - clock.elapsed().as_secs_f64());
    let marks = rig.log.until(&sha1, hosts, "ready", PATIENCE)?;
    let mut run = Run {
        running: 0.0,
        committed: 0.0,
        ready: 0.0,
        stages: Vec::new(),
        rest: 0.0,
        agent: Vec::new(),
    };
    for name in hosts {
        let host = rig.host(name);
        let top = host.link("/run/current-system").context("runs nothing")?;
        let (running, committed) = rig::seen_by(host, &top)?;
        let stages = way(&marks, name, merged, running, committed)?;
        let ready = marks[&(name.clone(), "ready".to_owned())] - merged;
        run.running = run.running.max(running - merged);
        run.committed = run.committed.max(committed - merged);
        if ready > run.ready {
            run.ready = ready;
            run.rest = (stages.iter().sum::<f64>() - ready).abs();
            run.stages = stages;
            let begun = rig::timeline(host)?;
            let ends = begun.iter().skip(1).map(|(_, at)| *at).chain([committed]);
            let took = begun
                .iter()
                .zip(ends)
                .map(|((stage, at), end)| (stage.clone(), end - at));
            run.agent = took.collect();
        }
    }
    ensure!(
        from_clock >= 0.0,
        "the branch moved before the commit began: the clock was set"
    );
    Ok(run)
}

/// What each stage took; each begins where the one before it ended.
fn way(marks: &Marks, host: &str, merged: At, running: At, committed: At) -> Result<Vec<f64>> {
    let mut last = merged;
    let mut out = Vec::new();
    for (stage, _) in WAY {
        let of = if TRUNK.contains(&stage) { "" } else { host };
        let at = match stage {
            "running" => running,
            "committed" => committed,
            // The word that it waits can be late or lost; then the host was asked, and that is part of the next stage.
            "awaiting" => marks
                .get(&(of.to_owned(), stage.to_owned()))
                .map_or(last, |at| at.min(committed)),
            _ => *marks
                .get(&(of.to_owned(), stage.to_owned()))
                .with_context(|| format!("{host} has no mark `{stage}`"))?,
        };
        // Two clocks of one machine may disagree by a tick.
        out.push((at - last).max(-0.005));
        last = at;
    }
    Ok(out)
}

/// A commit that changes no host: trueup looks at it and leaves the hosts alone.
fn nothing(rig: &Rig, outcome: &mut Outcome) -> Result<()> {
    let count = || -> Vec<usize> {
        let hosts = rig.trueup.hosts.iter();
        hosts.map(|n| rig::switches(rig.host(n))).collect()
    };
    let before = count();
    std::fs::write(rig.trueup.repo.join("README"), "a word for people\n")?;
    let (sha1, merged) = rig.commit(&rig.trueup, "a word for people")?;
    let marks = rig.log.until(&sha1, &rig.trueup.hosts, "ready", PATIENCE)?;
    let last = marks
        .iter()
        .filter(|((_, s), _)| s == "ready")
        .map(|(_, at)| *at);
    let took = last.fold(merged, f64::max) - merged;
    outcome.row(
        "a commit that changes nothing → all told Ready",
        "s",
        [took].into_iter().collect(),
    );
    outcome.promise(
        "a commit that changes no host activates nothing, by the hosts' journals",
        before == count(),
    );
    Ok(())
}
