//! The real `nix`, in a store of its own, with derivations that need nothing but a shell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use trueup::edge::keys::StoreKey;
use trueup::edge::nix::{Nix, NixSettings};
use trueup_engine::ports::{
    BuildUpdate, Builder, EvalFailure, EvalWant, Evaluated, Evaluator, Publisher, Tree, Validity,
};
use trueup_schema::{ErrorClass, Revision};

use crate::local;

const FLAKE: &str = r#"{ outputs = { self }: let
  drv = name: script: derivation { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" script ]; };
  host = d: { config.system.build.toplevel = d; };
in { nixosConfigurations = {
  good = host (drv "good" "echo a line of the log; echo ${self.rev} > $out");
  bad = host (drv "bad" "echo the reason; exit 1");
  wrong = host (throw "this host is wrong");
}; }; }"#;

fn nix(dir: &Path) -> Option<Nix> {
    nix_with(dir, |_| {})
}

fn nix_with(dir: &Path, change: impl FnOnce(&mut NixSettings)) -> Option<Nix> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|p| p.join("nix").is_file()) {
        eprintln!("SKIPPED: no `nix` in PATH (cargo xtask lab env prints one)");
        return None;
    }
    let env = BTreeMap::from([("PATH".to_owned(), path), ("HOME".to_owned(), dir.into())]);
    let mut settings = settings(dir, env);
    change(&mut settings);
    Some(Nix::new(settings))
}

fn settings(dir: &Path, env: BTreeMap<String, std::ffi::OsString>) -> NixSettings {
    NixSettings {
        program: PathBuf::from("nix"),
        store: Some(dir.join("store").to_str().unwrap().to_owned()),
        env,
        // What the lab's `env` sets, such as a shell for the sandbox.
        // But not its keys: what is signed here is signed by us.
        config: std::env::var("NIX_CONFIG").unwrap_or_default() + "\nsecret-key-files =\n",
        state: dir.join("state"),
        roots: dir.join("store/nix/var/nix/gcroots/trueup"),
        evaluation_memory: 2 << 30,
        evaluation_wall: Duration::from_secs(60),
        evaluations: 2,
        build_silence: Duration::from_secs(60),
        ring: trueup::edge::nix::SigningRing::default(),
        signing_key: StoreKey::load_or_make(&dir.join("keys"), "test-1")
            .unwrap()
            .file,
    }
}

/// A folder whose store Nix made read-only.
struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self) -> &Path {
        self.0.path()
    }
    /// A tree with one flake, or a file that hosts name.
    fn tree(&self, name: &str, text: &str) -> Tree {
        let path = self.path().join("tree");
        let _there = std::fs::create_dir(&path);
        std::fs::write(path.join(name), text).unwrap();
        let revision = Revision::new("main", &"1".repeat(40)).unwrap();
        Tree { revision, path }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        for entry in walkdir::WalkDir::new(self.path()).into_iter().flatten() {
            if entry.file_type().is_dir() {
                let _not_ours = std::fs::set_permissions(
                    entry.path(),
                    std::os::unix::fs::PermissionsExt::from_mode(0o755),
                );
            }
        }
    }
}

fn want(host: &str) -> EvalWant {
    EvalWant {
        host: host.parse().unwrap(),
        attribute: format!("nixosConfigurations.\"{host}\".config.system.build.toplevel"),
        file: None,
    }
}

type Found = BTreeMap<String, Result<Evaluated, EvalFailure>>;

async fn evaluated(nix: &Nix, tree: &Tree, wants: Vec<EvalWant>) -> Found {
    let found = nix.evaluate(tree, wants);
    found.map(|(host, r)| (host.to_string(), r)).collect().await
}

async fn done(nix: &Nix, e: &trueup_engine::ports::Evaluated, root: &str) -> BuildUpdate {
    let updates: Vec<_> = nix.build(&e.drv, &e.out, root).collect().await;
    updates.into_iter().next_back().unwrap()
}

