//! The program `trueup`: hands arguments and streams to [`trueup::cli`], and its answer to the system.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let (out, err) = (std::io::stdout(), std::io::stderr());
    // Not locked: `trueup run` has threads, and each may have to say something.
    let (mut out, mut err) = (out, err);
    let exit = trueup::cli::enter(
        std::env::args_os(),
        &mut out,
        &mut err,
        trueup::cli::Screen::of_process(),
    );
    // A reader that has gone away is no failure of ours.
    let _ = out.flush();
    exit.into()
}
