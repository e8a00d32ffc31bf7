//! The same program with the feature `planted`: for tests of the tests, never shipped. See `plant.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    trueup_agent::cli::run()
}
