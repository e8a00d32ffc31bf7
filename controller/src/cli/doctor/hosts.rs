//! Each host over SSH, beside each other: reached, by a pinned key, as root, with Nix that trusts us, an agent that can run,
//! a boot loader, room and the time; whether it is adopted, and who else deploys to it.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use trueup_engine::ports::{Target, TransportError, TransportFault};
use trueup_schema::kind::{FleetManifests, ResolvedHost};
use trueup_schema::{HostName, Timestamp};

use super::super::Ctx;
use super::super::client::Client;
use super::super::output::bytes;
use super::{Finding, bad, good, warning};
use crate::edge::keys::{STORE_KEY, StoreKey};
use crate::edge::ssh::{Probe, SshHosts};
use crate::run;
use crate::settings::Settings;

/// One host is given no longer, whatever it does: a login on a busy one takes most of it.
const WALL: Duration = Duration::from_secs(20);
/// Hosts that are asked at once.
const AT_ONCE: usize = 16;
/// A closure with a new kernel takes more than this.
const STORE_FREE_MIN: u64 = 1 << 30;
/// Two kernels with their initrds, at some 78 MiB each.
const BOOT_FREE_MIN: u64 = 160 << 20;
/// Intents are valid for five minutes; clocks further apart than this eat into that.
const SKEW_MAX_SECS: u64 = 60;

/// A host and what the controller knows of it.
pub struct Known {
    target: Target,
    /// `None`: nobody was asked.
    adopted: Option<bool>,
    /// Of the machine that was adopted.
    machine_id: Option<String>,
}

/// Keys that a manifest lacks are those that were seen at adoption.
pub fn known(fleet: &FleetManifests, client: Option<&Client>) -> Vec<Known> {
    let one = |host: &ResolvedHost| {
        let adoption = client
            .and_then(|c| c.describe(&host.name).ok())
            .map(|d| d.adoption);
        let mut target = target(host);
        if let (true, Some(Some(adoption))) = (target.host_keys.is_empty(), &adoption) {
            let identity = adoption.identity.as_ref();
            target.host_keys = identity.map(|i| i.host_keys.clone()).unwrap_or_default();
        }
        let identity = adoption.iter().flatten().find_map(|a| a.identity.clone());
        Known {
            target,
            adopted: adoption.map(|a| a.is_some()),
            machine_id: identity.map(|i| i.machine_id),
        }
    };
    fleet.hosts.values().map(one).collect()
}

fn target(m: &ResolvedHost) -> Target {
    Target {
        host: m.name.clone(),
        system: m.system.clone(),
        address: m.address.clone(),
        port: m.ssh.port,
        user: m.ssh.user.clone(),
        become_root: m.ssh.become_root,
        host_keys: m.ssh.host_keys.iter().map(ToString::to_string).collect(),
        jump: m.ssh.jump.iter().map(|j| j.as_str().to_owned()).collect(),
    }
}

pub async fn all(
    settings: &Settings,
    scratch: &Path,
    known: &[Known],
    ctx: &mut Ctx<'_>,
) -> Vec<Finding> {
    // Connections of our own: the controller's shared ones would hide a key that no longer works.
    let mut ssh = run::ssh_settings(settings, String::new(), String::new());
    ssh.run_dir = scratch.join("ssh");
    let hosts = match SshHosts::new(ssh) {
        Ok(hosts) => hosts,
        Err(e) => {
            return vec![bad(
                format!("ssh: making a folder for its sockets: {e}"),
                "is the temporary folder full?",
            )];
        }
    };
    let store_key = store_key(settings);
    let store_key = &store_key;
    let asked = futures::stream::iter(known).map(|k| async {
        let result = hosts.probe(&k.target, WALL).await;
        let subject = format!("host/{}", k.target.host);
        let found = findings(settings, store_key.as_deref(), k, result);
        found
            .into_iter()
            .map(|f| f.of(&subject))
            .collect::<Vec<_>>()
    });
    let mut asked = asked.buffered(AT_ONCE);
    let mut found: Vec<Vec<Finding>> = Vec::new();
    ctx.status(&format!("asking hosts: 0/{}", known.len()));
    while let Some(one) = asked.next().await {
        found.push(one);
        ctx.status(&format!("asking hosts: {}/{}", found.len(), known.len()));
    }
    drop(asked);
    hosts.masters().end_all().await;
    found.into_iter().flatten().collect()
}

/// What hosts have to trust; `None`: there is no key yet.
fn store_key(settings: &Settings) -> Option<String> {
    let own = settings.state_dir.join("keys").join(STORE_KEY);
    let file = settings.signing_key_file.as_ref().unwrap_or(&own);
    StoreKey::load(file).ok().map(|k| k.public)
}

