//! Fuzz bodies: every parser of this crate against damaged input. Short by default, so that each build runs them;
//! `TRUEUP_FUZZ_SECS=10` gives each body ten seconds, `TRUEUP_FUZZ_COUNT` and `TRUEUP_FUZZ_SEED` replay a run. A body that
//! panics, hangs, or brings the process over 256 MB fails, and prints its input. `cargo xtask fuzz` builds them optimized.

#![allow(clippy::unwrap_used, missing_docs)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use secrecy::ExposeSecret;
use trueup_secrets::rules::CreationRules;
use trueup_secrets::{
    EncryptSpec, Encrypted, Format, Identities, Mac, Plain, Recipient, ScopeRule, agenix, encrypt,
    generate_identity, lint,
};

/// Without anything said: a moment each.
const COUNT: u64 = 1_500;
/// No input of a few kilobytes may take this body's thread longer, counted in its own time: a busy machine takes nothing
/// from that.
const SLOW: Duration = Duration::from_secs(5);
/// What never ends is told by a watcher, and ends the process.
const STUCK: Duration = Duration::from_secs(900);
/// Resident bytes of the whole process.
const MEMORY_MAX: u64 = 256 << 20;
const INPUT_MAX: usize = 8 << 10;

/// xorshift64*: enough to damage files with, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % (n.max(1) as u64)).unwrap()
    }
}

/// Pieces that mean something to one of the parsers.
const WORDS: [&str; 40] = [
    "sops",
    "sops:",
    "\"sops\"",
    "age:",
    "enc:",
    "mac:",
    "version: 3.9.0",
    "lastmodified:",
    "ENC[AES256_GCM,data:",
    ",iv:",
    ",tag:",
    ",type:str]",
    ",type:comment]",
    "#ENC[",
    "&a ",
    "*a",
    "<<: *a",
    "!!binary ",
    "!!str ",
    "---\n",
    "...\n",
    "- ",
    "? ",
    ": ",
    "|\n",
    ">-\n",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\u0000",
    "\n",
    "\r\n",
    "\t",
    "=",
    "__list_0__map_",
    "shamir_threshold: 2",
    "-> X25519 ",
    "AGE-SECRET-KEY-1",
];

/// One input: a sample, damaged in a few places.
fn damage(dice: &mut Dice, samples: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = samples[dice.below(samples.len())].clone();
    for _ in 0..=dice.below(6) {
        let at = dice.below(bytes.len() + 1);
        match dice.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 => drop(bytes.drain(at..(at + dice.below(40)).min(bytes.len()))),
            2 => bytes.insert(at, u8::try_from(dice.below(256)).unwrap()),
            3 => bytes.truncate(at),
            4 => {
                let to = (at + dice.below(200)).min(bytes.len());
                let copy = bytes[at..to].to_vec();
                let times = 1 + dice.below(4);
                let into = dice.below(bytes.len() + 1);
                bytes.splice(into..into, copy.repeat(times));
            }
            5 => {
                let other = &samples[dice.below(samples.len())];
                let from = dice.below(other.len());
                bytes.splice(
                    at..at,
                    other[from..(from + dice.below(100)).min(other.len())].to_vec(),
                );
            }
            _ => {
                let word = WORDS[dice.below(WORDS.len())].as_bytes();
                bytes.splice(at..at, word.to_vec());
            }
        }
        bytes.truncate(INPUT_MAX);
    }
    bytes
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// The time that this thread was given.
fn own_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap()
}

/// Ends the process when one input takes for ever. `at`: the dice before each input.
fn watch(name: &str, at: &Arc<AtomicU64>, samples: &[Vec<u8>]) {
    let (name, samples, at) = (name.to_owned(), samples.to_vec(), Arc::downgrade(at));
    std::thread::spawn(move || {
        let mut last = (0, Instant::now());
        while let Some(at) = at.upgrade() {
            let state = at.load(Relaxed);
            if state != last.0 {
                last = (state, Instant::now());
            } else if last.1.elapsed() > STUCK {
                let input = damage(&mut Dice(state), &samples);
                eprintln!("{name}: never ends:\n{}", String::from_utf8_lossy(&input));
                std::process::exit(101);
            }
            drop(at);
            std::thread::sleep(Duration::from_secs(1));
        }
    });
}