/// What was built is signed as it becomes valid, before anybody asks for it.
#[allow(clippy::disallowed_methods)] // the test's own look into the store
fn signatures(dir: &Path, path: &trueup_schema::StorePath) -> String {
    let out = std::process::Command::new("nix")
        .args(["--extra-experimental-features", "nix-command"])
        .args(["path-info", "--sigs", "--store"])
        .arg(dir.join("store"))
        .arg(path.as_str())
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn hosts_are_evaluated_and_built_and_each_failure_is_its_own() {
    let dir = Dir::new();
    let Some(nix) = nix(dir.path()) else { return };
    let tree = dir.tree("flake.nix", FLAKE);
    local(async {
        let wants = ["good", "bad", "wrong"].map(want).to_vec();
        let found = evaluated(&nix, &tree, wants).await;
        let of = |host: &str| &found[host];
        let wrong = of("wrong").as_ref().unwrap_err();
        assert_eq!(wrong.class, ErrorClass::Desired);
        assert!(wrong.message.contains("this host is wrong"), "{wrong:?}");
        assert!(
            wrong.trace.contains("flake.nix:"),
            "with Nix's trace: {wrong:?}"
        );
        let good = of("good").as_ref().unwrap();
        assert_eq!(nix.still_valid(good, &tree), Validity::Valid);

        match done(&nix, good, "good-system").await {
            BuildUpdate::Done(Ok(out)) => assert_eq!(out, good.out),
            other => panic!("{other:?}"),
        }
        assert!(nix.is_valid(&good.out).await);
        let log = std::fs::read_to_string(nix.build_log(&good.drv).unwrap()).unwrap();
        assert_eq!(log, "a line of the log\n");
        let built = dir.path().join("store").join(&good.out.as_str()[1..]);
        assert_eq!(
            std::fs::read_to_string(built).unwrap().trim(),
            "1".repeat(40)
        );

        let bad = of("bad").as_ref().unwrap();
        match done(&nix, bad, "bad-system").await {
            BuildUpdate::Done(Err(failure)) => {
                assert_eq!(failure.class, ErrorClass::Desired);
                assert_eq!(failure.drv, bad.drv.as_str());
                assert_eq!(failure.log_tail, ["the reason"]);
            }
            other => panic!("{other:?}"),
        }

        assert!(signatures(dir.path(), &good.out).contains("test-1:"));
        nix.sign(&good.out).await.unwrap();
        let cache = format!("file://{}", dir.path().join("cache").display());
        nix.push(&good.out, &cache).await.unwrap();
        let narinfo = dir
            .path()
            .join("cache")
            .join(format!("{}.narinfo", good.out.hash()));
        assert!(
            std::fs::read_to_string(narinfo)
                .unwrap()
                .contains("Sig: test-1:")
        );

        let roots = dir.path().join("store/nix/var/nix/gcroots/trueup");
        assert_eq!(std::fs::read_dir(&roots).unwrap().count(), 4);
        nix.keep_roots(std::slice::from_ref(&good.out)).await;
        assert_eq!(std::fs::read_dir(&roots).unwrap().count(), 2);
    });
}

const GREEDY: &str = r#"{ outputs = { self }: let
  drv = name: derivation { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo x > $out" ]; };
  host = d: { config.system.build.toplevel = d; };
in { nixosConfigurations = {
  good = host (drv "good");
  fine = host (drv "fine");
  loops = host (let f = n: if n < 2 then n else f (n - 1) + f (n - 2); in drv "loops${toString (f 60)}");
  eats = host (let xs = builtins.genList (n: "number ${toString n}") 100000000; in
    drv "eats${toString (builtins.length (builtins.filter (x: builtins.stringLength x > 9) xs))}");
}; }; }"#;

#[test]
fn a_host_that_loops_or_eats_memory_is_ended_at_its_limit_and_takes_no_other_with_it() {
    let dir = Dir::new();
    let nix = nix_with(dir.path(), |s| {
        s.evaluation_wall = Duration::from_secs(10);
        // More than the collector takes for a host that only loops.
        s.evaluation_memory = 1 << 30;
    });
    let Some(nix) = nix else { return };
    let tree = dir.tree("flake.nix", GREEDY);
    local(async {
        let wants = ["eats", "good", "loops", "fine"].map(want).to_vec();
        let found = evaluated(&nix, &tree, wants).await;
        assert!(found["good"].is_ok() && found["fine"].is_ok(), "{found:?}");
        let eats = found["eats"].as_ref().unwrap_err();
        assert!(eats.message.contains("evaluationMemoryMiB"), "{eats:?}");
        let loops = found["loops"].as_ref().unwrap_err();
        assert!(loops.message.contains("evaluationTimeout"), "{loops:?}");
        for failure in [eats, loops] {
            assert_eq!(failure.class, ErrorClass::Transient, "{failure:?}");
        }
    });
}

#[test]
fn a_file_and_attribute_are_evaluated_and_only_within_the_repository() {
    let dir = Dir::new();
    let Some(nix) = nix(dir.path()) else { return };
    let text = r#"{ "web-1" = derivation { name = "w"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ ]; };
        notADerivation = 1; }"#;
    let tree = dir.tree("hosts.nix", text);
    std::fs::write(dir.path().join("outside.nix"), text).unwrap();
    let of = |host: &str, file: &str, attribute: &str| EvalWant {
        host: host.parse().unwrap(),
        attribute: attribute.to_owned(),
        file: Some(file.to_owned()),
    };
    local(async {
        let wants = vec![
            of("good", "hosts.nix", "\"web-1\""),
            of("none", "hosts.nix", "web-2"),
            of("number", "hosts.nix", "notADerivation"),
            of("up", "../outside.nix", "\"web-1\""),
            of(
                "root",
                dir.path().join("outside.nix").to_str().unwrap(),
                "\"web-1\"",
            ),
        ];
        let found = evaluated(&nix, &tree, wants).await;
        let good = found["good"].as_ref().unwrap();
        assert!(good.drv.as_str().ends_with("-w.drv"), "{good:?}");
        let why = |host: &str| found[host].as_ref().unwrap_err().message.clone();
        assert!(why("none").contains("web-2"), "{}", why("none"));
        assert!(why("number").contains("integer"), "{}", why("number"));
        for host in ["up", "root"] {
            assert!(
                why(host).contains("is no file of the repository"),
                "{}",
                why(host)
            );
        }
    });
}

