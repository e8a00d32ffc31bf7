//! Verbs and arguments. One line of JSON out, errors by name on standard error.

use std::io::{stdin, stdout};
use std::process::ExitCode;

use trueup_schema::Timestamp;
use trueup_schema::wire::{Hold, Order};

use crate::files::{self, Layout};
use crate::{
    AgentError, activate, confirm, contact, deadman, gate, journal, leave, offer, parse_order,
    report, resume, secrets, witness, witnessed,
};

const USAGE: &str = "trueup-agent version [-o json] | report | keys | want [--stay] PATH… | offer [--follow] | watch | confirm --order T-S --nonce N \
| resume | authorized-key KEY | ssh-command | witness | witness-key KEY | ssh-witness | secrets restore [--for-users] | hold [--for 2h --reason TEXT] | release | leave";
/// More words than `want` is ever given.
const MAX_WORDS: usize = 1024;
/// A hold lasts at most so long.
const MAX_HOLD_SECS: u64 = 30 * 24 * 3600;

/// Runs the verb that the arguments name.
#[must_use]
pub fn run() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).take(MAX_WORDS).collect();
    match verb(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("trueup-agent: {e}");
            ExitCode::from(match e {
                AgentError::Usage(_) => 2,
                AgentError::Forced(_) => gate::REFUSED,
                _ => 1,
            })
        }
    }
}

fn option<'a>(args: &'a [String], name: &str) -> Result<&'a str, AgentError> {
    let at = args.iter().position(|a| a == name);
    let value = at.and_then(|i| args.get(i + 1));
    value
        .map(String::as_str)
        .ok_or_else(|| AgentError::Usage(format!("{name} is missing; {USAGE}")))
}

fn order(args: &[String]) -> Result<Order, AgentError> {
    let text = option(args, "--order")?;
    parse_order(text).ok_or_else(|| AgentError::Usage(format!("`{text}` is not TERM-SERIAL")))
}

fn verb(args: &[String]) -> Result<(), AgentError> {
    let (name, rest) = args
        .split_first()
        .ok_or_else(|| AgentError::Usage(USAGE.to_owned()))?;
    match name.as_str() {
        "version" => return version(rest),
        "authorized-key" => {
            println!("{}", gate::line(rest)?);
            return Ok(());
        }
        "witness-key" => {
            println!("{}", gate::witness_line(rest)?);
            return Ok(());
        }
        // Neither names itself or the other, so this ends.
        "ssh-command" | "ssh-witness" => {
            let asked = match name.as_str() {
                "ssh-command" => gate::ssh_command(rest)?,
                _ => gate::ssh_witness(rest)?,
            };
            return asked.map_or(Ok(()), |args| verb(&args));
        }
        _ => {}
    }
    let uid = rustix::process::geteuid();
    if !uid.is_root() {
        return Err(AgentError::NotRoot(uid.as_raw()));
    }
    let layout = Layout::default();
    if name == "leave" {
        return leave(&layout);
    }
    layout.create()?;
    if matches!(
        name.as_str(),
        "report" | "adopt-info" | "offer" | "watch" | "confirm" | "challenge"
    ) {
        contact::note(&layout);
    }
    let out = &mut stdout().lock();
    match name.as_str() {
        "report" | "adopt-info" => {
            for told in [
                resume::close_if_rebooted(&layout),
                crate::reboot::judge_pending(&layout),
            ] {
                if let Err(e) = told {
                    eprintln!("trueup-agent: {e}");
                }
            }
            offer::say(out, &report::take(&layout)?)
        }
        "offer" => {
            let envelope = offer::read_envelope(stdin().lock())?;
            offer::answer(
                &layout,
                &envelope,
                rest.iter().any(|a| a == "--follow"),
                out,
            )
        }
        "keys" => {
            let envelope = offer::read_envelope(stdin().lock())?;
            crate::trust::take_list(&layout, &envelope.signed).map_err(AgentError::Keys)?;
            offer::say(out, &report::take(&layout)?)
        }
        "want" => match rest.split_first() {
            Some((first, paths)) if first == "--stay" => {
                offer::want_and_stay(&layout, paths, stdin().lock(), out)
            }
            _ => offer::say(out, &offer::want(rest)?),
        },
        "watch" => {
            let last = journal::orders(&layout).pop();
            let order = last.ok_or_else(|| AgentError::NoAttempt("at all".to_owned()))?;
            offer::follow(&layout, order, None, out)
        }
        "confirm" => {
            let report = confirm::confirm(&layout, order(rest)?, option(rest, "--nonce")?)?;
            offer::say(out, &report)
        }
        "witness" => {
            let envelope = offer::read_envelope(stdin().lock())?;
            offer::say(out, &witness::take(&layout, &envelope.signed)?)
        }
        "witnessing" => witness::go(&layout, option(rest, "--host")?),
        "challenge" => offer::say(out, &witnessed::challenge(&layout, order(rest)?)?),
        "testify" => {
            let (nonce, signature) = (option(rest, "--nonce")?, option(rest, "--signature")?);
            witnessed::testify(&layout, order(rest)?, nonce, signature)
        }
        #[cfg(feature = "planted")]
        "units-both-ways" => offer::say(out, &crate::units::both_ways()?),
        #[cfg(feature = "planted")]
        "made-both-ways" => crate::units::made_both_ways(),
        "activate" => activate::run(&layout, order(rest)?),
        "deadman" => {
            let deadline = option(rest, "--deadline")?;
            let deadline = deadline
                .parse()
                .map_err(|_| AgentError::Usage("--deadline NANOSECONDS".to_owned()))?;
            deadman::wait_and_act(&layout, order(rest)?, option(rest, "--boot-id")?, deadline)
        }
        "secrets" => match rest.first().map(String::as_str) {
            Some("restore") => {
                let for_users = rest.iter().any(|a| a == "--for-users");
                let places = secrets::Places::default();
                let count = secrets::restore(&layout, &places, for_users)?;
                eprintln!("trueup-agent: {count} secrets in place");
                Ok(())
            }
            Some("own") => Ok(secrets::own(&secrets::Places::default())?),
            _ => Err(AgentError::Usage(USAGE.to_owned())),
        },
        "resume" => resume::close_if_rebooted(&layout),
        "hold" => hold(&layout, rest),
        "release" => release(&layout),
        other => Err(AgentError::Usage(format!("`{other}` is no verb; {USAGE}"))),
    }
}

