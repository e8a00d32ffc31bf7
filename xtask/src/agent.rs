//! `cargo xtask agent`: the static program for hosts, small enough to be copied to any of them in a moment.

use crate::exec;
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::ExitCode;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// It travels to every host that lacks it; above this somebody has linked what a host does not need.
const SIZE_MAX_BYTES: u64 = 5 * 1024 * 1024;

/// Builds it and gives its path. An explicit `--target` keeps `crt-static` from build scripts and proc macros;
/// `RUSTFLAGS` in the environment would rebuild everything else too.
pub fn build() -> Result<PathBuf> {
    let path = cargo("trueup-agent", &[])?;
    let size = path
        .metadata()
        .with_context(|| format!("look at {}", path.display()))?
        .len();
    ensure!(
        size <= SIZE_MAX_BYTES,
        "{} has {size} bytes, more than {SIZE_MAX_BYTES}",
        path.display()
    );
    Ok(path)
}

fn cargo(bin: &str, more: &[&str]) -> Result<PathBuf> {
    let flags = format!("target.{TARGET}.rustflags=[\"-C\",\"target-feature=+crt-static\"]");
    exec::run(
        exec::cargo()
            .args(["build", "--package", "trueup-agent", "--bin", bin])
            .args(["--profile", "agent", "--target", TARGET, "--config", &flags])
            .args(more),
    )?;
    Ok(exec::target().join(TARGET).join("agent").join(bin))
}

/// The one with bugs on purpose, for tests of the tests; it never ships.
pub fn build_planted() -> Result<PathBuf> {
    cargo("trueup-agent-planted", &["--features", "planted"])
}

pub fn run(args: &[String]) -> Result<ExitCode> {
    let path = if args.iter().any(|a| a == "--planted") {
        build_planted()?
    } else {
        build()?
    };
    println!("{} {} bytes", path.display(), path.metadata()?.len());
    Ok(ExitCode::SUCCESS)
}
