//! Every case of the secrets corpus against this crate, by code that sees file, format and identities only.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;
use std::path::Path;

use common::{corpus, json};
use serde_json::Value as Json;
use trueup_secrets::{Encrypted, Format, Identities, Mac, Plain};

fn identities(root: &Path, names: &Json) -> Identities {
    let mut identities = Identities::new();
    for name in names.as_array().unwrap() {
        let (kind, name) = name.as_str().unwrap().split_once(':').unwrap();
        let read = |file: String| fs::read(root.join("keys").join(file)).unwrap();
        match kind {
            "age" => identities
                .add_age(&String::from_utf8(read(format!("{name}.txt"))).unwrap())
                .unwrap(),
            "ssh" => identities.add_ssh(&read(name.to_owned()), None).unwrap(),
            "ssh-to-age" => identities
                .add_ssh_to_age(&read(name.to_owned()), None)
                .unwrap(),
            other => panic!("unknown kind of identity {other}"),
        }
    }
    identities
}

/// What one case says of a file, and what we say.
fn check(root: &Path, case: &Json, expect: &Json, mac: Mac) -> Result<(), String> {
    let format = Format::named(case["format"].as_str().unwrap()).unwrap();
    let bytes = fs::read(root.join(case["file"].as_str().unwrap())).unwrap();
    let opened = Encrypted::parse(&bytes, format)
        .and_then(|file| file.decrypt(&identities(root, &case["identities"]), mac));
    let class = opened
        .as_ref()
        .err()
        .map_or("ok", |error| error.class().name());
    let wanted = expect["error_class"].as_str().unwrap();
    if class != wanted {
        return Err(format!(
            "class {class} {:?}, wanted {wanted}",
            opened.as_ref().err().map(ToString::to_string)
        ));
    }
    match opened {
        Ok(plain) => check_text(root, expect, &plain),
        Err(_) => Ok(()),
    }
}

fn check_text(root: &Path, expect: &Json, plain: &Plain) -> Result<(), String> {
    let wanted = |field: &str| {
        expect[field]
            .as_str()
            .map(|path| fs::read(root.join(path)).unwrap())
    };
    if plain.format() == Format::Yaml {
        // Multi-document files and those with numbers JSON lacks are compared as documents too.
        if let Some(json) = wanted("as_json") {
            let json = String::from_utf8(json).unwrap();
            if plain.to_json().trim_end() != json.trim_end() {
                return Err(format!("as JSON:\n{}\nwanted:\n{json}", *plain.to_json()));
            }
        }
        let Some(yaml) = wanted("plaintext") else {
            return Ok(());
        };
        let theirs = Plain::parse(&yaml, Format::Yaml).map_err(|error| error.to_string())?;
        let ours = Plain::parse(&plain.to_bytes().unwrap(), Format::Yaml)
            .map_err(|error| error.to_string())?;
        if ours.to_bytes().unwrap() != theirs.to_bytes().unwrap() && expect["as_json"].is_null() {
            return Err(format!(
                "as YAML:\n{}",
                String::from_utf8_lossy(&plain.to_bytes().unwrap())
            ));
        }
        return Ok(());
    }
    let ours = plain.to_bytes().map_err(|error| error.to_string())?;
    let wanted = wanted("plaintext").unwrap();
    if *ours != wanted {
        return Err(format!(
            "got:\n{}\nwanted:\n{}",
            String::from_utf8_lossy(&ours),
            String::from_utf8_lossy(&wanted)
        ));
    }
    Ok(())
}

