//! `cargo xtask`: what a person who works on trueup runs. It starts other programs and adds up what they say;
//! it knows nothing of what trueup does.

mod agent;
mod bench;
mod demo;
mod exec;
mod fuzz;
mod lab;
mod lab_tests;
mod sim;
mod test;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  demo [--keep]      three lab hosts converge, break, roll back, drift; a timed summary
  test [--no-lab]    all that CI checks, stage by stage (what .ci/run calls)
  ci                 the same as test
  lab COMMAND        throw-away hosts: up, down, ssh, crash, halt, reset, net, list, logs, env, seed (`lab help`)
  agent              build the static agent; prints its path and size
  bench [NAME…]      what trueup takes, beside what people would run instead: merge (`--check` fails on a broken
                     promise; `--json`, `--short`, `--runs N`, `--hosts N`)
  fuzz [BODY…]       damaged input to the readers of secrets (TRUEUP_FUZZ_SECS, TRUEUP_FUZZ_COUNT, TRUEUP_FUZZ_SEED)
  sim [--seeds N] [--hosts N] [--seed S] [--stream]   random simulated fleets; one seed alone shows its log
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    let done = match args.first().map(String::as_str) {
        Some("demo") => demo::run(rest),
        Some("test" | "ci") => test::run(rest),
        Some("lab") => lab::run(rest),
        Some("agent") => agent::run(rest),
        Some("bench") => bench::run(rest),
        Some("fuzz") => fuzz::run(rest),
        Some("sim") => sim::run(rest),
        None | Some("help" | "--help" | "-h") => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        Some(other) => {
            eprint!("xtask: no command '{other}'\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