fn version(rest: &[String]) -> Result<(), AgentError> {
    if rest.first().map(String::as_str) == Some("-o") {
        let value = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "path": crate::own_store_path(),
            "understands": report::UNDERSTANDS,
        });
        return offer::say(&mut stdout().lock(), &value);
    }
    println!("trueup-agent {}", env!("CARGO_PKG_VERSION"));
    Ok(())
}

/// `90s`, `5m`, `2h`, `1d`.
fn seconds(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return None,
    };
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(factor)
        .filter(|s| (1..=MAX_HOLD_SECS).contains(s))
}

/// What was removed and what stays, as one document; a person reads it from standard error.
fn leave(layout: &Layout) -> Result<(), AgentError> {
    let farewell = leave::leave(layout)?;
    for line in farewell.lines() {
        eprintln!("trueup-agent: {line}");
    }
    offer::say(&mut stdout().lock(), &farewell)
}

fn release(layout: &Layout) -> Result<(), AgentError> {
    let held = report::hold(layout)?;
    let _not_there = std::fs::remove_file(layout.file("hold.json"));
    files::sync_dir(&layout.root)?;
    println!(
        "{}",
        match held {
            Some(h) => format!(
                "released; it was held by {}: {}. The controller looks at a held host twice a minute, where it gets here; at \
                 once after `trueup reconcile --host NAME`",
                h.by, h.reason
            ),
            None => "it was not held".to_owned(),
        }
    );
    Ok(())
}

fn hold(layout: &Layout, rest: &[String]) -> Result<(), AgentError> {
    if rest.is_empty() {
        println!(
            "{}",
            match report::hold(layout)? {
                Some(h) => format!("held by {} until {}: {}", h.by, h.until, h.reason),
                None => "not held".to_owned(),
            }
        );
        return Ok(());
    }
    let secs = seconds(option(rest, "--for")?)
        .ok_or_else(|| AgentError::Usage("--for takes 90s, 5m, 2h, 1d; at most 30d".to_owned()))?;
    let until = Timestamp::now().as_second().saturating_add_unsigned(secs);
    let until = Timestamp::from_second(until).map_err(|e| AgentError::Usage(e.to_string()))?;
    let by = std::env::var("SUDO_USER").unwrap_or_else(|_| "root".to_owned());
    let hold = Hold {
        until,
        reason: option(rest, "--reason")?.chars().take(500).collect(),
        by,
    };
    files::write_json(&layout.file("hold.json"), &hold)?;
    println!(
        "held until {}: no intent is taken before; `trueup-agent release` ends it. What runs is not touched, and an \
         activation that has begun goes on",
        hold.until
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_bounded() {
        assert_eq!(seconds("2h"), Some(7200));
        for bad in ["", "h", "2", "0s", "99999d", "-1s", "2 h"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}
