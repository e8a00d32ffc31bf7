//! The controller's own host is confirmed by the host beside it: while the controller does not run, by that host alone, and not
//! at all where that host does not get there. Judged by both hosts.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{wait, wait_slowly};
use crate::itself::{HUB, Itself, OTHER, set, upload};

const PATIENCE: Duration = Duration::from_secs(300);
/// As `trueup-agent` lies on the hub beside the controller.
const AGENT: &str = "/srv/trueup-agent";
/// Runs the controller late: its host has long been confirmed by then, or not.
const LATE: &str =
    "#!/bin/sh\nwhile [ -e /srv/wait ]; do sleep 0.2; done\nexec /usr/local/bin/trueup \"$@\"\n";
const CURRENT: &str = "/run/current-system";
const BOOT: &str = "/boot/default";

/// What the witness says of its work.
fn watch(it: &Itself) -> Value {
    let text = it
        .world
        .host(OTHER)
        .read(&["cat", "/nix/var/trueup/watch/hub.json"]);
    let kept: Value = serde_json::from_str(&text).unwrap();
    kept["done"].clone()
}

fn attempt(it: &Itself) -> Option<Value> {
    let out = it.hub().ssh(&[AGENT, "report"]);
    let report: Value = serde_json::from_str(&out.stdout).ok()?;
    Some(report["attempt"].clone())
}

/// Whatever of ours the witness's machine says to the hub's sshd is lost, or no longer.
fn cut(it: &Itself, cut: bool) {
    let script = if cut {
        format!(
            "nft add table inet cut && nft add chain inet cut out '{{ type filter hook output priority 0; }}' && \
             nft add rule inet cut out ip daddr {} tcp dport 22 drop",
            it.hub().address
        )
    } else {
        "nft delete table inet cut".to_owned()
    };
    let out = it.world.host(OTHER).sh(&script);
    assert_eq!(out.code, 0, "{out:?}");
}

#[test]
fn the_controllers_own_host_is_confirmed_by_its_witness_and_by_nobody_else() {
    let Some(mut it) = set() else { return };
    let key = it.world.host(OTHER).host_key.clone();
    let line = it.hub().read(&[AGENT, "witness-key", &key]);
    assert!(
        line.starts_with("restrict,command=\"") && line.contains("ssh-witness"),
        "{line}"
    );
    let out = it.hub().sh(&format!(
        "cat >> /root/.ssh/authorized_keys <<'E'\n{line}\nE\n"
    ));
    assert_eq!(out.code, 0, "{out:?}");
    upload(it.hub(), LATE.as_bytes(), "/srv/late");
    assert_eq!(it.hub().ssh(&["chmod", "0755", "/srv/late"]).code, 0);
    it.world
        .edit_host(
            HUB,
            "\nspec:\n",
            &format!("\nspec:\n  activation: {{confirm: witness, witness: {OTHER}, confirmTimeout: 40s}}\n"),
        )
        .unwrap();

    // The first comes from a controller that a person started; the witness is beside it from the beginning.
    it.merge("self", &[], Some("one"));
    it.ready();
    it.deployed_itself();
    let done = watch(&it);
    assert_eq!(
        (&done["confirmed"], &done["goesOn"]),
        (&true.into(), &false.into()),
        "{done}"
    );
    println!("confirmed by its witness: {done}");

    the_witness_key_opens_nothing_else(&it);
    while_the_controller_is_down(&mut it);
    a_witness_that_does_not_get_there(&mut it);
}

/// Nothing runs that could confirm but the witness; the host is committed all the same.
fn while_the_controller_is_down(it: &mut Itself) {
    let before = it.hub().link(CURRENT).unwrap();
    assert_eq!(it.hub().ssh(&["touch", "/srv/wait"]).code, 0);
    it.merge("late", &[("program", "/srv/late")], Some("two"));
    let committed = wait_slowly(PATIENCE, || {
        let (runs, boots) = (it.hub().link(CURRENT)?, it.hub().link(BOOT)?);
        (runs != before && boots == runs).then_some(runs)
    });
    let now =
        committed.unwrap_or_else(|| panic!("not committed: {:#?}\n{}", attempt(it), it.log()));
    assert!(it.status(HUB).is_none(), "the controller is down");
    assert_eq!(watch(it)["confirmed"], true);
    println!("committed while no controller ran: {now}");
    assert_eq!(it.hub().ssh(&["rm", "/srv/wait"]).code, 0);
    it.ready();
    it.deployed_itself();
}

