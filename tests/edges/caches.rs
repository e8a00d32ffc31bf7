//! Closures travel to caches by upload: the real `nix` against a web server of the test's own. Judged by what arrived there.

use std::path::{Path, PathBuf};

use trueup::edge::nix::Nix;
use trueup_engine::ports::{Evaluated, Publisher as _};
use trueup_schema::kind::ResolvedCache;

use crate::local;
use crate::rig::{Dir, cache, done, evaluated, must_nix, nix, nix_with, want};
use crate::sigv4::Signer;
use crate::tls;
use crate::web::{Mood, Web};

/// Two hosts that have a path in common.
const FLAKE: &str = r#"{ outputs = { self }: let
  drv = name: script: derivation { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" script ]; };
  dep = drv "dep" "echo what both need > $out";
  host = name: { config.system.build.toplevel = drv name "echo ${name} ${dep} > $out"; };
in { nixosConfigurations = { a = host "a"; b = host "b"; }; }; }"#;

/// Nobody else's, so that it is found wherever it should not be.
const PASSWORD: &str = "pa55word-of-the-test";

fn at(web: &Web, scheme: &str) -> ResolvedCache {
    cache(&format!("{scheme}://127.0.0.1:{}/fleet", web.port))
}

fn with_login(cache: ResolvedCache, file: &Path) -> ResolvedCache {
    ResolvedCache {
        credentials_file: Some(file.to_str().unwrap().to_owned()),
        ..cache
    }
}

/// Two closures that share a path, built and signed.
async fn two(nix: &Nix, dir: &Dir) -> [Evaluated; 2] {
    let tree = dir.tree("flake.nix", FLAKE);
    let found = evaluated(nix, &tree, ["a", "b"].map(want).to_vec()).await;
    let both = ["a", "b"].map(|h| found[h].clone().unwrap());
    for e in &both {
        done(nix, e, "root").await;
        nix.sign(&e.out).await.unwrap();
    }
    both
}

fn narinfo(web: &Web, e: &Evaluated) -> String {
    let path = format!("/fleet/{}.narinfo", e.out.hash());
    web.file(&path).unwrap_or_else(|| panic!("no {path}"))
}

/// Readable by nobody else.
fn secret_file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    mode(&path, 0o600);
    path
}

fn mode(path: &Path, bits: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits)).unwrap();
}

#[test]
fn an_upload_brings_each_path_once_and_signed_and_another_store_takes_it_from_there() {
    let dir = Dir::new();
    let Some(nix) = nix(dir.path()) else { return };
    let web = Web::new(Mood::Open, None);
    local(async {
        let [a, b] = two(&nix, &dir).await;
        let cache = at(&web, "http");
        let (first, second) = futures::join!(nix.push(&a.out, &cache), nix.push(&b.out, &cache));
        first.unwrap();
        second.unwrap();
        let sent = web.sent();
        let nars = sent.keys().filter(|p| p.contains("/nar/")).count();
        let infos = sent.keys().filter(|p| p.ends_with(".narinfo")).count();
        assert_eq!((nars, infos), (3, 3), "{sent:?}");
        assert!(sent.values().all(|n| *n == 1), "{sent:?}");
        for e in [&a, &b] {
            assert!(narinfo(&web, e).contains("Sig: test-1:"));
        }
        nix.push(&a.out, &cache).await.unwrap();
        assert_eq!(web.sent(), sent, "what is there is not sent again");

        let key = std::fs::read_to_string(dir.path().join("keys/store.key")).unwrap();
        assert!(key.starts_with("test-1:"));
        let public =
            trueup::edge::keys::StoreKey::load(&dir.path().join("keys/store.key")).unwrap();
        let store = dir.path().join("another");
        let trusted = ["--option", "trusted-public-keys", &public.public];
        let from = [
            "copy",
            "--from",
            &cache.url,
            "--to",
            store.to_str().unwrap(),
            a.out.as_str(),
        ];
        must_nix(&trusted, &from).await;
        assert!(store.join(&a.out.as_str()[1..]).exists());
    });
}

#[test]
fn over_https_a_cache_is_believed_by_the_authority_that_nix_was_given_and_by_no_other() {
    let dir = Dir::new();
    let Some(config) = tls::server(dir.path(), "good") else {
        return;
    };
    let Some(_) = tls::server(dir.path(), "stranger") else {
        return;
    };
    let believes = |name: &str| {
        let file = dir.path().join(format!("{name}.pem"));
        nix_with(dir.path(), |s| {
            s.env.insert("NIX_SSL_CERT_FILE".to_owned(), file.into());
        })
    };
    let Some(nix) = believes("good") else { return };
    let web = Web::new(Mood::Open, Some(config));
    local(async {
        let [a, _] = two(&nix, &dir).await;
        let cache = at(&web, "https");
        let wary = believes("stranger").unwrap();
        let e = wary.push(&a.out, &cache).await.unwrap_err().to_string();
        assert!(
            e.contains("certificate") && e.contains("NIX_SSL_CERT_FILE"),
            "{e}"
        );
        assert!(web.sent().is_empty(), "{:?}", web.sent());
        nix.push(&a.out, &cache).await.unwrap();
        assert!(narinfo(&web, &a).contains("Sig: test-1:"));
    });
}

