//! `cargo xtask bench`: builds for release what is measured, then runs `tests/bench`. It measures nothing itself.

use std::process::ExitCode;

use anyhow::Result;

use crate::{agent, exec, test};

/// Names of benchmarks and `--check`, `--json`, `--short`, `--runs N` go through.
pub fn run(args: &[String]) -> Result<ExitCode> {
    test::setup(true)?;
    let agent = agent::build()?;
    exec::run(exec::cargo().args(["build", "--quiet", "--release", "--package", "trueup"]))?;
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
        .env("TRUEUP_TEST_AGENT", agent)
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
