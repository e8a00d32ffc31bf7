//! `trueup completions SHELL`.

use clap::CommandFactory;

use super::{Cli, CliError, Ctx, Exit};

/// Print completions for a shell
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which shell
    shell: clap_complete::Shell,
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "trueup", &mut text);
    ctx.say(String::from_utf8_lossy(&text).trim_end());
    Ok(Exit::Done)
}
