//! Several components as one transaction, on a real host: with the test-only second one of the agent's feature `planted`.

use super::*;

#[test]
fn two_components_go_forth_in_order_and_back_in_reverse() {
    let Some(lab) = Lab::up(&["h1"]) else { return };
    let c = Controller::with(&lab, planted_agent(), "planted");
    let host = lab.host("h1");
    let first = c.install(host);
    let ask = |fails_in: &str| Ask {
        second: Some(serde_json::json!({ "failsIn": fails_in })),
        ..Ask::default()
    };
    // Each call, and the system that ran when it came.
    let calls = || -> Vec<(String, String)> {
        let log = host.read(&["cat", "/nix/var/trueup/second.log"]);
        host.read(&["rm", "/nix/var/trueup/second.log"]);
        let pair = |line: &str| {
            let (call, runs) = line.split_once(' ').expect("two words");
            (call.to_owned(), runs.to_owned())
        };
        log.lines().map(pair).collect()
    };
    let want = |calls: &[(&str, &StorePath)]| -> Vec<(String, String)> {
        calls
            .iter()
            .map(|(call, runs)| ((*call).to_owned(), runs.to_string()))
            .collect()
    };

    // Taken back before the system is, while the candidate still runs.
    let next = c.closure(host, "base", &[("note", "two")]);
    let end = c.leave(host, &next, &ask("apply"));
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    let back = [
        ("stage", &first),
        ("record", &first),
        ("apply", &next),
        ("revert", &next),
        ("verify", &first),
    ];
    assert_eq!(calls(), want(&back));
    runs(host, &first, &first, &first);

    // Only the component that failed is blamed: the same system goes through with another second goal.
    let end = c.deliver(host, &next, &ask(""));
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    let forth = [
        ("stage", &first),
        ("record", &first),
        ("apply", &next),
        ("judge", &next),
        ("commit", &next),
        ("seal", &next),
    ];
    assert_eq!(calls(), want(&forth));
    runs(host, &next, &next, &next);

    // What can't be sealed is taken back before the boot entry is written.
    let third = c.closure(host, "base", &[("note", "three")]);
    let end = c.deliver(host, &third, &ask("seal"));
    assert_eq!(end.outcome, Some(Outcome::BootNotCommitted), "{end:?}");
    assert_eq!(
        calls().last().map(|(call, _)| call.clone()),
        Some("uncommit".to_owned())
    );
    runs(host, &third, &next, &next);
    c.converges(host, "four");
}
