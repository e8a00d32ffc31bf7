//! `cargo xtask sim`: random simulated fleets in bulk. Builds the runner (`fixtures/src/bin`) with some optimisation, in a
//! profile of its own, and becomes it.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::Result;

use crate::{exec, test};

/// The rounds in CI: many small fleets, a few of the size that counts, and streams of commits that come too fast.
const ROUNDS: [&[&str]; 3] = [
    &["--seeds", "2000", "--hosts", "5"],
    &["--seeds", "6", "--hosts", "200"],
    &["--seeds", "100", "--hosts", "5", "--stream"],
];

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
    for round in ROUNDS {
        exec::run(exec::command(&program).args(round))?;
    }
    Ok(test::passed())
}
