//! `trueup db check|backup|export`: works on the file, beside a running controller or without one; changes nothing.

use std::path::PathBuf;

use super::{CliError, Ctx, Exit};
use crate::edge::db as edge;
use crate::settings;

/// Check, copy or print the controller's database
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
    /// The controller's state folder; else that of the settings
    #[arg(long, global = true, env = "TRUEUP_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The controller's settings
    #[arg(long, global = true, env = "TRUEUP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Read every value and its checksum
    Check,
    /// Write a whole copy into a new file
    Backup {
        /// A file that is not there yet
        to: PathBuf,
    },
    /// Print every entry, one JSON object a line
    Export,
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let state_dir = match args.state_dir {
        Some(dir) => dir,
        None => settings::read(args.config.as_deref())?
            .state_dir
            .unwrap_or_else(|| settings::DEFAULT_STATE_DIR.into()),
    };
    let file = settings::db_folder(&state_dir).join(edge::FILE);
    if !file.is_file() {
        let error = CliError::usage(format!("no database at {}", file.display()));
        return Err(error.next("--state-dir DIR, as in the controller's settings"));
    }
    let failed =
        |e: trueup_engine::ports::DbError| CliError::failed(format!("{}: {e}", file.display()));
    match args.verb {
        Verb::Check => {
            let found = edge::check(&file).map_err(|e| {
                failed(e).next("restore a backup, or see docs/guide.md, \"The database\"")
            })?;
            let led = found.led_by.map_or(String::new(), |(version, at)| {
                format!(", led by trueup {version} since {at}")
            });
            ctx.say(format_args!(
                "{} entries, all whole; revision {}, term {}{led}",
                found.entries, found.rev.0, found.term.0
            ));
        }
        Verb::Backup { to } => {
            edge::backup(&file, &to).map_err(failed)?;
            ctx.say(format_args!("copied to {}", to.display()));
        }
        Verb::Export => {
            edge::export(&file, &mut ctx.out).map_err(failed)?;
        }
    }
    Ok(Exit::Done)
}
