//! What is signed, with which keys, and what never is: by the real `nix`.

use trueup::edge::keys::StoreKey;
use trueup::edge::nix::Nix;
use trueup_engine::ports::{Evaluated, Publisher as _};

use crate::local;
use crate::rig::{
    Dir, FLAKE, SHARED, cache, copied, done, evaluated, must_nix, nix, nix_with, want,
};

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
            must_nix(&into, &[&built]).await;
        }
        // A cache of somebody else's: `a` is signed there by a key of theirs, `b` by nobody.
        let theirs = StoreKey::load_or_make(&dir.path().join("their-keys"), "theirs-1").unwrap();
        let elsewhere = nix_with(dir.path(), |s| s.signing_key.clone_from(&theirs.file)).unwrap();
        elsewhere.sign(&a.out).await.unwrap();
        let theirs_at = format!("file://{}", dir.path().join("their-cache").display());
        for host in [a, b] {
            elsewhere.push(&host.out, &cache(&theirs_at)).await.unwrap();
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
            copied(&theirs_at, &dir.path().join(name), &e.out).await;
            let verdict = nix.sign(&e.out).await;
            let ours = format!(
                "file://{}",
                dir.path().join(format!("cache-{name}")).display()
            );
            nix.push(&e.out, &cache(&ours)).await.unwrap();
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
            copied(from.to_str().unwrap(), &dir.path().join(name), &good.out).await;
            hub.sign(&good.out).await.unwrap();
            let mut signers = of(&hub).await;
            signers.sort();
            assert_eq!(signers, wanted, "{name}");
        }
    });
}
