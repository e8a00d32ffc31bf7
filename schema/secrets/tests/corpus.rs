//! Every case of the secrets corpus against this crate, by code that sees file, format and identities only.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use trueup_secrets::{Encrypted, Format, Identities, Mac, Plain};

/// The corpus beside the workspace, when it is there.
fn corpus() -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .filter_map(Path::parent)
        .map(|parent| parent.join("shared/corpus/secrets"))
        .find(|path| path.join("manifest.json").is_file());
    if found.is_none() {
        eprintln!("skipped: there is no ../shared/corpus/secrets beside the workspace");
    }
    found
}

fn json(path: &Path) -> Json {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

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
