//! Benchmarks: what trueup takes, beside what people would run instead, in one run on one machine. `cargo xtask bench`
//! builds what this needs and starts it. Results are written down by hand in docs/BENCHMARKS.md.
#![allow(clippy::unwrap_used)]

mod hand;
mod merge;
mod numbers;
mod plan;
mod report;
mod rig;
mod secrets;
mod stages;
mod thousand;
mod twin;

use std::process::ExitCode;

use anyhow::{Result, bail};
use numbers::Outcome;

const USAGE: &str = "cargo xtask bench [merge|thousand|report|plan|secrets]… [--check] [--json] [--short] [--runs N] [--hosts N]";

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    names: Vec<String>,
    check: bool,
    json: bool,
    /// A quick look: fewer runs, less time. Promises are judged all the same.
    pub short: bool,
    pub runs: Option<usize>,
    /// Hosts of the many, for machines that can't carry twice ten.
    pub hosts: Option<usize>,
}

/// Every benchmark; without a name all run.
const ALL: [&str; 3] = ["merge", "thousand", "report"];

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some(thousand::CONTROLLER) {
        return match thousand::controller(args.next().unwrap_or_default().as_ref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("bench: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    match asked(std::env::args().skip(1)).and_then(|asked| all(&asked)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn asked(args: impl Iterator<Item = String>) -> Result<Asked> {
    let mut asked = Asked {
        names: Vec::new(),
        check: false,
        json: false,
        short: false,
        runs: None,
        hosts: None,
    };
    let mut args = args.peekable();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            // cargo's own word to a benchmark
            "--bench" => {}
            "--check" => asked.check = true,
            "--json" => asked.json = true,
            "--short" => asked.short = true,
            "--hosts" => asked.hosts = args.next().and_then(|n| n.parse().ok()),
            "--runs" => asked.runs = args.next().and_then(|n| n.parse().ok()),
            name if !name.starts_with('-') => asked.names.push(name.to_owned()),
            _ => bail!("no option {arg}; {USAGE}"),
        }
    }
    if asked.names.is_empty() {
        asked.names = ALL.map(str::to_owned).to_vec();
    }
    Ok(asked)
}

fn all(asked: &Asked) -> Result<bool> {
    let mut good = true;
    for name in &asked.names {
        let mut outcome: Outcome = match name.as_str() {
            "merge" => merge::run(asked)?,
            "thousand" => thousand::run(asked)?,
            "report" => report::run(asked)?,
            "plan" => {
                let mut outcome = Outcome::default();
                plan::run(&mut outcome)?;
                outcome
            }
            "secrets" => {
                let mut outcome = Outcome::default();
                secrets::run(&mut outcome)?;
                outcome
            }
            other => bail!("no benchmark `{other}`; {USAGE}"),
        };
        outcome.note(machine());
        if asked.json {
            println!("{}", outcome.json(name));
        } else {
            println!("\n{name}\n{}", outcome.table());
        }
        good &= outcome.holds();
    }
    Ok(good || !asked.check)
}

/// What else the machine had to do: numbers of a busy one are to be compared side by side and in no other way.
fn machine() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
    format!("{cores} cores, load average at the end {load}")
}
