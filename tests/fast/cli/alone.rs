//! What the command line says without a controller, or before there is one: settings, manifests, documents of its own.

use serde_json::Value;

use super::Place;

#[test]
fn without_a_controller_each_client_says_so_and_ends_with_5() {
    let place = Place::new();
    place.golden(
        "no-controller.txt",
        &[
            &["get", "hosts"],
            &["get", "events", "--watch"],
            &["reconcile", "--wait"],
            &["suspend", "host/x", "--reason", "y"],
            &["describe", "host/x", "--socket", "/nonexistent/api.sock"],
        ],
    );
}

#[test]
fn wrong_settings_are_named_with_file_line_and_the_nearest_key() {
    let place = Place::new();
    std::fs::write(
        place.path("trueup.yaml"),
        "repository:\n  url: /srv/fleet\n  brnch: main\n",
    )
    .unwrap();
    std::fs::write(
        place.path("values.yaml"),
        "repository: {url: 'git://x', interval: 1s}\n",
    )
    .unwrap();
    std::fs::write(
        place.path("key.yaml"),
        format!("repository: {{url: /srv/fleet}}\nstateDir: {0}/s\nlisten: {{socket: {0}/s.sock}}\nsigning: {{keyFile: {0}/no.key}}\n", place.dir.path().display()),
    )
    .unwrap();
    place.golden(
        "settings.txt",
        &[
            &["run", "--config", "trueup.yaml"],
            &["run", "--config", "values.yaml"],
            &["run", "--config", "missing.yaml"],
            &["run", "--config", "key.yaml"],
            &["doctor", "--config", "trueup.yaml"],
        ],
    );
}

#[test]
fn calls_that_make_no_sense_end_with_2_and_say_what_would() {
    let place = Place::new();
    place.golden(
        "usage.txt",
        &[
            &["gte", "hosts"],
            &["get", "hots"],
            &["get", "hosts", "-o", "xml"],
            &["get", "hosts", "-l", "role"],
            &["get", "revisions", "--drifted"],
            &["events", "--kind", "a b"],
            &["events", "host/Web_1"],
            &["schema", "Hots"],
            &["schema", "Container"],
            &["rollout", "web-1"],
            &["rollback"],
            &["rollback", "web-1", "--host", "web-2"],
            &["validate", "/nonexistent"],
            &["init", "/nonexistent"],
            &["init", ".", "--path", "../out"],
            &["adopt"],
            &["keys", "rotate", "ssh"],
            &["keys", "rotate", "store", "--force"],
        ],
    );
}

#[test]
fn manifests_are_validated_without_a_controller() {
    let place = Place::new();
    let good = place.ask(&["validate", "fleet"]);
    assert_eq!(good.code, 0, "{good:?}");
    assert_eq!(good.out, "2 files, 3 hosts: no problem found\n");
    let hosts = place.path("fleet/fleet/hosts.yaml");
    let text = std::fs::read_to_string(&hosts).unwrap();
    std::fs::write(&hosts, text.replacen("address:", "adress:", 1)).unwrap();
    place.golden(
        "validate.txt",
        &[&["validate", "fleet"], &["validate", "fleet/fleet"]],
    );
}

#[test]
fn the_doctor_names_each_trouble_with_its_fix() {
    let place = Place::new();
    let doctor = ["doctor", "--config", "trueup.yaml"];
    let said = place.ask(&doctor);
    assert_eq!(said.code, 1, "{said:?}");
    for part in [
        "✓ nix: nix (Nix) 2.28.3, flakes on",
        "✓ git trunk: main@sha1:",
        "✓ manifests: 3 hosts",
        "✓ database: none yet",
        "✗ controller: no controller answers on ",
        "✗ ssh web-1: ssh: connect to host 127.0.0.1 port 1: Connection refused",
        "    is it up, and does sshd listen at 127.0.0.1 port 1? ssh -p 1 root@127.0.0.1",
        "4 problems",
    ] {
        assert!(
            said.out.contains(part),
            "{part} is missing in:\n{}",
            said.out
        );
    }
    let text = std::fs::read_to_string(place.path("trueup.yaml")).unwrap();
    let key = place.path("no.key").display().to_string();
    let more = format!("{text}signing: {{keyFile: {key}}}\nssh: {{identityFile: {key}}}\n");
    std::fs::write(place.path("trueup.yaml"), more).unwrap();
    std::fs::write(
        place.path("nix"),
        "#!/bin/sh\necho 'error: no store' >&2\nexit 1\n",
    )
    .unwrap();
    let said = place.ask(&[&doctor[..], &["--no-hosts"]].concat());
    for part in [
        "no.key: No such file or directory",
        "    make it: nix key generate-secret",
        "✗ ssh.identityFile: ",
        "error: no store",
    ] {
        assert!(
            said.out.contains(part),
            "{part} is missing in:\n{}",
            said.out
        );
    }
    assert!(!said.out.contains("ssh web-1"), "{}", said.out);
}

#[test]
fn schemas_completions_and_manual_pages_come_from_the_program() {
    let place = Place::new();
    let kinds = place.ask(&["schema"]).out;
    for kind in kinds.lines() {
        let schema: Value = serde_json::from_str(&place.ask(&["schema", kind]).out).unwrap();
        assert!(
            schema["properties"]["spec"].is_object() || schema["$defs"].is_object(),
            "{kind}"
        );
    }
    for (shell, word) in [
        ("bash", "complete -F _trueup"),
        ("zsh", "#compdef trueup"),
        ("fish", "complete -c trueup"),
    ] {
        let said = place.ask(&["completions", shell]);
        assert!(said.code == 0 && said.out.contains(word), "{shell}");
        assert!(said.out.contains("reconcile"), "{shell}");
    }
    assert!(place.ask(&["man"]).out.contains(".TH trueup 1"));
    assert_eq!(place.ask(&["man", "man1"]).code, 0);
    let help = place.ask(&["--help"]).out;
    let verbs: Vec<&str> = help
        .lines()
        .skip_while(|l| !l.starts_with("Commands:"))
        .skip(1)
        .take_while(|l| l.starts_with("  "))
        .filter_map(|l| l.split_whitespace().next())
        .filter(|v| *v != "help")
        .collect();
    assert!(verbs.len() > 15, "{verbs:?}");
    for verb in verbs {
        assert!(
            place.path(&format!("man1/trueup-{verb}.1")).is_file(),
            "{verb}"
        );
    }
}
