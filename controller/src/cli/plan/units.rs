//! What a switch does to units, by the rules of NixOS' switch-to-configuration: a function of two sets of unit files.
//! Which units run on a host is not known here: one that a target wants is taken to run.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// Kinds of files that are units.
const KINDS: [&str; 8] = [
    ".service",
    ".socket",
    ".timer",
    ".path",
    ".mount",
    ".automount",
    ".swap",
    ".target",
];
/// Keys of `[Unit]` whose change does nothing.
const NO_MATTER: [&str; 12] = [
    "Description",
    "Documentation",
    "OnFailure",
    "OnSuccess",
    "OnFailureJobMode",
    "IgnoreOnIsolate",
    "StopWhenUnneeded",
    "RefuseManualStart",
    "RefuseManualStop",
    "AllowIsolate",
    "CollectMode",
    "SourcePath",
];
const RELOAD_TRIGGERS: &str = "X-Reload-Triggers";

/// A unit: its file with its drop-ins, and whether a target asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    pub text: String,
    pub wanted: bool,
}

/// All units of a closure, by name.
pub type Set = BTreeMap<String, Unit>;

/// What happens to which.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Units {
    pub restart: Vec<String>,
    pub reload: Vec<String>,
    pub start: Vec<String>,
    pub stop: Vec<String>,
    /// Changed, and left running as they are.
    pub keep: Vec<String>,
}

impl Units {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

pub fn is_unit(name: &str) -> bool {
    KINDS.iter().any(|kind| name.ends_with(kind))
}

/// From one closure to the other.
pub fn effects(before: &Set, after: &Set) -> Units {
    let mut found = Units::default();
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let list = match (before.get(name), after.get(name)) {
            (Some(old), Some(new)) => match changed(name, &old.text, &new.text) {
                Some(Effect::Restart) => &mut found.restart,
                Some(Effect::Reload) => &mut found.reload,
                Some(Effect::Keep) => &mut found.keep,
                None => continue,
            },
            (None, Some(new)) if new.wanted && !name.ends_with(".target") => &mut found.start,
            (Some(old), None) if old.wanted && !is(&parse(&old.text), "X-StopOnRemoval", false) => {
                &mut found.stop
            }
            _ => continue,
        };
        list.push(name.clone());
    }
    found
}

enum Effect {
    Restart,
    Reload,
    Keep,
}

type Sections = BTreeMap<String, BTreeMap<String, Vec<String>>>;

fn parse(text: &str) -> Sections {
    let (mut sections, mut at) = (Sections::new(), String::new());
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            name.clone_into(&mut at);
        } else if let Some((key, value)) = line.split_once('=') {
            let section = sections.entry(at.clone()).or_default();
            let values = section.entry(key.trim().to_owned()).or_default();
            values.push(value.trim().to_owned());
        }
    }
    sections
}

/// Does any section say that `key` is `value`?
fn is(sections: &Sections, key: &str, value: bool) -> bool {
    let words: &[&str] = if value {
        &["1", "yes", "true", "on"]
    } else {
        &["0", "no", "false", "off"]
    };
    let last = |s: &BTreeMap<String, Vec<String>>| s.get(key)?.last().cloned();
    sections
        .values()
        .filter_map(last)
        .any(|v| words.contains(&v.to_ascii_lowercase().as_str()))
}

