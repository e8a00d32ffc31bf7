//! `trueup describe host/NAME`: one host, and why it is as it is, so that nobody has to read a log.

use serde_json::Value;

use super::get::condition;
use super::output::{Format, at, or_dash, short_path, short_revision};
use super::{CliError, Ctx, Exit, host_arg};

/// Show one host with conditions and what happened
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// host/NAME
    #[arg(value_parser = host_arg)]
    host: trueup_schema::HostName,
    /// How it is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let all = ctx
        .client()?
        .get(&format!("/v1/hosts/{}/describe", args.host))?;
    if !args.output.document(ctx, &all)? {
        ctx.say(text(&all).trim_end());
    }
    Ok(Exit::Done)
}

/// The page, as text.
fn text(all: &Value) -> String {
    let mut lines = vec![headline(all)];
    let host = all.get("host").unwrap_or(&Value::Null);
    let conditions = host.pointer("/status/conditions").and_then(Value::as_array);
    for c in conditions.into_iter().flatten() {
        let truth = format!("{}={}", at(c, "/type"), at(c, "/status"));
        let mut message = at(c, "/message").lines();
        lines.push(format!(
            "  {truth:<20} {:<24} {}",
            at(c, "/reason"),
            message.next().unwrap_or_default()
        ));
        lines.extend(message.map(|l| format!("  {:<45} {l}", "")));
    }
    for (word, pointer) in [
        ("desired", "desiredClosure"),
        ("running", "runningClosure"),
        ("booted", "bootedClosure"),
        ("boot default", "bootDefaultClosure"),
    ] {
        lines.push(format!(
            "  {word:<20} {}",
            short_path(at(host, &format!("/status/{pointer}")))
        ));
    }
    for (word, pointer) in [
        ("applied", "appliedRevision"),
        ("last attempt", "attemptedRevision"),
    ] {
        lines.push(format!(
            "  {word:<20} {}",
            short_revision(at(host, &format!("/status/{pointer}")))
        ));
    }
    lines.push(format!(
        "  {:<20} {}",
        "last report",
        or_dash(at(host, "/status/lastReportTime"))
    ));
    suspension(all, &mut lines);
    quarantine(all, host, &mut lines);
    evaluation(all, &mut lines);
    happened(all, &mut lines);
    lines.join("\n")
}

fn headline(all: &Value) -> String {
    let host = all.get("host").unwrap_or(&Value::Null);
    let outcome = at(host, "/status/outcome");
    let stalled = condition(host, "Stalled").is_some();
    let state = if stalled && !outcome.is_empty() {
        outcome
    } else {
        at(host, "/status/phase")
    };
    let mut line = format!(
        "{}   {state}   {}",
        at(host, "/metadata/name"),
        short_revision(at(host, "/status/desiredRevision"))
    );
    if let Some(revision) = all.get("revision").filter(|r| r.is_object()) {
        line.push_str(&format!(
            " \"{}\" ({}, {})",
            at(revision, "/subject"),
            at(revision, "/author"),
            clock(at(revision, "/committedAt"))
        ));
    }
    let detail = at(host, "/status/detail");
    if !detail.is_empty() {
        line.push_str(&format!("   {detail}"));
    }
    line
}

fn suspension(all: &Value, lines: &mut Vec<String>) {
    let Some(s) = all.get("suspension").filter(|s| s.is_object()) else {
        return;
    };
    let until = at(s, "/until");
    let until = if until.is_empty() {
        "until resumed".to_owned()
    } else {
        format!("until {until}")
    };
    lines.push(format!(
        "  {:<20} by {} since {}, {until}: {}",
        "suspended",
        at(s, "/by/name"),
        at(s, "/at"),
        at(s, "/reason")
    ));
}

fn quarantine(all: &Value, host: &Value, lines: &mut Vec<String>) {
    let name = at(host, "/metadata/name");
    for (digest, why) in all
        .get("quarantined")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let digest: String = digest.chars().take(12).collect();
        lines.push(format!(
            "  {:<20} {digest}: {}",
            "quarantined",
            why.as_str().unwrap_or_default()
        ));
        lines.push(format!("  {:<20} not tried again until the trunk changes it, or: trueup reconcile --host {name} --retry", ""));
    }
    if let Some(problem) = all.get("lastError").filter(|p| p.is_object()) {
        lines.push(format!(
            "  {:<20} {}",
            "last error",
            at(problem, "/message")
        ));
    }
}

/// Nix's own words, where the evaluation is what fails.
fn evaluation(all: &Value, lines: &mut Vec<String>) {
    let failed = all
        .pointer("/evaluation/problem")
        .is_some_and(|p| !p.is_null());
    let trace = at(all, "/evaluation/trace");
    if failed && !trace.is_empty() {
        lines.push("  what nix said".to_owned());
        lines.extend(trace.lines().map(|l| format!("    {l}")));
    }
}

fn happened(all: &Value, lines: &mut Vec<String>) {
    let events = all
        .get("events")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    if events.is_empty() {
        return;
    }
    lines.push("  what happened".to_owned());
    for event in events {
        let mut message = at(event, "/message").lines();
        let first = message.next().unwrap_or_default();
        lines.push(format!(
            "    {}  {:<22} {first}",
            clock(at(event, "/at")),
            at(event, "/reason")
        ));
        lines.extend(message.map(|l| format!("              {l}")));
    }
}

/// The time of day in this machine's zone; the date as well when it is not today.
fn clock(at: &str) -> String {
    let Ok(then) = at.parse::<trueup_schema::Timestamp>() else {
        return "-".to_owned();
    };
    let zone = jiff::tz::TimeZone::system();
    let (then, now) = (
        then.to_zoned(zone.clone()),
        jiff::Timestamp::now().to_zoned(zone),
    );
    let form = if then.date() == now.date() {
        "%H:%M:%S"
    } else {
        "%Y-%m-%d %H:%M:%S"
    };
    then.strftime(form).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_names_what_why_and_what_now() {
        let all = json!({
            "host": {
                "metadata": {"name": "web-2"},
                "status": {
                    "phase": "Stalled", "outcome": "RolledBack",
                    "desiredRevision": format!("main@sha1:{}", "bad5eed".repeat(6).get(..40).unwrap()),
                    "conditions": [
                        {"type": "Ready", "status": "False", "reason": "RolledBack", "message": "no contact on a new connection"},
                        {"type": "Stalled", "status": "True", "reason": "Quarantined", "message": "not tried again"},
                    ],
                    "runningClosure": "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-nixos-system-web-2-26.05",
                },
            },
            "revision": {"subject": "harden sshd", "author": "Ana", "committedAt": "2026-01-01T14:02:00Z"},
            "quarantined": {"0123456789abcdef": "no contact, twice"},
            "events": [{"at": "2026-01-01T14:05:06Z", "reason": "ConfirmTimedOut", "message": "no contact"}],
        });
        let page = text(&all);
        for part in [
            "web-2   RolledBack   main@sha1:bad5eed \"harden sshd\" (Ana, ",
            "Ready=False",
            "00bg…-nixos-system-web-2-26.05",
            "trueup reconcile --host web-2 --retry",
            "ConfirmTimedOut",
        ] {
            assert!(page.contains(part), "{part} is missing in:\n{page}");
        }
    }
}
