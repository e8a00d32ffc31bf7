//! The agent is killed: while it activates, while it waits, and for good.

use super::*;

#[test]
fn the_dead_man_acts_when_the_agent_is_gone_for_good() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    c.install(host);
    claims::the_dead_man_acts(&c, host).expect("the claim");
    c.converges(host, "two");
}

#[test]
fn an_agent_killed_in_the_middle_goes_on_where_it_was() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    c.install(host);
    let kill =
        "systemctl kill -s KILL --kill-whom=main trueup-activate-$order.service; touch /run/killed";
    // While it activates: once something of it has run.
    let slow = c.closure(host, "activation-hangs", &[("seconds", "4")]);
    let script = format!("until pgrep -f {slow}/activate; do sleep 0.1; done; {kill}");
    let order = c.meanwhile(host, &slow, &Ask::default(), "activating", &script);
    let end = c.complete(host, order);
    assert_eq!(host.ssh(&["rm", "/run/killed"]).code, 0, "it was killed");
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    runs(host, &slow, &slow, &slow);

    // While it waits for the confirmation.
    let next = c.closure(host, "base", &[("note", "two")]);
    let order = c.meanwhile(host, &next, &Ask::default(), "awaitingConfirmation", kill);
    wait(PATIENCE, || {
        (host.sh("test -e /run/killed").code == 0).then_some(())
    })
    .expect("it is killed");
    let end = c.complete(host, order);
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    runs(host, &next, &next, &next);
    c.converges(host, "three");
}
