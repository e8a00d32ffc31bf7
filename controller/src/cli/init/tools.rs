//! What deploy-rs and colmena say of one machine, to a draft of its host: pure.

use serde_json::Value;
use trueup_schema::Address;

use super::flake::{Draft, Drafts, keys, names};

/// What `activation.confirmTimeout` and `activation.activationTimeout` allow, in seconds.
const TIMEOUT: std::ops::RangeInclusive<u64> = 1..=24 * 3600;
/// More labels of one host than these come from no tags of a person.
const LABELS_MAX: usize = 32;

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

pub fn of_deploy(draft: &mut Draft, top: &Value, node: &Value, out: &mut Drafts) {
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
