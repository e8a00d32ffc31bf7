#![allow(clippy::unwrap_used)]
use super::*;
use ed25519_dalek::{Signature, Verifier as _};
use ssh_key::private::{Ed25519Keypair, Ed25519PrivateKey, KeypairData};
use ssh_key::public::Ed25519PublicKey;
use ssh_key::{HashAlg, LineEnding, PrivateKey, SshSig};
use trueup_schema::wire::{Order, WITNESS_NAMESPACE, Witness};

const SEED: [u8; 32] = [7; 32];

fn pair(seed: [u8; 32]) -> PrivateKey {
    let public = SigningKey::from_bytes(&seed).verifying_key().to_bytes();
    let pair = Ed25519Keypair {
        public: Ed25519PublicKey(public),
        private: Ed25519PrivateKey::from_bytes(&seed),
    };
    PrivateKey::new(KeypairData::Ed25519(pair), "root@web-1").unwrap()
}

fn public(seed: [u8; 32]) -> String {
    pair(seed).public_key().to_openssh().unwrap()
}

fn watch() -> Watch {
    Watch {
        format: FORMAT,
        witness: Witness {
            host: "web-1".parse().unwrap(),
            key: public(SEED),
        },
        machine_id: None,
        host: "hub".parse().unwrap(),
        address: "10.0.0.1".to_owned(),
        port: 22,
        user: "root".to_owned(),
        host_keys: vec![public([9; 32])],
        order: Order { term: 1, serial: 7 },
        expires_at: Timestamp::UNIX_EPOCH,
        for_secs: 60,
    }
}

#[test]
fn a_host_signs_only_with_the_key_that_the_controller_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let pem = pair(SEED).to_openssh(LineEnding::LF).unwrap();
    std::fs::write(&path, pem.as_bytes()).unwrap();
    let other = dir.path().join("other");
    let pem = pair([8; 32]).to_openssh(LineEnding::LF).unwrap();
    std::fs::write(&other, pem.as_bytes()).unwrap();
    let none = dir.path().join("none");
    // Wherever it lies among them, also beside one that can't be read.
    for paths in [
        vec![path.clone()],
        vec![none.clone(), path.clone()],
        vec![other.clone(), path.clone()],
    ] {
        let (found, key) = key_among(&paths, &public(SEED)).unwrap();
        assert_eq!((found, key.to_bytes()), (path.clone(), SEED));
    }
    for named in [&*public([6; 32]), "", "ssh-ed25519 AAAA"] {
        let got = key_among(&[path.clone(), other.clone()], named);
        assert!(matches!(got, Err(AgentError::Witness(_))), "{named}");
    }
    let got = key_among(std::slice::from_ref(&none), &public(SEED)).unwrap_err();
    assert!(got.to_string().contains("none"), "{got}");
    assert!(key_among(&[], &public(SEED)).is_err());
}

#[test]
fn what_is_signed_is_what_ssh_keygen_would_sign() {
    let w = watch();
    let key = SigningKey::from_bytes(&SEED);
    let said = testify(&key, &w.witness.host, &w.host, w.order, "0a1b");
    let text = b"trueup witness 1\nweb-1\nhub\n1-7\n0a1b\n";
    let bytes = SshSig::signed_data(WITNESS_NAMESPACE, HashAlg::Sha512, text).unwrap();
    use base64::Engine as _;
    let said = base64::engine::general_purpose::STANDARD
        .decode(said)
        .unwrap();
    let said = Signature::from_slice(&said).unwrap();
    assert!(key.verifying_key().verify(&bytes, &said).is_ok());
}

#[test]
fn nothing_that_ssh_could_take_for_an_option_is_an_address_or_a_login() {
    assert!(check(&watch()).is_ok());
    for address in ["-oProxyCommand=reboot", "", "a b", "x;reboot", "a\nb"] {
        let address = address.to_owned();
        assert!(check(&Watch { address, ..watch() }).is_err());
    }
    for user in ["-l", "", "root;", "Root", "a b", "1a"] {
        let user = user.to_owned();
        assert!(check(&Watch { user, ..watch() }).is_err());
    }
    let none = Vec::new();
    let many = vec![public([9; 32]); WATCH_KEYS_MAX + 1];
    let odd = vec!["* ssh-ed25519 AAAA".to_owned()];
    let lines = vec![format!("{}\nevil ssh-ed25519 AAAA", public([9; 32]))];
    let taken = check(&Watch {
        host_keys: lines,
        ..watch()
    });
    let told = taken.unwrap()[0].to_string();
    assert!(!told.contains('\n') && !told.contains("evil"), "{told}");
    for host_keys in [none, many, odd] {
        assert!(
            check(&Watch {
                host_keys,
                ..watch()
            })
            .is_err()
        );
    }
    assert!(check(&Watch { port: 0, ..watch() }).is_err());
}

#[test]
fn only_a_controller_that_is_obeyed_says_whom_to_watch() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout {
        root: dir.path().to_owned(),
    };
    layout.create().unwrap();
    let controller = SigningKey::from_bytes(&[1; 32]);
    let bytes = serde_json::to_vec(&watch()).unwrap();
    let signed = Signed::new(trueup_schema::wire::WATCH_PAYLOAD_TYPE, &bytes, &controller);
    let unknown = take(&layout, &signed);
    assert!(matches!(
        unknown,
        Err(AgentError::Watch(trust::TrustError::NoKey))
    ));
    let own = trueup_schema::wire::key_text(&controller.verifying_key());
    files::write_atomic(&layout.file("keys/controller.pub"), own.as_bytes()).unwrap();
    assert_eq!(trust::watch(&layout, &signed).unwrap(), watch());
    let intent = Signed::new(
        trueup_schema::wire::INTENT_PAYLOAD_TYPE,
        &bytes,
        &controller,
    );
    assert!(take(&layout, &intent).is_err(), "signed as something else");
    let thief = SigningKey::from_bytes(&[2; 32]);
    let forged = Signed::new(trueup_schema::wire::WATCH_PAYLOAD_TYPE, &bytes, &thief);
    assert!(take(&layout, &forged).is_err(), "signed by another");
    let late = take(&layout, &signed).unwrap_err().to_string();
    assert!(late.contains("good until"), "{late}");
    assert!(report(&layout).is_empty(), "nothing was begun");
}

#[test]
fn what_is_over_makes_room_and_what_goes_on_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout {
        root: dir.path().to_owned(),
    };
    std::fs::create_dir_all(folder(&layout)).unwrap();
    let put = |n: usize, goes_on: bool| {
        let host: HostName = format!("h{n}").parse().unwrap();
        let mut until = journal::now();
        until.at += 3_600_000_000_000;
        let done = WatchReport {
            host: host.clone(),
            order: watch().order,
            tries: 1,
            confirmed: false,
            goes_on,
            said: String::new(),
        };
        let watch = Watch {
            host: host.clone(),
            ..watch()
        };
        files::write_json(&file(&layout, &host), &Kept { watch, until, done }).unwrap();
    };
    (0..WATCHES_MAX).for_each(|n| put(n, true));
    let new: HostName = "hub".parse().unwrap();
    assert!(make_room(&layout, &new).is_err());
    assert!(
        make_room(&layout, &"h3".parse().unwrap()).is_ok(),
        "in its own place"
    );
    put(5, false);
    make_room(&layout, &new).unwrap();
    let left = report(&layout);
    assert_eq!(left.len(), WATCHES_MAX - 1);
    assert!(left.iter().all(|w| w.host.as_str() != "h5"));
}
