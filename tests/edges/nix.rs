//! The real `nix`, in a store of its own, with derivations that need nothing but a shell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use trueup::edge::keys::StoreKey;
use trueup::edge::nix::{Nix, NixSettings};
use trueup_engine::ports::{BuildUpdate, Builder, EvalWant, Evaluator, Publisher, Tree, Validity};
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
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|p| p.join("nix").is_file()) {
        eprintln!("SKIPPED: no `nix` in PATH (cargo xtask lab env prints one)");
        return None;
    }
    let env = BTreeMap::from([("PATH".to_owned(), path), ("HOME".to_owned(), dir.into())]);
    Some(Nix::new(NixSettings {
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
        signing_key: StoreKey::load_or_make(&dir.join("keys"), "test-1")
            .unwrap()
            .file,
    }))
}

async fn done(nix: &Nix, e: &trueup_engine::ports::Evaluated, root: &str) -> BuildUpdate {
    let updates: Vec<_> = nix.build(&e.drv, &e.out, root).collect().await;
    updates.into_iter().next_back().unwrap()
}

#[test]
fn hosts_are_evaluated_and_built_and_each_failure_is_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let Some(nix) = nix(dir.path()) else { return };
    let path = dir.path().join("tree");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("flake.nix"), FLAKE).unwrap();
    let revision = Revision::new("main", &"1".repeat(40)).unwrap();
    let tree = Tree { revision, path };
    let want = |host: &str| EvalWant {
        host: host.parse().unwrap(),
        attribute: format!("nixosConfigurations.\"{host}\".config.system.build.toplevel"),
        file: None,
    };
    local(async {
        let wants = ["good", "bad", "wrong"].map(want).to_vec();
        let found: BTreeMap<_, _> = nix.evaluate(&tree, wants).collect().await;
        let of = |host: &str| &found[&host.parse().unwrap()];
        let wrong = of("wrong").as_ref().unwrap_err();
        assert_eq!(wrong.class, ErrorClass::Desired);
        assert!(wrong.message.contains("this host is wrong"), "{wrong:?}");
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
    // Nix makes what it builds read-only; the folder could not be removed.
    let _best_effort = std::fs::remove_dir_all(dir.path());
}
