//! Units across a switch and the way back: sockets, lists, what a person started or stopped, what keeps its process.

use super::*;

#[test]
fn a_socket_whose_address_changed_hears_after_the_switch_and_after_the_way_back() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    c.install(host);
    let hears = |port: &str| {
        let said = host.sh(&format!(
            "echo hi | timeout 10 busybox nc 127.0.0.1 {port} | head -n 1"
        ));
        said.stdout.trim() == "hi"
    };
    let one = c.closure(host, "socket", &[("port", "7001")]);
    let end = c.deliver(host, &one, &Ask::default());
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    assert!(hears("7001"));
    let two = c.closure(host, "socket", &[("port", "7002")]);
    let ask = Ask {
        confirm_secs: 20,
        ..Ask::default()
    };
    let order = c.begin(host, &two, &ask);
    c.until(host, order, AttemptState::AwaitingConfirmation);
    assert!(hears("7002"), "after the switch");
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    assert!(hears("7001"), "after the way back");
    c.converges(host, "two");
}

#[test]
fn a_stale_reload_list_does_not_wedge_the_host() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    c.install(host);
    let put = host.sh("mkdir -p /run/nixos && echo gone.service > /run/nixos/reload-list && echo gone.service > /run/nixos/start-list");
    assert_eq!(put.code, 0, "{put:?}");
    c.converges(host, "two");
}

#[test]
fn what_a_person_started_or_stopped_is_so_again_after_the_way_back() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    c.install(host);
    let first = c.closure(host, "kinds", &[("step", "a")]);
    let end = c.deliver(host, &first, &Ask::default());
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    let by_hand = host.sh("systemctl start by-hand.service && systemctl stop k-restart.service");
    assert_eq!(by_hand.code, 0, "{by_hand:?}");
    for variant in ["hand-started-removed", "hand-started-fails"] {
        let bad = c.closure(host, variant, &[]);
        let end = c.leave(host, &bad, &Ask::unconfirmed());
        assert!(
            matches!(end.outcome, Some(Outcome::RolledBack)),
            "{variant}: {end:?}"
        );
        runs(host, &first, &first, &first);
        assert_eq!(
            host.unit("by-hand.service", "ActiveState"),
            "active",
            "{variant}"
        );
        assert_eq!(
            host.unit("k-restart.service", "ActiveState"),
            "inactive",
            "{variant}"
        );
    }
    c.converges(host, "two");
}

#[test]
fn units_that_keep_the_process_of_another_closure_are_a_debt() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    c.install(host);
    let has = |end: &AttemptReport, unit: &str| end.restart_debt.iter().any(|u| u == unit);
    let a = c.closure(host, "kinds", &[("step", "a")]);
    let end = c.deliver(host, &a, &Ask::default());
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    assert_eq!(end.restart_debt, Vec::<String>::new());

    let b = c.closure(host, "kinds", &[("step", "b")]);
    let end = c.deliver(host, &b, &Ask::default());
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    assert_eq!(end.restart_debt, ["k-keep.service", "k-reload.service"]);

    // Started anew while the candidate ran: after the way back its process is the candidate's.
    let other = c.closure(host, "kinds", &[("step", "c")]);
    let ask = Ask {
        confirm_secs: 15,
        ..Ask::default()
    };
    let order = c.meanwhile(
        host,
        &other,
        &ask,
        "awaitingConfirmation",
        "systemctl restart k-keep.service && touch /run/restarted",
    );
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(host.sh("test -e /run/restarted").code, 0);
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    assert!(
        has(&end, "k-keep.service") && !has(&end, "k-changed.service"),
        "{end:?}"
    );
    c.converges(host, "two");
}