fn findings(
    settings: &Settings,
    store_key: Option<&str>,
    known: &Known,
    result: Result<Probe, TransportError>,
) -> Vec<Finding> {
    let target = &known.target;
    let name = &target.host;
    let probe = match result {
        Ok(probe) => probe,
        Err(e) => {
            return vec![bad(
                format!("ssh {name}: {}", e.message),
                fix(settings, target, &e),
            )];
        }
    };
    let agent = match &probe.agent {
        Some(version) if version == env!("CARGO_PKG_VERSION") => format!("agent {version}"),
        Some(version) => format!("agent {version}, brought up to date at the next activation"),
        None => "no agent yet, brought at first contact".to_owned(),
    };
    let adopted = match known.adopted {
        Some(true) => ", adopted",
        Some(false) => ", not adopted",
        None => "",
    };
    let nix = probe
        .nix
        .as_deref()
        .unwrap_or("no Nix")
        .trim_start_matches("nix-store ");
    let loader = probe
        .loader
        .as_deref()
        .map_or(String::new(), |l| format!(", {l}"));
    let mut found = vec![good(format!(
        "ssh {name}: {}, host key pinned, {nix}{loader}, {agent}{adopted}{}",
        target.user,
        room(&probe)
    ))];
    found.extend(rights(target, &probe));
    found.extend(system(settings, known, &probe));
    found.extend(trust(name, store_key, &probe));
    found.extend(low(name, &probe));
    found.extend(skew(name, &probe));
    for (manager, unit) in &probe.managers {
        found.push(warning(format!(
            "{name}: {manager} deploys to it too ({unit} is active): what the two want may differ, and each undoes the other; turn it off once trueup has it"
        )));
    }
    if known.adopted == Some(false) {
        found.push(warning(format!(
            "{name} is only observed until it is adopted: trueup adopt host/{name}"
        )));
    }
    found
}

fn rights(target: &Target, probe: &Probe) -> Option<Finding> {
    let uid = probe.uid.filter(|uid| *uid != 0)?;
    let name = &target.host;
    Some(bad(
        format!(
            "{name}: {} is uid {uid} there, and the agent needs root",
            target.user
        ),
        format!(
            "in the manifest of {name}: ssh.user: root, or ssh.become: true with sudo that asks for no password"
        ),
    ))
}

/// Is it a NixOS of the right platform, with Nix, and the machine that was adopted?
fn system(settings: &Settings, known: &Known, probe: &Probe) -> Vec<Finding> {
    let (target, name) = (&known.target, &known.target.host);
    let mut found = Vec::new();
    if probe.nix.is_none() {
        found.push(bad(
            format!("{name}: a login of {} finds no nix-store", target.user),
            "is it NixOS? Elsewhere: Nix in the PATH of logins that are not interactive (/etc/profile is not read)",
        ));
    }
    if probe.running.is_none() {
        found.push(bad(
            format!("{name}: /run/current-system is no store path, so there is nothing to go back to"),
            "trueup takes over a NixOS that runs: install one there first (nixos-install, nixos-anywhere)",
        ));
    }
    let platform = target.system.as_str();
    if let Some(machine) = &probe.machine
        && platform.split('-').next() != Some(machine)
    {
        found.push(bad(
            format!("{name}: it is {machine}, and its manifest says {platform}"),
            format!("`system` in the manifest of {name}"),
        ));
    }
    if probe.agent.is_none() && !settings.agent_packages.contains_key(&target.system) {
        found.push(bad(
            format!("{name}: there is no agent for {platform}"),
            format!("agent.packages: {{{platform}: PATH}} in the settings"),
        ));
    }
    if let (Some(adopted), Some(seen)) = (&known.machine_id, &probe.machine_id)
        && adopted != seen
    {
        found.push(bad(
            format!("{name}: another machine answers: machine-id {seen} instead of {adopted}"),
            format!("if it was reinstalled: trueup adopt host/{name}"),
        ));
    }
    found
}

fn trust(name: &HostName, store_key: Option<&str>, probe: &Probe) -> Option<Finding> {
    let (key, trusted) = (store_key?, probe.trusted_keys.as_ref()?);
    (!trusted.iter().any(|t| t == key)).then(|| {
        bad(
            format!("{name}: its Nix does not take paths that this controller signed"),
            format!(
                "in its configuration: nix.settings.trusted-public-keys = [ \"{key}\" ];\n\
                 and once by the tool that deploys it now, or by hand"
            ),
        )
    })
}

fn room(probe: &Probe) -> String {
    let free = probe
        .free
        .iter()
        .map(|(at, n)| format!("{} free in {at}", bytes(*n)));
    let free: Vec<String> = free.collect();
    if free.is_empty() {
        String::new()
    } else {
        format!(", {}", free.join(", "))
    }
}

