//! Any flipped bit in a protected place is refused: of arbitrary documents of every format, in each sealed value (but
//! for comments, which sops does not protect), in values in the clear that the MAC covers, in the MAC, in `lastmodified`
//! and in the sealed data key.

#![allow(clippy::unwrap_used, missing_docs)]

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use secrecy::ExposeSecret;
use trueup_secrets::{
    EncryptSpec, Encrypted, Format, Identities, Mac, ScopeRule, encrypt, generate_identity,
};

/// Flips of one document.
const FLIPS: usize = 48;
/// A value that the MAC covers in the clear, where the format has names.
const CLEAR: &str = "clear-value-of-mine";

/// A place whose bits are all protected: where it stands in the file, and how its bytes are written there.
enum Place {
    Base64(Range<usize>),
    /// Lines of base64 with what parts them.
    Lines(Range<usize>, String),
    Text(Range<usize>),
}

/// All protected places of a file of ours.
fn places(text: &str) -> Vec<Place> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = text[at..].find("ENC[").map(|n| at + n) {
        let end = start + text[start..].find(']').unwrap();
        at = end;
        if text[start..end].ends_with("type:comment") {
            continue;
        }
        for field in ["data:", "iv:", "tag:"] {
            let from = start + text[start..end].find(field).unwrap() + field.len();
            let to = from + text[from..end].find(',').unwrap();
            found.push(Place::Base64(from..to));
        }
    }
    let (head, tail) = (
        "-----BEGIN AGE ENCRYPTED FILE-----",
        "-----END AGE ENCRYPTED FILE-----",
    );
    let from = text.find(head).unwrap() + head.len();
    let to = text.find(tail).unwrap();
    let parts: String = text[from..to]
        .chars()
        .take_while(|c| !c.is_ascii_uppercase() && *c != 'Y')
        .collect();
    found.push(Place::Lines(from..to, parts));
    // Its digits: another letter may mean the same time.
    let stamp = text.find("2026-11-22T01:02:03Z").unwrap();
    found.extend(
        [0..4, 5..7, 8..10, 11..13, 14..16, 17..19]
            .map(|digits: Range<usize>| Place::Text(stamp + digits.start..stamp + digits.end)),
    );
    if let Some(clear) = text.find(CLEAR) {
        found.push(Place::Text(clear..clear + CLEAR.len()));
    }
    found
}

/// The file with one bit of a place flipped.
fn flipped(text: &str, place: &Place, bit: usize) -> Vec<u8> {
    let flip = |bytes: &mut Vec<u8>| {
        let bit = bit % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
    };
    let (range, new) = match place {
        Place::Base64(range) => {
            let mut bytes = STANDARD.decode(&text[range.clone()]).unwrap();
            flip(&mut bytes);
            (range, STANDARD.encode(bytes).into_bytes())
        }
        Place::Lines(range, parts) => {
            let lines: String = text[range.clone()].split(parts.as_str()).collect();
            let mut bytes = STANDARD.decode(lines.trim()).unwrap();
            flip(&mut bytes);
            let coded = STANDARD.encode(bytes);
            let lines: Vec<&str> = coded
                .as_bytes()
                .chunks(64)
                .map(|line| std::str::from_utf8(line).unwrap())
                .collect();
            let new = format!("{parts}{}{parts}", lines.join(parts));
            (range, new.into_bytes())
        }
        Place::Text(range) => {
            let mut bytes = text[range.clone()].as_bytes().to_vec();
            flip(&mut bytes);
            (range, bytes)
        }
    };
    let mut file = text.as_bytes().to_vec();
    file.splice(range.clone(), new);
    file
}

