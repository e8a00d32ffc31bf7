//! What tests of the real `nix` share: a store and a state of their own, and derivations that need nothing but a shell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use trueup::edge::keys::StoreKey;
use trueup::edge::nix::{Nix, NixSettings};
use trueup_engine::ports::{
    BuildUpdate, Builder as _, EvalFailure, EvalWant, Evaluated, Evaluator as _, Tree,
};
use trueup_schema::kind::ResolvedCache;
use trueup_schema::{Revision, StorePath};

pub const FLAKE: &str = r#"{ outputs = { self }: let
  drv = name: script: derivation { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" script ]; };
  host = d: { config.system.build.toplevel = d; };
in { nixosConfigurations = {
  good = host (drv "good" "echo a line of the log; echo ${self.rev} > $out");
  bad = host (drv "bad" "echo the reason; exit 1");
  wrong = host (throw "this host is wrong");
}; }; }"#;

pub const SHARED: &str = r#"{ outputs = { self }: let
  drv = name: script: derivation { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" script ]; };
  host = d: { config.system.build.toplevel = d; };
  dep = drv "dep" "echo built once; read -t 2 x < /dev/zero; echo $RANDOM$RANDOM$RANDOM > $out";
  broken = drv "broken" "echo this is why; exit 7";
  silent = drv "silent" "while :; do :; done";
  user = name: d: host (drv name "read x < ${d}; echo $x > $out");
in { nixosConfigurations = {
  a = user "a" dep; b = user "b" dep; c = user "c" broken; d = user "d" broken; e = user "e" silent;
}; }; }"#;

pub fn nix(dir: &Path) -> Option<Nix> {
    nix_with(dir, |_| {})
}

pub fn nix_with(dir: &Path, change: impl FnOnce(&mut NixSettings)) -> Option<Nix> {
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

pub fn settings(dir: &Path, env: BTreeMap<String, std::ffi::OsString>) -> NixSettings {
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
        builds: 8,
        evaluation_store_max: 0,
        build_silence: Duration::from_secs(60),
        ring: trueup::edge::nix::SigningRing::default(),
        signing_key: StoreKey::load_or_make(&dir.join("keys"), "test-1")
            .unwrap()
            .file,
    }
}

/// A folder whose store Nix made read-only.
pub struct Dir(tempfile::TempDir);

impl Dir {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    pub fn path(&self) -> &Path {
        self.0.path()
    }
    /// A tree with one flake, or a file that hosts name.
    pub fn tree(&self, name: &str, text: &str) -> Tree {
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

pub fn want(host: &str) -> EvalWant {
    EvalWant {
        host: host.parse().unwrap(),
        attribute: format!("nixosConfigurations.\"{host}\".config.system.build.toplevel"),
        file: None,
    }
}

pub type Found = BTreeMap<String, Result<Evaluated, EvalFailure>>;

pub async fn evaluated(nix: &Nix, tree: &Tree, wants: Vec<EvalWant>) -> Found {
    let found = nix.evaluate(tree, wants);
    found.map(|(host, r)| (host.to_string(), r)).collect().await
}

pub async fn done(nix: &Nix, e: &trueup_engine::ports::Evaluated, root: &str) -> BuildUpdate {
    let updates: Vec<_> = nix.build(&e.drv, &e.out, root).collect().await;
    updates.into_iter().next_back().unwrap()
}

pub async fn must_nix(args: &[&str], more: &[&str]) {
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

/// Copies as somebody does it by hand: without asking for signatures.
pub async fn copied(from: &str, to: &Path, path: &StorePath) {
    let args = ["copy", "--no-check-sigs", "--from", from, "--to"];
    must_nix(&args, &[to.to_str().unwrap(), path.as_str()]).await;
}

/// A cache that is pushed to.
pub fn cache(url: &str) -> ResolvedCache {
    ResolvedCache {
        name: "cache".to_owned(),
        url: url.to_owned(),
        public_key: None,
        credentials_file: None,
        push: true,
    }
}
