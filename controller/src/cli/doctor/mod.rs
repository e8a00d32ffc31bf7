//! `trueup doctor`: is all there that the controller needs, on this machine, on hub, builders and caches, and on each host?
//! Each failure comes with its fix. It changes nothing, and everything that it asks has a limit.

mod here;
mod hosts;
mod stores;

use std::path::PathBuf;

use serde::Serialize;

use super::output::Format;
use super::{CliError, Ctx, Exit, runtime};
use crate::settings::{self, Overrides};

/// Check what the controller needs: here, on hub, builders and caches, and on each host
///
/// Exit code 1 if there is a problem; what a person should only know (!) is none.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The settings [default: /etc/trueup/trueup.yaml]
    #[arg(long, alias = "settings", env = "TRUEUP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Do not connect to hosts
    #[arg(long)]
    no_hosts: bool,
    /// Do not ask builders and caches
    #[arg(long)]
    no_stores: bool,
    /// How it is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// How it is with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Health {
    Good,
    /// Works, and somebody should know.
    Warning,
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    /// `controller`, `hub`, `builder/NAME`, `cache/NAME`, `host/NAME`.
    subject: String,
    health: Health,
    what: String,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Finding {
    fn of(self, subject: &str) -> Self {
        Self {
            subject: subject.to_owned(),
            ..self
        }
    }
}

/// Of this machine, unless it is said to be of another subject.
fn good(what: impl Into<String>) -> Finding {
    Finding {
        subject: "controller".to_owned(),
        health: Health::Good,
        what: what.into(),
        fix: None,
    }
}

fn warning(what: impl Into<String>) -> Finding {
    Finding {
        health: Health::Warning,
        ..good(what)
    }
}

fn bad(what: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding {
        health: Health::Bad,
        fix: Some(fix.into()),
        ..good(what)
    }
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let overrides = Overrides {
        socket: ctx.socket.clone(),
        ..Overrides::default()
    };
    let settings = settings::load(args.config.as_deref(), &overrides)?;
    let scratch = super::plan::Scratch::new("doctor")?;
    let rt = runtime()?;
    let client = ctx.client()?;
    let local = tokio::task::LocalSet::new();
    let mut findings = vec![good("settings")];
    ctx.status("asking nix and ssh");
    findings.extend(local.block_on(&rt, here::programs(&settings, scratch.path())));
    findings.extend(here::files(&settings));
    ctx.status("asking the trunk");
    let (trunk, fleet) = local.block_on(&rt, here::trunk(&settings, scratch.path()));
    findings.extend(trunk);
    let (controller, answers) = here::controller(&client);
    findings.push(controller);
    ctx.status("asking the hub");
    findings.extend(local.block_on(&rt, stores::hub(&settings, scratch.path())));
    if let Some(fleet) = &fleet {
        let stores = fleet.builders.len() + fleet.caches.len();
        if !args.no_stores && stores > 0 {
            ctx.status(&format!("asking {stores} builders and caches"));
            findings
                .extend(local.block_on(&rt, stores::of_fleet(&settings, scratch.path(), fleet)));
        }
        if !args.no_hosts {
            let known = hosts::known(fleet, answers.then_some(&client));
            findings
                .extend(local.block_on(&rt, hosts::all(&settings, scratch.path(), &known, ctx)));
        }
    }
    ctx.status("");
    if !args.output.document(ctx, &findings)? {
        print(&findings, ctx);
    }
    let problems = findings.iter().any(|f| f.health == Health::Bad);
    Ok(if problems { Exit::Failed } else { Exit::Done })
}

fn print(findings: &[Finding], ctx: &mut Ctx<'_>) {
    for f in findings {
        let (mark, code) = match f.health {
            Health::Good => ("✓", 32),
            Health::Warning => ("!", 33),
            Health::Bad => ("✗", 31),
        };
        if ctx.screen.colour {
            ctx.say(format_args!("\x1b[{code}m{mark}\x1b[0m {}", f.what));
        } else {
            ctx.say(format_args!("{mark} {}", f.what));
        }
        for line in f.fix.iter().flat_map(|fix| fix.lines()) {
            ctx.say(format_args!("    {line}"));
        }
    }
    let problems = findings.iter().filter(|f| f.health == Health::Bad).count();
    let warnings = findings
        .iter()
        .filter(|f| f.health == Health::Warning)
        .count();
    let warned = match warnings {
        0 => String::new(),
        1 => ", 1 thing to know (!)".to_owned(),
        n => format!(", {n} things to know (!)"),
    };
    ctx.say(match problems {
        0 => format!("no problem found{warned}"),
        1 => format!("1 problem{warned}"),
        n => format!("{n} problems{warned}"),
    });
}