fn refuses_flips(format: Format, plain: &[u8], dice: &[(usize, usize)]) {
    let (secret, recipient) = generate_identity();
    let mut identities = Identities::new();
    identities.add_age(secret.expose_secret()).unwrap();
    let spec = EncryptSpec {
        groups: vec![vec![recipient]],
        shamir_threshold: None,
        rule: ScopeRule::Default,
        mac_only_encrypted: false,
        now: "2026-11-22T01:02:03Z".parse().unwrap(),
    };
    let sealed = encrypt(plain, format, &spec).unwrap();
    let open = |file: &[u8]| {
        Encrypted::parse(file, format).and_then(|file| file.decrypt(&identities, Mac::Verify))
    };
    open(&sealed).unwrap();
    let text = String::from_utf8(sealed).unwrap();
    let places = places(&text);
    for (place, bit) in dice {
        let place = place % places.len();
        let file = flipped(&text, &places[place], *bit);
        assert_ne!(file, text.as_bytes());
        assert!(
            open(&file).is_err(),
            "{format}: bit {bit} of place {place} was accepted:\n{}",
            String::from_utf8_lossy(&file)
        );
    }
}

fn dice() -> impl Strategy<Value = Vec<(usize, usize)>> {
    prop::collection::vec((0..10_000_usize, 0..100_000_usize), FLIPS)
}

/// Names and values, none of them empty: an empty value has no bit to flip.
fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::btree_map("[a-z]{1,8}", "[a-zA-Z0-9äß ._/+=-]{0,20}[a-zA-Z0-9]", 1..6)
        .prop_map(|map| map.into_iter().filter(|(k, _)| k != "sops").collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_yaml(pairs in pairs(), dice in dice()) {
        let mut text = format!("# head\nc_unencrypted: {CLEAR}\nlist:\n    - 12\n    - true\n    - 1.5\n");
        for (key, value) in &pairs {
            text.push_str(&format!("k-{key}:\n    v: \"{value}\" # of {key}\n"));
        }
        refuses_flips(Format::Yaml, text.as_bytes(), &dice);
    }

    #[test]
    fn of_json(pairs in pairs(), dice in dice()) {
        let mut map: serde_json::Map<String, serde_json::Value> =
            pairs.into_iter().map(|(k, v)| (format!("k-{k}"), serde_json::json!([v, 7, false]))).collect();
        map.insert("c_unencrypted".to_owned(), CLEAR.into());
        let text = serde_json::Value::Object(map).to_string();
        refuses_flips(Format::Json, text.as_bytes(), &dice);
    }

    #[test]
    fn of_dotenv(pairs in pairs(), dice in dice()) {
        let lines = pairs.iter().map(|(k, v)| format!("K_{k}={v}\n"));
        let text: String = lines.chain([format!("C_unencrypted={CLEAR}\n")]).collect();
        refuses_flips(Format::Dotenv, text.as_bytes(), &dice);
    }

    #[test]
    fn of_ini(pairs in pairs(), dice in dice()) {
        let lines = pairs.iter().map(|(k, v)| format!("k-{k} = {}\n", v.trim()));
        let text: String = ["[s]\n".to_owned()].into_iter().chain(lines)
            .chain([format!("c_unencrypted = {CLEAR}\n")]).collect();
        refuses_flips(Format::Ini, text.as_bytes(), &dice);
    }

    #[test]
    fn of_binary_files(bytes in prop::collection::vec(any::<u8>(), 1..200), dice in dice()) {
        refuses_flips(Format::Binary, &bytes, &dice);
    }

    /// A plain age file, armored or not.
    #[test]
    fn of_age_files(bytes in prop::collection::vec(any::<u8>(), 0..200), bits in prop::collection::vec(any::<usize>(), FLIPS)) {
        use trueup_secrets::agenix;
        let (secret, recipient) = generate_identity();
        let mut identities = Identities::new();
        identities.add_age(secret.expose_secret()).unwrap();
        let entry = agenix::Entry { recipients: vec![recipient], armor: false };
        let sealed = agenix::encrypt(&bytes, &entry).unwrap();
        prop_assert!(agenix::decrypt(&sealed, &identities).is_ok());
        for bit in bits {
            let bit = bit % (sealed.len() * 8);
            let mut file = sealed.clone();
            file[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(agenix::decrypt(&file, &identities).is_err(), "bit {bit}");
        }
    }
}
