//! The real `nix`: what it evaluates and builds for us, within which limits, and what it keeps.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use trueup_engine::ports::{
    BuildUpdate, Builder as _, EvalWant, Evaluated, Evaluator as _, Publisher as _, Validity,
};
use trueup_schema::{ErrorClass, Revision};

use crate::local;
use crate::rig::{Dir, FLAKE, SHARED, cache, done, evaluated, must_nix, nix, nix_with, want};

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
        let folder = cache(&format!("file://{}", dir.path().join("cache").display()));
        nix.push(&good.out, &folder).await.unwrap();
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
            // As `trueup logs build` looks for it.
            let hash = &failure.drv["/nix/store/".len()..][..8];
            let found = trueup::edge::nix::find_logs(&dir.path().join("state/logs"), hash).unwrap();
            assert_eq!(found, [nix.build_log(&drv).unwrap()]);
        }

        let BuildUpdate::Done(Err(failure)) = done(&nix, e, "e").await else {
            panic!()
        };
        assert!(failure.message.contains("of silence"), "{failure:?}");
        assert!(failure.drv.ends_with("-silent.drv"), "{failure:?}");
    });
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
        must_nix(&gc, &[store.to_str().unwrap()]).await;
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
        must_nix(&gc, &[store]).await;
        assert!(nix.is_valid(&a.out).await && nix.is_valid(&b.out).await);
        nix.keep_roots(std::slice::from_ref(&a.out)).await;
        must_nix(&gc, &[store]).await;
        assert!(nix.is_valid(&a.out).await && !nix.is_valid(&b.out).await);
        assert!(other.is_symlink());
        nix.keep_roots(&[]).await;
        must_nix(&gc, &[store]).await;
        assert!(!nix.is_valid(&a.out).await);
    });
}