#[test]
fn every_sops_case_of_the_corpus_agrees_with_its_manifest() {
    let Some(root) = corpus() else { return };
    let manifest = json(&root.join("manifest.json"));
    let (mut agreed, mut disagreed, mut same_yaml, mut yaml) = (0, Vec::new(), 0, 0);
    for case in manifest["cases"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|case| case["kind"] == "sops")
    {
        for (field, mac) in [("expect", Mac::Verify), ("expect_ignore_mac", Mac::Ignore)] {
            let expect = &case[field];
            if expect.is_null() {
                continue;
            }
            match check(&root, case, expect, mac) {
                Ok(()) => agreed += 1,
                Err(why) => disagreed.push(format!("{} ({field}): {why}", case["id"])),
            }
            if case["format"] == "yaml" && mac == Mac::Verify && expect["ok"] == true {
                let bytes = fs::read(root.join(case["file"].as_str().unwrap())).unwrap();
                let plain = Encrypted::parse(&bytes, Format::Yaml)
                    .unwrap()
                    .decrypt(&identities(&root, &case["identities"]), mac);
                let theirs = fs::read(root.join(expect["plaintext"].as_str().unwrap())).unwrap();
                yaml += 1;
                match plain.and_then(|plain| plain.to_bytes()) {
                    Ok(ours) if *ours == theirs => same_yaml += 1,
                    _ => println!("YAML dump differs in bytes (allowed): {}", case["id"]),
                }
            }
        }
    }
    println!(
        "sops corpus: {agreed} agreed, {} disagreed; {same_yaml} of {yaml} YAML dumps equal in bytes too",
        disagreed.len()
    );
    assert!(disagreed.is_empty(), "{}", disagreed.join("\n\n"));
}

#[test]
fn conversion_of_ssh_keys_gives_the_vectors() {
    let Some(root) = corpus() else { return };
    let vectors = json(&root.join("ssh-to-age.json"));
    for vector in vectors["vectors"].as_array().unwrap() {
        use secrecy::ExposeSecret;
        let public =
            trueup_secrets::ssh_public_to_age(vector["ssh_public"].as_str().unwrap()).unwrap();
        assert_eq!(public, vector["age_recipient"].as_str().unwrap());
        let private = trueup_secrets::ssh_private_to_age(
            vector["ssh_private"].as_str().unwrap().as_bytes(),
            None,
        )
        .unwrap();
        assert_eq!(
            private.expose_secret(),
            vector["age_identity"].as_str().unwrap()
        );
    }
}

fn now() -> jiff::Timestamp {
    "2026-11-22T01:02:03Z".parse().unwrap()
}

fn groups_of(rule: &trueup_secrets::rules::CreationRule) -> Vec<Vec<String>> {
    rule.groups
        .iter()
        .map(|group| group.iter().map(ToString::to_string).collect())
        .collect()
}

#[test]
fn creation_rules_give_each_path_what_sops_gives_it() {
    let Some(root) = corpus() else { return };
    let mut agreed = 0;
    for number in 0.. {
        let Ok(config) = fs::read(root.join(format!("rules/{number}.sops.yaml"))) else {
            break;
        };
        let rules = trueup_secrets::rules::CreationRules::parse(&config)
            .unwrap()
            .unwrap();
        for expect in json(&root.join(format!("rules/{number}.expected.json")))
            .as_array()
            .unwrap()
        {
            let path = expect["path"].as_str().unwrap();
            match rules.for_path(path) {
                Err(error) => assert_eq!(expect["ok"], false, "{number} {path}: {error}"),
                Ok(rule) => {
                    assert_eq!(expect["ok"], true, "{number} {path}");
                    let wanted = if expect["key_groups"].is_null() {
                        serde_json::json!([expect["age"]])
                    } else {
                        expect["key_groups"].clone()
                    };
                    assert_eq!(
                        serde_json::json!(groups_of(&rule)),
                        wanted,
                        "{number} {path}"
                    );
                    assert_eq!(
                        expect["mac_only_encrypted"] == true,
                        rule.mac_only_encrypted
                    );
                    assert_eq!(
                        expect["shamir_threshold"]
                            .as_u64()
                            .map(|number| number as usize),
                        rule.shamir_threshold
                    );
                    if let Some(regex) = expect["encrypted_regex"].as_str() {
                        assert_eq!(
                            rule.rule,
                            trueup_secrets::ScopeRule::EncryptedRegex(regex.into())
                        );
                    }
                }
            }
            agreed += 1;
        }
    }
    println!("creation rules: {agreed} paths agreed");
    assert!(agreed > 10);
}

/// Lines that are not the same in both, from both.
fn changed_lines(before: &[u8], after: &[u8]) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (before, after) = (text(before), text(after));
    let only = |a: &str, b: &str| {
        a.lines()
            .filter(|line| !b.lines().any(|other| other == *line))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    [only(&before, &after), only(&after, &before)].concat()
}

