//! `trueup secrets …` as people call it: the built binary against the corpus, which sees file, format and identities
//! only, and against files that it made itself.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

#[path = "../../schema/secrets/tests/common/mod.rs"]
mod common;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value as Json;

use common::{corpus, json};

fn trueup(dir: &Path, args: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_trueup"))
        .arg("secrets")
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/run/current-system/sw/bin")
        .env("HOME", dir)
        .env("EDITOR", dir.join("editor"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    child.wait_with_output().unwrap()
}

fn ok(output: Output) -> Vec<u8> {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn error_class(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "a failure prints no result");
    let json: Json = serde_json::from_slice(&output.stderr).unwrap();
    assert!(!json["error"]["message"].as_str().unwrap().is_empty());
    json["error"]["class"].as_str().unwrap().to_owned()
}

fn flags(root: &Path, names: &Json) -> Vec<String> {
    let mut flags = Vec::new();
    for name in names.as_array().unwrap() {
        let (kind, name) = name.as_str().unwrap().split_once(':').unwrap();
        let (flag, file) = match kind {
            "age" => ("--identity", format!("{name}.txt")),
            "ssh" => ("--ssh-identity", name.to_owned()),
            "ssh-to-age" => ("--ssh-to-age-identity", name.to_owned()),
            other => panic!("unknown kind of identity {other}"),
        };
        flags.push(flag.to_owned());
        flags.push(root.join("keys").join(file).display().to_string());
    }
    flags
}

/// What is wrong with the answer to one case, if something is.
fn judge(root: &Path, case: &Json, expect: &Json, mac: &[&str]) -> Result<(), String> {
    let file = root.join(case["file"].as_str().unwrap());
    let flags = flags(root, &case["identities"]);
    let run = |more: &[&str]| {
        let file = file.to_str().unwrap();
        let mut args = vec!["decrypt"];
        if let Some(format) = case["format"].as_str() {
            args.extend(["--format", format]);
        }
        args.extend(flags.iter().map(String::as_str));
        args.extend(mac);
        args.extend(more);
        args.push(file);
        trueup(Path::new("/"), &args, b"")
    };
    if expect["ok"] != true {
        let output = run(&["-o", "json"]);
        let class = error_class(&output);
        let wanted = expect["error_class"].as_str().unwrap_or("other");
        return if class == wanted {
            Ok(())
        } else {
            Err(format!("class {class}, wanted {wanted}"))
        };
    }
    let output = run(&[]);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    // YAML is compared as the document that it is.
    if case["format"] == "yaml" {
        let Some(wanted) = expect["as_json"].as_str() else {
            return Ok(());
        };
        let ours = run(&["-o", "json"]).stdout;
        let wanted = fs::read(root.join(wanted)).unwrap();
        let same = String::from_utf8_lossy(&ours).trim() == String::from_utf8_lossy(&wanted).trim();
        return if same {
            Ok(())
        } else {
            Err("another document".to_owned())
        };
    }
    let wanted = fs::read(root.join(expect["plaintext"].as_str().unwrap())).unwrap();
    if output.stdout == wanted {
        Ok(())
    } else {
        Err("other bytes".to_owned())
    }
}

#[test]
fn decrypt_agrees_with_every_case_of_the_corpus() {
    let Some(root) = corpus() else { return };
    let (mut agreed, mut wrong) = (0, Vec::new());
    for manifest in ["manifest.json", "age/manifest.json"] {
        let manifest = json(&root.join(manifest));
        let cases = manifest.get("cases").unwrap_or(&manifest);
        for case in cases.as_array().unwrap() {
            if case["file"].is_null() {
                continue;
            }
            for (field, mac) in [
                ("expect", &[][..]),
                ("expect_ignore_mac", &["--ignore-mac"][..]),
            ] {
                if case[field].is_null() {
                    continue;
                }
                match judge(&root, case, &case[field], mac) {
                    Ok(()) => agreed += 1,
                    Err(why) => wrong.push(format!("{} ({field}): {why}", case["id"])),
                }
            }
        }
    }
    println!(
        "decrypt through the binary: {agreed} agreed, {} wrong",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(agreed > 100);
}

/// A folder with a key in the place where sops keeps it, and its recipient.
fn home() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let (secret, recipient) = trueup_secrets::generate_identity();
    let place = dir.path().join(".config/sops/age");
    fs::create_dir_all(&place).unwrap();
    let text = secrecy::ExposeSecret::expose_secret(&secret).to_owned();
    fs::write(place.join("keys.txt"), text).unwrap();
    let recipient = recipient.to_string();
    let rules = format!("creation_rules:\n    - age: {recipient}\n");
    fs::write(dir.path().join(".sops.yaml"), rules).unwrap();
    (dir, recipient)
}

fn editor(dir: &Path, script: &str) {
    let path = dir.join("editor");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn what_is_encrypted_set_and_rotated_comes_back() {
    let (home, _) = home();
    let dir = home.path();
    fs::write(
        dir.join("a.yaml"),
        "# of the database\ndb:\n    user: app\n    password: old\n",
    )
    .unwrap();
    fs::set_permissions(dir.join("a.yaml"), fs::Permissions::from_mode(0o640)).unwrap();
    ok(trueup(dir, &["encrypt", "-i", "a.yaml"], b""));
    let sealed = fs::read_to_string(dir.join("a.yaml")).unwrap();
    assert!(!sealed.contains("old") && sealed.contains("ENC["));
    ok(trueup(
        dir,
        &["set", "a.yaml", "db/password", "--value-stdin", "--string"],
        b"n\"ew\n",
    ));
    let set = fs::read_to_string(dir.join("a.yaml")).unwrap();
    let line = |text: &str| {
        text.lines()
            .find(|l| l.contains("user:"))
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        line(&sealed),
        line(&set),
        "what did not change keeps its bytes"
    );
    ok(trueup(dir, &["rotate", "a.yaml"], b""));
    let plain = ok(trueup(dir, &["decrypt", "a.yaml"], b""));
    let text = String::from_utf8(plain).unwrap();
    assert!(
        text.contains("password: n\"ew\n") && text.contains("# of the database"),
        "{text}"
    );
    assert_eq!(
        ok(trueup(dir, &["decrypt", "--key", "db/user", "a.yaml"], b"")),
        b"app"
    );
    let mode = fs::metadata(dir.join("a.yaml"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o640);
    let again = trueup(dir, &["encrypt", "-i", "-o", "json", "a.yaml"], b"");
    assert_eq!(error_class(&again), "other");
}

#[test]
fn edit_changes_what_was_changed_and_leaves_nothing_in_memory() {
    let (home, _) = home();
    let dir = home.path();
    fs::write(dir.join("a.yaml"), "one: first\ntwo: second\n").unwrap();
    ok(trueup(dir, &["encrypt", "-i", "a.yaml"], b""));
    let before = fs::read_to_string(dir.join("a.yaml")).unwrap();
    editor(
        dir,
        "echo \"$1\" > seen; stat -c %a%n \"$1\" >> seen; cp \"$1\" \"$1~\"; sed -i s/second/third/ \"$1\"",
    );
    ok(trueup(dir, &["edit", "a.yaml"], b""));
    let after = fs::read_to_string(dir.join("a.yaml")).unwrap();
    assert_eq!(before.lines().next(), after.lines().next());
    assert_ne!(before.lines().nth(1), after.lines().nth(1));
    let plain = ok(trueup(dir, &["decrypt", "a.yaml"], b""));
    assert_eq!(plain, b"one: first\ntwo: third\n");
    let seen = fs::read_to_string(dir.join("seen")).unwrap();
    let path = Path::new(seen.lines().next().unwrap());
    assert!(seen.lines().nth(1).unwrap().starts_with("600"), "{seen}");
    assert!(
        path.starts_with("/dev/shm") || path.starts_with("/run/user"),
        "{seen}"
    );
    assert!(!path.parent().unwrap().exists());
    // An editor that fails, and one that changes nothing, leave the file alone.
    editor(dir, "sed -i s/third/fourth/ \"$1\"; exit 3");
    assert_eq!(trueup(dir, &["edit", "a.yaml"], b"").status.code(), Some(1));
    editor(dir, "true");
    ok(trueup(dir, &["edit", "a.yaml"], b""));
    assert_eq!(fs::read_to_string(dir.join("a.yaml")).unwrap(), after);
}

#[test]
fn a_new_file_is_begun_in_the_editor() {
    let (home, recipient) = home();
    let dir = home.path();
    editor(dir, "echo 'token: abc' > \"$1\"");
    ok(trueup(dir, &["edit", "new.yaml"], b""));
    assert_eq!(
        ok(trueup(dir, &["decrypt", "new.yaml"], b"")),
        b"token: abc\n"
    );
    // An age file as agenix has it: who reads it stands in secrets.nix.
    let nix = format!("{{ \"b.age\".publicKeys = [ \"{recipient}\" ]; }}");
    fs::write(dir.join("secrets.nix"), nix).unwrap();
    editor(dir, "printf plain > \"$1\"");
    ok(trueup(dir, &["edit", "b.age"], b""));
    let sealed = fs::read(dir.join("b.age")).unwrap();
    assert!(sealed.starts_with(b"age-encryption.org/v1"));
    assert_eq!(ok(trueup(dir, &["decrypt", "b.age"], b"")), b"plain");
    ok(trueup(dir, &["rotate", "b.age"], b""));
    assert_ne!(fs::read(dir.join("b.age")).unwrap(), sealed);
    assert_eq!(ok(trueup(dir, &["decrypt", "b.age"], b"")), b"plain");
}

#[test]
fn without_a_key_or_a_terminal_it_says_what_is_missing() {
    let (home, _) = home();
    let dir = home.path();
    fs::write(dir.join("a.json"), "{\"a\": \"s3cret-value\"}").unwrap();
    ok(trueup(dir, &["encrypt", "-i", "a.json"], b""));
    fs::remove_file(dir.join(".config/sops/age/keys.txt")).unwrap();
    let output = trueup(dir, &["decrypt", "-o", "json", "a.json"], b"");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if !rustix::process::geteuid().is_root() {
        assert!(text.contains("there is no private key"), "{text}");
    }
    assert_eq!(error_class(&output), "no_key");
    let Some(root) = corpus() else { return };
    let key = root
        .join("keys/ssh_ed25519_passphrase")
        .display()
        .to_string();
    let output = Command::new("setsid")
        .args([
            env!("CARGO_BIN_EXE_trueup"),
            "secrets",
            "decrypt",
            "--ssh-identity",
            &key,
            "a.json",
        ])
        .current_dir(dir)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("needs a passphrase"), "{text}");
    assert_eq!(output.status.code(), Some(1));
}
