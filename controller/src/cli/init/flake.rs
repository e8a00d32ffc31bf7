//! What a flake says of its machines, to hosts of a fleet: pure. Whatever is not taken over is named, with what to do.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use trueup_schema::kind::{HostKey, Jump};
use trueup_schema::{Address, HostName, System};

use super::tools::{of_colmena, of_deploy};

/// Where a host key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This person accepted it before.
    KnownHosts,
    /// The machine showed it just now; nobody compared it.
    Scanned,
}

/// A host to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    pub name: HostName,
    /// Its name in the flake.
    pub attribute: String,
    /// Its closure is that of `nixosConfigurations`, else that of `colmenaHive.nodes`.
    pub in_nixos: bool,
    pub in_hive: bool,
    pub system: Option<System>,
    pub address: Option<Address>,
    pub user: Option<String>,
    pub port: Option<u16>,
    pub jump: Option<Jump>,
    pub become_root: bool,
    pub confirm_secs: Option<u64>,
    pub activation_secs: Option<u64>,
    pub labels: BTreeSet<String>,
    /// Other hosts of the flake are deployed by a tool, and this one is not: it is only looked at.
    pub observe: bool,
    pub keys: Vec<(HostKey, Origin)>,
}

/// Something that was not taken over, or has to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// A host, a node, an output.
    pub subject: String,
    pub what: String,
}

/// As the flake's outputs came; `Null`: it has none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    pub nixos: Value,
    pub deploy: Value,
    pub colmena: Value,
    pub hive: Value,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drafts {
    pub hosts: Vec<Draft>,
    pub notes: Vec<Note>,
}

impl Drafts {
    pub fn note(&mut self, subject: &str, what: impl Into<String>) {
        self.notes.push(Note {
            subject: subject.to_owned(),
            what: what.into(),
        });
    }
}

pub(super) fn names(list: &Value) -> Vec<&str> {
    list.as_array()
        .map_or_else(Vec::new, |a| a.iter().filter_map(Value::as_str).collect())
}

pub(super) fn keys(set: &Value) -> Vec<&str> {
    set.as_object()
        .map_or_else(Vec::new, |o| o.keys().map(String::as_str).collect())
}

/// The hosts, without their platforms.
pub fn drafts(seen: &Seen) -> Drafts {
    let mut out = Drafts::default();
    let nixos: BTreeSet<&str> = names(&seen.nixos).into_iter().collect();
    let hive: BTreeSet<&str> = names(&seen.hive).into_iter().collect();
    let deployed = keys(&seen.deploy["nodes"]);
    let raw = keys(&seen.colmena["nodes"]);
    let managed: BTreeSet<&str> = deployed
        .iter()
        .chain(&raw)
        .copied()
        .chain(hive.iter().copied())
        .collect();
    let mut taken = BTreeMap::new();
    for attribute in nixos.union(&hive) {
        let Some(name) = host_name(attribute) else {
            out.note(
                attribute,
                "no DNS label can be made of its name: write a Host with `closure` by hand",
            );
            continue;
        };
        if let Some(other) = taken.insert(name.clone(), *attribute) {
            out.note(attribute, format!("`{other}` is the host {name} already: write a Host with another name and `closure` by hand"));
            taken.insert(name, other);
            continue;
        }
        if name.as_str() != *attribute {
            out.note(
                attribute,
                format!("is the host {name}: names are DNS labels"),
            );
        }
        out.hosts.push(Draft {
            name,
            attribute: (*attribute).to_owned(),
            // What colmena deployed is what runs there, and its `meta` and `defaults` may make it another closure.
            in_nixos: nixos.contains(attribute)
                && (deployed.contains(attribute) || !hive.contains(attribute)),
            in_hive: hive.contains(attribute),
            system: None,
            address: None,
            user: None,
            port: None,
            jump: None,
            become_root: false,
            confirm_secs: None,
            activation_secs: None,
            labels: BTreeSet::new(),
            observe: !managed.is_empty() && !managed.contains(attribute),
            keys: Vec::new(),
        });
    }
    for node in deployed
        .iter()
        .filter(|n| !nixos.contains(*n) && !hive.contains(*n))
    {
        out.note(
            node,
            format!("deploy.nodes has it and nixosConfigurations has not: write a Host with `closure` by hand, or name the configuration `{node}`"),
        );
    }
    for node in raw
        .iter()
        .filter(|n| !nixos.contains(*n) && !hive.contains(*n))
    {
        out.note(
            node,
            "only `colmena` has it: add `colmenaHive = colmena.lib.makeHive self.outputs.colmena;` to the flake (or nixosConfigurations), then run init again",
        );
    }
    let mut hosts = std::mem::take(&mut out.hosts);
    two_closures(&hosts, &nixos, &raw, &deployed, &mut out);
    for draft in &mut hosts {
        if draft.observe {
            out.note(&draft.attribute, "no tool deploys it: written with `delivery: observe`; take that line out to have it deployed");
        }
        let node = &seen.deploy["nodes"][&draft.attribute];
        if node.is_object() {
            of_deploy(draft, &seen.deploy, node, &mut out);
        }
        let node = &seen.colmena["nodes"][&draft.attribute];
        if node.is_object() && !draft.in_hive {
            of_colmena(draft, &seen.colmena["defaults"], node, &mut out);
        }
    }
    out.hosts = hosts;
    out
}

