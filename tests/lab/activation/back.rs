//! Ways back: to where, with what running again, and who can get in then.

use super::*;

#[test]
fn a_closure_that_takes_sshd_away_is_rolled_back_by_the_host_alone() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let bad = c.closure(host, "sshd-gone", &[]);
    let order = c.begin(host, &bad, &Ask::unconfirmed());
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    let log = host.sh(&format!(
        "cat /nix/var/trueup/attempts/{order}/activate.log"
    ));
    assert!(
        log.stdout.contains("sshd.service"),
        "it was taken away: {log:?}"
    );
    runs(host, &first, &first, &first);
    assert_eq!(host.unit("sshd.service", "SubState"), "running");
    c.converges(host, "two");
}

#[test]
fn a_closure_that_takes_the_network_away_is_rolled_back_by_the_host_alone() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let bad = c.closure(host, "network-off", &[]);
    let end = c.leave(host, &bad, &Ask::unconfirmed());
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    is_not_blamed(&end);
    assert_eq!(host.read(&["cat", "/sys/class/net/eth0/operstate"]), "up");
    runs(host, &first, &first, &first);
    c.converges(host, "two");
}

#[test]
fn a_way_back_after_which_nobody_gets_in_is_called_partial() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let next = c.closure(host, "base", &[("note", "two")]);
    // The cable is out from the offer on, until the host says (to its own journal) that the attempt ended.
    let order = c.meanwhile(
        host,
        &next,
        &Ask::unconfirmed(),
        "ended",
        "logger trueup-test-ended",
    );
    host.net(false);
    wait(PATIENCE, || {
        host.journal().contains("trueup-test-ended").then_some(())
    })
    .expect("it ends");
    host.net(true);
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::RolledBackPartial), "{end:?}");
    assert!(end.differs.iter().any(|d| d.contains("get in")), "{end:?}");
    is_not_blamed(&end);
    runs(host, &first, &first, &first);
    c.converges(host, "three");
}

#[test]
fn who_follows_an_attempt_and_hears_of_its_way_back_is_contact_enough() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let bad = c.closure(host, "fails-at-start", &[]);
    // Contact would be waited for longer than this one connection may last.
    let ask = Ask {
        confirm_secs: 300,
        ..Ask::default()
    };
    let told = host.sh(&c.offer_script(&bad, next_order(), &ask, "--follow"));
    assert_eq!(told.code, 0, "{told:?}");
    let last = told.stdout.lines().last().expect("reports");
    let report: Report = serde_json::from_str(last).expect("a report");
    let end = report.attempt.expect("an attempt");
    assert_eq!(
        (end.state, end.outcome),
        (AttemptState::Ended, Some(Outcome::RolledBack))
    );
    runs(host, &first, &first, &first);
    c.converges(host, "two");
}

#[test]
fn where_the_policy_allows_a_reboot_is_the_last_resort() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let before = host.boot_id();
    let bad = c.closure(host, "sshd-gone", &[]);
    let ask = Ask {
        last_resort: true,
        ..Ask::unconfirmed()
    };
    // The old sshd can't start again until the next boot.
    let put = host.sh("mkdir -p /run/systemd/system/sshd.service.d && printf '[Service]\\nExecStartPre=/bin/false\\n' > /run/systemd/system/sshd.service.d/broken.conf");
    assert_eq!(put.code, 0, "{put:?}");
    let order = c.begin(host, &bad, &ask);
    host.wait_other_boot(&before);
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    assert!(
        end.message.as_ref().unwrap().contains("last resort"),
        "{end:?}"
    );
    runs(host, &first, &first, &first);
    c.converges(host, "two");
}

#[test]
fn at_first_contact_with_three_different_systems_the_way_back_leads_to_what_ran() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    c.install(host);
    claims::the_way_back_leads_to_what_ran(&c, host).expect("the claim");
    c.converges(host, "two");
}

#[test]
fn an_activation_that_hangs_is_told_and_rolled_back_and_no_orphan_moves_the_link() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let slow = c.closure(host, "activation-hangs", &[("seconds", "30")]);
    let ask = Ask {
        activation_secs: 4,
        ..Ask::default()
    };
    let end = c.leave(host, &slow, &ask);
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    // The same closure's `activate` would move the link at its end, if it still lived.
    let alive = host.sh(&format!("pgrep -f {slow}/activate"));
    assert_eq!(alive.code, 1, "an orphan lives: {alive:?}");
    runs(host, &first, &first, &first);

    // A unit that does not start: what is waited for is named.
    let hangs = c.closure(host, "start-hangs", &[]);
    let end = c.leave(host, &hangs, &ask);
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    assert!(
        end.waiting_jobs.iter().any(|j| j.contains("hangs.service")),
        "{end:?}"
    );
    runs(host, &first, &first, &first);

    // Where waiting was asked for, it waits.
    let slow = c.closure(
        host,
        "activation-hangs",
        &[("seconds", "5"), ("note", "two")],
    );
    let patient = Ask {
        activation_secs: 2,
        on_timeout: OnTimeout::Wait,
        ..Ask::default()
    };
    let end = c.deliver(host, &slow, &patient);
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    runs(host, &slow, &slow, &slow);
    c.converges(host, "two");
}

#[test]
fn who_switches_in_the_window_is_left_alone() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let theirs = c.closure(host, "base", &[("note", "theirs")]);
    let ours = c.closure(host, "base", &[("note", "ours")]);
    let order = c.begin(host, &ours, &Ask::default());
    let attempt = c.until(host, order, AttemptState::AwaitingConfirmation);
    let switched = host.ssh(&[&format!("{theirs}/bin/switch-to-configuration"), "test"]);
    assert_eq!(switched.code, 0, "{switched:?}");
    c.confirm(host, &attempt);
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::Superseded), "{end:?}");
    runs(host, &theirs, &first, &first);
    c.converges(host, "two");
}
