//! Properties: what is encrypted comes back as it was, in every format, and no flipped bit is accepted.

#![allow(clippy::unwrap_used, missing_docs)]

use proptest::prelude::*;
use secrecy::ExposeSecret;
use trueup_secrets::{
    EncryptSpec, Encrypted, Format, Identities, Mac, Plain, Recipient, ScopeRule, encrypt,
    generate_identity,
};

fn spec(recipient: &Recipient, rule: ScopeRule) -> EncryptSpec {
    let now = "2026-11-22T01:02:03Z".parse().unwrap();
    EncryptSpec {
        groups: vec![vec![recipient.clone()]],
        shamir_threshold: None,
        rule,
        mac_only_encrypted: false,
        now,
    }
}

fn identity() -> (Identities, Recipient) {
    let (secret, recipient) = generate_identity();
    let mut identities = Identities::new();
    identities.add_age(secret.expose_secret()).unwrap();
    (identities, recipient)
}

fn there_and_back(format: Format, plain: &[u8], rule: ScopeRule) -> Plain {
    let (identities, recipient) = identity();
    let sealed = encrypt(plain, format, &spec(&recipient, rule)).unwrap();
    Encrypted::parse(&sealed, format)
        .unwrap()
        .decrypt(&identities, Mac::Verify)
        .unwrap()
}

fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "\\PC{0,12}".prop_map(Into::into),
        "(\\PC|\n| |\t|#|:|-|'|\"){0,12}".prop_map(Into::into),
        prop_oneof![
            Just("yes"),
            Just("0x10"),
            Just("2020-01-01"),
            Just("~"),
            Just("<<"),
            Just("1e3"),
            Just("- a"),
            Just("")
        ]
        .prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::Array),
            prop::collection::btree_map("\\PC{0,8}", inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

fn document() -> impl Strategy<Value = serde_json::Value> {
    prop::collection::btree_map("[a-z #:'\"\\-é]{1,8}", json_value(), 1..5).prop_map(|map| {
        serde_json::Value::Object(map.into_iter().filter(|(key, _)| key != "sops").collect())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn json_comes_back_as_it_was(document in document()) {
        let text = document.to_string();
        let back = there_and_back(Format::Json, text.as_bytes(), ScopeRule::Default);
        let back: serde_json::Value = serde_json::from_slice(&back.to_bytes().unwrap()).unwrap();
        prop_assert_eq!(back, document);
    }

    /// JSON is YAML, so the same documents go in; what comes out is YAML that says the same.
    #[test]
    fn yaml_comes_back_as_it_was_and_its_print_reads_the_same(document in document()) {
        // Characters that YAML does not allow raw are escaped.
        let text: String = document.to_string().chars().map(|c| if c.is_ascii() { c.to_string() } else {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
        }).collect();
        let plain = Plain::parse(text.as_bytes(), Format::Yaml);
        // A line of flow style longer than a simple key may be is YAML's to refuse.
        prop_assume!(plain.is_ok());
        let plain = plain.unwrap();
        let back = there_and_back(Format::Yaml, text.as_bytes(), ScopeRule::EncryptedRegex("[a-m]".into()));
        prop_assert_eq!(&*back.to_json(), &*plain.to_json());
        let again = Plain::parse(&back.to_bytes().unwrap(), Format::Yaml).unwrap();
        prop_assert_eq!(&*again.to_json(), &*plain.to_json());
    }

    #[test]
    fn bytes_come_back_as_they_were(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(&*there_and_back(Format::Binary, &bytes, ScopeRule::Default).to_bytes().unwrap(), &bytes);
    }

    #[test]
    fn dotenv_comes_back_as_it_was(lines in prop::collection::vec(("[A-Z_]{1,8}", "[ -~é]{0,20}"), 1..6)) {
        let text: String = lines.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        let back = there_and_back(Format::Dotenv, text.as_bytes(), ScopeRule::Default);
        prop_assert_eq!(String::from_utf8(back.to_bytes().unwrap().to_vec()).unwrap(), text);
    }

    #[test]
    fn ini_comes_back_as_it_was(keys in prop::collection::btree_map("[a-z]{1,8}", "[a-zA-Z0-9 =:.,/+-]{0,20}", 1..6)) {
        let text: String = "[s]\n".chars().chain(keys.iter().flat_map(|(key, value)| format!("{key} = {}\n", value.trim()).chars().collect::<Vec<_>>())).collect();
        let plain = Plain::parse(text.as_bytes(), Format::Ini).unwrap();
        let back = there_and_back(Format::Ini, text.as_bytes(), ScopeRule::Default);
        prop_assert_eq!(&*back.to_json(), &*plain.to_json());
        let again = Plain::parse(&back.to_bytes().unwrap(), Format::Ini).unwrap();
        prop_assert_eq!(&*again.to_json(), &*plain.to_json());
    }

    #[test]
    fn no_parser_panics(bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"sops:{}[]\"=#;-!&*|>\n \t_ENC[,".to_vec())], 0..200)) {
        for format in [Format::Yaml, Format::Json, Format::Dotenv, Format::Ini, Format::Binary] {
            let _ = Encrypted::parse(&bytes, format);
            let _ = Plain::parse(&bytes, format);
        }
        let _ = trueup_secrets::rules::CreationRules::parse(&bytes);
        let _ = trueup_secrets::agenix::Recipients::from_nix(&String::from_utf8_lossy(&bytes));
    }
}

