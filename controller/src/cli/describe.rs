//! `trueup describe host/NAME`: one host, and why it is as it is, so that nobody has to read a log.

use trueup_schema::status::{ConditionType, Event, Outcome, Truth};
use trueup_schema::wire::WatchReport;
use trueup_schema::{HostName, Timestamp};

use super::get::is;
use super::output::{Format, age, brief, clock, closure_of, short_revision};
use super::{CliError, Ctx, Exit, host_arg};
use crate::api::document::Described;

/// Show one host with conditions and what happened
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// host/NAME
    #[arg(value_parser = host_arg)]
    host: HostName,
    /// How it is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let all = ctx.client()?.describe(&args.host)?;
    if args.output == Format::Name {
        ctx.say(format_args!("host/{}", args.host));
    } else if !args.output.document(ctx, &all)? {
        let page = Page {
            all: &all,
            host: &args.host,
            now: Timestamp::now(),
            lines: Vec::new(),
        };
        ctx.say(page.text());
    }
    Ok(Exit::Done)
}

/// The page, as text.
struct Page<'a> {
    all: &'a Described,
    host: &'a HostName,
    now: Timestamp,
    lines: Vec<String>,
}

/// What a witness has done, and whether it still does.
fn told(w: &WatchReport) -> String {
    let goes_on = if w.goes_on { ", goes on" } else { "" };
    format!("{} ({} tries{goes_on})", w.said, w.tries)
}

