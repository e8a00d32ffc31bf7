//! Drafts as the two files of a fleet. Every text of the flake is written as YAML's quoted form unless it is plainly a word.

use std::fmt::Write as _;

use trueup_schema::System;

use super::flake::{Draft, Origin};
use crate::edge::keyscan::fingerprint;

const API: &str = "apiVersion: trueup/v1alpha1\n";

/// `fleet.yaml`.
pub fn fleet(name: &str, system: &System) -> String {
    format!(
        "{API}kind: Fleet\nmetadata:\n  name: {}\nspec:\n  # Until a person says `trueup adopt host/NAME`, a host is only looked at.\n  adopt: manual\n  \
         defaults:\n    system: {}\n",
        word(name),
        word(system.as_str())
    )
}

/// `hosts.yaml`. `day`: when keys were scanned.
pub fn hosts(drafts: &[Draft], system: &System, day: &str) -> String {
    let all: Vec<String> = drafts.iter().map(|d| host(d, system, day)).collect();
    all.join("---\n")
}

fn host(d: &Draft, system: &System, day: &str) -> String {
    let mut out = format!(
        "{API}kind: Host\nmetadata:\n  name: {}\n",
        word(d.name.as_str())
    );
    if !d.labels.is_empty() {
        let labels: Vec<String> = d
            .labels
            .iter()
            .map(|l| format!("{}: \"true\"", word(l)))
            .collect();
        line(&mut out, 1, &format!("labels: {{{}}}", labels.join(", ")));
    }
    out.push_str("spec:\n");
    if let Some(own) = d.system.as_ref().filter(|s| *s != system) {
        line(&mut out, 1, &format!("system: {}", word(own.as_str())));
    }
    if let Some(attribute) = closure(d) {
        line(&mut out, 1, &format!("closure: {}", word(&attribute)));
    }
    match &d.address {
        Some(address) => line(&mut out, 1, &format!("address: {}", word(address.as_str()))),
        None => line(
            &mut out,
            1,
            &format!(
                "address: {} # its name: is it found by that?",
                word(d.name.as_str())
            ),
        ),
    }
    line(&mut out, 1, "ssh:");
    line(
        &mut out,
        2,
        &format!("user: {}", word(d.user.as_deref().unwrap_or("root"))),
    );
    if d.become_root {
        line(&mut out, 2, "become: true");
    }
    if let Some(port) = d.port {
        line(&mut out, 2, &format!("port: {port}"));
    }
    if let Some(jump) = &d.jump {
        line(&mut out, 2, &format!("jump: {}", word(jump.as_str())));
    }
    if d.keys.is_empty() {
        line(
            &mut out,
            2,
            "# No host key yet, and without one it is not connected to: `cat /etc/ssh/ssh_host_ed25519_key.pub` on it.",
        );
        line(&mut out, 2, "# hostKeys: [\"ssh-ed25519 AAAA…\"]");
    } else {
        line(&mut out, 2, "hostKeys:");
        for (key, origin) in &d.keys {
            let how = match origin {
                Origin::KnownHosts => "from the known_hosts of whoever ran init".to_owned(),
                Origin::Scanned => format!(
                    "shown by the machine on {day}, NOT COMPARED: `ssh-keygen -lf /etc/ssh/ssh_host_{}_key.pub` on it",
                    file_kind(key.kind())
                ),
            };
            line(&mut out, 3, &format!("# {} {how}", fingerprint(key)));
            line(&mut out, 3, &format!("- {}", word(&key.to_string())));
        }
    }
    if d.observe {
        line(
            &mut out,
            1,
            "# No other tool of this flake deploys it. Without this line trueup does, once it is adopted.",
        );
        line(&mut out, 1, "delivery: observe");
    }
    if d.confirm_secs.is_some() || d.activation_secs.is_some() {
        line(&mut out, 1, "activation:");
        for (key, secs) in [
            ("confirmTimeout", d.confirm_secs),
            ("activationTimeout", d.activation_secs),
        ] {
            if let Some(secs) = secs {
                line(&mut out, 2, &format!("{key}: {secs}s"));
            }
        }
    }
    out
}

fn line(out: &mut String, depth: usize, text: &str) {
    let _infallible = writeln!(out, "{:1$}{text}", "", depth * 2);
}

fn file_kind(kind: &str) -> &'static str {
    match kind {
        "ssh-ed25519" => "ed25519",
        "ssh-rsa" => "rsa",
        _ => "ecdsa",
    }
}

/// `None`: what trueup takes anyway.
fn closure(d: &Draft) -> Option<String> {
    if d.in_nixos && d.attribute == d.name.as_str() {
        return None;
    }
    let from = if d.in_nixos {
        "nixosConfigurations"
    } else {
        "colmenaHive.nodes"
    };
    let plain = d
        .attribute
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    let part = if plain {
        d.attribute.clone()
    } else {
        format!("\"{}\"", d.attribute)
    };
    Some(format!("{from}.{part}.config.system.build.toplevel"))
}

/// A word as it stands where no YAML reader takes it for anything else, else in quotes (JSON's are YAML's).
fn word(text: &str) -> String {
    let first = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let inner = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_./+= ".contains(c));
    let other = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let taken = other.contains(&text.to_ascii_lowercase().as_str());
    if first && inner && !taken && !text.ends_with(' ') {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reader_could_take_for_something_else_is_quoted() {
        for (text, as_yaml) in [
            ("web-1", "web-1"),
            ("1", "\"1\""),
            ("no", "\"no\""),
            ("10.0.0.1", "\"10.0.0.1\""),
            ("fe80::1", "\"fe80::1\""),
            ("a: b", "\"a: b\""),
            ("x\ny", "\"x\\ny\""),
            ("", "\"\""),
        ] {
            assert_eq!(word(text), as_yaml);
        }
    }
}
