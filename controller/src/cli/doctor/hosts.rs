//! Each host over SSH, beside each other: reached, by a pinned key, with which agent, adopted, with room and the time.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use trueup_engine::ports::{Target, TransportError, TransportFault};
use trueup_schema::kind::{FleetManifests, ResolvedHost};
use trueup_schema::{HostName, Timestamp};

use super::super::client::Client;
use super::super::output::bytes;
use super::{Finding, bad, good, warning};
use crate::edge::ssh::{Probe, SshHosts};
use crate::run;
use crate::settings::Settings;

/// One host is given no longer, whatever it does.
const WALL: Duration = Duration::from_secs(10);
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
        Known {
            target,
            adopted: adoption.map(|a| a.is_some()),
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

pub async fn all(settings: &Settings, scratch: &Path, known: &[Known]) -> Vec<Finding> {
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
    let asked = futures::stream::iter(known).map(|k| async {
        let result = hosts.probe(&k.target, WALL).await;
        findings(settings, k, result)
    });
    let found: Vec<Vec<Finding>> = asked.buffered(AT_ONCE).collect().await;
    hosts.masters().end_all().await;
    found.into_iter().flatten().collect()
}

fn findings(
    settings: &Settings,
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
    let mut found = vec![good(format!(
        "ssh {name}: {}, host key pinned, {agent}{adopted}{}",
        target.user,
        room(&probe)
    ))];
    found.extend(low(name, &probe));
    found.extend(skew(name, &probe));
    if known.adopted == Some(false) {
        found.push(warning(format!(
            "{name} is only observed until it is adopted: trueup adopt host/{name}"
        )));
    }
    found
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
