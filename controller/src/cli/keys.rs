//! `trueup keys status|rotate`: the controller's own keys, and the way from one to the next without a host left behind. The
//! steps are the controller's; each can be asked for again after a crash.

use trueup_schema::HostName;

use super::output::{Columns, Format};
use super::{CliError, Ctx, Exit};
use crate::api::Which;
use crate::api::keys::{Has, HostKeys, KeysStatus, Rotate, RotateStep};

/// Show and rotate the controller's keys
///
/// The intent key signs what hosts are told to do, the store key what they are given. A new one is used beside the old one
/// until every host has it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Which keys there are, and which hosts have them
    Status {
        /// How it is printed
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Begin a rotation, or finish one
    Rotate {
        /// Which key
        #[arg(value_enum)]
        key: Key,
        /// The new key takes the old one's place: refused while a host lacks it
        #[arg(long)]
        finish: bool,
        /// Finish although hosts lack the new key: they take nothing from here until a person gives it to them
        #[arg(long, requires = "finish")]
        force: bool,
    },
}

/// Which key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Key {
    /// Signs what hosts are told to do
    Intent,
    /// Signs store paths
    Store,
}

impl From<Key> for Which {
    fn from(key: Key) -> Self {
        match key {
            Key::Intent => Self::Intent,
            Key::Store => Self::Store,
        }
    }
}

const HEADS: &[&str] = &["NAME", "INTENT", "STORE", "UNSIGNED", "NEXT"];

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    match args.verb {
        Verb::Status { output } => {
            let status = ctx.client()?.keys()?;
            if output == Format::Name {
                for h in &status.hosts {
                    ctx.say(format_args!("host/{}", h.host));
                }
            } else if !output.document(ctx, &status)? {
                page(&status, ctx);
            }
            Ok(Exit::Done)
        }
        Verb::Rotate { key, finish, force } => rotate(key.into(), finish, force, ctx),
    }
}

fn rotate(key: Which, finish: bool, force: bool, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let client = ctx.client()?;
    let step = |step, host: Option<HostName>| Rotate {
        key,
        step,
        host,
        force,
    };
    if finish {
        let status = client.rotate_keys(&step(RotateStep::Finish, None))?;
        let now = of(key, &status);
        ctx.say(format_args!(
            "the {key} key is {} from now on; the old one signs no more",
            now.current
        ));
        ctx.say(match key {
            Which::Intent => "each host is told at its next report to obey the old one no more: trueup keys status",
            Which::Store => "take the old one out of nix.settings.trusted-public-keys of every host",
        });
        return Ok(Exit::Done);
    }
    let before = client.keys()?;
    let again = of(key, &before).next.is_some();
    let mut status = client.rotate_keys(&step(RotateStep::Begin, None))?;
    if key == Which::Store {
        let hosts: Vec<HostName> = status.hosts.iter().map(|h| h.host.clone()).collect();
        for (n, host) in hosts.iter().enumerate() {
            ctx.status(&format!(
                "signing what {host} runs and keeps: {n}/{}",
                hosts.len()
            ));
            status = client.rotate_keys(&step(RotateStep::Sign, Some(host.clone())))?;
        }
        ctx.status("");
    }
    let now = of(key, &status);
    let next = now.next.as_deref().unwrap_or_default();
    ctx.say(if again {
        format!("{next} is on its way to take the place of {}", now.current)
    } else {
        format!("made {next}; it signs beside {} from now on", now.current)
    });
    advice(key, &status, ctx);
    Ok(Exit::Done)
}

fn of(key: Which, status: &KeysStatus) -> &crate::api::KeysNow {
    match key {
        Which::Intent => &status.intent,
        Which::Store => &status.store,
    }
}

fn page(status: &KeysStatus, ctx: &mut Ctx<'_>) {
    for key in [Which::Intent, Which::Store] {
        let now = of(key, status);
        let given = if now.given {
            "  (named in the settings)"
        } else {
            ""
        };
        ctx.say(format_args!(
            "{:<10} {}{given}",
            format!("{key} key"),
            now.current
        ));
        if let Some(next) = &now.next {
            ctx.say(format_args!("{:<10} {next}", "  next"));
        }
    }
    let rows: Vec<Vec<String>> = status.hosts.iter().map(row).collect();
    if !rows.is_empty() {
        let columns = Columns::of(HEADS, &rows);
        columns.head(ctx);
        for row in &rows {
            columns.row(ctx, row);
        }
    }
    for key in [Which::Intent, Which::Store] {
        if of(key, status).next.is_some() {
            advice(key, status, ctx);
        }
    }
}

fn row(h: &HostKeys) -> Vec<String> {
    let unsigned = match h.unsigned.len() {
        0 => "-".to_owned(),
        n => n.to_string(),
    };
    let next = match (h.intent, h.store) {
        (Has::Old, _) => "told at its next report",
        (Has::Unknown, _) => "it has to answer first",
        (Has::Neither, _) => {
            "obeys another controller: its /nix/var/trueup/keys, or its configuration"
        }
        (_, Has::Old | Has::Neither) => "nix.settings.trusted-public-keys",
        _ if !h.strangers.is_empty() => "obeys another key too",
        _ => "-",
    };
    vec![
        h.host.to_string(),
        word(h.intent).to_owned(),
        word(h.store).to_owned(),
        unsigned,
        next.to_owned(),
    ]
}

fn word(has: Has) -> &'static str {
    match has {
        Has::Current => "current",
        Has::Both => "old, new",
        Has::Old => "old",
        Has::New => "new",
        Has::Neither => "neither",
        Has::Nobody => "nobody",
        Has::Unknown => "unknown",
    }
}

/// What is left to do before the old key can go.
fn advice(key: Which, status: &KeysStatus, ctx: &mut Ctx<'_>) {
    let lacking = status.hosts.iter().filter(|h| match key {
        Which::Intent => !h.intent.has_new(),
        Which::Store => !h.store.has_new() || !h.unsigned.is_empty(),
    });
    let lacking = lacking.count();
    if lacking == 0 {
        ctx.say(format_args!(
            "every host has the new {key} key: trueup keys rotate {key} --finish"
        ));
        return;
    }
    let next = of(key, status).next.as_deref().unwrap_or_default();
    ctx.say(match key {
        Which::Intent => format!("{lacking} hosts have yet to take the new intent key: each is told at its next report"),
        Which::Store => format!(
            "{lacking} hosts have yet to trust the new store key: add it to the old one in their configuration, and merge that\n  \
             nix.settings.trusted-public-keys = [ \"{next}\" ];"
        ),
    });
}