/// Nobody else's word counts, the deadline is the host's own, and the next good commit comes through.
fn a_witness_that_does_not_get_there(it: &mut Itself) {
    let before = it.hub().link(CURRENT);
    cut(it, true);
    it.merge("cut", &[], None);
    let waiting = wait(PATIENCE, || {
        attempt(it).filter(|a| a["state"] == "awaitingConfirmation")
    });
    let a = waiting.unwrap_or_else(|| panic!("never waits: {}", it.log()));
    let (order, nonce) = (
        format!("{}-{}", a["term"], a["serial"]),
        a["nonce"].as_str().unwrap().to_owned(),
    );
    assert_eq!(a["confirm"]["witness"]["host"], OTHER);
    let forged = format!("{}==", "A".repeat(86));
    for words in [
        vec!["confirm", "--order", &order, "--nonce", &nonce],
        vec![
            "testify",
            "--order",
            &order,
            "--nonce",
            &nonce,
            "--signature",
            &forged,
        ],
    ] {
        let out = it.hub().ssh(&[&[AGENT][..], &words[..]].concat());
        assert!(
            out.code == 1 && out.stderr.contains("NotWitness"),
            "{words:?}: {out:?}"
        );
    }
    // It is tried once more after that, so what is shown now is soon another thing: the record stays.
    let told = |e: &Value| {
        e["reason"] == "RolledBack"
            && e["message"]
                .to_string()
                .contains("the witness web-1 did not confirm")
    };
    let back = wait_slowly(PATIENCE, || {
        it.status(HUB)?;
        it.events().iter().any(told).then_some(())
    });
    assert!(back.is_some(), "{:#?}\n{}", it.events(), it.log());
    assert_eq!(it.hub().link(BOOT), before);
    let done = watch(it);
    assert_eq!(done["confirmed"], false, "{done}");
    println!("went back, since the witness did not get there: {done}");

    cut(it, false);
    the_witness_keeps_its_key_elsewhere(it);
    it.merge("mended", &[], Some("three"));
    it.ready();
    it.deployed_itself();
    assert_eq!(watch(it)["confirmed"], true);
}

/// As on a host whose root is wiped at each boot: the key lies where only sshd's configuration says.
fn the_witness_keeps_its_key_elsewhere(it: &Itself) {
    let moved = it.world.host(OTHER).sh(
        "set -e; mkdir -p /persist/ssh; mv /etc/ssh/ssh_host_* /persist/ssh; \
         sed -i 's,^HostKey .*,HostKey /persist/ssh/ssh_host_ed25519_key,' /etc/ssh/sshd_config.d/lab.conf; \
         systemctl restart sshd.service; ls /etc/ssh",
    );
    assert_eq!(moved.code, 0, "{moved:?}");
    assert!(!moved.stdout.contains("ssh_host_"), "{moved:?}");
}

/// As the witness, with its own key, from its own machine.
fn the_witness_key_opens_nothing_else(it: &Itself) {
    let say = |command: &str| {
        it.world.host(OTHER).sh(&format!(
            "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=yes -o HostKeyAlias=hub \
             -o UserKnownHostsFile=/nix/var/trueup/watch/hub.known_hosts -i /etc/ssh/ssh_host_ed25519_key root@{} {command}",
            it.hub().address
        ))
    };
    for command in [
        "",
        "id",
        "sh",
        "/srv/trueup-agent report",
        "offer",
        "'challenge --order 1-1; id'",
        "nix-daemon --stdio",
    ] {
        let out = say(command);
        assert_eq!(out.code, 77, "{command:?}: {out:?}");
        assert!(!out.stdout.contains("uid="), "{out:?}");
    }
    let asked = say("challenge --order 1-1");
    assert_eq!(asked.code, 0, "{asked:?}");
}
