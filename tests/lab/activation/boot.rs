//! What a power cut boots: before, between and after the two halves of the commit; and what only a reboot brings.

use super::*;

#[test]
fn a_power_cut_boots_the_old_system_until_the_boot_entry_is_written() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    // Before the profile.
    let next = c.closure(host, "base", &[("note", "two")]);
    let order = c.begin(host, &next, &Ask::default());
    c.until(host, order, AttemptState::AwaitingConfirmation);
    host.crash();
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::Interrupted), "{end:?}");
    runs(host, &first, &first, &first);

    // Between profile and boot entry.
    c.variant(
        "boot-slow",
        "{ base, ... }: base // { bootloader = \"sleep 600\"; }\n",
    );
    let slow = c.closure(host, "boot-slow", &[]);
    let order = c.begin(host, &slow, &Ask::default());
    let attempt = c.until(host, order, AttemptState::AwaitingConfirmation);
    let nonce = attempt.nonce.unwrap();
    // The shell stays until the confirmation is noted: an orphan has no SSH connection above it that could be seen.
    host.sh(&format!(
        "{}/bin/trueup-agent confirm --order {order} --nonce {nonce} >/dev/null 2>&1 </dev/null & \
         for i in $(seq 100); do [ -e /nix/var/trueup/attempts/{order}/confirm ] && break; sleep 0.1; done",
        c.agent
    ));
    wait(PATIENCE, || {
        (host.link(PROFILE) == Some(slow.to_string())).then_some(())
    })
    .expect("the profile is set");
    host.sh("sync");
    host.crash();
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::Interrupted), "{end:?}");
    is_not_blamed(&end);
    runs(host, &first, &first, &first);

    // After the end.
    let good = c.converges(host, "three");
    host.crash();
    runs(host, &good, &good, &good);
    c.converges(host, "four");
}

#[test]
fn a_boot_entry_that_does_not_come_is_told_and_the_profile_set_back() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    for variant in ["boot-unmoved", "boot-fails"] {
        let odd = c.closure(host, variant, &[]);
        let end = c.deliver(host, &odd, &Ask::default());
        assert_eq!(
            end.outcome,
            Some(Outcome::BootNotCommitted),
            "{variant}: {end:?}"
        );
        is_not_blamed(&end);
        runs(host, &odd, &first, &first);
    }
    c.converges(host, "two");
}

#[test]
fn a_commit_that_cannot_be_made_leaves_the_profile_as_it_was() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    // The candidate's own activation takes away what `boot` needs: it can't even be started.
    c.variant(
        "no-boot",
        "{ base, ... }: base // { stc = \"/root/half-a-program\"; }\n",
    );
    let odd = c.closure(host, "no-boot", &[]);
    let put = host.sh(&format!(
        "cat > /root/half-a-program <<'EOF'\n#!/bin/sh\ncase $1 in check) exit 0 ;;\n\
         test) ln -sfn $OUT /run/.odd && mv -T /run/.odd /run/current-system; rm /root/half-a-program; exit 0 ;;\nesac\nEOF\n\
         chmod +x /root/half-a-program; readlink -e {odd}"
    ));
    assert_eq!(put.code, 0, "{put:?}");
    let end = c.deliver(host, &odd, &Ask::default());
    assert_eq!(end.outcome, Some(Outcome::BootNotCommitted), "{end:?}");
    runs(host, &odd, &first, &first);
    c.converges(host, "two");
}

#[test]
fn a_new_kernel_runs_after_a_reboot_and_is_told_until_then() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    c.install(host);
    let new = c.closure(host, "kernel-changed", &[]);
    let end = c.deliver(host, &new, &Ask::default());
    assert_eq!(end.outcome, Some(Outcome::RebootRequired), "{end:?}");
    runs(host, &new, &new, &new);
    let named = c.report(host).unwrap().running.reboot_required;
    assert!(named.contains(&"kernel".to_owned()), "{named:?}");
    host.crash();
    assert_eq!(
        c.report(host).unwrap().running.reboot_required,
        Vec::<String>::new()
    );
    let good = c.closure(host, "kernel-changed", &[("note", "two")]);
    let end = c.deliver(host, &good, &Ask::default());
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
}

#[test]
fn the_init_link_of_a_container_names_the_old_system_until_the_commit() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    c.install(host);
    // As on NixOS' containers: no loader, and the activation itself moves /sbin/init.
    c.variant(
        "container",
        "{ base, note ? \"one\", ... }: base // {\n  etc.\"app/index.html\" = note;\n  \
         activation.\"init\" = \"ln -sfn $systemConfig/init /sbin/init\";\n  bootloader = \"exit 0\";\n}\n",
    );
    let first = c.closure(host, "container", &[("note", "c1")]);
    let made = host.sh(&format!(
        "nix-env -p {PROFILE} --set {first} && {first}/bin/switch-to-configuration test && rm -rf /boot/*"
    ));
    assert_eq!(made.code, 0, "{made:?}");
    let init = || host.read(&["readlink", "/sbin/init"]);
    assert_eq!(init(), format!("{first}/init"));

    let next = c.closure(host, "container", &[("note", "c2")]);
    let order = c.begin(host, &next, &Ask::default());
    let attempt = c.until(host, order, AttemptState::AwaitingConfirmation);
    assert_eq!(init(), format!("{first}/init"), "unconfirmed");
    let report = c.report(host).unwrap();
    assert_eq!(
        (report.running.loader.as_str(), report.running.boot_default),
        ("init-link", Some(first))
    );
    assert!(
        report
            .warnings
            .iter()
            .any(|w| w.contains("link that every activation moves")),
        "{:?}",
        report.warnings
    );
    assert_eq!(c.confirm(host, &attempt).code, 0);
    assert_eq!(init(), format!("{next}/init"), "committed");

    let other = c.closure(host, "container", &[("note", "c3")]);
    let end = c.leave(host, &other, &Ask::unconfirmed());
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    assert_eq!(init(), format!("{next}/init"), "after the way back");
    let good = c.closure(host, "container", &[("note", "c4")]);
    let end = c.deliver(host, &good, &Ask::default());
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    assert_eq!(init(), format!("{good}/init"));
}
