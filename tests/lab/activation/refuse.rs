//! What is refused before anything is touched, and what is not held against the goal.

use super::*;

#[test]
fn what_cannot_be_switched_to_is_refused_before_anything_is_touched() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let pid = host.unit("app.service", "MainPID");
    let table = [
        ("inhibited", Outcome::RebootRequired, "SwitchInhibited"),
        ("init-changed", Outcome::RebootRequired, "init interface"),
        ("wrong-system", Outcome::Failed, "WrongSystem"),
        ("check-refuses", Outcome::Failed, "no license for this host"),
    ];
    for (variant, outcome, said) in table {
        let odd = c.closure(host, variant, &[]);
        let end = c.leave(host, &odd, &Ask::default());
        assert_eq!(end.outcome, Some(outcome), "{variant}: {end:?}");
        assert!(
            end.message.as_ref().unwrap().contains(said),
            "{variant}: {end:?}"
        );
        assert_eq!(
            end.stage,
            Some(trueup_schema::wire::Stage::Preflight),
            "{variant}: {end:?}"
        );
        runs(host, &first, &first, &first);
        assert_eq!(host.unit("app.service", "MainPID"), pid, "{variant}");
    }
    let next = c.closure(host, "base", &[("note", "pull")]);
    let ask = Ask {
        by: ConfirmBy::Itself,
        ..Ask::default()
    };
    let (_, reply) = c.offer(host, &next, &ask);
    let by_name = matches!(&reply, OfferReply::Refused { reason, message, .. }
        if reason == "NotYet" && message.contains("confirm: self"));
    assert!(by_name, "{reply:?}");
    c.converges(host, "two");
}

#[test]
fn where_there_is_no_space_nothing_is_begun_and_nothing_blamed() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let next = c.closure(host, "base", &[("note", "two")]);
    let table = [
        (
            "/run",
            "fallocate -l $(( ($(df -B1 --output=avail /run | tail -n 1) - 10485760) )) /run/fill",
            "rm /run/fill",
        ),
        (
            "/boot",
            "cp -a /boot /root/boot && mount -t tmpfs -o size=512k tmpfs /boot && cp -a /root/boot/. /boot/",
            "umount /boot",
        ),
    ];
    for (place, fill, free) in table {
        let filled = host.sh(fill);
        assert_eq!(filled.code, 0, "{filled:?}");
        let end = c.leave(host, &next, &Ask::default());
        assert_eq!(end.outcome, Some(Outcome::Failed), "{place}: {end:?}");
        let said = format!("SpaceMissing: {place}");
        assert!(end.message.as_ref().unwrap().starts_with(&said), "{end:?}");
        is_not_blamed(&end);
        let freed = host.sh(free);
        assert_eq!(freed.code, 0, "{freed:?}");
        runs(host, &first, &first, &first);
    }
    let end = c.deliver(host, &next, &Ask::default());
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    c.converges(host, "three");
}
