//! Builds that are wanted together, by the real `nix`: how many processes, and who is told what.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use futures::StreamExt as _;
use trueup::edge::keys::StoreKey;
use trueup::edge::nix::SigningRing;
use trueup_engine::ports::{BuildUpdate, Builder as _, Publisher as _};
use trueup_schema::ErrorClass;

use crate::local;
use crate::rig::{Dir, FLAKE, SHARED, copied, done, evaluated, must_nix, nix_with, want};

/// A `nix` that notes what it is asked.
fn noting(dir: &Path) -> std::path::PathBuf {
    let script = format!(
        "#!/bin/sh\necho \"$*\" >> {}\nexec nix \"$@\"\n",
        dir.join("asked").display()
    );
    let file = dir.join("nix-that-notes");
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    file
}

/// How often it was asked for what begins with these words.
fn asked(dir: &Path, words: &str) -> usize {
    let all = std::fs::read_to_string(dir.join("asked")).unwrap_or_default();
    let begin = format!("{words} ");
    all.lines().filter(|l| l.starts_with(&begin)).count()
}

#[test]
fn builds_that_are_wanted_together_share_a_process_and_each_is_told_for_itself() {
    let dir = Dir::new();
    let program = noting(dir.path());
    let Some(nix) = nix_with(dir.path(), |s| s.program = program) else {
        return;
    };
    let tree = dir.tree("flake.nix", SHARED);
    local(async {
        let names = ["a", "b", "c", "d"];
        let found = evaluated(&nix, &tree, names.map(want).to_vec()).await;
        let goals = names.map(|n| found[n].as_ref().unwrap());
        let ends = futures::future::join_all(goals.map(|e| done(&nix, e, "r"))).await;
        assert_eq!(asked(dir.path(), "build"), 1);
        for (goal, end) in goals.iter().zip(&ends).take(2) {
            assert!(
                matches!(end, BuildUpdate::Done(Ok(out)) if *out == goal.out),
                "{end:?}"
            );
        }
        for end in &ends[2..] {
            let BuildUpdate::Done(Err(failure)) = end else {
                panic!("{end:?}")
            };
            assert_eq!(failure.class, ErrorClass::Desired, "{failure:?}");
            assert!(failure.drv.ends_with("-broken.drv"), "{failure:?}");
            assert_eq!(failure.log_tail, ["this is why"]);
        }

        // Of those that were all built the signatures are looked at once for all.
        let good = &goals[..2];
        futures::future::join_all(good.iter().map(|e| done(&nix, e, "r"))).await;
        assert_eq!(asked(dir.path(), "build"), 2);
        let looks = asked(dir.path(), "path-info");
        for goal in good {
            nix.sign(&goal.out).await.unwrap();
        }
        assert_eq!(asked(dir.path(), "path-info"), looks);
        nix.sign(&good[0].out).await.unwrap();
        assert_eq!(
            asked(dir.path(), "path-info"),
            looks + 1,
            "what was seen is believed once"
        );
    });
}

/// Builds `a` and `b` beside `e`, which never ends: after it began, or all as one group.
fn beside_one_without_end(later: bool) {
    let dir = Dir::new();
    let program = noting(dir.path());
    let Some(nix) = nix_with(dir.path(), |s| {
        s.program = program;
        s.build_silence = std::time::Duration::from_secs(3600);
        s.config.push_str("\nmax-jobs = 3\n");
    }) else {
        return;
    };
    let tree = dir.tree("flake.nix", SHARED);
    local(async {
        let names = ["a", "b", "e"];
        let found = evaluated(&nix, &tree, names.map(want).to_vec()).await;
        let [a, b, e] = names.map(|n| found[n].as_ref().unwrap());
        let mut endless = nix.build(&e.drv, &e.out, "r");
        if later {
            // It runs: Nix told of it.
            let first = endless.next().await;
            assert!(matches!(first, Some(BuildUpdate::Progress(_))), "{first:?}");
        }
        let both = futures::future::join(done(&nix, a, "r"), done(&nix, b, "r"));
        let both = tokio::select! {
            both = both => both,
            () = async { while endless.next().await.is_some() {} } => panic!("it ended"),
        };
        assert_eq!(asked(dir.path(), "build"), if later { 2 } else { 1 });
        for end in [both.0, both.1] {
            assert!(matches!(end, BuildUpdate::Done(Ok(_))), "{end:?}");
        }
    });
}

