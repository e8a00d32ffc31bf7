//! A plan in words: a table for a terminal, markdown for a pull request.

use std::collections::BTreeMap;

use serde_json::Value;
use trueup_schema::kind::Reboot as Policy;

use super::super::Ctx;
use super::super::output::{Columns, bytes};
use super::document::{Change, Effects, Field, HostPlan, Known, Package, Plan, Reboot, Size};
use super::units::Units;
use crate::secrets::{Differs, SecretChange};

/// Packages that are named; the others are counted.
const PACKAGES_NAMED: usize = 4;
/// Units of one kind that are named.
const UNITS_NAMED: usize = 8;
/// Lines of Nix's trace in a table; the document has all of it.
const TRACE_LINES: usize = 12;

const HEADS: &[&str] = &["NAME", "PLAN", "WHAT"];

pub fn table(plan: &Plan, ctx: &mut Ctx<'_>) {
    ctx.say(headline(plan));
    for note in &plan.notes {
        ctx.note(format_args!("note: {note}"));
    }
    let rows: Vec<Vec<String>> = plan
        .hosts
        .iter()
        .map(|h| vec![h.name.to_string(), h.change.word().to_owned(), what(h)])
        .collect();
    if rows.is_empty() {
        return;
    }
    let columns = Columns::of(HEADS, &rows);
    columns.head(ctx);
    for (row, host) in rows.iter().zip(&plan.hosts) {
        columns.row(ctx, row);
        for warning in &host.warnings {
            ctx.say(format_args!("    nix warns: {warning}"));
        }
        let lines: Vec<&str> = host.trace.iter().flat_map(|t| t.lines()).collect();
        for line in &lines[lines.len().saturating_sub(TRACE_LINES)..] {
            ctx.say(format_args!("    {line}"));
        }
    }
}

fn headline(plan: &Plan) -> String {
    let s = &plan.summary;
    let mut parts = Vec::new();
    for (n, word) in [
        (s.changed, "changed"),
        (s.new, "new"),
        (s.removed, "removed"),
        (s.fails, "failing"),
        (s.unchanged, "unchanged"),
    ] {
        if n > 0 {
            parts.push(format!("{n} {word}"));
        }
    }
    let hosts = match s.hosts {
        1 => "1 host".to_owned(),
        n => format!("{n} hosts"),
    };
    let from = plan
        .from
        .as_ref()
        .map_or("nothing".to_owned(), |c| c.revision.short());
    format!(
        "{hosts}: {}   ({from} → {} \"{}\", {} evaluations)",
        if parts.is_empty() {
            "none".to_owned()
        } else {
            parts.join(", ")
        },
        plan.to.revision.short(),
        plan.to.subject,
        s.evaluated,
    )
}

fn what(host: &HostPlan) -> String {
    let mut parts: Vec<String> = host.manifest.iter().map(field).collect();
    match host.change {
        Change::Fails => return host.problem.clone().unwrap_or_default(),
        Change::Removed => {
            return "no longer in the fleet; the host itself is not touched".to_owned();
        }
        Change::New => parts.push("joins the fleet".to_owned()),
        Change::Unchanged | Change::Changed => {}
    }
    if host.goes_last && host.change != Change::Unchanged {
        parts.push("goes last: the controller runs on it".to_owned());
    }
    parts.extend(host.secrets.iter().map(secret));
    if host.closure_from.is_some() && host.closure_from != host.closure_to {
        parts.extend(effects(host));
    } else if host.change == Change::Changed
        && host.closure_from.is_none()
        && host.closure_to.is_some()
    {
        parts.push("could not be evaluated before".to_owned());
    }
    parts.join(" · ")
}

fn effects(host: &HostPlan) -> Vec<String> {
    let e: &Effects = &host.effects;
    let mut parts = Vec::new();
    match packages(e) {
        Some(text) if !text.is_empty() => parts.push(text),
        _ => parts.push("another closure".to_owned()),
    }
    let unknown: Vec<&str> = [
        (e.packages.is_none(), "packages"),
        (e.units.is_none(), "units"),
        (e.reboot.is_none(), "reboot"),
    ]
    .iter()
    .filter_map(|(is, word)| is.then_some(*word))
    .collect();
    parts.extend(e.units.as_ref().map(units));
    parts.extend(e.reboot.as_ref().map(reboot));
    parts.extend(
        e.size
            .filter(|s| s.download > 0)
            .map(|s| format!("download {}", bytes(s.download))),
    );
    if !unknown.is_empty() {
        parts.push(format!(
            "{} known once it is built (--build)",
            unknown.join(", ")
        ));
    }
    parts
}

