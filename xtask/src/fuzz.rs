//! `cargo xtask fuzz`: the fuzz bodies of secrets' formats, built with optimization and with every check of arithmetic
//! still in them. It only starts `schema/secrets/tests/fuzz.rs`, which says what a body must bear.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{exec, test};

/// Of each body in CI.
const SECS: &str = "10";
/// Bodies at once: each takes a core for its time.
const THREADS: &str = "4";

fn bodies() -> Command {
    let mut command = exec::cargo();
    command.args([
        "test",
        "--quiet",
        "--profile",
        "sim",
        "--package",
        "trueup-secrets",
        "--test",
        "fuzz",
        "--",
        "--nocapture",
    ]);
    command
}

/// `TRUEUP_FUZZ_SECS`, `_COUNT` and `_SEED` say how long and from where; words choose bodies.
pub fn run(args: &[String]) -> Result<ExitCode> {
    exec::run(bodies().args(args))?;
    Ok(ExitCode::SUCCESS)
}

/// As a stage of `cargo xtask test`.
pub fn stage() -> Result<test::Outcome> {
    test::counted(
        bodies()
            .args(["--test-threads", THREADS])
            .env("TRUEUP_FUZZ_SECS", SECS),
    )
}
