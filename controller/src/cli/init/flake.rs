//! What a flake says of its machines, to hosts of a fleet: pure. Whatever is not taken over is named, with what to do.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use trueup_schema::kind::{HostKey, Jump};
use trueup_schema::{Address, HostName, System};

/// What `activation.confirmTimeout` and `activation.activationTimeout` allow, in seconds.
const TIMEOUT: std::ops::RangeInclusive<u64> = 1..=24 * 3600;
/// More labels of one host than these come from no tags of a person.
const LABELS_MAX: usize = 32;

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

fn names(list: &Value) -> Vec<&str> {
    list.as_array()
        .map_or_else(Vec::new, |a| a.iter().filter_map(Value::as_str).collect())
}

fn keys(set: &Value) -> Vec<&str> {
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

/// One setting of one host: what the innermost level says. What is odd is told, and is as if nobody said anything.
struct Levels<'a> {
    levels: Vec<&'a Value>,
    subject: &'a str,
    tool: &'a str,
}

impl<'a> Levels<'a> {
    fn get(&self, key: &str, out: &mut Drafts) -> Option<&'a Value> {
        let said = self
            .levels
            .iter()
            .map(|l| &l[key])
            .find(|v| v.is_object())?;
        if let Some(odd) = said["odd"].as_str() {
            out.note(
                self.subject,
                format!("{} `{key}` is {odd}: not taken over", self.tool),
            );
        }
        said.get("v").filter(|v| !v.is_null())
    }

    fn all(&self, key: &str) -> Vec<&'a str> {
        self.levels
            .iter()
            .flat_map(|l| names(&l[key]["v"]))
            .collect()
    }

    fn text(&self, key: &str, out: &mut Drafts) -> Option<&'a str> {
        let value = self.get(key, out)?;
        let text = value.as_str();
        if text.is_none() {
            self.wrong(key, value, out);
        }
        text
    }

    fn wrong(&self, key: &str, value: &Value, out: &mut Drafts) {
        let value: String = value.to_string().chars().take(80).collect();
        out.note(
            self.subject,
            format!("{} `{key}` is {value}: not taken over", self.tool),
        );
    }

    fn parsed<T: std::str::FromStr>(&self, key: &str, out: &mut Drafts) -> Option<T> {
        let text = self.text(key, out)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.wrong(key, &Value::from(text), out);
        }
        parsed
    }

    fn user(&self, key: &str, out: &mut Drafts) -> Option<String> {
        let text = self.text(key, out)?;
        let fits = |(n, c): (usize, char)| {
            c.is_ascii_lowercase() || c == '_' || (n > 0 && (c.is_ascii_digit() || c == '-'))
        };
        let good = (1..=32).contains(&text.len()) && text.chars().enumerate().all(fits);
        if !good {
            self.wrong(key, &Value::from(text), out);
        }
        good.then(|| text.to_owned())
    }

    fn secs(&self, key: &str, out: &mut Drafts) -> Option<u64> {
        let value = self.get(key, out)?;
        let secs = value.as_u64().filter(|s| TIMEOUT.contains(s));
        if secs.is_none() {
            self.wrong(key, value, out);
        }
        secs
    }
}

fn of_deploy(draft: &mut Draft, top: &Value, node: &Value, out: &mut Drafts) {
    let attribute = draft.attribute.clone();
    let profile = &node["profiles"]["system"];
    let from = Levels {
        levels: vec![profile, node, top],
        subject: &attribute,
        tool: "deploy-rs'",
    };
    let others: Vec<&str> = keys(&node["profiles"])
        .into_iter()
        .filter(|p| *p != "system")
        .collect();
    if !others.is_empty() {
        out.note(
            &attribute,
            format!(
                "profiles {} stay with deploy-rs: trueup deploys the system alone",
                others.join(", ")
            ),
        );
    }
    if !profile.is_object() {
        out.note(
            &attribute,
            "deploy.nodes has no profile `system` for it: is it NixOS?",
        );
    }
    draft.address = from.parsed("hostname", out);
    draft.user = from.user("sshUser", out).filter(|u| u != "root");
    draft.become_root = draft.user.is_some();
    draft.confirm_secs = from.secs("confirmTimeout", out);
    draft.activation_secs = from.secs("activationTimeout", out);
    let options = from.all("sshOpts");
    ssh_options(draft, &options, "deploy-rs'", out);
    let is = |key: &str, what: bool, out: &mut Drafts| {
        from.get(key, out).and_then(Value::as_bool) == Some(what)
    };
    if is("magicRollback", false, out) {
        out.note(&attribute, "magicRollback = false: trueup waits for a new connection all the same; `activation.confirm: none` turns that off");
    }
    if is("autoRollback", false, out) {
        out.note(&attribute, "autoRollback = false: trueup rolls back all the same; `activation.failedUnits.policy: report` turns that off for units");
    }
    if is("remoteBuild", true, out) {
        out.note(&attribute, "remoteBuild is not taken over: builds begin in the hub's store; a Builder can be that machine");
    }
    if is("interactiveSudo", true, out) {
        out.note(
            &attribute,
            "interactiveSudo is not taken over: `ssh.become` needs sudo without a password",
        );
    }
    if let Some(sudo) = from.text("sudo", out).filter(|s| !s.starts_with("sudo ")) {
        let sudo: String = sudo.chars().take(80).collect();
        out.note(
            &attribute,
            format!("sudo = \"{sudo}\" is not taken over: trueup becomes root by sudo"),
        );
    }
}

