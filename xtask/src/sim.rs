//! `cargo xtask sim`: random simulated fleets in bulk. Builds the runner (`fixtures/src/bin`) with some optimisation, in a
//! profile of its own, and becomes it.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::Result;

use crate::{exec, test};

/// Seeds and hosts of each round in CI: many small fleets, then a few of the size that counts.
const ROUNDS: [(&str, &str); 2] = [("2000", "5"), ("6", "200")];

fn build() -> Result<std::path::PathBuf> {
    exec::run(exec::cargo().args([
        "build",
        "--quiet",
        "--package",
        "trueup-fixtures",
        "--bin",
        "trueup-sim",
        "--profile",
        "sim",
    ]))?;
    Ok(exec::target().join("sim/trueup-sim"))
}

pub fn run(args: &[String]) -> Result<ExitCode> {
    let program = build()?;
    Err(exec::command(program).args(args).exec().into())
}

/// As a stage of `cargo xtask test`.
pub fn stage() -> Result<test::Outcome> {
    let program = build()?;
    for (seeds, hosts) in ROUNDS {
        exec::run(exec::command(&program).args(["--seeds", seeds, "--hosts", hosts]))?;
    }
    Ok(test::passed())
}