#[test]
fn an_evaluation_is_kept_for_its_commit_nix_and_settings_only() {
    let dir = Dir::new();
    let Some(first) = nix(dir.path()) else { return };
    let tree = dir.tree("flake.nix", FLAKE);
    local(async {
        let found = evaluated(&first, &tree, vec![want("good")]).await;
        let good = found["good"].as_ref().unwrap();
        assert_eq!(first.still_valid(good, &tree), Validity::Valid);
        let mut later = tree.clone();
        later.revision = Revision::new("main", &"2".repeat(40)).unwrap();
        let other = nix_with(dir.path(), |s| s.config.push_str("\ncores = 1\n")).unwrap();
        let newer = first.clone().with_version().await.unwrap();
        for validity in [
            first.still_valid(good, &later),
            other.still_valid(good, &tree),
            newer.still_valid(good, &tree),
        ] {
            assert!(matches!(validity, Validity::Unknown { .. }), "{validity:?}");
        }
    });
}

const SHARED: &str = r#"{ outputs = { self }: let
  drv = name: script: derivation { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" script ]; };
  host = d: { config.system.build.toplevel = d; };
  dep = drv "dep" "echo built once; read -t 2 x < /dev/zero; echo $RANDOM$RANDOM$RANDOM > $out";
  broken = drv "broken" "echo this is why; exit 7";
  silent = drv "silent" "while :; do :; done";
  user = name: d: host (drv name "read x < ${d}; echo $x > $out");
in { nixosConfigurations = {
  a = user "a" dep; b = user "b" dep; c = user "c" broken; d = user "d" broken; e = user "e" silent;
}; }; }"#;

#[test]
fn what_two_hosts_need_is_built_once_and_what_fails_is_named_for_each() {
    let dir = Dir::new();
    let nix = nix_with(dir.path(), |s| s.build_silence = Duration::from_secs(3));
    let Some(nix) = nix else { return };
    let tree = dir.tree("flake.nix", SHARED);
    let read = |e: &Evaluated| {
        let path = dir.path().join("store").join(&e.out.as_str()[1..]);
        std::fs::read_to_string(path).unwrap()
    };
    local(async {
        let wants = ["a", "b", "c", "d", "e"].map(want).to_vec();
        let found = evaluated(&nix, &tree, wants).await;
        let [a, b, c, d, e] = ["a", "b", "c", "d", "e"].map(|h| found[h].as_ref().unwrap());
        let of = async |e: &Evaluated, root: &str| {
            nix.build(&e.drv, &e.out, root).collect::<Vec<_>>().await
        };
        let (first, second) = futures::join!(of(a, "a"), of(b, "b"));
        assert_eq!(read(a), read(b), "one build of what both need");
        let all: Vec<_> = first.into_iter().chain(second).collect();
        let tells = |what: &str| {
            all.iter().any(|u| match u {
                BuildUpdate::Progress(p) => p.current.iter().any(|c| c == what),
                BuildUpdate::Done(_) => false,
            })
        };
        assert!(tells("dep"), "it was told while it ran: {all:?}");

        let (c, d) = futures::join!(done(&nix, c, "c"), done(&nix, d, "d"));
        for failed in [c, d] {
            let BuildUpdate::Done(Err(failure)) = failed else {
                panic!("{failed:?}")
            };
            assert!(failure.drv.ends_with("-broken.drv"), "{failure:?}");
            assert_eq!(failure.class, ErrorClass::Desired);
            assert_eq!(failure.log_tail, ["this is why"]);
            let drv = failure.drv.parse().unwrap();
            let log = std::fs::read_to_string(nix.build_log(&drv).unwrap()).unwrap();
            assert_eq!(log, "this is why\n");
        }

        let BuildUpdate::Done(Err(failure)) = done(&nix, e, "e").await else {
            panic!()
        };
        assert!(failure.message.contains("of silence"), "{failure:?}");
        assert!(failure.drv.ends_with("-silent.drv"), "{failure:?}");
    });
}