#[test]
fn operations_keep_the_invariants_of_the_corpus() {
    let Some(root) = corpus() else { return };
    let ops = json(&root.join("ops/ops.json"));
    let ops = ops.as_array().map_or(&ops, |list| &list[0]);
    let identities = identities(&root, &ops["identities"]);
    let before = fs::read(root.join("ops/before.enc.yaml")).unwrap();
    let file = Encrypted::parse(&before, Format::Yaml).unwrap();
    let reads_as = |bytes: &[u8], expected: &str| {
        let plain = Encrypted::parse(bytes, Format::Yaml)
            .unwrap()
            .decrypt(&identities, Mac::Verify)
            .unwrap();
        let expected = fs::read(root.join(expected)).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&plain.to_bytes().unwrap()),
            String::from_utf8_lossy(&expected)
        );
    };
    for op in ops["ops"].as_array().unwrap() {
        let expected = op["expected"].as_str().unwrap();
        match op["op"].as_str().unwrap() {
            "set" => {
                let args: Vec<&str> = op["args"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|arg| arg.as_str().unwrap())
                    .collect();
                let after = file
                    .set(&identities, args[0], args[1], now())
                    .unwrap()
                    .unwrap();
                reads_as(&after, expected);
                let changed = changed_lines(&before, &after);
                assert_eq!(
                    changed.len(),
                    6,
                    "one value, lastmodified and mac: {changed:#?}"
                );
                assert!(
                    file.set(&identities, "b/c", "\"x\"", now())
                        .unwrap()
                        .is_none(),
                    "nothing changed"
                );
            }
            "edit" => {
                let after = file
                    .edit(&identities, &fs::read(root.join(expected)).unwrap(), now())
                    .unwrap()
                    .unwrap();
                reads_as(&after, expected);
                let changed = changed_lines(&before, &after);
                assert_eq!(
                    changed.len(),
                    5,
                    "one line more, lastmodified and mac: {changed:#?}"
                );
                let same = file
                    .decrypt(&identities, Mac::Verify)
                    .unwrap()
                    .to_editor()
                    .unwrap();
                assert!(file.edit(&identities, &same, now()).unwrap().is_none());
            }
            "rotate" => {
                let spec = trueup_secrets::RotateSpec {
                    add: vec![],
                    remove: vec![],
                    now: now(),
                };
                let after = file.rotate(&identities, &spec).unwrap();
                reads_as(&after, expected);
                let kept = String::from_utf8(before.clone()).unwrap();
                let kept = kept
                    .lines()
                    .filter(|line| line.contains("ENC["))
                    .any(|line| String::from_utf8_lossy(&after).contains(line));
                assert!(!kept, "every ciphertext changes");
            }
            "updatekeys" => {
                let rules = trueup_secrets::rules::CreationRules::parse(
                    &fs::read(root.join("ops/after.sops.yaml")).unwrap(),
                );
                let rule = rules.unwrap().unwrap().for_path("before.enc.yaml").unwrap();
                let update = file.update_keys(&identities, &rule.groups, None).unwrap();
                let trueup_secrets::KeyUpdate::Changed {
                    bytes,
                    added,
                    removed,
                } = update
                else {
                    panic!("it changes")
                };
                assert_eq!((added.len(), removed.len()), (2, 1));
                reads_as(&bytes, expected);
                for line in changed_lines(&before, &bytes) {
                    let own = ["ENC[", "lastmodified", "version"]
                        .iter()
                        .any(|mark| line.contains(mark));
                    assert!(!own, "outside sops.age: {line}");
                }
                let again = Encrypted::parse(&bytes, Format::Yaml).unwrap().update_keys(
                    &identities,
                    &rule.groups,
                    None,
                );
                assert_eq!(again.unwrap(), trueup_secrets::KeyUpdate::UpToDate);
            }
            other => panic!("unknown operation {other}"),
        }
    }
}

