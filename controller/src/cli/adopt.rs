//! `trueup adopt`: a person's word that a machine is ours to change; with `--dry-run`, what that would mean: which machine
//! it is, what it runs and boots, who else deploys to it, and what the first reconcile would change.

use serde::Serialize;
use trueup_schema::wire::{Identity, OtherManager};
use trueup_schema::{HostName, StorePath};

use super::output::{Format, closure_of};
use super::{CliError, Ctx, Exit, host_arg};
use crate::api::document::{Described, PlannedChange, PlannedHost};
use crate::api::request::Adopt;
use crate::edge::keyscan::fingerprint;

/// Take hosts over; until then they are only observed
///
/// With --dry-run nothing is taken over: it shows which machine each host is, what it runs, who else deploys to it, and
/// what would change first.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// host/NAME
    #[arg(value_parser = host_arg, required_unless_present = "all", conflicts_with = "all")]
    hosts: Vec<HostName>,
    /// All hosts of the fleet that are not adopted yet
    #[arg(long)]
    all: bool,
    /// Only show what that would mean
    #[arg(long)]
    dry_run: bool,
    /// How --dry-run is printed
    #[arg(short, long, value_enum, default_value_t, requires = "dry_run")]
    output: Format,
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    if args.dry_run {
        return preview(&args, ctx);
    }
    let client = ctx.client()?;
    let answer = client.adopt(&Adopt {
        hosts: args.hosts,
        all: args.all,
    })?;
    let (adopted, already) = (answer.adopted, answer.already);
    for name in &adopted {
        ctx.say(format_args!(
            "{name} is adopted; what it runs is recorded at its next report"
        ));
        // Gone or unreachable meanwhile: adopted all the same.
        let Ok(all) = client.describe(name) else {
            continue;
        };
        for other in &all.other_managers {
            ctx.say(format_args!("  {}", advice(other)));
        }
    }
    for name in &already {
        ctx.say(format_args!("{name} was adopted before"));
    }
    if adopted.is_empty() && already.is_empty() {
        ctx.note("no hosts in the fleet yet");
    }
    Ok(Exit::Done)
}

fn advice(other: &OtherManager) -> String {
    format!(
        "{} deploys to it too ({}): turn it off, or the two undo each other",
        other.name, other.evidence
    )
}

/// What taking a host over would mean.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Preview {
    host: HostName,
    adopted: bool,
    /// `None`: it has not answered.
    identity: Option<Identity>,
    running: Option<StorePath>,
    profile: Option<StorePath>,
    boot_default: Option<StorePath>,
    booted: Option<StorePath>,
    loader: Option<String>,
    desired: Option<StorePath>,
    other_managers: Vec<OtherManager>,
    warnings: Vec<String>,
    first: First,
    /// The same for people.
    message: String,
}

/// What the first reconcile would do to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum First {
    /// It runs, boots and keeps what it should.
    Nothing,
    /// It runs what it should; profile and boot default become that closure too. No unit changes.
    Keep,
    /// Another closure is activated.
    Activate,
    /// It is not known yet what it is to run, or what it runs.
    Unknown,
}

fn preview(args: &Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let client = ctx.client()?;
    let plan = client.plan()?;
    for name in &args.hosts {
        // For the answer that names the nearest.
        client.host(name)?;
    }
    let mut found = Vec::new();
    for planned in &plan.items {
        let named = args.hosts.contains(&planned.host);
        if !args.all && !named {
            continue;
        }
        let all = client.describe(&planned.host)?;
        if named || all.adoption.is_none() {
            found.push(one(&all, planned));
        }
    }
    if args.output == Format::Name {
        for p in &found {
            ctx.say(format_args!("host/{}", p.host));
        }
    } else if !args.output.document(ctx, &found)? {
        for p in &found {
            page(p, ctx);
        }
        ctx.note(match found.len() {
            0 => "no host is left to adopt",
            _ => "nothing was taken over: trueup adopt host/NAME does that",
        });
    }
    Ok(Exit::Done)
}

fn one(all: &Described, planned: &PlannedHost) -> Preview {
    let status = &all.host.status;
    let desired = planned
        .to
        .clone()
        .or_else(|| status.desired_closure.clone());
    let (first, message) = first(all, planned, desired.as_ref());
    Preview {
        host: planned.host.clone(),
        adopted: all.adoption.is_some(),
        identity: all.seen.clone(),
        running: status.running_closure.clone(),
        profile: all.profile.clone(),
        boot_default: status.boot_default_closure.clone(),
        booted: status.booted_closure.clone(),
        loader: all.loader.clone(),
        desired,
        other_managers: all.other_managers.clone(),
        warnings: all.warnings.clone(),
        first,
        message,
    }
}

