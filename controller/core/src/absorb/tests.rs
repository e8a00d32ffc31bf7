//! Which goal of an attempt is at fault, and what follows.

use std::time::Duration;

use trueup_schema::kind::Adopt;
use trueup_schema::status::Reason;
use trueup_schema::wire::{AttemptReport, ComponentReport};

use super::*;
use crate::decide::{Step, decide};
use crate::host::{WantedSecrets, Work};
use crate::plan::tests::{claim, host, now, wanted};
use crate::standing::Standing;

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn secrets(text: &str) -> Option<WantedSecrets> {
    Some(WantedSecrets {
        digest: digest(text),
        empty: false,
    })
}

/// Runs `old`, is to run `new` with secrets; the attempt at both went back, and the host blames `blamed`.
fn went_back(blamed: &Digest) -> Standing {
    let mut s = host("web-1", "web", "old", "new");
    s.secrets = secrets("tokens");
    let to = wanted("new");
    let claim = Claim {
        secrets: Some(digest("tokens")),
        ..claim(&s, &to)
    };
    let mut report = s.memory.report.clone().unwrap();
    let name = |n: &str| n.parse().unwrap();
    report.components.push(ComponentReport {
        name: name("secrets"),
        confirmed: None,
        observed: None,
        last: None,
        quarantined: Vec::new(),
    });
    for c in &mut report.components {
        let of = [("system", &to.digest), ("secrets", &digest("tokens"))];
        let ours = of
            .iter()
            .any(|(n, d)| c.name.as_str() == *n && *d == blamed);
        if ours {
            c.quarantined.push(blamed.clone());
        }
    }
    let attempt = serde_json::json!({
        "term": 1, "serial": 1, "revision": s.revision, "goals": {}, "closure": null, "state": "ended",
        "nonce": null, "deadlineInSecs": null, "confirm": null, "outcome": "RolledBack", "stage": "judge",
        "message": "harmed by it", "evidence": true,
    });
    let attempt: AttemptReport = serde_json::from_value(attempt).unwrap();
    report.attempt = Some(attempt);
    let effects = reported(&mut s.memory, report, Some(&claim), now(), 1);
    assert!(effects.release);
    s
}

fn decided(s: &Standing) -> crate::decide::Decision {
    let view = s.view(Adopt::Auto, Duration::from_secs(300));
    decide(&view, now(), 1)
}

#[test]
fn the_goal_that_the_host_blames_is_quarantined_and_no_goal_beside_it() {
    let system = wanted("new").digest;
    let s = went_back(&system);
    assert_eq!(s.memory.quarantined.keys().collect::<Vec<_>>(), [&system]);
    let s = went_back(&digest("tokens"));
    let only = digest("tokens");
    assert_eq!(s.memory.quarantined.keys().collect::<Vec<_>>(), [&only]);
}

#[test]
fn a_closure_waits_for_secrets_that_hurt_and_goes_with_others() {
    let mut s = went_back(&digest("tokens"));
    let d = decided(&s);
    assert_eq!(d.verdict.reason, Reason::Quarantined, "{d:?}");
    assert!(matches!(d.step, Step::Wait { .. }), "{d:?}");
    // The trunk changes the secret alone: that is enough.
    s.secrets = secrets("other tokens");
    s.closure = Work::Done(());
    s.memory.tries.clear();
    let d = decided(&s);
    assert!(matches!(d.step, Step::Ask { .. }), "{d:?}");
}