/// A host that colmena deploys and that `nixosConfigurations` has as well: said once, for all of them.
fn two_closures(
    hosts: &[Draft],
    nixos: &BTreeSet<&str>,
    raw: &[&str],
    deployed: &[&str],
    out: &mut Drafts,
) {
    let count = |of: &dyn Fn(&Draft) -> bool| hosts.iter().filter(|d| of(d)).count();
    let own = count(&|d| d.in_hive && !d.in_nixos && nixos.contains(d.attribute.as_str()));
    if own > 0 {
        out.note("colmenaHive", format!("nixosConfigurations has {own} of its nodes too: `closure` is what colmena builds of them, since that is what they run"));
    }
    let raw_only = count(&|d| {
        let name = &d.attribute.as_str();
        !d.in_hive && raw.contains(name) && !deployed.contains(name)
    });
    if raw_only > 0 {
        out.note("colmena", format!("{raw_only} of its nodes get the closure of nixosConfigurations, without what colmena's `meta` and `defaults` add: with `colmenaHive = colmena.lib.makeHive self.outputs.colmena;` in the flake init takes colmena's own; `trueup plan` shows a difference"));
    }
}

/// A DNS label of it, if that can be.
fn host_name(attribute: &str) -> Option<HostName> {
    let text: String = attribute
        .chars()
        .map(|c| {
            if c == '_' || c == '.' {
                '-'
            } else {
                c.to_ascii_lowercase()
            }
        })
        .collect();
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn v(value: Value) -> Value {
        json!({ "v": value })
    }

    fn one(seen: &Seen) -> (Draft, Vec<String>) {
        let Drafts { hosts, notes } = drafts(seen);
        let notes = notes
            .into_iter()
            .map(|n| format!("{}: {}", n.subject, n.what));
        (hosts[0].clone(), notes.collect())
    }

    #[test]
    fn the_innermost_level_of_deploy_rs_wins_and_ssh_options_add_up() {
        let seen = Seen {
            nixos: json!(["web-1"]),
            deploy: json!({
                "sshUser": v(json!("deploy")), "confirmTimeout": v(json!(40)), "sshOpts": v(json!(["-i", "/k"])),
                "nodes": {"web-1": {
                    "hostname": v(json!("10.0.0.1")), "confirmTimeout": v(json!(50)), "sshOpts": v(json!(["-p", "2222", "-oProxyJump=bastion"])),
                    "magicRollback": v(json!(false)),
                    "profiles": {"system": {"confirmTimeout": v(json!(60))}, "home": {}},
                }},
            }),
            ..Seen::default()
        };
        let (host, notes) = one(&seen);
        assert_eq!(host.address.unwrap().as_str(), "10.0.0.1");
        assert_eq!(
            (host.user.as_deref(), host.become_root),
            (Some("deploy"), true)
        );
        assert_eq!((host.port, host.confirm_secs), (Some(2222), Some(60)));
        assert_eq!(host.jump.unwrap().as_str(), "bastion");
        for part in [
            "profiles home stay",
            "magicRollback = false",
            "`-i /k` is not taken over",
        ] {
            assert!(notes.iter().any(|n| n.contains(part)), "{part}: {notes:#?}");
        }
        assert_eq!(notes.len(), 3, "{notes:#?}");
    }

    #[test]
    fn odd_and_hostile_values_are_named_and_not_written() {
        let seen = Seen {
            nixos: json!(["Web_1", "web-1", "-", "x"]),
            colmena: json!({"defaults": {}, "nodes": {
                "web-1": {
                    "targetHost": v(json!("-oProxyCommand=touch /tmp/x")), "targetUser": v(json!("root; reboot")),
                    "targetPort": v(json!(70000)), "tags": v(json!(["web", "a b", "-x"])), "buildOnTarget": {"odd": "a lambda"},
                    "keys": ["a"],
                },
                "x": {"odd": true},
                "gone": {},
            }}),
            ..Seen::default()
        };
        let all = drafts(&seen);
        let names: Vec<&str> = all.hosts.iter().map(|h| h.name.as_str()).collect();
        assert_eq!(names, ["web-1", "x"], "`Web_1` came first");
        assert!(all.hosts[0].observe, "no tool has Web_1");
        let text: Vec<String> = all
            .notes
            .iter()
            .map(|n| format!("{}: {}", n.subject, n.what))
            .collect();
        for part in [
            "-: no DNS label",
            "web-1: `Web_1` is the host web-1 already",
            "x: its `deployment`",
            "gone: only `colmena` has it",
        ] {
            assert!(text.iter().any(|n| n.contains(part)), "{part}: {text:#?}");
        }
        // The same under a name of its own.
        let mut draft = Draft {
            attribute: "web-1".to_owned(),
            observe: false,
            ..all.hosts[0].clone()
        };
        let mut out = Drafts::default();
        of_colmena(
            &mut draft,
            &json!({}),
            &seen.colmena["nodes"]["web-1"],
            &mut out,
        );
        assert_eq!((draft.address, draft.user, draft.port), (None, None, None));
        assert_eq!(draft.labels.iter().collect::<Vec<_>>(), ["web"]);
        assert_eq!(out.notes.len(), 7, "{:#?}", out.notes);
    }
}