fn fuzz(name: &str, samples: &[Vec<u8>], body: impl Fn(&[u8])) {
    let seed = number("TRUEUP_FUZZ_SEED").unwrap_or(0x5eed);
    let secs = number("TRUEUP_FUZZ_SECS").map(Duration::from_secs);
    let count =
        number("TRUEUP_FUZZ_COUNT").unwrap_or(if secs.is_some() { u64::MAX } else { COUNT });
    let mut dice = Dice(seed | 1);
    let begun = Instant::now();
    let mut done = 0;
    let at = Arc::new(AtomicU64::new(0));
    watch(name, &at, samples);
    while done < count && secs.is_none_or(|s| begun.elapsed() < s) {
        at.store(dice.0, Relaxed);
        let input = damage(&mut dice, samples);
        let one = own_time();
        let ended = catch_unwind(AssertUnwindSafe(|| body(&input)));
        let shown = || String::from_utf8_lossy(&input).into_owned();
        assert!(
            ended.is_ok(),
            "{name}: input {done} of seed {seed} panics:\n{}",
            shown()
        );
        assert!(
            own_time().saturating_sub(one) < SLOW,
            "{name}: input {done} of seed {seed} hangs:\n{}",
            shown()
        );
        done += 1;
        if done % 4096 == 0 {
            assert!(
                resident() < MEMORY_MAX,
                "{name}: input {done} of seed {seed}: memory"
            );
        }
    }
    let resident = resident();
    println!(
        "fuzz {name}: seed {seed}, {done} inputs, {} MB at most",
        resident >> 20
    );
    assert!(resident < MEMORY_MAX, "{name}: {resident} bytes");
}

fn identity() -> (Identities, Recipient, String) {
    let (secret, recipient) = generate_identity();
    let text = secret.expose_secret().to_owned();
    let mut identities = Identities::new();
    identities.add_age(&text).unwrap();
    (identities, recipient, text)
}

fn sample(format: Format) -> &'static str {
    match format {
        Format::Yaml => {
            "# head\na: one\nb:\n    - x # in line\n    - 1\n    - 1.5\n    - true\n    - 2020-01-01\n    - null\nc: |\n    two\n    lines\n---\nd: &q {e: \"f\"}\ng: *q\n"
        }
        Format::Json => {
            "{\"a\": \"one\", \"b\": [1, 1.5, true, null, {\"c\": \"\\u00e4\\n\"}], \"a\": \"twice\"}"
        }
        Format::Dotenv => "# head\nA=one\nB=two\\nlines\nexport C=x=y\n",
        Format::Ini => "k = v\n[section]\n; head\na = one\nb : two\n[other]\nc = \"q\"\n",
        Format::Binary => "any bytes",
    }
}

/// Encrypted to one, and to two groups of which both are needed.
fn sealed(format: Format) -> (Identities, Vec<Vec<u8>>) {
    let (identities, recipient, _) = identity();
    let of = |groups: Vec<Vec<Recipient>>| {
        let spec = EncryptSpec {
            shamir_threshold: (groups.len() > 1).then_some(groups.len()),
            groups,
            rule: ScopeRule::Default,
            mac_only_encrypted: false,
            now: "2026-11-22T01:02:03Z".parse().unwrap(),
        };
        encrypt(sample(format).as_bytes(), format, &spec).unwrap()
    };
    let one = vec![recipient.clone()];
    let samples = vec![
        of(vec![one.clone()]),
        of(vec![one.clone(), one]),
        sample(format).as_bytes().to_vec(),
    ];
    (identities, samples)
}

/// Reads, judges, opens and prints.
fn encrypted(format: Format) {
    let (identities, samples) = sealed(format);
    fuzz(&format!("{format}, encrypted"), &samples, |input| {
        let Ok(file) = Encrypted::parse(input, format) else {
            return;
        };
        let _found = lint::check(&file);
        let _there = file.check_key("b/0");
        let _labels = file.recipients();
        if let Ok(plain) = file.decrypt(&identities, Mac::Ignore) {
            let _printed = plain.to_bytes();
            let _json = plain.to_json();
        }
    });
}

/// What was read can be written, or is refused; and what was written reads.
fn plain(format: Format) {
    let sample = sample(format).as_bytes().to_vec();
    fuzz(&format!("{format}, plain"), &[sample], |input| {
        if let Ok(plain) = Plain::parse(input, format) {
            let _json = plain.to_json();
            if let Ok(text) = plain.to_editor() {
                let _again = Plain::parse(&text, format);
            }
        }
    });
}

#[test]
fn no_encrypted_yaml_brings_it_down() {
    encrypted(Format::Yaml);
}

#[test]
fn no_yaml_brings_it_down() {
    plain(Format::Yaml);
}

#[test]
fn no_encrypted_json_brings_it_down() {
    encrypted(Format::Json);
}

#[test]
fn no_json_brings_it_down() {
    plain(Format::Json);
}

