//! The lab's tests, on real hosts: spread over processes, and what failed among others once more alone.

use std::collections::VecDeque;
use std::sync::Mutex;

use anyhow::{Result, ensure};

use crate::exec;
use crate::test::{Count, LAB_TARGET, Outcome, all, counted_names, in_ci, lab_possible};

/// So many that failed are run once more; more of them are no accident.
const AGAIN_MAX: usize = 3;
/// Processes that run them at once. With more, two cores no longer keep the hosts' own deadlines.
const LAB_SHARDS: usize = 4;

/// In a few processes side by side, each with a lab of its own: a test mostly waits for its hosts.
pub(crate) fn run(wanted: bool) -> Result<Outcome> {
    if !wanted {
        return Ok(Outcome::Skipped("--no-lab".to_owned()));
    }
    if !lab_possible()? {
        ensure!(!in_ci(), "lab hosts can't run here, and CI=true");
        return Ok(Outcome::Skipped(
            "lab hosts can't run here (the reason stands above)".to_owned(),
        ));
    }
    let target = ["test", "--quiet", "--workspace", "--test", LAB_TARGET, "--"];
    let list = exec::read(
        exec::cargo()
            .args(target)
            .args(["--list", "--format", "terse"]),
    )?;
    let names = names(&list);
    ensure!(!names.is_empty(), "the lab's tests name none");
    // Neighbours in the list are alike, and last as long: each shard takes some of every kind.
    let mixed = (0..LAB_SHARDS).flat_map(|at| names.iter().skip(at).step_by(LAB_SHARDS));
    let waiting: Mutex<VecDeque<&str>> = Mutex::new(mixed.copied().collect());
    // Many at first, since a process makes its closures once; few at last, so that all shards end at the same time.
    let next = || {
        let mut waiting = waiting.lock().unwrap_or_else(|e| e.into_inner());
        let many = waiting.len().div_ceil(2 * LAB_SHARDS);
        waiting.drain(..many).collect::<Vec<_>>()
    };
    let shard = || {
        let mut done = Vec::new();
        loop {
            let mine = next();
            if mine.is_empty() {
                return done;
            }
            done.push(lab_run(&mine));
        }
    };
    let done: Vec<Result<(Outcome, Vec<String>)>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..LAB_SHARDS).map(|_| scope.spawn(shard)).collect();
        let panicked = |_| vec![Err(anyhow::anyhow!("a shard panicked"))];
        let ended = running
            .into_iter()
            .map(|r| r.join().unwrap_or_else(panicked));
        ended.flatten().collect()
    });
    let mut failed = Vec::new();
    let mut outcomes = Vec::new();
    for ended in done {
        let (outcome, names) = ended?;
        failed.extend(names);
        outcomes.push(Ok(outcome));
    }
    let first = all(outcomes)?;
    match first {
        Outcome::Failed(count, why) if (1..=AGAIN_MAX).contains(&failed.len()) => {
            again(count, why, &failed)
        }
        other => Ok(other),
    }
}

/// These tests of the lab, in one process. Names of those that failed.
fn lab_run(names: &[&str]) -> Result<(Outcome, Vec<String>)> {
    let target = ["test", "--workspace", "--test", LAB_TARGET, "--"];
    counted_names(
        exec::cargo()
            .args(target)
            .args(["--test-threads=1", "--exact"])
            .args(names),
    )
}

/// Deadlines of real hosts are real time, and four labs share the machine. What failed among others runs once more by
/// itself: who passes then is named, and counts as passed; who does not has failed.
fn again(mut count: Count, why: String, failed: &[String]) -> Result<Outcome> {
    let mut left = Vec::new();
    for name in failed {
        println!("── lab: {name} failed beside others, once more alone");
        match lab_run(&[name.as_str()])?.0 {
            Outcome::Passed(one) if one.passed == 1 => {
                count.passed += 1;
                count.failed = count.failed.saturating_sub(1);
                println!("FLAKY {name}: it failed beside others and passed alone");
            }
            _ => left.push(name.as_str()),
        }
    }
    Ok(match (left.is_empty(), count.failed) {
        (true, 0) => Outcome::Passed(count),
        (true, _) => Outcome::Failed(count, why),
        (false, _) => Outcome::Failed(count, format!("failed twice: {}", left.join(", "))),
    })
}

/// The names in libtest's terse list.
fn names(list: &str) -> Vec<&str> {
    list.lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_list_of_tests_is_read() {
        let list = "a::b: test\nbench: benchmark\nc: test\n";
        assert_eq!(super::names(list), ["a::b", "c"]);
    }
}
