//! `trueup doctor`: is all there that the controller needs, on this machine and on each host? Each failure comes with its
//! fix. It changes nothing, and everything that it asks has a limit.

mod here;
mod hosts;

use std::path::PathBuf;

use serde::Serialize;

use super::output::Format;
use super::{CliError, Ctx, Exit};
use crate::settings::{self, Overrides};

/// Check what the controller needs, here and on each host
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The settings [default: /etc/trueup/trueup.yaml]
    #[arg(long, alias = "settings", env = "TRUEUP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Do not connect to hosts
    #[arg(long)]
    no_hosts: bool,
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
    health: Health,
    what: String,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

fn good(what: impl Into<String>) -> Finding {
    Finding {
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
        what: what.into(),
        fix: Some(fix.into()),
    }
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let overrides = Overrides {
        socket: ctx.socket.clone(),
        ..Overrides::default()
    };
    let settings = settings::load(args.config.as_deref(), &overrides)?;
    let scratch = super::plan::Scratch::new("doctor")?;
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::failed(format!("starting: {e}")))?;
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
    if let Some(fleet) = fleet.filter(|_| !args.no_hosts) {
        ctx.status(&format!("asking {} hosts", fleet.hosts.len()));
        let known = hosts::known(&fleet, answers.then_some(&client));
        findings.extend(local.block_on(&rt, hosts::all(&settings, scratch.path(), &known)));
    }
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
    ctx.say(match problems {
        0 => "no problem found".to_owned(),
        1 => "1 problem".to_owned(),
        n => format!("{n} problems"),
    });
}