#[test]
fn a_build_without_end_holds_up_none_that_is_wanted_later() {
    beside_one_without_end(true);
}

#[test]
fn a_build_without_end_holds_up_none_that_is_wanted_with_it() {
    beside_one_without_end(false);
}

#[test]
fn who_is_left_by_the_one_that_began_for_all_is_built_all_the_same() {
    let dir = Dir::new();
    let Some(nix) = nix_with(dir.path(), |_| {}) else {
        return;
    };
    let tree = dir.tree("flake.nix", SHARED);
    local(async {
        let names = ["a", "b"];
        let found = evaluated(&nix, &tree, names.map(want).to_vec()).await;
        let [a, b] = names.map(|n| found[n].as_ref().unwrap());
        let mut leads = nix.build(&a.drv, &a.out, "r");
        let mut waits = nix.build(&b.drv, &b.out, "r");
        // Both wait for the one process, which began.
        let (_, second) = futures::future::join(leads.next(), waits.next()).await;
        assert!(
            matches!(second, Some(BuildUpdate::Progress(_))),
            "{second:?}"
        );
        drop(leads);
        let last = waits.collect::<Vec<_>>().await.pop();
        assert!(matches!(last, Some(BuildUpdate::Done(Ok(_)))), "{last:?}");
    });
}

#[test]
fn closures_that_are_signed_together_share_a_process_and_what_nobody_vouches_for_is_told_to_whom_it_concerns()
 {
    let dir = Dir::new();
    let (program, ring) = (noting(dir.path()), SigningRing::default());
    let Some(nix) = nix_with(dir.path(), |s| {
        s.program = program;
        s.ring = ring.clone();
    }) else {
        return;
    };
    let tree = dir.tree("flake.nix", SHARED);
    local(async {
        let names = ["a", "b"];
        let found = evaluated(&nix, &tree, names.map(want).to_vec()).await;
        let goals = names.map(|n| found[n].as_ref().unwrap());
        futures::future::join_all(goals.map(|e| done(&nix, e, "r"))).await;
        // Nix signed them as they were built; what comes now is a second key's.
        let keys = [("keys", "test-1"), ("new-keys", "test-2")];
        let keys =
            keys.map(|(at, name)| StoreKey::load_or_make(&dir.path().join(at), name).unwrap());
        let keys = keys.map(|key| (key.file, key.public));
        ring.write().unwrap().extend(keys);
        let store = dir.path().join("store");
        // Put into the store by somebody else, unsigned.
        let elsewhere = nix_with(dir.path(), |s| {
            s.store = Some(dir.path().join("elsewhere").to_str().unwrap().to_owned());
            s.state = dir.path().join("their-state");
        })
        .unwrap();
        let odd = evaluated(
            &elsewhere,
            &dir.tree("flake.nix", FLAKE),
            vec![want("good")],
        )
        .await;
        let odd = odd["good"].as_ref().unwrap();
        let from = dir.path().join("elsewhere");
        let built = format!("{}^*", odd.drv);
        let build = ["build", "--no-link", "--store", from.to_str().unwrap()];
        must_nix(&build, &[&built]).await;
        copied(from.to_str().unwrap(), &store, &odd.out).await;

        let [a, b] = goals.map(|e| nix.sign(&e.out));
        let (a, b, odd_told) = futures::future::join3(a, b, nix.sign(&odd.out)).await;
        a.unwrap();
        b.unwrap();
        let told = odd_told.unwrap_err().to_string();
        assert!(told.contains(odd.out.as_str()), "{told}");
        assert_eq!(asked(dir.path(), "store sign"), 1);
        let signers = nix.signers(&goals.map(|e| e.out.clone())).await;
        assert!(
            goals
                .iter()
                .all(|e| signers[&e.out].contains(&"test-2".to_owned())),
            "{signers:?}"
        );
    });
}
