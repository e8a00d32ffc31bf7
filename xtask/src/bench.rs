//! `cargo xtask bench`: builds for release what is measured, then runs `tests/bench`. It measures nothing itself.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

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
    }
    let bench = build()?;
    // Its own code: 1 also says that a promise is broken, which no stage of ours has to explain.
    let status = exec::command(&bench)
        .args(args)
        .envs(agent.map(|path| ("TRUEUP_TEST_AGENT", path)))
        .env(
            "TRUEUP_BENCH_PROGRAM",
            exec::target().join("release/trueup"),
        )
        .status()
        .with_context(|| format!("start {}", bench.display()))?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The controller and the benchmark, in one go: asked for apart they are compiled apart, since other features are on then.
fn build() -> Result<PathBuf> {
    let mut build = exec::cargo();
    build
        .args(["build", "--release", "--quiet", "--message-format", "json"])
        .args(["--package", "trueup", "--package", "trueup-tests"])
        .args(["--bin", "trueup", "--bench", "bench"]);
    let told = exec::read(&mut build)?;
    let found = told.lines().find_map(executable);
    found.context("cargo told of no program of the benchmark")
}

/// Cargo's word of an artifact: its target's name stands before the path, both without anything to be unescaped.
fn executable(line: &str) -> Option<PathBuf> {
    let (_, rest) = line.split_once("\"kind\":[\"bench\"]")?;
    let (_, rest) = rest.split_once("\"executable\":\"")?;
    rest.split('"').next().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_of_the_benchmark_is_found_in_what_cargo_tells() {
        let line = |kind: &str, path: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"x"}},"executable":{path}}}"#
            )
        };
        assert_eq!(executable(&line("bin", "\"/t/trueup\"")), None);
        assert_eq!(executable(&line("bench", "null")), None);
        assert_eq!(
            executable(&line("bench", "\"/t/bench-1\"")),
            Some("/t/bench-1".into())
        );
    }
}
