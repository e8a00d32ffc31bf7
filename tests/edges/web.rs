//! A web server that keeps what it is sent, as caches do: by PUT, GET and HEAD, over TLS or not, with a login or for all.
//! It counts every request; nothing else is its business.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use crate::sigv4::{self, Signer};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// How it takes what comes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Open,
    /// For this user and password alone.
    For(String, String),
    /// For requests that this login has signed, as S3 wants them.
    Signed(Signer),
    /// Takes connections and never says a word.
    Hangs,
}

#[derive(Default)]
struct Kept {
    mood: Mood,
    connections: usize,
    /// Some request had a signature, right or wrong.
    signed: bool,
    /// Method and path of each request.
    requests: Vec<(String, String)>,
    files: BTreeMap<String, Vec<u8>>,
}

/// At 127.0.0.1, until the test's process ends.
#[derive(Clone)]
pub struct Web {
    pub port: u16,
    kept: Arc<Mutex<Kept>>,
}

impl Web {
    pub fn new(mood: Mood, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let web = Self {
            port: listener.local_addr().unwrap().port(),
            kept: Arc::default(),
        };
        web.is(mood);
        let this = web.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                this.kept.lock().unwrap().connections += 1;
                let (this, tls) = (this.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    Some(config) => {
                        let tls = rustls::ServerConnection::new(config).unwrap();
                        this.serve(rustls::StreamOwned::new(tls, stream));
                    }
                    None => this.serve(stream),
                });
            }
        });
        web
    }

    pub fn is(&self, mood: Mood) {
        self.kept.lock().unwrap().mood = mood;
    }

    pub fn connections(&self) -> usize {
        self.kept.lock().unwrap().connections
    }

    /// How often each file was sent here.
    pub fn sent(&self) -> BTreeMap<String, usize> {
        let mut sent = BTreeMap::new();
        for (method, path) in &self.kept.lock().unwrap().requests {
            if method == "PUT" {
                *sent.entry(path.clone()).or_insert(0) += 1;
            }
        }
        sent
    }

    /// What it has taken.
    pub fn stored(&self) -> Vec<String> {
        self.kept.lock().unwrap().files.keys().cloned().collect()
    }

    /// Did any request come with a signature?
    pub fn was_signed(&self) -> bool {
        self.kept.lock().unwrap().signed
    }

    pub fn file(&self, path: &str) -> Option<String> {
        let kept = self.kept.lock().unwrap();
        let bytes = kept.files.get(path)?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    }

    fn serve<S: Read + Write>(&self, stream: S) {
        let mut stream = BufReader::new(stream);
        while self.answer(&mut stream).is_some() {}
    }

    /// One request; `None`: the connection ended.
    fn answer<S: Read + Write>(&self, stream: &mut BufReader<S>) -> Option<()> {
        let request = Request::read(stream)?;
        let answer = {
            let mut kept = self.kept.lock().unwrap();
            let login = request.login.as_deref().unwrap_or_default();
            kept.signed |= login.starts_with(sigv4::ALGORITHM);
            kept.requests
                .push((request.method.clone(), request.path.clone()));
            match &kept.mood {
                Mood::Hangs => None,
                Mood::For(user, password) if request.login != Some(basic(user, password)) => {
                    Some((401, Vec::new()))
                }
                Mood::Signed(signer) => match signer.verdict(&request.signed()) {
                    Ok(()) => Some(kept.take(&request)),
                    Err(code) => Some((403, sigv4::refusal(code))),
                },
                _ => Some(kept.take(&request)),
            }
        };
        let Some((code, body)) = answer else {
            // Whoever waits goes by himself.
            let _gone = stream.read(&mut [0]);
            return None;
        };
        let word = BTreeMap::from([
            (200, "OK"),
            (201, "Created"),
            (403, "Forbidden"),
            (404, "Not Found"),
        ]);
        let word = word.get(&code).unwrap_or(&"Unauthorized");
        let challenge = match code {
            401 => "WWW-Authenticate: Basic realm=\"test\"\r\n",
            _ => "",
        };
        let head = format!(
            "HTTP/1.1 {code} {word}\r\n{challenge}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let to = stream.get_mut();
        to.write_all(head.as_bytes()).ok()?;
        if request.method != "HEAD" {
            to.write_all(&body).ok()?;
        }
        to.flush().ok()
    }
}

impl Kept {
    fn take(&mut self, request: &Request) -> (u16, Vec<u8>) {
        match request.method.as_str() {
            "PUT" => {
                let (path, body) = (request.path.clone(), request.body.clone());
                self.files.insert(path, body);
                (201, Vec::new())
            }
            _ => match self.files.get(&request.path) {
                Some(body) => (200, body.clone()),
                None => (404, Vec::new()),
            },
        }
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
}

struct Request {
    method: String,
    path: String,
    /// As it stood in the request's first line.
    query: String,
    headers: BTreeMap<String, String>,
    login: Option<String>,
    body: Vec<u8>,
}

impl Request {
    fn signed(&self) -> sigv4::Request<'_> {
        sigv4::Request {
            method: &self.method,
            path: &self.path,
            query: &self.query,
            headers: &self.headers,
            body: &self.body,
        }
    }

    fn read<S: Read + Write>(stream: &mut BufReader<S>) -> Option<Self> {
        let mut first = String::new();
        stream.read_line(&mut first).ok().filter(|n| *n > 0)?;
        let mut words = first.split_whitespace();
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim().split_once(": ") else {
                break;
            };
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        if headers.contains_key("expect") {
            let to = stream.get_mut();
            to.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
            to.flush().ok()?;
        }
        let mut body = Vec::new();
        if let Some(length) = headers.get("content-length") {
            body.resize(length.parse().ok()?, 0);
            stream.read_exact(&mut body).ok()?;
        } else if headers.contains_key("transfer-encoding") {
            body = chunks(stream)?;
        }
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        Some(Self {
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            login: headers.get("authorization").cloned(),
            headers,
            body,
        })
    }
}

fn chunks<S: Read>(stream: &mut BufReader<S>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let mut chunk = vec![0; usize::from_str_radix(line.trim(), 16).ok()? + 2];
        stream.read_exact(&mut chunk).ok()?;
        chunk.truncate(chunk.len() - 2);
        if chunk.is_empty() {
            return Some(body);
        }
        body.extend(chunk);
    }
}