impl Page<'_> {
    fn text(mut self) -> String {
        self.headline();
        self.conditions();
        self.closures();
        self.catching_up();
        self.suspended();
        self.trouble();
        self.evaluation();
        self.units();
        self.happened();
        self.next();
        self.lines.join("\n")
    }

    fn put(&mut self, word: &str, text: impl std::fmt::Display) {
        self.lines.push(format!("  {word:<13} {text}"));
    }

    fn brief(&self, text: &str) -> String {
        brief(text, Some(self.host))
    }

    fn headline(&mut self) {
        let status = &self.all.host.status;
        let stalled = is(&self.all.host, ConditionType::Stalled);
        let state = match status.outcome {
            Some(outcome) if stalled && outcome != Outcome::Succeeded => outcome.to_string(),
            _ => status.phase.to_string(),
        };
        let mut line = format!(
            "{}   {state}   {}",
            self.host,
            short_revision(status.desired_revision.as_ref())
        );
        if let Some(r) = &self.all.revision {
            let at = clock(r.committed_at, self.now);
            line.push_str(&format!(" \"{}\" ({}, {at})", r.subject, r.author));
        }
        if let Some(detail) = &status.detail {
            line.push_str(&format!("   {detail}"));
        }
        self.lines.push(line);
    }

    /// A message that was said already is not said again.
    fn conditions(&mut self) {
        let mut said = Vec::new();
        for c in &self.all.host.status.conditions {
            let truth = match c.status {
                Truth::True => "True",
                Truth::False => "False",
                Truth::Unknown => "Unknown",
            };
            let state = format!("{:?}={truth}", c.kind);
            let mut text = c.message.lines().map(|l| brief(l, Some(self.host)));
            let first = text.next().unwrap_or_default();
            let again = said.contains(&c.message.as_str());
            let shown = if again { "" } else { first.as_str() };
            let line = format!("  {state:<20} {:<24} {shown}", c.reason.to_string());
            self.lines.push(line.trim_end().to_owned());
            if !again {
                self.lines.extend(text.map(|l| format!("  {:<45} {l}", "")));
            }
            said.push(c.message.as_str());
        }
    }

    fn closures(&mut self) {
        let status = &self.all.host.status;
        let short = |path: &Option<_>| closure_of(path.as_ref(), self.host.as_str());
        let running = short(&status.running_closure);
        let (desired, default) = (
            short(&status.desired_closure),
            short(&status.boot_default_closure),
        );
        let seen = status.last_report_time.map_or_else(
            || "never reported".to_owned(),
            |t| format!("reported {} ago", age(t, self.now)),
        );
        if desired != running {
            self.put("desired", &desired);
        }
        let applied = short_revision(status.applied_revision.as_ref());
        let of = if status.applied_revision.is_some() && desired == running {
            format!("of {applied}, ")
        } else {
            String::new()
        };
        self.put("running", format_args!("{running}   ({of}{seen})"));
        if status.boot_default_closure.is_some() {
            let same = if default == running {
                ""
            } else {
                "   (a power cut brings this back)"
            };
            self.put("boot default", format_args!("{default}{same}"));
        }
        let booted = short(&status.booted_closure);
        if booted != running && status.booted_closure.is_some() {
            self.put("booted", booted);
        }
        if status.applied_revision.is_some() && status.applied_revision != status.desired_revision {
            self.put("applied", applied);
        }
    }

    /// Commits came faster than it could be reached.
    fn catching_up(&mut self) {
        let (all, host) = (self.all, self.host);
        let Some(c) = &all.catching_up else {
            return;
        };
        let short = |r| short_revision(Some(r));
        let (at, newest, passed) = (short(&c.revision), short(&c.newest), short(&c.passed));
        let since = clock(c.since, self.now);
        self.put(
            "catching up",
            format_args!("{at} stands until it is delivered, newest is {newest}"),
        );
        self.put(
            "",
            format_args!("({passed} gave way at {since}; the newest at once: trueup reconcile --host {host} --retry)"),
        );
    }

    fn suspended(&mut self) {
        if let Some(s) = &self.all.suspension {
            let until = s.until.map_or_else(
                || "until resumed".to_owned(),
                |u| format!("until {}", clock(u, self.now)),
            );
            let since = clock(s.at, self.now);
            let text = format!("by {} at {since}, {until}: {}", s.by.name, s.reason);
            self.put("suspended", text);
        }
        if let Some(r) = self.all.rollback.as_ref().filter(|r| r.over.is_none()) {
            let at = clock(r.at, self.now);
            let why = match r.reason.is_empty() {
                true => String::new(),
                false => format!(": {}", r.reason),
            };
            let to = closure_of(Some(&r.to), self.host.as_str());
            self.put(
                "rolled back",
                format_args!("to {to} by {} at {at}{why}", r.by.name),
            );
        }
        if let Some(l) = &self.all.left {
            let at = clock(l.done_at.unwrap_or(l.at), self.now);
            let how = match &l.done_at {
                Some(_) => "left",
                None => "being left",
            };
            self.put(how, format_args!("by {} at {at}", l.by.name));
            for line in &l.told {
                self.put("", line);
            }
        }
        if let Some(h) = &self.all.hold {
            let until = clock(h.until, self.now);
            self.put(
                "held there",
                format_args!("by {}, until {until}: {}", h.by, h.reason),
            );
        }
        if let Some(w) = &self.all.witness {
            self.put("its witness", format_args!("{}: {}", w.order, told(w)));
        }
        for w in &self.all.watches {
            self.put(
                "witness of",
                format_args!("{} {}: {}", w.host, w.order, told(w)),
            );
        }
        for other in &self.all.other_managers {
            self.put(
                "also managed",
                format_args!("by {}: {}", other.name, other.evidence),
            );
        }
        for warning in &self.all.warnings {
            self.put("promised less", warning);
        }
    }

    fn trouble(&mut self) {
        for (digest, why) in &self.all.quarantined {
            self.put(
                "quarantined",
                format_args!("{}: {}", digest.short(), self.brief(why)),
            );
            let now = format!(
                "not tried again until the trunk changes it, or: trueup reconcile --host {} --retry",
                self.host
            );
            self.put("", now);
        }
        let problem = self.all.last_error.as_ref();
        if let (Some(problem), Some(since)) = (problem, self.all.unreachable_since) {
            let since = clock(since, self.now);
            self.put(
                "no answer",
                format_args!("since {since}: {}", self.brief(&problem.message)),
            );
        } else if let Some(problem) = problem {
            self.put("last error", self.brief(&problem.message));
        }
    }

    /// Nix's own words, where the evaluation is what fails.
    fn evaluation(&mut self) {
        let Some(e) = &self.all.evaluation else {
            return;
        };
        for warning in &e.warnings {
            self.put("nix warns", warning);
        }
        if e.problem.is_some() && !e.trace.is_empty() {
            self.lines.push("  what nix said".to_owned());
            let trace = e.trace.lines().map(|l| format!("    {l}"));
            self.lines.extend(trace);
        }
    }

    /// The last lines of the units that the last attempt harmed, and what it left behind.
    fn units(&mut self) {
        let Some(attempt) = &self.all.attempt else {
            return;
        };
        for unit in &attempt.failed_units {
            self.lines.push(format!(
                "  last lines of {} ({}: {})",
                unit.name, unit.state, unit.why
            ));
            let log = unit.log.iter().map(|l| format!("    {l}"));
            self.lines.extend(log);
        }
        for (word, list) in [
            ("differs", &attempt.differs),
            ("restart debt", &attempt.restart_debt),
            ("waits for", &attempt.waiting_jobs),
        ] {
            if !list.is_empty() {
                self.put(word, list.join(", "));
            }
        }
    }

    fn happened(&mut self) {
        let events: &[Event] = &self.all.events;
        if events.is_empty() {
            return;
        }
        self.lines.push("  what happened".to_owned());
        let width = events.iter().map(|e| e.reason.to_string().len()).max();
        let width = width.unwrap_or(0);
        for event in events {
            let text = super::events::said(event, Some(self.host));
            let at = clock(event.at, self.now);
            let line = format!("    {at}  {:<width$}  {text}", event.reason.to_string());
            self.lines.push(line.trim_end().to_owned());
        }
    }

    /// What was to change, where it did not.
    fn next(&mut self) {
        let status = &self.all.host.status;
        let (Some(from), Some(to)) = (&status.applied_revision, &status.desired_revision) else {
            return;
        };
        if from != to && is(&self.all.host, ConditionType::Stalled) {
            let (from, to) = (&from.sha1()[..7], &to.sha1()[..7]);
            let text = format!("trueup plan --from {from} --to {to}   (in the fleet's repository)");
            self.put("what changed", text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_names_what_why_and_what_now() {
        let revision = |c: &str| format!("main@sha1:{}", c.repeat(6).get(..40).unwrap());
        let condition = |kind: &str, status: &str, reason: &str, message: &str| {
            json!({"type": kind, "status": status, "reason": reason, "message": message,
                   "lastTransitionTime": "2026-01-01T14:05:06Z", "observedRevision": null})
        };
        let all = json!({
            "host": {
                "apiVersion": "trueup/v1alpha1", "kind": "Host", "metadata": {"name": "web-2"},
                "status": {
                    "phase": "Stalled", "outcome": "RolledBack", "components": [],
                    "desiredRevision": revision("bad5eed"), "appliedRevision": revision("7c0ffee"),
                    "conditions": [
                        condition("Ready", "False", "RolledBack", "no contact on a new connection"),
                        condition("Stalled", "True", "Quarantined", "no contact on a new connection"),
                    ],
                    "runningClosure": "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-nixos-system-web-2-26.05",
                },
            },
            "revision": {"revision": revision("bad5eed"), "subject": "harden sshd", "author": "Ana", "accepted": true,
                         "committedAt": "2026-01-01T14:02:00Z", "seenAt": "2026-01-01T14:02:00Z", "problems": []},
            "quarantined": {("0123456789abcdef".repeat(4)): "no contact, twice"},
            "attempt": {
                "term": 1, "serial": 2, "revision": revision("bad5eed"), "goals": {}, "state": "ended",
                "failedUnits": [{"name": "sshd.service", "state": "failed", "why": "not active",
                                 "log": ["Bad configuration option: PermitRootLogn"]}],
            },
            "catchingUp": {"revision": revision("0ddba11"), "newest": revision("bad5eed"), "passed": revision("7c0ffee"),
                           "closure": "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-nixos-system-web-2-26.05",
                           "since": "2026-01-01T14:03:00Z"},
            "seen": null, "profile": null, "loader": null, "otherManagers": [], "warnings": [],
            "events": [],
        });
        let all: Described = serde_json::from_value(all).unwrap();
        let page = Page {
            all: &all,
            host: &"web-2".parse().unwrap(),
            now: "2026-01-01T15:00:00Z".parse().unwrap(),
            lines: Vec::new(),
        };
        let page = page.text();
        for part in [
            "web-2   RolledBack   main@sha1:bad5eed \"harden sshd\" (Ana, ",
            "Ready=False",
            "00bg…-26.05",
            "trueup reconcile --host web-2 --retry",
            "catching up   main@sha1:0ddba11 stands until it is delivered, newest is main@sha1:bad5eed",
            "last lines of sshd.service",
            "PermitRootLogn",
            "trueup plan --from 7c0ffee --to bad5eed",
        ] {
            assert!(page.contains(part), "{part} is missing in:\n{page}");
        }
        let message = "no contact on a new connection";
        assert_eq!(page.matches(message).count(), 1, "{page}");
    }
}
