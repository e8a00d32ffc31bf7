//! `cargo xtask lab`: hands over to `xtask/lab/lab.sh`, which makes and breaks lab hosts. No logic of its own.

use crate::exec;
use anyhow::Result;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// `lab.sh` with these arguments, ready to run. Not called `new`: it is the script, not a lab.
pub fn script(args: &[impl AsRef<std::ffi::OsStr>]) -> Command {
    let mut command = exec::command("bash");
    command
        .arg(exec::root().join("xtask/lab/lab.sh"))
        .args(args);
    command
}

/// Becomes the script, so that signals and the exit code are its own (`lab ssh` passes the host's through).
pub fn run(args: &[String]) -> Result<ExitCode> {
    Err(script(args).exec().into())
}