/// A `nix` that writes down with which words and in which environment it was started.
fn told_of(dir: &Path) -> (PathBuf, PathBuf) {
    let (program, told) = (dir.join("nix-told"), dir.join("told"));
    let text = format!(
        "#!/bin/sh\n{{ printf '%s\\n' \"$@\"; env; }} >> '{}'\nexec nix \"$@\"\n",
        told.display()
    );
    std::fs::write(&program, text).unwrap();
    mode(&program, 0o755);
    (program, told)
}

/// No file below `dir` but those named holds the password.
fn it_leaked_nowhere(dir: &Path, but: &[&Path]) {
    for entry in walkdir::WalkDir::new(dir).into_iter().flatten() {
        let path = entry.path();
        if !entry.file_type().is_file() || but.contains(&path) {
            continue;
        }
        let bytes = std::fs::read(path).unwrap();
        let found = bytes
            .windows(PASSWORD.len())
            .any(|w| w == PASSWORD.as_bytes());
        assert!(!found, "the password lies in {}", path.display());
    }
}

#[test]
fn the_login_of_a_cache_comes_from_its_file_and_is_seen_nowhere_else() {
    let dir = Dir::new();
    let (program, told) = told_of(dir.path());
    let Some(nix) = nix_with(dir.path(), |s| s.program = program) else {
        return;
    };
    let web = Web::new(Mood::For("up".to_owned(), PASSWORD.to_owned()), None);
    let line = |password: &str| format!("machine 127.0.0.1 login up password {password}\n");
    let right = secret_file(dir.path(), "right.netrc", &line(PASSWORD));
    let wrong = secret_file(dir.path(), "wrong.netrc", &line("no"));
    local(async {
        let [a, _] = two(&nix, &dir).await;
        let cache = at(&web, "http");
        // A URL of its own for each, since one that does not answer is left alone for a while.
        let of = |name: &str, file: &Path| {
            let mut cache = with_login(cache.clone(), file);
            cache.url = format!("{}/{name}", cache.url);
            cache
        };
        for (name, file) in [("none", None), ("wrong", Some(&wrong))] {
            let mut cache = of(name, &wrong);
            cache.credentials_file = file.map(|f| f.to_str().unwrap().to_owned());
            let e = nix.push(&a.out, &cache).await.unwrap_err().to_string();
            assert!(e.contains("401") && e.contains("credentialsFile"), "{e}");
        }
        let gone = of("gone", Path::new("/nowhere/netrc"));
        let e = nix.push(&a.out, &gone).await.unwrap_err().to_string();
        assert!(
            e.contains("/nowhere/netrc") && e.contains("No such file"),
            "{e}"
        );
        mode(&right, 0o644);
        let e = nix
            .push(&a.out, &of("open", &right))
            .await
            .unwrap_err()
            .to_string();
        assert!(e.contains("chmod 600"), "{e}");
        assert!(web.sent().is_empty(), "{:?}", web.sent());

        mode(&right, 0o600);
        nix.push(&a.out, &with_login(cache, &right)).await.unwrap();
        assert!(narinfo(&web, &a).contains("Sig: test-1:"));
        let told = std::fs::read_to_string(&told).unwrap();
        assert!(
            told.contains("right.netrc"),
            "it was told of the file: {told}"
        );
        it_leaked_nowhere(dir.path(), &[&right]);
    });
}

#[test]
fn a_cache_that_answered_before_and_hangs_now_is_asked_once_and_then_left_alone() {
    let dir = Dir::new();
    let Some(nix) = nix(dir.path()) else { return };
    let web = Web::new(Mood::Open, None);
    local(async {
        let [a, b] = two(&nix, &dir).await;
        let cache = at(&web, "http");
        nix.push(&a.out, &cache).await.unwrap();
        web.is(Mood::Hangs);
        // In words, since a test that looks at a clock fails on a busy machine: `within 8 s` is the probe's own limit.
        let e = nix.push(&b.out, &cache).await.unwrap_err().to_string();
        assert!(e.contains("did not answer within 8 s"), "{e}");
        let before = web.connections();
        let e = nix.push(&b.out, &cache).await.unwrap_err().to_string();
        assert!(e.contains("left out since"), "{e}");
        assert_eq!(web.connections(), before, "it was not even asked");
        // One that is not there at all is named as well.
        let nobody = crate::remote::free_port();
        let e = nix
            .push(&b.out, &self::cache(&format!("http://127.0.0.1:{nobody}")))
            .await;
        let e = e.unwrap_err().to_string();
        assert!(e.contains(&nobody.to_string()), "{e}");
    });
}