fn field(f: &Field) -> String {
    let text = |v: &Value| match v {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    format!("{} {} → {}", f.field, text(&f.from), text(&f.to))
}

/// `secret token: another value, restart web.service`. Its value is never known here.
fn secret(change: &SecretChange) -> String {
    let what = match change.differs {
        Differs::New => "new",
        Differs::Removed => "removed",
        Differs::Value => "another value",
        Differs::Sealed => "sealed anew; if its value is another",
        Differs::Access => "another owner or mode",
        Differs::Place => "another place or other units",
    };
    let mut parts = vec![what.to_owned()];
    for (word, units) in [("restart", &change.restart), ("reload", &change.reload)] {
        if !units.is_empty() {
            parts.push(format!("{word} {}", units.join(" ")));
        }
    }
    if change.activates {
        parts.push("the running closure's activation again, for its users".to_owned());
    } else if parts.len() == 1 && change.differs == Differs::Sealed {
        parts.push("no unit to restart".to_owned());
    }
    format!("secret {}: {}", change.name, parts.join(", "))
}

fn packages(e: &Effects) -> Option<String> {
    let packages = e.packages.as_ref()?;
    let named = |p: &Package| match (p.from.as_slice(), p.to.as_slice()) {
        ([], to) => format!("+{} {}", p.name, to.join(", ")),
        (from, []) => format!("−{} {}", p.name, from.join(", ")),
        (from, to) => format!("{} {} → {}", p.name, from.join(", "), to.join(", ")),
    };
    let all = &packages.changes;
    let mut text = all
        .iter()
        .take(PACKAGES_NAMED)
        .map(named)
        .collect::<Vec<_>>()
        .join(", ");
    if all.len() > PACKAGES_NAMED {
        text.push_str(&format!(" (+{})", all.len() - PACKAGES_NAMED));
    }
    if packages.known == Known::Derivations && !text.is_empty() {
        text.push_str(" (by derivations)");
    }
    if let Some(delta) = e.size.and_then(delta) {
        if text.is_empty() {
            text.push_str("same packages");
        }
        text.push_str(&format!(" ({delta})"));
    }
    Some(text.trim().to_owned())
}

fn delta(size: Size) -> Option<String> {
    match size.to.abs_diff(size.from) {
        0 => None,
        n if size.to > size.from => Some(format!("+{}", bytes(n))),
        n => Some(format!("−{}", bytes(n))),
    }
}

fn units(units: &Units) -> String {
    let mut parts = Vec::new();
    for (word, list) in [
        ("restart", &units.restart),
        ("reload", &units.reload),
        ("start", &units.start),
        ("stop", &units.stop),
        ("keep old", &units.keep),
    ] {
        if list.is_empty() {
            continue;
        }
        let mut names = list
            .iter()
            .take(UNITS_NAMED)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        if list.len() > UNITS_NAMED {
            names.push_str(&format!(" (+{})", list.len() - UNITS_NAMED));
        }
        parts.push(format!("{word} {names}"));
    }
    if parts.is_empty() {
        return "no unit restarts".to_owned();
    }
    parts.join(", ")
}

fn reboot(reboot: &Reboot) -> String {
    if reboot.because.is_empty() {
        return "no reboot".to_owned();
    }
    let policy = match reboot.policy {
        Policy::Never => ", by hand: its policy is never",
        _ => "",
    };
    format!("reboot for {}{policy}", reboot.because.join(", "))
}

/// Hosts with the same effects share a row.
pub fn markdown(plan: &Plan) -> String {
    let s = &plan.summary;
    let short = |r: &trueup_schema::Revision| r.sha1()[..7].to_owned();
    let from = plan.from.as_ref().map_or("nothing".to_owned(), |c| {
        format!("`{}`", short(&c.revision))
    });
    let affected = s.hosts - s.unchanged;
    let mut text = format!(
        "**trueup plan** for {from} → `{}`: {affected} of {} hosts change",
        short(&plan.to.revision),
        s.hosts
    );
    if s.fails > 0 {
        text.push_str(&format!(", **{} fail**", s.fails));
    }
    text.push_str("\n\n");
    let mut groups: BTreeMap<[String; 5], Vec<String>> = BTreeMap::new();
    for host in plan.hosts.iter().filter(|h| h.change != Change::Unchanged) {
        groups
            .entry(cells(host))
            .or_default()
            .push(format!("**{}**", host.name));
    }
    if !groups.is_empty() {
        text.push_str(
            "| host | change | packages | units | reboot | download |\n|---|---|---|---|---|---|\n",
        );
        for (cells, hosts) in groups {
            text.push_str(&format!(
                "| {} | {} |\n",
                hosts.join(", "),
                cells.join(" | ")
            ));
        }
        text.push('\n');
    }
    for host in &plan.hosts {
        for warning in &host.warnings {
            text.push_str(&format!(
                "- {}: nix warns: {}\n",
                host.name,
                escape(warning)
            ));
        }
        if let Some(trace) = &host.trace {
            text.push_str(&format!(
                "<details><summary>{} fails: {}</summary>\n\n```\n{}\n```\n</details>\n",
                host.name,
                escape(host.problem.as_deref().unwrap_or_default()),
                trace.replace("```", "'''"),
            ));
        }
    }
    for note in &plan.notes {
        text.push_str(&format!("- {}\n", escape(note)));
    }
    text
}

fn cells(host: &HostPlan) -> [String; 5] {
    let e = &host.effects;
    let dash = || "–".to_owned();
    let mut change = vec![host.change.word().to_owned()];
    if host.change == Change::Fails {
        change = vec![
            "**fails**".to_owned(),
            host.problem.clone().unwrap_or_default(),
        ];
    }
    change.extend(host.manifest.iter().map(field));
    change.extend(host.secrets.iter().map(secret));
    let differs = host.closure_from.is_some()
        && host.closure_to.is_some()
        && host.closure_from != host.closure_to;
    let unknown = || {
        if differs {
            "not known until built"
        } else {
            "–"
        }
        .to_owned()
    };
    [
        change.join(": "),
        packages(e).map_or_else(unknown, |t| if t.is_empty() { dash() } else { t }),
        e.units
            .as_ref()
            .map_or_else(unknown, |u| if u.is_empty() { dash() } else { units(u) }),
        match &e.reboot {
            None => unknown(),
            Some(r) if r.because.is_empty() => "no".to_owned(),
            Some(r) => format!("**yes**: {}", r.because.join(", ")),
        },
        e.size.map_or_else(dash, |s| bytes(s.download)),
    ]
    .map(|cell| escape(&cell))
}

/// One line, and no bar that would end a cell.
fn escape(text: &str) -> String {
    text.replace('|', "\\|")
        .replace('\n', " ")
        .replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_can_not_break_a_table() {
        assert_eq!(escape("a|b\n<script>"), "a\\|b &lt;script>");
    }
}