#[test]
fn only_what_was_built_here_or_came_with_a_trusted_signature_is_signed() {
    let dir = Dir::new();
    let Some(nix) = nix(dir.path()) else { return };
    let tree = dir.tree("flake.nix", SHARED);
    local(async {
        let found = evaluated(&nix, &tree, ["a", "b"].map(want).to_vec()).await;
        let [a, b] = ["a", "b"].map(|h| found[h].as_ref().unwrap());
        // By hand: what trueup builds it signs at once.
        for host in [a, b] {
            let built = format!("{}^*", host.drv);
            let store = dir.path().join("store");
            let into = ["build", "--no-link", "--store", store.to_str().unwrap()];
            must_nix(&nix, &into, &[&built]).await;
        }
        // A cache of somebody else's: `a` is signed there by a key of theirs, `b` by nobody.
        let theirs = StoreKey::load_or_make(&dir.path().join("their-keys"), "theirs-1").unwrap();
        let elsewhere = nix_with(dir.path(), |s| s.signing_key.clone_from(&theirs.file)).unwrap();
        elsewhere.sign(&a.out).await.unwrap();
        let cache = format!("file://{}", dir.path().join("their-cache").display());
        for host in [a, b] {
            elsewhere.push(&host.out, &cache).await.unwrap();
        }

        let hub = |name: &str, config: String| {
            nix_with(dir.path(), |s| {
                s.store = Some(dir.path().join(name).to_str().unwrap().to_owned());
                s.config.push_str(&config);
            })
            .unwrap()
        };
        let signed = |name: &str, out: &trueup_schema::StorePath, by: &str| {
            let cache = dir.path().join(format!("cache-{name}"));
            let info = std::fs::read_to_string(cache.join(format!("{}.narinfo", out.hash())));
            info.unwrap().contains(&format!("Sig: {by}:"))
        };
        let fetched = async |nix: &Nix, name: &str, e: &Evaluated| {
            // As somebody does it by hand: without asking for signatures.
            let args = ["copy", "--no-check-sigs", "--from", &cache, "--to"];
            must_nix(
                nix,
                &args,
                &[dir.path().join(name).to_str().unwrap(), e.out.as_str()],
            )
            .await;
            let verdict = nix.sign(&e.out).await;
            let ours = format!(
                "file://{}",
                dir.path().join(format!("cache-{name}")).display()
            );
            nix.push(&e.out, &ours).await.unwrap();
            verdict
        };

        // Their key is trusted: our signature stands beside it.
        let trusts = hub(
            "trusts",
            format!("\nextra-trusted-public-keys = {}\n", theirs.public),
        );
        fetched(&trusts, "trusts", a).await.unwrap();
        assert!(signed("trusts", &a.out, "test-1") && signed("trusts", &a.out, "theirs-1"));
        // It is not: what came is left as it is, for hosts that trust it themselves.
        let wary = hub("wary", String::new());
        fetched(&wary, "wary", a).await.unwrap();
        assert!(!signed("wary", &a.out, "test-1") && signed("wary", &a.out, "theirs-1"));
        // Nobody vouches for it: refused by name, and not signed.
        let e = fetched(&wary, "wary", b).await.unwrap_err().to_string();
        assert!(
            e.contains("neither built here nor signed") && e.contains(b.out.as_str()),
            "{e}"
        );
        assert!(!signed("wary", &b.out, "test-1"));
    });
}

async fn must_nix(_: &Nix, args: &[&str], more: &[&str]) {
    let mut spec = trueup::edge::exec::ExecSpec::new("nix", args.iter().chain(more));
    for name in ["PATH", "NIX_CONFIG", "HOME"] {
        spec.env
            .insert(name.to_owned(), std::env::var_os(name).unwrap_or_default());
    }
    // The lab's keys are not for what is done here.
    let config = spec.env.entry("NIX_CONFIG".to_owned()).or_default();
    config.push("\nsecret-key-files =\n");
    let exit = trueup::edge::exec::run(&spec).await.unwrap();
    assert!(exit.ok(), "{exit:?}");
}

