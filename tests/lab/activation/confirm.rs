//! Confirmations: what counts as one, and what may happen to the one who asks.

use super::*;

#[test]
fn a_good_closure_is_confirmed_and_committed() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    claims::nothing_lasts_unconfirmed(&c, host).expect("the claim");
    let good = c.closure(host, "base", &[("note", "two")]);
    let order = c.begin(host, &good, &Ask::default());
    let attempt = c.until(host, order, AttemptState::AwaitingConfirmation);
    let wrong = c.agent(host, &format!("confirm --order {order} --nonce 00"));
    assert!(wrong.stderr.contains("WrongNonce"), "{wrong:?}");

    // What the kernel really gave to the dead-man, and what the report says of it.
    let score = host.sh(&format!(
        "cat /proc/$(systemctl show -P MainPID \"$(systemctl list-units --plain --no-legend 'trueup-deadman-{order}-*.service' | cut -d' ' -f1)\")/oom_score_adj"
    ));
    let warned = c
        .report(host)
        .unwrap()
        .warnings
        .iter()
        .any(|w| w.contains("oom_score_adj"));
    assert_eq!(warned, score.stdout.trim() != "-1000", "{score:?}");

    let told = c.confirm(host, &attempt);
    assert_eq!(told.code, 0, "{told:?}");
    let report: Report = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(report.attempt.unwrap().outcome, Some(Outcome::Succeeded));
    runs(host, &good, &good, &good);
    assert_ne!(first, good);

    let (_, again) = c.offer(host, &good, &Ask::default());
    assert!(matches!(again, OfferReply::Already { .. }), "{again:?}");
    c.converges(host, "three");
}

#[test]
fn an_old_connection_cannot_confirm() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    c.install(host);
    claims::an_old_connection_confirms_nothing(&c, host).expect("the claim");
    c.converges(host, "two");
}

#[test]
fn an_sshd_that_moved_is_confirmed_at_its_new_port() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    c.install(host);
    let moved = Host {
        port: 2222,
        ..host.clone()
    };
    let new = c.closure(host, "sshd-moved", &[("port", "2222")]);
    let order = c.begin(host, &new, &Ask::default());
    let end = c.complete(&moved, order);
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    runs(&moved, &new, &new, &new);
    assert_eq!(host.ssh(&["true"]).code, 255, "the old port is closed");

    // And back: offered at one port, confirmed at the other.
    let good = c.closure(&moved, "base", &[("note", "back")]);
    let order = c.begin(&moved, &good, &Ask::default());
    let end = c.complete(host, order);
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    runs(host, &good, &good, &good);
}

#[test]
fn an_ssh_client_killed_in_the_middle_of_test_changes_nothing() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    c.install(host);
    let slow = c.closure(host, "activation-hangs", &[("seconds", "6")]);
    let order = next_order();
    let script = c.offer_script(&slow, order, &Ask::default(), "--follow");
    let mut client = program("ssh")
        .args(["-F/dev/null", "-oBatchMode=yes", "-oLogLevel=ERROR"])
        .arg(format!(
            "-oUserKnownHostsFile={}",
            host.known_hosts.display()
        ))
        .arg(format!("-i{}", host.key.display()))
        .arg(format!("{}@{}", host.user, host.address))
        .arg(script)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("ssh runs");
    wait(PATIENCE, || {
        let log = format!("/nix/var/trueup/attempts/{order}/activate.log");
        host.ssh(&["cat", &log])
            .stdout
            .contains("activating")
            .then_some(())
    })
    .expect("it activates");
    client.kill().expect("killed");
    client.wait().expect("gone");
    let end = c.complete(host, order);
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    runs(host, &slow, &slow, &slow);
    c.converges(host, "two");
}

#[test]
fn an_agent_of_another_version_ends_what_the_one_before_began() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    c.install(host);
    let next = c.closure(host, "base", &[("note", "two")]);
    let order = c.begin(host, &next, &Ask::default());
    c.until(host, order, AttemptState::AwaitingConfirmation);
    // In the middle of the attempt the controller brings its new agent.
    let newer = Controller::with(&lab, static_agent(), "two");
    assert_ne!(newer.agent, c.agent);
    newer.copy(host, &newer.agent);
    let end = newer.complete(host, order);
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    runs(host, &next, &next, &next);
    // The old one is nobody's any more, once its attempts are forgotten.
    for note in ["three", "four", "five"] {
        newer.converges(host, note);
    }
    assert_eq!(host.sh("nix-collect-garbage").code, 0);
    assert_eq!(
        host.ssh(&["test", "-e", &c.agent]).code,
        1,
        "nothing roots the old agent"
    );
    newer.converges(host, "six");
}

#[test]
fn garbage_is_collected_between_copy_and_offer_and_the_closure_stays() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    c.install(host);
    let next = c.build("base", &[("note", "two")]);
    let (_, reply) = c.offer(host, &next, &Ask::default());
    assert_eq!(
        reply,
        OfferReply::Need {
            paths: vec![next.clone()]
        }
    );
    c.copy(host, next.as_str());
    c.copy(host, &c.agent);
    assert_eq!(host.sh("nix-collect-garbage").code, 0);
    c.copy(host, &c.agent);
    let end = c.deliver(host, &next, &Ask::default());
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    c.converges(host, "three");
}