fn changed(name: &str, old: &str, new: &str) -> Option<Effect> {
    let (mut old, mut new) = (parse(old), parse(new));
    let mut reload_triggers = false;
    for side in [&mut old, &mut new] {
        side.remove("Install");
    }
    let unit = |s: &Sections, key: &str| s.get("Unit").and_then(|u| u.get(key)).cloned();
    if unit(&old, RELOAD_TRIGGERS) != unit(&new, RELOAD_TRIGGERS) {
        reload_triggers = true;
    }
    let flags = new.clone();
    for side in [&mut old, &mut new] {
        if let Some(unit) = side.get_mut("Unit") {
            unit.retain(|key, _| key != RELOAD_TRIGGERS && !NO_MATTER.contains(&key.as_str()));
        }
    }
    if old == new {
        return reload_triggers.then_some(Effect::Reload);
    }
    let kind = KINDS.iter().find(|kind| name.ends_with(**kind))?;
    match *kind {
        ".target" => None,
        ".mount" => Some(Effect::Reload),
        ".socket" | ".path" | ".automount" | ".swap" => Some(Effect::Keep),
        _ if is(&flags, "X-ReloadIfChanged", true) => Some(Effect::Reload),
        _ if is(&flags, "X-RestartIfChanged", false)
            || is(&flags, "RefuseManualStop", true)
            || is(&flags, "X-OnlyManualStart", true)
            || name.contains("@.") =>
        {
            Some(Effect::Keep)
        }
        _ => Some(Effect::Restart),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(units: &[(&str, &str)]) -> Set {
        let unit = |text: &str| Unit {
            text: text.to_owned(),
            wanted: true,
        };
        units
            .iter()
            .map(|(n, t)| ((*n).to_owned(), unit(t)))
            .collect()
    }

    #[test]
    fn each_flag_has_its_effect() {
        for (name, old, new, want) in [
            (
                "a.service",
                "[Service]\nExecStart=1",
                "[Service]\nExecStart=2",
                "restart",
            ),
            (
                "a.service",
                "[Unit]\nDescription=1",
                "[Unit]\nDescription=2",
                "",
            ),
            (
                "a.service",
                "[Install]\nWantedBy=a",
                "[Install]\nWantedBy=b",
                "",
            ),
            (
                "a.service",
                "# one\n[Service]\nExecStart=1",
                "[Service]\n\nExecStart = 1",
                "",
            ),
            (
                "a.service",
                "[Unit]\nX-Reload-Triggers=1",
                "[Unit]\nX-Reload-Triggers=2",
                "reload",
            ),
            (
                "a.service",
                "[Unit]\nX-Restart-Triggers=1",
                "[Unit]\nX-Restart-Triggers=2",
                "restart",
            ),
            (
                "a.service",
                "[Service]\nA=1",
                "[Unit]\nX-ReloadIfChanged=true\n[Service]\nA=2",
                "reload",
            ),
            (
                "a.service",
                "[Service]\nA=1",
                "[Unit]\nX-RestartIfChanged=false\n[Service]\nA=2",
                "keep",
            ),
            ("a@.service", "[Service]\nA=1", "[Service]\nA=2", "keep"),
            (
                "a.socket",
                "[Socket]\nListenStream=1",
                "[Socket]\nListenStream=2",
                "keep",
            ),
            (
                "a.timer",
                "[Timer]\nOnCalendar=1",
                "[Timer]\nOnCalendar=2",
                "restart",
            ),
            (
                "a.mount",
                "[Mount]\nOptions=1",
                "[Mount]\nOptions=2",
                "reload",
            ),
            ("a.target", "[Unit]\nAfter=1", "[Unit]\nAfter=2", ""),
        ] {
            let found = effects(&set(&[(name, old)]), &set(&[(name, new)]));
            let got = match &found {
                u if !u.restart.is_empty() => "restart",
                u if !u.reload.is_empty() => "reload",
                u if !u.keep.is_empty() => "keep",
                _ => "",
            };
            assert_eq!(got, want, "{name}: {old:?} to {new:?}");
        }
    }

    #[test]
    fn new_units_start_and_removed_ones_stop() {
        let found = effects(&set(&[("old.service", "")]), &set(&[("new.service", "")]));
        assert_eq!(found.start, ["new.service"]);
        assert_eq!(found.stop, ["old.service"]);
        let kept = set(&[("old.service", "[Unit]\nX-StopOnRemoval=false")]);
        assert!(effects(&kept, &Set::new()).is_empty());
    }
}