#[test]
fn a_derivation_waits_for_its_build_through_a_collection_of_garbage() {
    let dir = Dir::new();
    let Some(nix) = nix(dir.path()) else { return };
    let tree = dir.tree("flake.nix", SHARED);
    let store = dir.path().join("store");
    local(async {
        let found = evaluated(&nix, &tree, ["a", "b"].map(want).to_vec()).await;
        let [a, b] = ["a", "b"].map(|h| found[h].as_ref().unwrap());
        nix.root(&a.drv, &a.out, "a-1").await;
        let gc = ["store", "gc", "--store"];
        must_nix(&nix, &gc, &[store.to_str().unwrap()]).await;
        let there = |drv: &trueup_schema::DrvPath| store.join(&drv.as_str()[1..]).exists();
        assert!(there(&a.drv) && !there(&b.drv));
        assert!(matches!(
            done(&nix, a, "a-1").await,
            BuildUpdate::Done(Ok(_))
        ));
    });
}

#[test]
fn roots_protect_what_is_wanted_from_the_collector_and_no_more() {
    let dir = Dir::new();
    let Some(nix) = nix(dir.path()) else { return };
    let tree = dir.tree("flake.nix", SHARED);
    let store = dir.path().join("store");
    local(async {
        let found = evaluated(&nix, &tree, ["a", "b"].map(want).to_vec()).await;
        let [a, b] = ["a", "b"].map(|h| found[h].as_ref().unwrap());
        assert!(matches!(
            done(&nix, a, "a-1").await,
            BuildUpdate::Done(Ok(_))
        ));
        assert!(matches!(
            done(&nix, b, "b/../1").await,
            BuildUpdate::Done(Ok(_))
        ));
        // A link of somebody else's in the same folder is none of ours.
        let other = store.join("nix/var/nix/gcroots/trueup/other");
        std::os::unix::fs::symlink(b.drv.as_str(), &other).unwrap();
        let gc = ["store", "gc", "--store"];
        let store = store.to_str().unwrap();
        must_nix(&nix, &gc, &[store]).await;
        assert!(nix.is_valid(&a.out).await && nix.is_valid(&b.out).await);
        nix.keep_roots(std::slice::from_ref(&a.out)).await;
        must_nix(&nix, &gc, &[store]).await;
        assert!(nix.is_valid(&a.out).await && !nix.is_valid(&b.out).await);
        assert!(other.is_symlink());
        nix.keep_roots(&[]).await;
        must_nix(&nix, &gc, &[store]).await;
        assert!(!nix.is_valid(&a.out).await);
    });
}

#[test]
fn during_a_rotation_both_keys_sign_what_the_old_one_signed_and_nothing_of_others() {
    let dir = Dir::new();
    let Some(nix) = nix(dir.path()) else { return };
    let keys = dir.path().join("keys");
    let old = StoreKey::load_or_make(&keys, "test-1").unwrap();
    let next = old.make_next(&keys).unwrap();
    let stranger = StoreKey::load_or_make(&dir.path().join("others"), "others-1").unwrap();
    let tree = dir.tree("flake.nix", FLAKE);
    local(async {
        let found = evaluated(&nix, &tree, vec![want("good")]).await;
        let good = found["good"].as_ref().unwrap();
        done(&nix, good, "x").await;
        nix.sign(&good.out).await.unwrap();
        let of = async |nix: &Nix| {
            let all = nix.signers(std::slice::from_ref(&good.out)).await;
            all[&good.out].clone()
        };
        assert_eq!(of(&nix).await, ["test-1"]);
        // In another hub it is nobody's own: that it was ours is known by the old key's signature alone.
        let from = dir.path().join("store");
        for (name, ring, wanted) in [
            ("second", vec![&old, &next], vec!["test-1", "test-2"]),
            ("third", vec![&stranger], vec!["test-1"]),
        ] {
            let hub = nix_with(dir.path(), |s| {
                s.store = Some(dir.path().join(name).to_str().unwrap().to_owned());
                s.state = dir.path().join(format!("state-{name}"));
                let ring = ring.iter().map(|k| (k.file.clone(), k.public.clone()));
                *s.ring.write().unwrap() = ring.collect();
            })
            .unwrap();
            let args = [
                "copy",
                "--no-check-sigs",
                "--from",
                from.to_str().unwrap(),
                "--to",
            ];
            let to = dir.path().join(name);
            must_nix(&nix, &args, &[to.to_str().unwrap(), good.out.as_str()]).await;
            hub.sign(&good.out).await.unwrap();
            let mut signers = of(&hub).await;
            signers.sort();
            assert_eq!(signers, wanted, "{name}");
        }
    });
}
