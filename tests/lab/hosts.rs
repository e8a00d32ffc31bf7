//! The lab itself: that its hosts are what the other tests take them for. Nothing of trueup runs here.

use crate::harness::{Lab, list, script, script_owned_by, sleeper, wait};
use std::time::Duration;

const GONE_MAX: Duration = Duration::from_secs(20);

#[test]
fn a_lab_host_boots_crashes_and_reboots() {
    let Some(lab) = Lab::up(&["web-1", "web-2"]) else {
        return;
    };
    let (web, other) = (lab.host("web-1"), lab.host("web-2"));
    assert_eq!(web.read(&["ps", "-p", "1", "-o", "comm="]), "systemd");
    assert_eq!(
        web.read(&["systemctl", "is-system-running", "--wait"]),
        "running"
    );
    assert_eq!(
        web.read(&["readlink", "/nix/var/nix/gcroots/current-system"]),
        "/run/current-system"
    );
    assert_eq!(web.ssh(&["test", "-e", "/etc/NIXOS"]).code, 0);
    assert_eq!(web.link("/run/current-system"), None);

    web.read(&["touch", "/root/kept over a power cut"]);
    web.read(&["sync"]);
    let (first, others) = (web.boot_id(), other.boot_id());
    web.crash();
    let second = web.boot_id();
    assert_ne!(first, second);
    web.read(&["cat", "/root/kept over a power cut"]);

    web.ssh(&["systemctl", "reboot"]);
    web.wait_other_boot(&second);
    assert_eq!(other.boot_id(), others, "its neighbour noticed nothing");
}

#[test]
fn a_host_without_its_cable_is_unreachable_and_comes_back() {
    let Some(lab) = Lab::up(&["web-1"]) else {
        return;
    };
    let web = lab.host("web-1");
    assert_eq!(
        web.ssh(&["test", "-e", "/root/kept over a power cut"]).code,
        1,
        "each test gets an empty disk"
    );
    web.net(false);
    assert_eq!(web.ssh(&["true"]).code, 255);
    web.net(true);
    assert_eq!(web.read(&["hostname"]), "web-1");
}

/// What stage 2 of NixOS does: the boot default is activated before systemd starts.
#[test]
fn the_boot_default_is_activated_before_systemd_starts() {
    let Some(lab) = Lab::up(&["web-1"]) else {
        return;
    };
    let web = lab.host("web-1");
    let made = web.sh(
        "mkdir -p /nix/store/x-top/bin && cd /nix/store/x-top/bin && \
         printf '#!/bin/sh\\necho $1 $$ > /run/activated\\nln -sfn /nix/store/x-top /run/current-system\\n' > switch-to-configuration && \
         chmod +x switch-to-configuration && ln -sfn /nix/store/x-top /boot/default && sync",
    );
    assert_eq!(made.code, 0, "{made:?}");
    web.halt();
    web.boot();
    assert!(
        web.read(&["cat", "/run/activated"])
            .starts_with("boot-activate ")
    );
    assert_eq!(
        web.link("/run/current-system").as_deref(),
        Some("/nix/store/x-top")
    );
    assert_eq!(
        web.link("/run/booted-system").as_deref(),
        Some("/nix/store/x-top")
    );
}

/// A test binary that is killed leaves nothing behind: its lab goes with it.
#[test]
fn a_lab_goes_with_its_owner_also_after_kill_9() {
    if Lab::up(&[]).is_none() {
        return;
    }
    let mut owner = sleeper();
    let id = script("0", &["claim", &owner.id().to_string()])
        .unwrap()
        .trim()
        .to_owned();
    script_owned_by(&id, owner.id(), &["up", "web-9"]).unwrap();
    assert_eq!(list(&id).unwrap().len(), 1);
    owner.kill().unwrap();
    owner.wait().unwrap();
    let state = std::path::PathBuf::from("/var/tmp/trueup-lab").join(&id);
    wait(GONE_MAX, || (!state.exists()).then_some(())).expect("the lab is destroyed");
    assert_eq!(list(&id).unwrap().len(), 0);
}