fn low(name: &HostName, probe: &Probe) -> Vec<Finding> {
    let little = |(at, n): &(String, u64)| {
        let min = if at.starts_with("/boot") {
            BOOT_FREE_MIN
        } else {
            STORE_FREE_MIN
        };
        (*n < min).then(|| {
            warning(format!(
                "{name} has {} free in {at}; a new kernel or closure may need {}: nix-collect-garbage --delete-older-than 30d there",
                bytes(*n),
                bytes(min)
            ))
        })
    };
    probe.free.iter().filter_map(little).collect()
}

fn skew(name: &HostName, probe: &Probe) -> Option<Finding> {
    let apart = Timestamp::now()
        .as_second()
        .abs_diff(probe.clock?.as_second());
    (apart > SKEW_MAX_SECS).then(|| {
        bad(
            format!("{name}: its clock and this machine's are {apart} s apart"),
            "services.timesyncd.enable = true on both; intents are valid for five minutes only",
        )
    })
}

fn fix(settings: &Settings, target: &Target, error: &TransportError) -> String {
    let name = &target.host;
    match error.fault {
        TransportFault::Auth => {
            let public = settings
                .ssh_identity_file
                .as_ref()
                .map(|f| f.with_added_extension("pub"));
            let line = public.and_then(|f| std::fs::read_to_string(f).ok());
            let line = line.map_or_else(
                || "the public key of ssh.identityFile".to_owned(),
                |l| l.trim().to_owned(),
            );
            format!(
                "trueup connects as {}. Add this to the configuration of {name}:\n  \
                 users.users.{0}.openssh.authorizedKeys.keys = [ \"{line}\" ];",
                target.user
            )
        }
        TransportFault::HostKey => format!(
            "ssh-keyscan -t ed25519 -p {} {}, compare it on the machine itself, then ssh.hostKeys in its manifest",
            target.port, target.address
        ),
        TransportFault::Privilege => format!(
            "ssh.user: root in the manifest of {name}, or ssh.become: true with sudo that asks for no password"
        ),
        TransportFault::Unreachable => format!(
            "is it up, and does sshd listen at {} port {}? ssh -p {1} {}@{0}",
            target.address, target.port, target.user
        ),
        _ => format!("ssh -p {} {}@{}", target.port, target.user, target.address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_room_is_a_warning_with_what_is_needed() {
        let probe = Probe {
            free: vec![("/".to_owned(), 2 << 30), ("/boot".to_owned(), 100 << 20)],
            ..Probe::default()
        };
        let found = low(&"db-1".parse().unwrap(), &probe);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].what.starts_with("db-1 has 100 MiB free in /boot"),
            "{}",
            found[0].what
        );
    }

    #[test]
    fn what_a_host_lacks_is_named_with_its_fix() {
        let text = "repository: {url: /srv/fleet}
";
        let fragment = crate::settings::parse(Path::new("trueup.yaml"), text).unwrap();
        let settings = crate::settings::validate(fragment).unwrap();
        let known = Known {
            target: Target {
                host: "web-1".parse().unwrap(),
                system: "x86_64-linux".parse().unwrap(),
                address: "10.0.0.1".parse().unwrap(),
                port: 22,
                user: "deploy".to_owned(),
                become_root: false,
                host_keys: Vec::new(),
                jump: Vec::new(),
            },
            adopted: Some(true),
            machine_id: Some("a".to_owned()),
        };
        let probe = Probe {
            uid: Some(1000),
            machine: Some("aarch64".to_owned()),
            machine_id: Some("b".to_owned()),
            trusted_keys: Some(vec!["cache.nixos.org-1:x".to_owned()]),
            managers: vec![("comin".to_owned(), "comin.service".to_owned())],
            ..Probe::default()
        };
        let found = findings(&settings, Some("trueup-1:y"), &known, Ok(probe));
        let text: Vec<String> = found
            .iter()
            .map(|f| {
                format!(
                    "{:?} {} | {}",
                    f.health,
                    f.what,
                    f.fix.as_deref().unwrap_or("")
                )
            })
            .collect();
        for part in [
            "Bad web-1: deploy is uid 1000 there",
            "Bad web-1: a login of deploy finds no nix-store",
            "Bad web-1: /run/current-system is no store path",
            "Bad web-1: it is aarch64, and its manifest says x86_64-linux",
            "Bad web-1: there is no agent for x86_64-linux",
            "another machine answers: machine-id b instead of a",
            "trusted-public-keys = [ \"trueup-1:y\" ];",
            "Warning web-1: comin deploys to it too (comin.service is active)",
        ] {
            assert!(text.iter().any(|t| t.contains(part)), "{part}: {text:#?}");
        }
    }

    #[test]
    fn a_clock_that_is_far_off_is_a_problem() {
        let at = |secs: i64| Probe {
            clock: Timestamp::from_second(Timestamp::now().as_second() + secs).ok(),
            ..Probe::default()
        };
        let name = "db-1".parse().unwrap();
        assert!(skew(&name, &at(3600)).is_some());
        assert!(skew(&name, &at(5)).is_none());
        assert!(skew(&name, &Probe::default()).is_none());
    }
}
