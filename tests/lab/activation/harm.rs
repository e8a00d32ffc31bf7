//! Closures that harm: units, checks, the activation itself. The host goes back, names the culprit, and does not try again.

use super::*;
use trueup_schema::wire::Probe;

#[test]
fn a_closure_that_harms_units_is_rolled_back_with_the_unit_named() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let started = host.ssh(&["systemctl", "start", "by-hand.service"]);
    assert_eq!(started.code, 0, "{started:?}");
    let table: [(&str, u64, &str); 7] = [
        ("fails-at-start", 1, ".service"),
        ("fails-later", 7, "app.service"),
        ("crash-loop", 8, "app.service"),
        ("missing-requires", 1, "new.service"),
        ("new-pre-fails", 2, ".service"),
        ("activation-fails", 1, ""),
        ("bad-unit", 1, ""),
    ];
    for (variant, settle_secs, unit) in table {
        let bad = c.closure(host, variant, &[]);
        let ask = Ask {
            settle_secs,
            ..Ask::default()
        };
        let end = c.leave(host, &bad, &ask);
        assert_eq!(end.outcome, Some(Outcome::RolledBack), "{variant}: {end:?}");
        assert!(end.evidence, "{variant}");
        let named = unit.is_empty() || end.failed_units.iter().any(|u| u.name.ends_with(unit));
        assert!(named, "{variant}: {end:?}");
        runs(host, &first, &first, &first);
        for up in ["app.service", "by-hand.service"] {
            assert_eq!(
                host.unit(up, "ActiveState"),
                "active",
                "{variant}: {up} after the way back"
            );
        }
        let (_, reply) = c.offer(host, &bad, &ask);
        let quarantined =
            matches!(&reply, OfferReply::Refused { reason, .. } if reason == "Quarantined");
        assert!(quarantined, "{variant}: {reply:?}");
    }
    c.converges(host, "two");
}

#[test]
fn a_check_that_fails_on_the_host_rolls_it_back() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let next = c.closure(host, "base", &[("note", "two")]);
    let check = |name: &str, port: u16| Check {
        name: name.to_owned(),
        probe: Probe::Tcp(format!("127.0.0.1:{port}")),
        timeout_secs: 2,
        attempts: 2,
        interval_ms: 200,
    };
    let ask = Ask {
        health: vec![check("the-app", 8080), check("what-is-not-there", 9)],
        ..Ask::default()
    };
    let end = c.leave(host, &next, &ask);
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    assert!(
        end.evidence && end.message.as_ref().unwrap().contains("what-is-not-there"),
        "{end:?}"
    );
    runs(host, &first, &first, &first);
    // A person asks for it again, with the check mended.
    let ask = Ask {
        health: vec![check("the-app", 8080)],
        retry: true,
        ..Ask::default()
    };
    let end = c.deliver(host, &next, &ask);
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    c.converges(host, "three");
}

#[test]
fn a_unit_that_had_failed_before_is_not_blamed() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    c.install(host);
    let broken = host.sh("systemd-run --quiet --unit=broken-before false; until systemctl is-failed -q broken-before; do sleep 0.1; done");
    assert_eq!(broken.code, 0, "{broken:?}");
    c.converges(host, "two");
}
