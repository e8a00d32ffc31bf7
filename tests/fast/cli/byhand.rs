//! What a person reads who takes a host back, looks at what was tried there or leaves it: here of hosts that never
//! answered; what happens on hosts that do is the lab's part.

use super::{Place, golden};

#[test]
fn what_can_not_be_taken_back_or_left_says_why_and_what_now() {
    let place = Place::running();
    place.golden(
        "byhand.txt",
        &[
            &["history", "host/web-1"],
            &["history", "web-1", "-o", "name"],
            &["history", "web-9"],
            &["rollback", "--host", "web-1"],
            &["rollback", "host/web-9"],
            &["leave", "host/web-1"],
            &["leave", "host/web-9"],
        ],
    );
}

#[test]
fn a_host_that_does_not_answer_is_left_when_it_does_and_that_can_be_taken_back() {
    let place = Place::running();
    let first = place.transcript(&[&[
        "leave",
        "host/web-1",
        "--still-managed",
        "--reason",
        "goes to another team",
        "--timeout",
        "1s",
    ]]);
    place.until("web-1 is being left", |p| {
        let said = p.ask(&["get", "hosts", "web-1", "-o", "json"]).out;
        said.contains("\"Left\"") && said.contains("tried again")
    });
    let second = place.transcript(&[
        &["rollback", "host/web-1"],
        &["reconcile", "--host", "web-1"],
        &["adopt", "host/web-1"],
        &["events", "web-1", "--kind", "LeaveReq"],
    ]);
    golden("leave.txt", &[first, second].concat());
}