/// Another Nix for S3 alone: that of Debian 13 was built without it.
const NIX_WITH_S3: &str = "TRUEUP_TEST_NIX_S3";

#[test]
fn a_bucket_takes_what_a_nix_with_s3_brings_and_without_s3_the_error_says_what_to_do() {
    let dir = Dir::new();
    let Some(plain) = nix(dir.path()) else { return };
    let web = Web::new(Mood::Open, None);
    let bucket = |name: &str| {
        cache(&format!(
            "s3://{name}?endpoint=127.0.0.1:{}&scheme=http&region=eu-central-1",
            web.port
        ))
    };
    local(async {
        let [a, _] = two(&plain, &dir).await;
        let other = std::env::var_os(NIX_WITH_S3);
        let nix = match &other {
            Some(program) => nix_with(dir.path(), |s| s.program = program.into()).unwrap(),
            None => plain,
        };
        match nix.push(&a.out, &bucket("fleet")).await {
            Ok(()) => {
                assert!(narinfo(&web, &a).contains("Sig: test-1:"));
                let sent = web.sent();
                assert!(sent.values().all(|n| *n == 1), "{sent:?}");
            }
            Err(e) => {
                let e = e.to_string();
                assert!(other.is_none(), "{e}");
                assert!(
                    e.contains("was built without S3") && e.contains("nix.program"),
                    "{e}"
                );
                assert!(e.contains("s3://fleet"), "{e}");
                eprintln!(
                    "SKIPPED: the upload to s3 itself: this Nix has none, and {NIX_WITH_S3} names no other"
                );
            }
        }
    });
}

#[test]
fn a_bucket_with_a_login_takes_what_that_login_signed_and_names_the_one_that_it_refuses() {
    let dir = Dir::new();
    let Some(plain) = nix(dir.path()) else { return };
    let Some(with_s3) = std::env::var_os(NIX_WITH_S3) else {
        eprintln!("SKIPPED: {NIX_WITH_S3} names no Nix with S3");
        return;
    };
    let signer = Signer {
        key_id: "UP".to_owned(),
        secret: PASSWORD.to_owned(),
        region: "eu-central-1".to_owned(),
    };
    let web = Web::new(Mood::Signed(signer), None);
    let login = |name: &str, secret: &str| {
        let text = format!("[default]\naws_access_key_id = UP\naws_secret_access_key = {secret}\n");
        secret_file(dir.path(), name, &text)
    };
    let (right, wrong) = (login("right", PASSWORD), login("wrong", "no"));
    let url = format!(
        "s3://fleet?endpoint=127.0.0.1:{}&scheme=http&region=eu-central-1",
        web.port
    );
    let bucket = |file: &Path| with_login(cache(&url), file);
    local(async {
        let [a, _] = two(&plain, &dir).await;
        // A new one each, since one that was refused is left alone for a while.
        let with = || nix_with(dir.path(), |s| s.program = (&with_s3).into()).unwrap();
        let e = with().push(&a.out, &bucket(&wrong)).await;
        let e = e.unwrap_err().to_string();
        assert!(e.contains("403") && e.contains("credentialsFile"), "{e}");
        assert!(web.stored().is_empty(), "{:?}", web.stored());
        match with().push(&a.out, &bucket(&right)).await {
            Ok(()) => assert!(narinfo(&web, &a).contains("Sig: test-1:")),
            Err(e) => {
                let e = e.to_string();
                assert!(!web.was_signed(), "it was signed, and refused: {e}");
                assert!(e.contains("must be built with AWS' logins"), "{e}");
                eprintln!(
                    "SKIPPED: the upload with a login itself: the Nix of {NIX_WITH_S3} signs nothing"
                );
            }
        }
        it_leaked_nowhere(dir.path(), &[&right]);
    });
}

#[test]
fn nix_is_told_in_which_file_a_buckets_login_is() {
    let dir = Dir::new();
    let (program, told) = told_of(dir.path());
    let Some(nix) = nix_with(dir.path(), |s| s.program = program) else {
        return;
    };
    let file = secret_file(
        dir.path(),
        "aws",
        &format!("[default]\naws_access_key_id = up\naws_secret_access_key = {PASSWORD}\n"),
    );
    let web = Web::new(Mood::Open, None);
    let url = format!(
        "s3://fleet?endpoint=127.0.0.1:{}&scheme=http&region=x",
        web.port
    );
    local(async {
        let _no_s3_here = nix.cache_answers(&with_login(cache(&url), &file)).await;
        let told = std::fs::read_to_string(&told).unwrap();
        let line = format!("AWS_SHARED_CREDENTIALS_FILE={}", file.display());
        assert!(told.lines().any(|l| l == line), "{told}");
        it_leaked_nowhere(dir.path(), &[&file]);
    });
}