#[test]
fn what_sops_refuses_to_encrypt_is_refused_and_the_rest_comes_back() {
    let Some(root) = corpus() else { return };
    let manifest = json(&root.join("manifest.json"));
    let (secret, recipient) = trueup_secrets::generate_identity();
    let mut identities = Identities::new();
    identities
        .add_age(secrecy::ExposeSecret::expose_secret(&secret))
        .unwrap();
    let (mut refused, mut returned) = (0, 0);
    for case in manifest["cases"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|case| case["input"].is_string())
    {
        let format = Format::named(case["format"].as_str().unwrap()).unwrap();
        let input = fs::read(root.join(case["input"].as_str().unwrap())).unwrap();
        // The scope of the case, taken from the metadata that sops wrote.
        let theirs = case["file"]
            .as_str()
            .map(|file| Encrypted::parse(&fs::read(root.join(file)).unwrap(), format));
        let meta = theirs
            .and_then(Result::ok)
            .map(|file| file.metadata().clone());
        let spec = trueup_secrets::EncryptSpec {
            groups: vec![vec![recipient.clone()]],
            shamir_threshold: None,
            rule: meta
                .as_ref()
                .map(|meta| meta.rule.clone())
                .unwrap_or_default(),
            mac_only_encrypted: meta.is_some_and(|meta| meta.mac_only_encrypted),
            now: now(),
        };
        let sealed = trueup_secrets::encrypt(&input, format, &spec);
        if case["kind"] == "sops-encrypt-reject" {
            assert!(sealed.is_err(), "{}", case["id"]);
            refused += 1;
        } else if case["expect"]["ok"] == true && case["derived_from"].is_null() {
            let plain = Encrypted::parse(
                &sealed.unwrap_or_else(|error| panic!("{}: {error}", case["id"])),
                format,
            );
            let plain = plain.unwrap().decrypt(&identities, Mac::Verify).unwrap();
            if let Err(why) = check_text(&root, &case["expect"], &plain) {
                panic!("{}: {why}", case["id"]);
            }
            returned += 1;
        }
    }
    println!("encrypting the corpus: {refused} refused, {returned} came back");
}

#[test]
fn every_age_file_of_the_corpus_agrees_with_its_manifest() {
    let Some(root) = corpus() else { return };
    let cases = json(&root.join("age/manifest.json"));
    let mut agreed = 0;
    for case in cases.as_array().unwrap() {
        let file = fs::read(root.join(case["file"].as_str().unwrap())).unwrap();
        let plain = trueup_secrets::agenix::decrypt(&file, &identities(&root, &case["identities"]));
        assert_eq!(
            plain.is_ok(),
            case["expect"]["ok"] == true,
            "{} {:?}",
            case["id"],
            plain.err()
        );
        if let (Ok(plain), Some(wanted)) = (plain, case["expect"]["plaintext"].as_str()) {
            assert!(
                *plain == fs::read(root.join(wanted)).unwrap(),
                "{}",
                case["id"]
            );
        }
        agreed += 1;
    }
    println!("age corpus: {agreed} agreed");
}