/// Each character of each sealed value, and of `lastmodified`, is exchanged for another.
#[test]
fn a_change_anywhere_in_a_protected_place_is_refused() {
    let (identities, recipient) = identity();
    let sealed = encrypt(
        b"a: secret\nb:\n    - 12\n    - x\nc_unencrypted: clear\n",
        Format::Yaml,
        &spec(&recipient, ScopeRule::Default),
    )
    .unwrap();
    let text = String::from_utf8(sealed).unwrap();
    let mut tried = 0;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let is_protected = line.contains("ENC[")
            || line.contains("lastmodified")
            || line.contains("c_unencrypted");
        let value = line.find(['[', '"', ' ']).filter(|_| is_protected);
        let end = line.find(",type:").unwrap_or(line.trim_end().len());
        for at in value.map(|at| at + 1..end).into_iter().flatten().step_by(3) {
            let mut changed = text.clone().into_bytes();
            let byte = &mut changed[start + at];
            *byte = if *byte == b'A' { b'Q' } else { b'A' };
            let opened = Encrypted::parse(&changed, Format::Yaml)
                .and_then(|file| file.decrypt(&identities, Mac::Verify));
            // The last digit of base64 carries bits that are not there.
            let same = changed == text.as_bytes();
            assert!(
                same || opened.is_err(),
                "accepted: {}",
                String::from_utf8_lossy(&changed)
            );
            tried += 1;
        }
        start += line.len();
    }
    println!("{tried} changes refused");
    assert!(tried > 100);
}

#[test]
fn groups_need_their_threshold() {
    let keys: Vec<_> = (0..3).map(|_| generate_identity()).collect();
    let mut wanted = spec(&keys[0].1, ScopeRule::Default);
    wanted.groups = keys
        .iter()
        .map(|(_, recipient)| vec![recipient.clone()])
        .collect();
    wanted.shamir_threshold = Some(2);
    let sealed = encrypt(b"{\"a\": 1}", Format::Json, &wanted).unwrap();
    let file = Encrypted::parse(&sealed, Format::Json).unwrap();
    let with = |some: &[usize]| {
        let mut identities = Identities::new();
        some.iter()
            .for_each(|at| identities.add_age(keys[*at].0.expose_secret()).unwrap());
        file.decrypt(&identities, Mac::Verify)
    };
    assert!(with(&[1]).is_err());
    // The same is known without any key, by names: what `validate` refuses.
    let named = |some: &[usize]| {
        let mine: Vec<_> = some.iter().map(|at| keys[*at].1.clone()).collect();
        file.names_enough_of(&mine)
    };
    assert!(!named(&[]) && !named(&[1]) && named(&[0, 2]) && named(&[0, 1, 2]));
    assert!(with(&[0, 2]).is_ok() && with(&[1, 2]).is_ok() && with(&[0, 1, 2]).is_ok());
}

#[test]
fn nothing_secret_is_printed_by_debug() {
    let (identities, recipient) = identity();
    let sealed = encrypt(
        b"a: hunter2\n",
        Format::Yaml,
        &spec(&recipient, ScopeRule::Default),
    )
    .unwrap();
    let plain = Encrypted::parse(&sealed, Format::Yaml)
        .unwrap()
        .decrypt(&identities, Mac::Verify)
        .unwrap();
    let shown = format!("{plain:?} {identities:?}");
    assert!(
        shown.contains("<redacted>") && !shown.contains("hunter2"),
        "{shown}"
    );
}

/// As a formatter leaves it: other quotes, other indentation, blank lines, a comment, other line ends.
#[test]
fn a_file_that_a_formatter_changed_keeps_its_untouched_lines() {
    let (identities, recipient) = identity();
    let sealed = encrypt(
        b"a: secret\nb:\n    c: x\n    d:\n        - 12\n        - y\n",
        Format::Yaml,
        &spec(&recipient, ScopeRule::Default),
    )
    .unwrap();
    let text = String::from_utf8(sealed).unwrap();
    let (content, meta) = text.split_once("sops:").unwrap();
    let content = content
        .replace("    ", "  ")
        .replace("ENC[", "\"ENC[")
        .replace("]\n", "]\"\n\n");
    for ends in ["\n", "\r\n"] {
        let formatted = format!("---\n{content}sops:{meta}").replace('\n', ends);
        let file = Encrypted::parse(formatted.as_bytes(), Format::Yaml).unwrap();
        let now = "2026-11-23T01:02:03Z".parse().unwrap();
        let differing = |after: &[u8]| {
            let after = String::from_utf8(after.to_vec()).unwrap();
            assert_eq!(after.lines().count(), formatted.lines().count());
            after
                .split('\n')
                .zip(formatted.split('\n'))
                .filter(|(a, b)| a != b)
                .count()
        };
        let after = file
            .set(&identities, "b/d/1", "\"z\"", now)
            .unwrap()
            .unwrap();
        assert_eq!(
            differing(&after),
            3,
            "the value, lastmodified, mac:\n{}",
            String::from_utf8_lossy(&after)
        );
        let opened = Encrypted::parse(&after, Format::Yaml)
            .unwrap()
            .decrypt(&identities, Mac::Verify)
            .unwrap();
        assert_eq!(**opened.lookup("b/d/1").unwrap(), *b"z");
        let (_, other) = generate_identity();
        let update = file
            .update_keys(&identities, &[vec![recipient.clone(), other]], None)
            .unwrap();
        let trueup_secrets::KeyUpdate::Changed { bytes, .. } = update else {
            panic!("it changes")
        };
        let before = formatted.split("sops:").next().unwrap();
        assert!(String::from_utf8(bytes).unwrap().starts_with(before));
    }
}

