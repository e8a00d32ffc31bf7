//! The command line: parses, calls one verb, turns its result into words and an exit code. Most verbs are clients of the
//! API; `init`, `validate`, `schema`, `secrets`, `plan`, `diff`, `doctor`, `db` and `completions`
//! need no controller.

mod adopt;
mod build;
mod client;
mod completions;
mod db;
mod describe;
mod diff;
mod doctor;
mod error;
mod events;
mod get;
mod history;
mod init;
mod keys;
mod later;
mod leave;
mod logs;
mod man;
mod output;
mod plan;
mod reconcile;
mod rollback;
mod run;
mod schema;
mod screen;
mod secrets;
mod source;
mod suspend;
mod validate;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub use error::{CliError, Exit};
use screen::Ctx;
pub use screen::Screen;

/// GitOps for fleets of NixOS hosts.
#[derive(Debug, Parser)]
#[command(
    name = "trueup",
    bin_name = "trueup",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    /// The controller's socket [default: /run/trueup/api.sock, then $XDG_RUNTIME_DIR/trueup/api.sock]
    #[arg(long, global = true, env = "TRUEUP_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Init(init::Args),
    Run(run::Args),
    Get(get::Args),
    Describe(describe::Args),
    Plan(plan::Args),
    Diff(diff::Args),
    Reconcile(reconcile::Args),
    Suspend(suspend::Args),
    Resume(suspend::ResumeArgs),
    Rollback(rollback::Args),
    History(history::Args),
    Adopt(adopt::Args),
    Leave(leave::Args),
    Keys(keys::Args),
    Build(build::Args),
    Events(events::Args),
    Validate(validate::Args),
    Schema(schema::Args),
    Secrets(secrets::Args),
    Source(source::Args),
    Doctor(doctor::Args),
    Db(db::Args),
    Logs(logs::Args),
    Completions(completions::Args),
    Man(man::Args),
    #[command(flatten)]
    Later(later::Later),
}

/// The program as a function: arguments with the program's name first, results to `out`, all else to `err`.
pub fn main_with<'a, I, T>(args: I, out: &'a mut dyn Write, err: &'a mut dyn Write) -> Exit
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    enter(args, out, err, Screen::default())
}

/// The same, for a terminal or a pipe.
pub fn enter<'a, I, T>(
    args: I,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    screen: Screen,
) -> Exit
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are answers; everything else is a mistake in the call.
            let text = e.render();
            let wrong = e.use_stderr();
            let to = if wrong { err } else { out };
            let _ = if screen.colour {
                write!(to, "{}", text.ansi())
            } else {
                write!(to, "{text}")
            };
            return if wrong { Exit::Usage } else { Exit::Done };
        }
    };
    let mut ctx = Ctx {
        out,
        err,
        screen,
        socket: cli.socket,
        standing: false,
    };
    let result = dispatch(cli.verb, &mut ctx);
    let _ = ctx.out.flush();
    match result {
        Ok(exit) => exit,
        Err(e) => {
            ctx.note(format_args!("{} {}", error_word(screen), e.message));
            if let Some(next) = &e.next {
                ctx.note(format_args!("  next: {next}"));
            }
            e.exit
        }
    }
}

fn error_word(screen: Screen) -> &'static str {
    if screen.err && screen.colour {
        "\x1b[31merror:\x1b[0m"
    } else {
        "error:"
    }
}

fn dispatch(verb: Verb, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    match verb {
        Verb::Init(args) => init::run(args, ctx),
        Verb::Run(args) => run::run(args, ctx),
        Verb::Get(args) => get::run(args, ctx),
        Verb::Describe(args) => describe::run(args, ctx),
        Verb::Plan(args) => plan::run(args, ctx),
        Verb::Diff(args) => diff::run(args, ctx),
        Verb::Reconcile(args) => reconcile::run(args, ctx),
        Verb::Suspend(args) => suspend::run(args, ctx),
        Verb::Resume(args) => suspend::resume(args, ctx),
        Verb::Rollback(args) => rollback::run(args, ctx),
        Verb::History(args) => history::run(args, ctx),
        Verb::Adopt(args) => adopt::run(args, ctx),
        Verb::Leave(args) => leave::run(args, ctx),
        Verb::Keys(args) => keys::run(args, ctx),
        Verb::Build(args) => build::run(args, ctx),
        Verb::Events(args) => events::run(args, ctx),
        Verb::Validate(args) => validate::run(args, ctx),
        Verb::Schema(args) => schema::run(args, ctx),
        Verb::Secrets(args) => secrets::run(args, ctx),
        Verb::Source(args) => source::run(args, ctx),
        Verb::Doctor(args) => doctor::run(args, ctx),
        Verb::Db(args) => db::run(args, ctx),
        Verb::Logs(args) => logs::run(args, ctx),
        Verb::Completions(args) => completions::run(args, ctx),
        Verb::Man(args) => man::run(args, ctx),
        Verb::Later(verb) => Err(later::answer(&verb)),
    }
}

/// For a verb that waits for others: all of it on this thread.
fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::failed(format!("starting: {e}")))
}

/// `host/NAME`, or `NAME` alone.
fn host_arg(text: &str) -> Result<trueup_schema::HostName, String> {
    let name = match text.split_once('/') {
        Some(("host" | "hosts", name)) => name,
        Some((kind, _)) => return Err(format!("`{kind}/…` is not a host: write host/NAME")),
        None => text,
    };
    name.parse().map_err(|e| format!("{e}"))
}
