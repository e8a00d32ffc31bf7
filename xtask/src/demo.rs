//! `cargo xtask demo`: sets up and builds what the demo needs, then becomes it (`tests/demo`).

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::Result;

use crate::{agent, exec, test};

pub fn run(args: &[String]) -> Result<ExitCode> {
    test::setup(true)?;
    agent::build()?;
    exec::run(exec::cargo().args([
        "build",
        "--quiet",
        "--package",
        "trueup",
        "--package",
        "trueup-tests",
        "--bins",
    ]))?;
    let program = exec::target().join("debug/trueup-demo");
    Err(exec::command(program).args(args).exec().into())
}
