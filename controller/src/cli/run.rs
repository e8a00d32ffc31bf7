//! `trueup run`: the controller itself. Reads the settings, starts the log, hands over to [`crate::run`].

use std::io::IsTerminal;
use std::path::PathBuf;

use super::{CliError, Ctx, Exit};
use crate::settings::{self, Overrides};

/// Run the controller
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The settings [default: /etc/trueup/trueup.yaml]
    #[arg(long, alias = "settings", env = "TRUEUP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The trunk's repository, instead of that in the settings
    #[arg(long, env = "TRUEUP_REPOSITORY", value_name = "URL")]
    repository: Option<String>,
    /// The trunk's branch, instead of that in the settings
    #[arg(long, env = "TRUEUP_BRANCH", value_name = "NAME")]
    branch: Option<String>,
    /// The state folder, instead of that in the settings
    #[arg(long, env = "TRUEUP_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// What is logged: `info`, `debug`, `trueup_engine=debug`
    #[arg(
        long,
        env = "TRUEUP_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    log: String,
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let overrides = Overrides {
        repository: args.repository,
        branch: args.branch,
        state_dir: args.state_dir,
        socket: ctx.socket.clone(),
    };
    let settings = settings::load(args.config.as_deref(), &overrides)?;
    log(&args.log)?;
    match crate::run::run(&settings) {
        Ok(()) => Ok(Exit::Done),
        Err(e) if e.is_settings() => Err(CliError::usage(e.to_string())),
        Err(e) => Err(CliError::failed(e.to_string())),
    }
}

/// To standard error: for people on a terminal, one JSON object a line otherwise.
fn log(filter: &str) -> Result<(), CliError> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .map_err(|e| CliError::usage(format!("--log `{filter}`: {e}")).next("--log info"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let set = if std::io::stderr().is_terminal() {
        log.try_init()
    } else {
        log.json().flatten_event(true).try_init()
    };
    set.map_err(|e| CliError::failed(format!("starting the log: {e}")))
}
