//! The webhook against a real listener: signed, the same name at each try, and tried again until it is taken.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;

use trueup::edge::webhook::{DELIVERY_HEADER, SIGNATURE_HEADER, Webhooks, signature};
use trueup_engine::ports::Alerts as _;
use trueup_schema::ErrorClass;
use trueup_schema::kind::ResolvedAlert;
use trueup_schema::status::Severity;

use crate::local;

struct Got {
    signature: String,
    delivery: String,
    body: Vec<u8>,
}

/// Answers one request after the other with these lines; what came is sent on.
fn sink(answers: &'static [&'static str]) -> (String, mpsc::Receiver<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook?token=t0p", listener.local_addr().unwrap());
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut signature, mut delivery, mut length) = (String::new(), String::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let Some((name, value)) = line.trim().split_once(':') else {
                    if line.trim().is_empty() {
                        break;
                    }
                    continue;
                };
                let value = value.trim().to_owned();
                if name.eq_ignore_ascii_case(SIGNATURE_HEADER) {
                    signature = value;
                } else if name.eq_ignore_ascii_case(DELIVERY_HEADER) {
                    delivery = value;
                } else if name.eq_ignore_ascii_case("content-length") {
                    length = value.parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            tx.send(Got {
                signature,
                delivery,
                body,
            })
            .unwrap();
            let mut stream = stream;
            write!(
                stream,
                "HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            .unwrap();
        }
    });
    (url, rx)
}

fn alert(url: String, secret_file: &std::path::Path) -> ResolvedAlert {
    ResolvedAlert {
        name: "chat".to_owned(),
        url,
        secret_file: secret_file.display().to_string(),
        severity: Severity::Warning,
        kinds: Vec::new(),
        hosts: None,
        suspend: false,
    }
}

#[test]
fn a_sink_that_fails_twice_then_takes_it_sees_one_signed_message_three_times() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, "It's a Secret to Everybody\n").unwrap();
    let (url, got) = sink(&["503 Later", "429 Slowly", "204 Taken"]);
    let alert = alert(url, &key);
    local(async {
        for class in [
            Some(ErrorClass::Transient),
            Some(ErrorClass::Transient),
            None,
        ] {
            let sent = Webhooks
                .send(
                    &alert,
                    "d-1",
                    br#"{"text":"web-2 was rolled back"}"#.to_vec(),
                )
                .await;
            assert_eq!(sent.err().map(|e| e.class), class);
        }
    });
    for got in got.iter().take(3) {
        assert_eq!(
            got.signature,
            signature(b"It's a Secret to Everybody", &got.body)
        );
        assert_eq!(got.delivery, "d-1");
        assert_eq!(got.body, br#"{"text":"web-2 was rolled back"}"#);
    }
}

#[test]
fn a_no_is_told_from_a_later_and_neither_token_nor_key_is_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, "s3cret-key").unwrap();
    let (url, _got) = sink(&["400 What", "302 Elsewhere"]);
    let alert = alert(url, &key);
    local(async {
        let no = Webhooks
            .send(&alert, "d-2", b"{}".to_vec())
            .await
            .unwrap_err();
        assert_eq!(no.class, ErrorClass::Desired);
        // Never followed: the body would go to whomever the answer names.
        let elsewhere = Webhooks
            .send(&alert, "d-3", b"{}".to_vec())
            .await
            .unwrap_err();
        assert_eq!(elsewhere.class, ErrorClass::Transient);
        for e in [no, elsewhere] {
            assert!(
                !e.message.contains("t0p") && !e.message.contains("s3cret"),
                "{e}"
            );
            assert!(e.message.contains("/hook"), "{e}");
        }
    });
}

#[test]
fn a_key_that_is_missing_or_empty_is_named_and_nothing_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let missing = alert("http://127.0.0.1:9/".to_owned(), &dir.path().join("none"));
    let empty_file = dir.path().join("empty");
    std::fs::write(&empty_file, "\n").unwrap();
    let empty = alert("http://127.0.0.1:9/".to_owned(), &empty_file);
    local(async {
        for (alert, words) in [(missing, "none"), (empty, "empty")] {
            let e = Webhooks
                .send(&alert, "d-4", b"{}".to_vec())
                .await
                .unwrap_err();
            assert_eq!(e.class, ErrorClass::Host);
            assert!(
                e.message.contains("secretFile") && e.message.contains(words),
                "{e}"
            );
        }
    });
}
