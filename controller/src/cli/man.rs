//! `trueup man`: the manual pages, made from the same words as `--help`.

use std::path::PathBuf;

use clap::CommandFactory;

use super::{Cli, CliError, Ctx, Exit};

/// Print the manual page, or write the pages of all commands into a folder
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A folder, such as `share/man/man1`; made if it is not there
    dir: Option<PathBuf>,
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let Some(dir) = args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command())
            .render(&mut page)
            .map_err(|e| CliError::failed(format!("making the manual page: {e}")))?;
        ctx.say(String::from_utf8_lossy(&page).trim_end());
        return Ok(Exit::Done);
    };
    std::fs::create_dir_all(&dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &dir))
        .map_err(|e| CliError::failed(format!("writing manual pages to {}: {e}", dir.display())))?;
    Ok(Exit::Done)
}
