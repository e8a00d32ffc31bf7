//! By way of a reboot: booted once, confirmed after it, and gone after a power cycle where it does not come up. And the
//! modes that set nothing for good.

use super::*;

fn by_reboot(mode: Mode) -> Ask {
    Ask {
        mode,
        may_reboot: true,
        ..Ask::default()
    }
}

/// A base with another kernel, whose next boot goes on with the attempt as the agent's module has it.
fn kernel(c: &Controller, host: &Host, kernel: &str) -> StorePath {
    c.variant(
        "new-kernel",
        "{ base, kernel, agent, ... }: base // {\n  inherit kernel;\n  units = base.units // {\n    \
         \"trueup-resume.service\" = ''\n      [Unit]\n      After=local-fs.target\n      X-RestartIfChanged=false\n      \
         [Service]\n      Type=oneshot\n      RemainAfterExit=yes\n      ExecStart=${agent}/bin/trueup-agent resume\n    '';\n  };\n}\n",
    );
    c.closure(
        host,
        "new-kernel",
        &[("kernel", kernel), ("agent", &c.agent)],
    )
}

#[test]
fn a_new_kernel_is_booted_once_and_stays_only_when_it_was_confirmed() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let before = host.boot_id();

    let new = kernel(&c, host, "6.18.1");
    let order = c.begin(host, &new, &by_reboot(Mode::Switch));
    host.wait_other_boot(&before);
    let attempt = c.until(host, order, AttemptState::AwaitingConfirmation);
    assert_eq!(host.link("/run/booted-system"), Some(new.to_string()));
    runs(host, &new, &first, &first);
    let boot = attempt.boot.clone().expect("a reboot");
    assert_eq!((boot.from, boot.came_up), (before, true));
    assert_eq!(c.confirm(host, &attempt).code, 0);
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    runs(host, &new, &new, &new);
    let entries = host.read(&["ls", "/boot/loader/entries"]);
    assert!(!entries.contains("trueup"), "{entries}");

    // Nobody confirms what came up: the host goes back by itself, into what was booted before.
    let second = host.boot_id();
    let next = kernel(&c, host, "6.18.2");
    let ask = Ask {
        confirm_secs: SOON,
        ..by_reboot(Mode::Switch)
    };
    let order = c.begin(host, &next, &ask);
    let third = host.wait_other_boot(&second);
    host.wait_other_boot(&third);
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    is_not_blamed(&end);
    runs(host, &new, &new, &new);
    let good = c.closure(host, "base", &[("note", "after")]);
    let back = host.boot_id();
    let order = c.begin(host, &good, &by_reboot(Mode::Switch));
    host.wait_other_boot(&back);
    let end = c.complete(host, order);
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    runs(host, &good, &good, &good);
}

#[test]
fn a_kernel_that_does_not_boot_is_gone_after_a_power_cycle() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let dead = kernel(&c, host, "6.18-does-not-boot");
    let order = c.begin(host, &dead, &by_reboot(Mode::Boot));
    wait(PATIENCE, || (host.ssh(&["true"]).code != 0).then_some(())).expect("it went down");
    host.wait_one_shot_taken();
    // It hangs: nothing but somebody at the switch helps.
    host.crash();
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    assert!(end.evidence, "{end:?}");
    assert!(
        end.message
            .as_ref()
            .is_some_and(|m| m.contains("did not come up")),
        "{end:?}"
    );
    runs(host, &first, &first, &first);
    let (_, again) = c.offer(host, &dead, &by_reboot(Mode::Boot));
    assert!(
        matches!(&again, OfferReply::Refused { reason, .. } if reason == "Quarantined"),
        "{again:?}"
    );
    c.converges(host, "after");
}

#[test]
fn boot_without_leave_to_reboot_waits_for_somebody_and_is_confirmed_after_it() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let new = kernel(&c, host, "6.18.1");
    let ask = Ask {
        mode: Mode::Boot,
        ..Ask::default()
    };
    let end = c.leave(host, &new, &ask);
    assert_eq!(end.outcome, Some(Outcome::RebootRequired), "{end:?}");
    runs(host, &first, &first, &first);
    let before = host.boot_id();
    host.ssh(&["systemctl", "reboot"]);
    host.wait_other_boot(&before);
    runs(host, &new, &first, &first);
    let end = c.deliver(host, &new, &ask);
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    runs(host, &new, &new, &new);
}

#[test]
fn a_trial_is_no_boot_default_and_a_dry_run_changes_nothing() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let next = c.closure(host, "base", &[("note", "two")]);
    let ask = |mode| Ask {
        mode,
        ..Ask::default()
    };
    let end = c.leave(host, &next, &ask(Mode::DryActivate));
    assert_eq!(end.outcome, Some(Outcome::Skipped), "{end:?}");
    assert!(
        end.message
            .as_ref()
            .is_some_and(|m| m.contains("would activate the configuration")),
        "{end:?}"
    );
    runs(host, &first, &first, &first);
    let end = c.deliver(host, &next, &ask(Mode::Test));
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    runs(host, &next, &first, &first);
    host.crash();
    runs(host, &first, &first, &first);
    c.converges(host, "three");
}

#[test]
fn a_loader_that_cannot_boot_an_entry_once_is_refused_by_name() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let new = kernel(&c, host, "6.18.1");
    assert_eq!(host.ssh(&["rm", "/usr/bin/bootctl"]).code, 0);
    let end = c.leave(host, &new, &by_reboot(Mode::Switch));
    assert_eq!(end.outcome, Some(Outcome::RebootRequired), "{end:?}");
    assert!(
        end.message
            .as_ref()
            .is_some_and(|m| m.starts_with("NoOneShot: systemd-boot")),
        "{end:?}"
    );
    runs(host, &first, &first, &first);
    c.converges(host, "after");
}
