//! `trueup logs build DRV`: what a build said.

use super::{CliError, Ctx, Exit};

/// Show the log of a build
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    of: Of,
}

#[derive(Debug, clap::Subcommand)]
enum Of {
    /// Of a derivation, by its path, or by the beginning of the 32 characters that name it
    Build {
        /// As `trueup get builds` shows it
        drv: String,
    },
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let Of::Build { drv } = args.of;
    let name = drv.rsplit('/').next().unwrap_or_default();
    if name.is_empty()
        || !name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-._?=".contains(&b))
        || name.contains('?')
    {
        return Err(
            CliError::usage(format!("`{drv}` is not a derivation")).next("trueup get builds")
        );
    }
    let text = ctx.client()?.build_log(name)?;
    ctx.say(text.trim_end());
    Ok(Exit::Done)
}