#[test]
fn no_encrypted_dotenv_brings_it_down() {
    encrypted(Format::Dotenv);
}

#[test]
fn no_dotenv_brings_it_down() {
    plain(Format::Dotenv);
}

#[test]
fn no_encrypted_ini_brings_it_down() {
    encrypted(Format::Ini);
}

#[test]
fn no_ini_brings_it_down() {
    plain(Format::Ini);
}

#[test]
fn no_encrypted_binary_file_brings_it_down() {
    encrypted(Format::Binary);
}

#[test]
fn no_binary_file_brings_it_down() {
    plain(Format::Binary);
}

/// The path of one value, as `key` of a `Secret` and as `decrypt --key` have it.
#[test]
fn no_path_brings_it_down() {
    let (_, samples) = sealed(Format::Yaml);
    let file = Encrypted::parse(&samples[0], Format::Yaml).unwrap();
    let plain = Plain::parse(sample(Format::Yaml).as_bytes(), Format::Yaml).unwrap();
    let paths = ["a", "b/0", "b/5", "c", "d/e", "b/18446744073709551616"];
    let paths = paths.map(|p| p.as_bytes().to_vec());
    fuzz("paths", &paths, |input| {
        let path = String::from_utf8_lossy(input);
        let _there = file.check_key(&path);
        let _value = plain.lookup(&path);
    });
}

#[test]
fn no_age_file_brings_it_down() {
    let (identities, recipient, _) = identity();
    let seal = |armor| {
        let entry = agenix::Entry {
            recipients: vec![recipient.clone()],
            armor,
        };
        agenix::encrypt(b"some plain text", &entry).unwrap()
    };
    fuzz("age", &[seal(false), seal(true)], |input| {
        let _opened = agenix::decrypt(input, &identities);
    });
}

#[test]
fn no_secrets_nix_brings_it_down() {
    let (_, recipient, _) = identity();
    let nix = format!(
        "let a = \"{recipient}\"; all = [ a ] ++ [ \"{recipient}\" ]; in {{ \"x.age\".publicKeys = all; \"y.age\" = {{ publicKeys = [ a ]; armor = true; }}; }}"
    );
    fuzz("secrets.nix", &[nix.into_bytes()], |input| {
        let _read = agenix::Recipients::from_nix(&String::from_utf8_lossy(input));
    });
}

#[test]
fn no_secrets_nix_as_json_brings_it_down() {
    let (_, recipient, _) = identity();
    let json = format!("{{\"x.age\": {{\"publicKeys\": [\"{recipient}\"], \"armor\": true}}}}");
    fuzz("secrets.nix as JSON", &[json.into_bytes()], |input| {
        let _read = agenix::Recipients::from_json(&String::from_utf8_lossy(input));
    });
}

#[test]
fn no_creation_rules_bring_it_down() {
    let (_, recipient, _) = identity();
    let rules = format!(
        "creation_rules:\n    - path_regex: a.*b$\n      key_groups:\n          - age: [{recipient}]\n            merge:\n                - age: [{recipient}]\n      shamir_threshold: 2\n    - age: {recipient}, {recipient}\n      encrypted_regex: ^x\n"
    );
    fuzz(".sops.yaml", &[rules.into_bytes()], |input| {
        if let Ok(Some(rules)) = CreationRules::parse(input) {
            let _rule = rules.for_path("axb");
            let _rule = rules.for_path("other");
        }
    });
}

#[test]
fn no_public_key_brings_it_down() {
    let (_, recipient, _) = identity();
    let ssh =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS a@b";
    let public = [recipient.to_string().into_bytes(), ssh.as_bytes().to_vec()];
    fuzz("public keys", &public, |input| {
        let text = String::from_utf8_lossy(input);
        let _read = Recipient::parse(&text);
        let _read = Recipient::of_host_key(&text);
        let _read = trueup_secrets::ssh_public_to_age(&text);
    });
}

#[test]
fn no_private_key_brings_it_down() {
    let (_, _, secret) = identity();
    let pem = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZWQyNTUxOQAAACBjyklE8s9R8B0XhVbw+aG1bACwICUTWqx+E0aTXj5wEg==\n-----END OPENSSH PRIVATE KEY-----\n";
    let private = [secret.into_bytes(), pem.as_bytes().to_vec()];
    fuzz("private keys", &private, |input| {
        let mut identities = Identities::new();
        let _read = identities.add_age(&String::from_utf8_lossy(input));
        let _read = identities.add_host_key(input);
        let _read = trueup_secrets::needs_passphrase(input);
    });
}