fn first(all: &Described, planned: &PlannedHost, desired: Option<&StorePath>) -> (First, String) {
    let status = &all.host.status;
    let name = planned.host.as_str();
    let short = |p: Option<&StorePath>| closure_of(p, name);
    let Some(desired) = desired else {
        let why = planned
            .why
            .clone()
            .unwrap_or_else(|| planned.message.clone());
        return (
            First::Unknown,
            format!("it is not known yet what it is to run: {why}"),
        );
    };
    if all.seen.is_none() {
        return (First::Unknown, planned.message.clone());
    }
    if planned.change == PlannedChange::Nothing {
        return (
            First::Nothing,
            "nothing: it runs what it should, confirmed".to_owned(),
        );
    }
    if status.running_closure.as_ref() != Some(desired) {
        let message = format!(
            "activates {} over {}; which units and packages that are: trueup plan --from REV --build",
            short(Some(desired)),
            short(status.running_closure.as_ref()),
        );
        return (First::Activate, message);
    }
    let default = status.boot_default_closure.as_ref();
    let profile = all.profile.as_ref() != Some(desired);
    let boot = default.is_some_and(|d| d != desired);
    let becomes = match (profile, boot) {
        (false, false) => {
            return (
                First::Nothing,
                "nothing: it runs, boots and keeps what the trunk says; no unit is touched"
                    .to_owned(),
            );
        }
        (true, false) => "its profile becomes the closure that runs",
        (false, true) => "its boot default becomes the closure that runs",
        (true, true) => "its profile and boot default become the closure that runs",
    };
    (
        First::Keep,
        format!("{becomes}; that is the same closure, so no unit is restarted"),
    )
}

fn page(p: &Preview, ctx: &mut Ctx<'_>) {
    let name = p.host.as_str();
    let adopted = if p.adopted {
        "adopted already"
    } else {
        "not adopted"
    };
    ctx.say(format_args!("{name}   {adopted}"));
    let mut put = |word: &str, text: &str| ctx.say(format_args!("  {word:<15} {text}"));
    if let Some(identity) = &p.identity {
        put("machine", &format!("machine-id {}", identity.machine_id));
        for key in &identity.host_keys {
            if let Ok(key) = key.parse() {
                put(
                    "",
                    &format!(
                        "{} {}",
                        trueup_schema::kind::HostKey::kind(&key),
                        fingerprint(&key)
                    ),
                );
            }
        }
        put("running", &closure_of(p.running.as_ref(), name));
        if p.profile != p.running {
            put("profile", &closure_of(p.profile.as_ref(), name));
        }
        let loader = p.loader.as_deref().unwrap_or("unknown loader");
        put(
            "boot default",
            &format!("{} ({loader})", closure_of(p.boot_default.as_ref(), name)),
        );
        if p.booted != p.running {
            put("booted", &closure_of(p.booted.as_ref(), name));
        }
    }
    for other in &p.other_managers {
        put("other manager", &advice(other));
    }
    for warning in &p.warnings {
        put("warning", warning);
    }
    put("first reconcile", &p.message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const A: &str = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-nixos-system-web-1";
    const B: &str = "/nix/store/11bgd045z0d4icpbc2yyz4gx48ak44la-activatable-nixos-system-web-1";

    fn said(running: &str, profile: &str, default: &str, to: Option<&str>) -> First {
        let all: Described = serde_json::from_value(json!({
            "host": {"apiVersion": "trueup/v1alpha1", "kind": "Host", "metadata": {"name": "web-1"}, "spec": null, "status": {
                "phase": "Held", "detail": null, "outcome": null, "desiredRevision": null, "attemptedRevision": null,
                "appliedRevision": null, "observedRevision": null, "desiredClosure": to, "runningClosure": running,
                "bootedClosure": running, "bootDefaultClosure": default, "components": [], "conditions": [],
                "lastReportTime": null, "nextAt": null}},
            "revision": null, "quarantined": {}, "lastAttempt": null, "attempt": null, "lastError": null, "unreachableSince": null,
            "evaluation": null, "suspension": null, "adoption": null, "seen": {"machineId": "a", "hostKeys": []},
            "profile": profile, "loader": "grub", "hold": null, "otherManagers": [], "warnings": [], "events": [],
        }))
        .unwrap();
        let planned: PlannedHost = serde_json::from_value(json!({
            "host": "web-1", "change": if to.is_some() { "deliver" } else { "unknown" }, "from": running, "to": to, "why": null,
            "next": "wait", "begins": false, "phase": "Held", "reason": "AdoptionRequired", "message": "not adopted",
        }))
        .unwrap();
        one(&all, &planned).first
    }

    #[test]
    fn what_the_first_reconcile_does_is_told_by_what_runs_boots_and_is_kept() {
        assert_eq!(said(A, A, A, Some(A)), First::Nothing);
        assert_eq!(said(A, B, A, Some(A)), First::Keep);
        assert_eq!(said(A, A, B, Some(A)), First::Keep);
        assert_eq!(said(B, B, B, Some(A)), First::Activate);
        assert_eq!(said(A, A, A, None), First::Unknown);
    }
}