#[test]
fn what_sops_accepts_without_protection_is_named_by_a_lint() {
    let Some(root) = corpus() else { return };
    let manifest = json(&root.join("manifest.json"));
    let (mut named, mut silent) = (0, Vec::new());
    let accepted = |case: &&Json| {
        case["tags"]
            .as_array()
            .is_some_and(|tags| tags.iter().any(|tag| tag == "accepted-by-oracle"))
    };
    for case in manifest["cases"]
        .as_array()
        .unwrap()
        .iter()
        .filter(accepted)
    {
        let format = Format::named(case["format"].as_str().unwrap()).unwrap();
        let bytes = fs::read(root.join(case["file"].as_str().unwrap())).unwrap();
        let file = Encrypted::parse(&bytes, format).unwrap();
        let mut findings = trueup_secrets::lint::check(&file).unwrap();
        findings.extend(trueup_secrets::lint::check_labels(
            &file,
            &identities(&root, &case["identities"]),
        ));
        if findings.is_empty() {
            silent.push(case["notes"].to_string());
        } else {
            named += 1;
        }
    }
    println!("lints: {named} tampered files named, silent: {silent:?}");
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn keys_that_do_not_fit_are_refused_with_their_reason() {
    let Some(root) = corpus() else { return };
    let read = |name: &str| fs::read(root.join("keys").join(name)).unwrap();
    let mut identities = Identities::new();
    assert!(
        identities
            .add_ssh(&read("ssh_host_ecdsa_key"), None)
            .is_err()
    );
    assert!(
        identities
            .add_ssh_to_age(&read("ssh_host_rsa_key"), None)
            .is_err()
    );
    let error = identities
        .add_ssh(&read("ssh_ed25519_passphrase"), None)
        .unwrap_err();
    assert!(error.to_string().contains("passphrase"), "{error}");
    let passphrase = secrecy::SecretString::from("trueup-test");
    identities
        .add_ssh(&read("ssh_ed25519_passphrase"), Some(&passphrase))
        .unwrap();
    identities
        .add_ssh_to_age(&read("ssh_ed25519_passphrase"), Some(&passphrase))
        .unwrap();
}

#[test]
fn the_test_file_of_sops_nix_opens() {
    let Some(root) = corpus() else { return };
    let folder = root.join("thirdparty-sops-nix");
    let mut identities = Identities::new();
    identities
        .add_age(&fs::read_to_string(folder.join("age-keys.txt")).unwrap())
        .unwrap();
    let file = Encrypted::parse(
        &fs::read(folder.join("secrets.yaml")).unwrap(),
        Format::Yaml,
    )
    .unwrap();
    let plain = file.decrypt(&identities, Mac::Verify).unwrap();
    let wanted = Plain::parse(
        &fs::read(folder.join("expected.yaml")).unwrap(),
        Format::Yaml,
    )
    .unwrap();
    assert_eq!(*plain.to_json(), *wanted.to_json());
}

#[test]
fn ssh_recipients_may_carry_their_comment() {
    let Some(root) = corpus() else { return };
    for name in ["ssh_host_ed25519_key", "ssh_host_rsa_key"] {
        let line = fs::read_to_string(root.join(format!("keys/{name}.pub"))).unwrap();
        let recipient = trueup_secrets::Recipient::parse(&line).unwrap();
        let entry = trueup_secrets::agenix::Entry {
            recipients: vec![recipient],
            armor: false,
        };
        let file = trueup_secrets::agenix::encrypt(b"x", &entry).unwrap();
        let mut identities = Identities::new();
        identities
            .add_host_key(&fs::read(root.join("keys").join(name)).unwrap())
            .unwrap();
        assert_eq!(
            **trueup_secrets::agenix::decrypt(&file, &identities).unwrap(),
            *b"x"
        );
    }
}

/// Sources of the programs and of all tests, by their text.
fn sources(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push((
                path.display().to_string(),
                fs::read_to_string(&path).unwrap(),
            ));
        }
    }
}

#[test]
fn no_source_of_ours_knows_a_case_by_its_id_or_a_hash_of_it() {
    let Some(root) = corpus() else { return };
    let mut words = std::collections::BTreeSet::new();
    let mut common_words = std::collections::BTreeSet::new();
    for manifest in ["manifest.json", "age/manifest.json"] {
        let manifest = json(&root.join(manifest));
        let cases = manifest.get("cases").unwrap_or(&manifest);
        for case in cases.as_array().unwrap() {
            let id = case["id"].as_str().unwrap();
            // An id that is a word of the language says nothing elsewhere; what reads files has no use for it.
            if id.chars().all(|c| c.is_ascii_alphabetic()) {
                common_words.insert(format!("\"{id}\""));
            } else {
                words.insert(id.to_owned());
            }
            for field in ["sha256", "as_json_sha256"] {
                words.extend(case["expect"][field].as_str().map(str::to_owned));
            }
            for field in ["data_key_hex", "mac_plain"] {
                words.extend(case["debug"][field].as_str().map(str::to_owned));
            }
            words.extend(case["file"].as_str().map(str::to_owned));
        }
    }
    assert!(words.len() > 200, "{}", words.len());
    let mut ours = Vec::new();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    sources(&workspace, &mut ours);
    assert!(ours.len() > 200, "{}", ours.len());
    let known: Vec<String> = ours
        .iter()
        .flat_map(|(path, text)| {
            let reads = path.contains("schema/secrets/src/");
            let more = common_words.iter().filter(move |_| reads);
            let all = words.iter().chain(more);
            let found = all.filter(|word| text.contains(word.as_str()));
            found.map(move |word| format!("{path}: {word}"))
        })
        .collect();
    assert!(known.is_empty(), "{}", known.join("\n"));
}
