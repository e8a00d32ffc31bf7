//! `trueup plan` and `trueup diff`: what a revision would change. Not built yet, and they say so.

use super::{CliError, Ctx, Exit};

/// Show what a revision would change (not yet)
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The fleet's repository
    #[arg(long, default_value = ".")]
    repo: std::path::PathBuf,
    /// The revision before
    #[arg(long)]
    from: Option<String>,
    /// The revision after
    #[arg(long)]
    to: Option<String>,
    /// Exit with 3 when there are changes
    #[arg(long)]
    detailed_exitcode: bool,
}

/// Show what differs between hosts and the trunk (not yet)
#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// host/NAME
    hosts: Vec<String>,
}

pub(super) fn run(_: Args, _: &mut Ctx<'_>) -> Result<Exit, CliError> {
    Err(CliError::not_yet("`trueup plan`")
        .next("trueup validate, and `nix build` of one host's attribute"))
}

pub(super) fn diff(_: DiffArgs, _: &mut Ctx<'_>) -> Result<Exit, CliError> {
    Err(CliError::not_yet("`trueup diff`")
        .next("trueup get hosts --drifted, trueup describe host/NAME"))
}