/// A small generator of its own, so that a run is named by its seed alone.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Valid files with some bytes exchanged, doubled or cut. `TRUEUP_FUZZ_CASES` and `TRUEUP_FUZZ_SEED` make a longer run.
#[test]
fn mutated_files_make_no_parser_panic() {
    let number = |name: &str, default| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let (cases, seed): (u64, u64) = (
        number("TRUEUP_FUZZ_CASES", 3_000),
        number("TRUEUP_FUZZ_SEED", 0x5eed),
    );
    let (_, recipient) = identity();
    let inputs: [(Format, &[u8]); 5] = [
        (Format::Yaml, b"# c\na: 1 # d\nb: &x [1, {c: 2}]\nl:\n    - q\n    - |\n        text\n---\nz: 2020-01-01\n"),
        (Format::Json, b"{\"a\": [1, 2.5, null, {\"b\": \"\\u00e9\"}]}"),
        (Format::Dotenv, b"# c\nA=1\nB=x\\ny\n"),
        (Format::Ini, b"k = v\n; c\n[s]\na = `b;c`\n"),
        (Format::Binary, b"\x00\xff"),
    ];
    let mut files: Vec<(Format, Vec<u8>)> = inputs
        .iter()
        .map(|(format, bytes)| (*format, bytes.to_vec()))
        .collect();
    files.extend(inputs.iter().map(|(format, bytes)| {
        (
            *format,
            encrypt(bytes, *format, &spec(&recipient, ScopeRule::Default)).unwrap(),
        )
    }));
    let mut state = seed | 1;
    for _ in 0..cases {
        let pick = usize::try_from(next(&mut state)).unwrap() % files.len();
        let (format, mut bytes) = files[pick].clone();
        for _ in 0..=next(&mut state) % 4 {
            let at = usize::try_from(next(&mut state)).unwrap() % bytes.len().max(1);
            let marks = b":-#&*!|>'\"[]{},=;\n \t\x00\xffsops~<";
            let mark = marks[usize::try_from(next(&mut state)).unwrap() % marks.len()];
            match next(&mut state) % 4 {
                0 if !bytes.is_empty() => bytes[at] = mark,
                1 => bytes.insert(at.min(bytes.len()), mark),
                2 => bytes.truncate(at),
                _ => bytes.extend_from_within(at.min(bytes.len())..),
            }
        }
        let _ = Encrypted::parse(&bytes, format).map(|file| trueup_secrets::lint::check(&file));
        let _ = Plain::parse(&bytes, format).map(|plain| plain.to_bytes());
    }
    println!("{cases} mutated files, seed {seed}");
}

#[test]
fn json_keeps_the_indentation_it_has() {
    let (identities, recipient) = identity();
    let sealed = encrypt(
        b"{\"a\": 1, \"b\": {\"c\": \"x\\ty\"}}",
        Format::Json,
        &spec(&recipient, ScopeRule::Default),
    )
    .unwrap();
    let formatted = String::from_utf8(sealed).unwrap().replace('\t', "  ");
    let file = Encrypted::parse(formatted.as_bytes(), Format::Json).unwrap();
    let now = "2026-11-23T01:02:03Z".parse().unwrap();
    let after = file.set(&identities, "[\"a\"]", "2", now).unwrap().unwrap();
    let after = String::from_utf8(after).unwrap();
    assert_eq!(
        after
            .lines()
            .zip(formatted.lines())
            .filter(|(a, b)| a != b)
            .count(),
        3,
        "{after}"
    );
}

#[test]
fn a_host_is_known_by_both_forms_of_its_key() {
    let line =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGA03j/GZFfPXNVha/hGqnsMF4NRczHgGWsKK4+P7Qxj root@web";
    let forms = Recipient::of_host_key(line).unwrap();
    assert_eq!(forms.len(), 2);
    for form in &forms {
        let sealed = encrypt(b"a: 1\n", Format::Yaml, &spec(form, ScopeRule::Default)).unwrap();
        let file = Encrypted::parse(&sealed, Format::Yaml).unwrap();
        assert!(file.names_enough_of(&forms) && !file.names_enough_of(&[identity().1]));
    }
}