/// What a hive says of one node; `defaults` stand behind it.
pub fn of_colmena(draft: &mut Draft, defaults: &Value, node: &Value, out: &mut Drafts) {
    let attribute = draft.attribute.clone();
    if node["odd"] == true {
        let what = "its `deployment` is only known to the module system: add colmenaHive to the flake, or look through its Host";
        out.note(&attribute, what);
        return;
    }
    if node["elsewhere"] == true {
        let what = "says nothing of its `deployment` but in its `imports`, which are only known to the module system: add colmenaHive to the flake, or look through its Host";
        out.note(&attribute, what);
    }
    if defaults["odd"] == true || defaults["elsewhere"] == true {
        let what = "what colmena's `defaults` say of `deployment` is only known to the module system: add colmenaHive to the flake, or look through its Host";
        out.note(&attribute, what);
    }
    let from = Levels {
        levels: vec![node, defaults],
        subject: &attribute,
        tool: "colmena's",
    };
    if let Some(address) = from.parsed::<Address>("targetHost", out) {
        match &draft.address {
            Some(other) if *other != address => {
                out.note(&attribute, format!("colmena's targetHost is {address} and deploy-rs' hostname {other}: the latter is taken"));
            }
            _ => draft.address = Some(address),
        }
    } else if node["targetHost"].get("v").is_some_and(Value::is_null) {
        out.note(&attribute, "colmena does not reach it over SSH (targetHost = null): its address is taken to be its name");
    }
    if let Some(user) = from.user("targetUser", out)
        && draft.user.is_none()
    {
        draft.user = Some(user).filter(|u| u != "root");
        draft.become_root = draft.user.is_some();
    }
    if let Some(port) = from.get("targetPort", out) {
        match port
            .as_u64()
            .and_then(|p| u16::try_from(p).ok())
            .filter(|p| *p > 0)
        {
            Some(port) => draft.port = draft.port.or(Some(port)),
            None => from.wrong("targetPort", port, out),
        }
    }
    let (tags, _told_if_odd) = (from.all("tags"), from.get("tags", out).is_some());
    for tag in tags {
        if is_label(tag) && draft.labels.len() < LABELS_MAX {
            draft.labels.insert(tag.to_owned());
        } else {
            let tag: String = tag.chars().take(80).collect();
            out.note(
                &attribute,
                format!("the tag `{tag}` is no label: not taken over"),
            );
        }
    }
    let options = from.all("sshOptions");
    ssh_options(draft, &options, "colmena's", out);
    for (key, instead) in [
        (
            "allowLocalDeployment",
            "trueup comes over SSH, to its own machine too",
        ),
        (
            "buildOnTarget",
            "builds begin in the hub's store; a Builder can be that machine",
        ),
    ] {
        if from.get(key, out).and_then(Value::as_bool) == Some(true) {
            out.note(&attribute, format!("{key} is not taken over: {instead}"));
        }
    }
    let escalation = from.all("privilegeEscalationCommand");
    if escalation.first().is_some_and(|first| *first != "sudo") {
        out.note(
            &attribute,
            "privilegeEscalationCommand is not taken over: trueup becomes root by sudo",
        );
    }
    let secrets = names(&node["keys"]).len() + names(&defaults["keys"]).len();
    if secrets > 0 {
        out.note(&attribute, format!("{secrets} of deployment.keys are not taken over: they stay on the host until it reboots; docs/secrets.md"));
    }
}

fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(inner)
}

/// Words for ssh: port and jump host are a manifest's, the rest is for `~/.ssh/config`.
fn ssh_options(draft: &mut Draft, words: &[&str], tool: &str, out: &mut Drafts) {
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        let (flag, glued) = word.split_at_checked(2).unwrap_or((word, ""));
        let takes_one = ["-p", "-J", "-o", "-i", "-l", "-F"].contains(&flag);
        let value = if !takes_one {
            ""
        } else if glued.is_empty() {
            words.next().unwrap_or_default()
        } else {
            glued.trim_start()
        };
        let (key, value) = match flag {
            "-p" => ("port", value),
            "-J" => ("proxyjump", value),
            "-o" => value
                .split_once(['=', ' '])
                .map_or((value, ""), |(k, v)| (k.trim(), v.trim())),
            _ => (word, value),
        };
        let took = match key.to_ascii_lowercase().as_str() {
            "port" => value
                .parse()
                .ok()
                .filter(|p| *p > 0)
                .map(|p| draft.port = Some(p)),
            "proxyjump" => value.parse().ok().map(|j| draft.jump = Some(j)),
            _ => None,
        };
        if took.is_none() {
            let what: String = format!(
                "{word} {}",
                if takes_one && glued.is_empty() {
                    value
                } else {
                    ""
                }
            );
            let what: String = what.trim().chars().take(80).collect();
            let at = draft.attribute.clone();
            out.note(&at, format!("{tool} ssh option `{what}` is not taken over: put it into the ssh configuration that trueup uses (ssh.configFile)"));
        }
    }
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
