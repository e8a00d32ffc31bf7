//! Certificates of the test's own, and a server's side of TLS with one.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::remote::{found, must, program};

/// A server at 127.0.0.1 that shows `NAME.pem`, made in that folder: its own authority. `None`, after saying so: no openssl.
pub fn server(dir: &Path, name: &str) -> Option<Arc<rustls::ServerConfig>> {
    let at = |end: &str| dir.join(format!("{name}.{end}"));
    must(
        program(&found("openssl")?)
            .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-subj", "/CN=localhost", "-outform", "PEM"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1"])
            .arg("-keyout")
            .arg(at("key"))
            .arg("-out")
            .arg(at("pem")),
    );
    let der = |end: &str| {
        let text = fs::read_to_string(at(end)).unwrap();
        let body: String = text.lines().filter(|l| !l.starts_with("-----")).collect();
        BASE64.decode(body).unwrap()
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![der("pem").into()],
            rustls::pki_types::PrivatePkcs8KeyDer::from(der("key")).into(),
        )
        .unwrap();
    Some(Arc::new(config))
}
