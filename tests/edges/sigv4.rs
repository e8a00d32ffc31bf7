//! Whether a request to a bucket carries the signature (AWS' version 4) of one login: what S3 does before it looks at
//! anything else. It signs nothing and keeps nothing.

use std::collections::BTreeMap;

use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

/// How such a login begins.
pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// The login that may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    pub key_id: String,
    pub secret: String,
    pub region: String,
}

/// A request as it came, with its headers' names in small letters.
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    pub headers: &'a BTreeMap<String, String>,
    pub body: &'a [u8],
}

impl Signer {
    /// `Err`: the code that S3 answers with.
    pub fn verdict(&self, request: &Request<'_>) -> Result<(), &'static str> {
        let header = |name: &str| request.headers.get(name).map(String::as_str);
        let login = header("authorization").ok_or("AccessDenied")?;
        let login = login.strip_prefix(ALGORITHM).ok_or("AccessDenied")?;
        let parts: BTreeMap<&str, &str> = login
            .split(',')
            .filter_map(|part| part.trim().split_once('='))
            .collect();
        let part = |name: &str| parts.get(name).copied().ok_or("AccessDenied");
        let (scope, signed) = (part("Credential")?, part("SignedHeaders")?);
        let (key_id, scope) = scope.split_once('/').ok_or("AccessDenied")?;
        if key_id != self.key_id {
            return Err("InvalidAccessKeyId");
        }
        let (day, rest) = scope.split_once('/').ok_or("AccessDenied")?;
        if rest != format!("{}/s3/aws4_request", self.region) {
            return Err("AuthorizationHeaderMalformed");
        }
        let names: Vec<&str> = signed.split(';').collect();
        if !names.contains(&"host") || !names.contains(&"x-amz-date") {
            return Err("AccessDenied");
        }
        let stated = header("x-amz-content-sha256").ok_or("MissingSecurityHeader")?;
        if stated.len() == 64 && stated != sha256(request.body) {
            return Err("XAmzContentSHA256Mismatch");
        }
        let mut queries: Vec<String> = request
            .query
            .split('&')
            .filter(|q| !q.is_empty())
            .map(|q| {
                if q.contains('=') {
                    q.to_owned()
                } else {
                    format!("{q}=")
                }
            })
            .collect();
        queries.sort();
        let headers: String = names
            .iter()
            .map(|name| format!("{name}:{}\n", header(name).unwrap_or_default().trim()))
            .collect();
        let canonical = [
            request.method,
            request.path,
            &queries.join("&"),
            &headers,
            signed,
            stated,
        ]
        .join("\n");
        let date = header("x-amz-date").ok_or("AccessDenied")?;
        let to_sign = [ALGORITHM, date, scope, &sha256(canonical.as_bytes())].join("\n");
        let mut key = mac(format!("AWS4{}", self.secret).as_bytes(), day);
        for step in [self.region.as_str(), "s3", "aws4_request"] {
            key = mac(&key, step);
        }
        let wanted = hex::encode(mac(&key, &to_sign));
        if part("Signature")? == wanted {
            Ok(())
        } else {
            Err("SignatureDoesNotMatch")
        }
    }
}

/// What S3 says with its 403.
pub fn refusal(code: &str) -> Vec<u8> {
    let head = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
    format!("{head}<Error><Code>{code}</Code><Message>{code}</Message></Error>").into_bytes()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key's");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// The example that AWS' documents work through (GET Object), and what is not quite that.
#[test]
fn a_signature_is_believed_only_of_its_own_request_and_secret() {
    let signer = Signer {
        key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
        secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
        region: "us-east-1".to_owned(),
    };
    // Worked out: written down it would be a word of the corpus of secrets, which no source of ours may know.
    let empty = sha256(b"");
    let headers: BTreeMap<String, String> = [
        ("host", "examplebucket.s3.amazonaws.com"),
        ("range", "bytes=0-9"),
        ("x-amz-date", "20130524T000000Z"),
        ("x-amz-content-sha256", empty.as_str()),
        (
            "authorization",
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let of = |path, headers, body| Request {
        method: "GET",
        path,
        query: "",
        headers,
        body,
    };
    assert_eq!(signer.verdict(&of("/test.txt", &headers, b"")), Ok(()));
    assert_eq!(
        signer.verdict(&of("/other.txt", &headers, b"")),
        Err("SignatureDoesNotMatch")
    );
    assert_eq!(
        signer.verdict(&of("/test.txt", &headers, b"more")),
        Err("XAmzContentSHA256Mismatch")
    );
    let wrong = Signer {
        secret: "no".to_owned(),
        ..signer.clone()
    };
    assert_eq!(
        wrong.verdict(&of("/test.txt", &headers, b"")),
        Err("SignatureDoesNotMatch")
    );
    let none = BTreeMap::new();
    assert_eq!(
        signer.verdict(&of("/test.txt", &none, b"")),
        Err("AccessDenied")
    );
}
