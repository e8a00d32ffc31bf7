//! Bugs on purpose: each must break the claim that is there to notice it. The fifth, `skip_fsync`, is noticed by a test
//! beside the agent's journal. None of them is in the program that ships.

use super::*;

const BUGS: [(&str, claims::Claim); 4] = [
    ("profile_before_confirm", claims::nothing_lasts_unconfirmed),
    (
        "no_new_connection",
        claims::an_old_connection_confirms_nothing,
    ),
    (
        "rollback_by_generation_number",
        claims::the_way_back_leads_to_what_ran,
    ),
    // The last one: it leaves the host with an attempt that nobody ends.
    ("dead_man_off", claims::the_dead_man_acts),
];

#[test]
fn each_planted_bug_breaks_its_claim() {
    let Some(lab) = Lab::up(&["h1"]) else { return };
    let c = Controller::with(&lab, planted_agent(), "planted");
    let host = lab.host("h1");
    c.install(host);
    for (bug, claim) in BUGS {
        let put = host.sh(&format!("echo {bug} > /etc/trueup-plant"));
        assert_eq!(put.code, 0, "{put:?}");
        let broken = claim(&c, host).expect_err(bug);
        eprintln!("{bug} is noticed: {broken}");
    }
}

#[test]
fn the_program_that_ships_has_no_planted_bug() {
    let has = |path: &Path, text: &str| {
        let bytes = std::fs::read(path).expect("the program");
        bytes.windows(text.len()).any(|w| w == text.as_bytes())
    };
    let names = BUGS.map(|(name, _)| name);
    for text in names
        .iter()
        .chain(&["skip_fsync", "trueup-plant", "second.log"])
    {
        assert!(
            !has(static_agent(), text),
            "`{text}` is in the program that ships"
        );
        assert!(
            has(planted_agent(), text),
            "`{text}` is not even in the planted one"
        );
    }
}
