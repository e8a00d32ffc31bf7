//! Words that belong to trueup and are not built: each answers "not yet" by its name, with exit code 2.

use clap::{Args, Subcommand};

use super::CliError;

/// Hidden from the help, so that nobody is promised anything.
#[derive(Debug, Subcommand)]
pub(super) enum Later {
    #[command(hide = true)]
    Why(Rest),
    #[command(hide = true)]
    Rollout(Rest),
}

/// Whatever follows.
#[derive(Debug, Args)]
pub(super) struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, num_args = 0..)]
    rest: Vec<String>,
}

pub(super) fn answer(verb: &Later) -> CliError {
    let (word, instead) = match verb {
        Later::Why(_) => ("why", "trueup describe host/NAME"),
        Later::Rollout(_) => ("rollout", "the limits in `spec.rollout` of the Fleet"),
    };
    CliError::not_yet(&format!("`trueup {word}`")).next(instead)
}
