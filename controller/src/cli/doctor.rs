//! `trueup doctor`: is all there that the controller needs on this machine? Each failure comes with its fix. Hosts are
//! not asked: `trueup get hosts` shows whether the controller reaches them.

use std::path::PathBuf;
use std::time::Duration;

use super::{CliError, Ctx, Exit};
use crate::edge::exec::{self, ExecSpec, Limits};
use crate::settings::{self, Overrides, Settings};

/// No program that is asked for its version takes longer.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// Check what the controller needs on this machine
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The settings [default: /etc/trueup/trueup.yaml]
    #[arg(long, alias = "settings", env = "TRUEUP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// One thing that was looked at: what, and how to mend it if it is not well.
struct Finding {
    what: String,
    mend: Option<String>,
}

fn good(what: impl Into<String>) -> Finding {
    Finding {
        what: what.into(),
        mend: None,
    }
}

fn bad(what: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding {
        what: what.into(),
        mend: Some(mend.into()),
    }
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let overrides = Overrides {
        socket: ctx.socket.clone(),
        ..Overrides::default()
    };
    let settings = settings::load(args.config.as_deref(), &overrides)?;
    let mut findings = vec![good("settings")];
    let nix = settings.nix_program.display().to_string();
    findings.push(version(
        "nix",
        &nix,
        "--version",
        "install Nix (https://nixos.org/download), or set nix.program",
    ));
    findings.push(version("ssh", "ssh", "-V", "install OpenSSH's client"));
    findings.extend(files(&settings));
    findings.push(controller(ctx));
    let problems = findings.iter().filter(|f| f.mend.is_some()).count();
    for f in &findings {
        match &f.mend {
            None => ctx.say(format_args!("✓ {}", f.what)),
            Some(mend) => ctx.say(format_args!("✗ {}\n    {mend}", f.what)),
        }
    }
    ctx.say(match problems {
        0 => "no problem found".to_owned(),
        1 => "1 problem".to_owned(),
        n => format!("{n} problems"),
    });
    Ok(if problems == 0 {
        Exit::Done
    } else {
        Exit::Failed
    })
}

fn version(name: &str, program: &str, flag: &str, mend: &str) -> Finding {
    let mut spec = ExecSpec::new(program, [flag]);
    spec.limits = Limits {
        wall: ASK_LIMIT,
        ..Limits::default()
    };
    if let Some(path) = std::env::var_os("PATH") {
        spec.env.insert("PATH".to_owned(), path);
    }
    let rt = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(rt) => rt,
        Err(e) => return bad(format!("{name}: {e}"), mend),
    };
    match tokio::task::LocalSet::new().block_on(&rt, exec::run(&spec)) {
        Ok(exit) if exit.ok() => {
            // ssh tells its version on standard error.
            let said = format!("{}{}", exit.out_text(), exit.err_text());
            good(format!(
                "{name}: {}",
                said.lines().next().unwrap_or_default()
            ))
        }
        Ok(exit) => bad(format!("{name}: {}", exit.err_text()), mend),
        Err(e) => bad(format!("{name}: {e}"), mend),
    }
}

fn files(settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    if settings.agent_packages.is_empty() {
        found.push(bad(
            "agent: no package is named",
            "add agent.packages: {x86_64-linux: PATH} to the settings",
        ));
    }
    for (system, path) in &settings.agent_packages {
        found.push(if path.exists() {
            good(format!("agent for {system}: {}", path.display()))
        } else {
            bad(
                format!("agent for {system}: {} is not there", path.display()),
                "build it: cargo xtask agent",
            )
        });
    }
    for path in settings
        .ssh_identity_file
        .iter()
        .chain(&settings.ssh_config_file)
    {
        found.push(match std::fs::File::open(path) {
            Ok(_) => good(format!("ssh: {}", path.display())),
            Err(e) => bad(
                format!("ssh: {}: {e}", path.display()),
                "mend ssh.identityFile or ssh.configFile in the settings",
            ),
        });
    }
    if let Some(path) = settings.repository.url.strip_prefix("file://") {
        found.push(
            match git2::Repository::open(path).and_then(|r| {
                let commit = r
                    .find_branch(&settings.repository.branch, git2::BranchType::Local)?
                    .get()
                    .peel_to_commit()?;
                Ok(commit.id().to_string())
            }) {
                Ok(sha1) => good(format!(
                    "git trunk: {} @ {}",
                    settings.repository.branch,
                    sha1.get(..7).unwrap_or(&sha1)
                )),
                Err(e) => bad(
                    format!("git trunk: {}: {}", settings.repository.url, e.message()),
                    "mend repository.url or repository.branch",
                ),
            },
        );
    } else {
        found.push(good(format!(
            "git trunk: {} (not asked from here: not yet)",
            settings.repository.url
        )));
    }
    found
}

fn controller(ctx: &Ctx<'_>) -> Finding {
    match ctx.client().and_then(|c| c.version()) {
        Ok(answer) => good(format!("controller: trueup {} answers", answer.version)),
        Err(e) => bad(
            format!("controller: {}", e.message),
            e.next.unwrap_or_else(|| "trueup run".to_owned()),
        ),
    }
}
