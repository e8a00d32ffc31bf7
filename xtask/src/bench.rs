//! `cargo xtask bench`: builds for release what is measured, then runs `tests/bench`. It measures nothing itself.

use std::process::ExitCode;

use anyhow::Result;

use crate::{agent, exec, test};

/// Benchmarks without a lab.
const ALONE: [&str; 1] = ["secrets"];

/// Names of benchmarks and `--check`, `--json`, `--short`, `--runs N` go through.
pub fn run(args: &[String]) -> Result<ExitCode> {
    // Some measure the agent's own code within the benchmark, and need no host and no program.
    let names: Vec<_> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let alone = !names.is_empty() && names.iter().all(|name| ALONE.contains(&name.as_str()));
    let mut agent = None;
    if !alone {
        test::setup(true)?;
        agent = Some(agent::build()?);
        exec::run(exec::cargo().args(["build", "--quiet", "--release", "--package", "trueup"]))?;
    }
    let mut bench = exec::cargo();
    bench
        .args([
            "bench",
            "--quiet",
            "--package",
            "trueup-tests",
            "--bench",
            "bench",
            "--",
        ])
        .args(args)
        .envs(agent.map(|path| ("TRUEUP_TEST_AGENT", path)))
        .env(
            "TRUEUP_BENCH_PROGRAM",
            exec::target().join("release/trueup"),
        );
    // Its own code: 1 also says that a promise is broken, which no stage of ours has to explain.
    let status = bench.status()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
