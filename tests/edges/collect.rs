//! The store in which evaluations for a hub elsewhere are made is collected: by the real `nix`, with a hub that is reached by
//! an `ssh` of the test's own. Judged by the files of that store.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use trueup::edge::nix::Nix;
use trueup_engine::ports::{BuildUpdate, Builder as _, Evaluated, Tree};
use trueup_schema::{DrvPath, Revision};

use crate::local;
use crate::remote::program;
use crate::rig::{Dir, done, evaluated, nix_with, want};

/// Each revision has files of its own, and derivations that nothing else has.
const FLAKE: &str = r#"{ outputs = { self }: let
  drv = name: derivation { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo ${self.rev} > $out" ]; };
  fib = n: if n < 2 then n else fib (n - 1) + fib (n - 2);
in { nixosConfigurations = {
  a.config.system.build.toplevel = drv "a";
  slow.config.system.build.toplevel = drv "slow-${toString (fib 30)}";
}; }; }"#;

/// Ends at once whatever it takes of ssh, and runs the words here: the hub is another store of this machine.
const SSH: &str =
    "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift 2\nexec /bin/sh -c \"$*\"\n";
const PATIENCE: Duration = Duration::from_secs(120);

fn hub(dir: &Path, max: u64) -> Option<Nix> {
    let bin = dir.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::write(bin.join("ssh"), SSH).unwrap();
    std::fs::set_permissions(bin.join("ssh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    nix_with(dir, |s| {
        let path = s.env["PATH"].to_str().unwrap().to_owned();
        let path = format!("{}:{path}", bin.display());
        s.env.insert("PATH".to_owned(), path.into());
        // `localhost`: Nix itself runs the other end without any ssh.
        let store = dir.join("store").display().to_string();
        s.store = Some(format!(
            "ssh-ng://localhost?remote-store=local%3Froot={store}"
        ));
        s.evaluation_store_max = max;
    })
}

fn tree(dir: &Dir, commit: char) -> Tree {
    let mut tree = dir.tree("flake.nix", FLAKE);
    tree.revision = Revision::new("main", &commit.to_string().repeat(40)).unwrap();
    tree
}

async fn one(nix: &Nix, dir: &Dir, commit: char, host: &str) -> Evaluated {
    let found = evaluated(nix, &tree(dir, commit), vec![want(host)]).await;
    found[host].clone().unwrap_or_else(|e| panic!("{e:?}"))
}

fn store(dir: &Path) -> PathBuf {
    dir.join("state/evaluation")
}

fn there(dir: &Path, drv: &DrvPath) -> bool {
    store(dir).join(&drv.as_str()[1..]).exists()
}

/// As if all that was evaluated had been so two hours ago.
fn hours_pass(dir: &Path) {
    for entry in std::fs::read_dir(store(dir).join("nix/var/nix/gcroots/trueup")).unwrap() {
        let touched = program(Path::new("touch"))
            .args(["-h", "-d", "2 hours ago"])
            .arg(entry.unwrap().path())
            .status()
            .unwrap();
        assert!(touched.success());
    }
}

async fn goes(dir: &Path, drv: &DrvPath) {
    let until = Instant::now() + PATIENCE;
    while there(dir, drv) {
        assert!(Instant::now() < until, "{drv} is not collected");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn what_nobody_wants_any_more_is_collected_and_what_is_wanted_still_reaches_the_hub() {
    let dir = Dir::new();
    let Some(nix) = hub(dir.path(), 0) else {
        return;
    };
    local(async {
        let old = one(&nix, &dir, '1', "a").await;
        let wanted = one(&nix, &dir, '2', "a").await;
        assert_ne!(old.drv, wanted.drv);
        // Both are fresh: an evaluation's result may be on its way to who asks to keep it.
        let gone = |e: &Evaluated| !there(dir.path(), &e.drv);
        assert!(!gone(&old) && !gone(&wanted));
        hours_pass(dir.path());
        nix.keep_roots(std::slice::from_ref(&wanted.out)).await;
        goes(dir.path(), &old.drv).await;
        assert!(!gone(&wanted), "a root of ours kept it");
        match done(&nix, &wanted, "a-1").await {
            BuildUpdate::Done(Ok(out)) => assert!(nix.is_valid(&out).await),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn nothing_is_collected_below_the_limit_nor_while_something_is_evaluated() {
    let dir = Dir::new();
    let Some(large) = hub(dir.path(), u64::MAX) else {
        return;
    };
    let small = hub(dir.path(), 0).unwrap();
    local(async {
        let old = one(&large, &dir, '1', "a").await;
        hours_pass(dir.path());
        large.keep_roots(&[]).await;
        // Whatever began would hold all turns: an evaluation waits for its end.
        one(&large, &dir, '2', "a").await;
        assert!(there(dir.path(), &old.drv), "the limit was not reached");

        let asked = async {
            // While the one below is under way.
            tokio::time::sleep(Duration::from_millis(300)).await;
            small.keep_roots(&[]).await;
        };
        let (slow, ()) = futures::join!(one(&small, &dir, '3', "slow"), asked);
        assert!(there(dir.path(), &slow.drv));
        assert!(there(dir.path(), &old.drv), "it was evaluated meanwhile");
        small.keep_roots(&[]).await;
        goes(dir.path(), &old.drv).await;
        assert!(there(dir.path(), &slow.drv), "it is fresh");
    });
}
