//! Stories of a fleet in simulated time: `NAME.txt` is the script, `NAME.out` what it printed when somebody last looked.
//! Reviewed like code; `TRUEUP_ACCEPT=1 cargo test -p trueup-tests --test scenarios` writes the answers anew.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use trueup_fixtures::sim::script;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

fn plays_as_written(name: &str) {
    let read = |end: &str| std::fs::read_to_string(folder().join(format!("{name}.{end}")));
    let said = script::run(1, &read("txt").unwrap());
    assert!(!said.contains("BROKEN"), "{said}");
    if trueup_tests::golden::accepting() {
        std::fs::write(folder().join(format!("{name}.out")), &said).unwrap();
    }
    let expected = read("out").unwrap_or_default();
    let differs = said.lines().zip(expected.lines()).find(|(a, b)| a != b);
    assert!(
        said == expected,
        "{name} plays otherwise than written; first at {differs:?}. It says now:\n{said}\n\
         If that is meant: TRUEUP_ACCEPT=1 cargo test -p trueup-tests --test scenarios"
    );
}

/// One test a story, and one that none is forgotten.
macro_rules! stories {
    ($($name:ident)*) => {
        $(#[test] fn $name() { plays_as_written(stringify!($name)); })*

        #[test]
        fn every_script_is_played() {
            let played = [$(stringify!($name)),*];
            for entry in std::fs::read_dir(folder()).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                let script = path.extension().is_some_and(|e| e == "txt" || e == "out");
                assert!(!script || played.contains(&name.as_str()), "{name} is not in the list");
            }
        }
    };
}

stories! {
    a_bad_merge_is_rolled_back_and_goes_no_further
    a_crash_in_the_middle_of_an_activation
    a_dead_sink_is_told_later
    a_failed_evaluation_harms_one_host_only
    a_good_merge_reaches_every_host
    a_host_waits_for_the_one_it_depends_on
    a_lost_database
    a_rewritten_history_waits_for_a_person
    a_suspended_host_is_left_alone
    an_offline_host_catches_up
    commits_that_come_faster_than_a_build
    drift_is_told_and_undone_by_a_nudge
    drift_is_corrected_until_somebody_fights_it
    limits_hold_while_a_fleet_rolls_out
}
