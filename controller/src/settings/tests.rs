//! Claims about the settings, from the file to what is validated.

use std::path::Path;

use super::*;

fn parsed(text: &str) -> Result<Fragment, String> {
    parse(Path::new("trueup.yaml"), text).map_err(|e| e.to_string())
}

#[test]
fn a_wrong_key_names_file_line_and_the_nearest_key() {
    let said = parsed("repository:\n  url: /srv/fleet\nstatDir: /x\n").unwrap_err();
    assert!(said.contains("unknown key `statDir`"), "{said}");
    assert!(said.contains("trueup.yaml:3:1"), "{said}");
    assert!(said.contains("did you mean `stateDir`?"), "{said}");
}

#[test]
fn a_key_given_twice_is_refused() {
    assert!(
        parsed("stateDir: /a\nstateDir: /b\n")
            .unwrap_err()
            .contains("twice")
    );
}

#[test]
fn flags_win_over_the_file_and_defaults_fill_the_rest() {
    let file =
        parsed("repository: {url: /srv/a, interval: 90s}\nlimits: {evaluationMemoryMiB: 512}\n")
            .unwrap();
    let over = Overrides {
        repository: Some("file:///srv/b".to_owned()),
        ..Overrides::default()
    };
    let s = validate(merge(file, &over)).unwrap();
    assert_eq!(s.repository.url, "file:///srv/b");
    assert_eq!(s.repository.branch, "main");
    assert_eq!(s.repository.interval.as_secs(), 90);
    assert_eq!(s.limits.evaluation_memory_mib, 512);
    assert_eq!(s.socket, Path::new(DEFAULT_SOCKET));
    assert_eq!(s.signing_key_file, None);
}

#[test]
fn all_values_that_cannot_be_are_named_at_once() {
    let file = parsed(
        "repository: {url: 'git://x', branch: '-x', path: ../x, interval: 1s}\nstateDir: x\n",
    )
    .unwrap();
    let Err(SettingsError::Invalid(wrong)) = validate(file) else {
        panic!("accepted")
    };
    assert_eq!(wrong.len(), 5, "{wrong:?}");
}

#[test]
fn an_empty_file_lacks_only_the_repository() {
    let Err(SettingsError::Invalid(wrong)) = validate(parsed("# nothing\n").unwrap()) else {
        panic!("accepted")
    };
    assert_eq!(wrong.len(), 1);
    assert!(wrong[0].contains("--repository"));
}
