//! deploy-rs and colmena as a fleet had them before trueup: their own programs where somebody has built them, else by hand
//! what those do. It deploys; it judges nothing of trueup's.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use trueup_tests::closures;
use trueup_tests::world::World;

use super::{COLMENA, CURRENT, DEPLOY_RS, PROFILE};
use crate::harness::Host;

/// A folder with deploy-rs' own `deploy` and `activate`.
const REAL_DEPLOY_RS: &str = "TRUEUP_TEST_DEPLOY_RS";
/// A folder with `colmena` and, in `hive/`, the expressions that it evaluates a hive with (its `src/nix/hive`).
const REAL_COLMENA: &str = "TRUEUP_TEST_COLMENA";
/// colmena's hive is evaluated by nixpkgs' module system: its `lib/` is enough.
const NIXPKGS: &str = "TRUEUP_NIXPKGS";
/// Where deploy-rs' program lies on a host.
const ACTIVATE_RS: &str = "/root/deploy-rs-activate-program";

/// For deploy-rs: attributes as its documents have them, and the profile as its `activate.nixos` makes it, systemd-boot's
/// line included.
const DEPLOY: &str = r#"
    deploy = {
      sshUser = "root";
      nodes.web-2 = { hostname = "ADDRESS-OF-web-2"; sshOpts = [ "-p" "PORT-OF-web-2" ]; confirmTimeout = 60;
        profiles.system = { user = "root"; path = self.activatable.web-2; }; };
    };
    activatable = builtins.mapAttrs (name: host: lab.run "activatable-nixos-system-${name}" { top = "${host.config.system.build.toplevel}"; } ''
      mkdir $out
      for f in $top/*; do ln -s $f $out/; done
      printf '#!/bin/sh\nset -eu\ncd /tmp\n$PROFILE/bin/switch-to-configuration switch\n' >$out/deploy-rs-activate
      printf 'sed -i "/^default /d" /boot/loader/loader.conf\n' >>$out/deploy-rs-activate
      printf '#!/bin/sh\nexec ACTIVATE-RS "$@"\n' >$out/activate-rs
      chmod +x $out/deploy-rs-activate $out/activate-rs
    '') self.nixosConfigurations;
"#;

/// For colmena where only its raw form is there.
const RAW: &str = r#"
    colmena = {
      meta = { };
      web-1 = { pkgs, ... }: { deployment = { targetHost = "ADDRESS-OF-web-1"; targetPort = PORT-OF-web-1; tags = [ "web" ]; }; };
    };
"#;

/// For the real one: the same hive for `-f hive.nix` and, by `makeHive`, for flakes.
const OUTPUTS: &str = r#"
    colmena = import ./hive.nix;
    colmenaHive = import ./tools/hive/eval.nix {
      rawHive = self.colmena; hermetic = true;
      colmenaOptions = import ./tools/hive/options.nix; colmenaModules = import ./tools/hive/modules.nix;
    };
"#;
const HIVE: &str = r#"let
  lab = import ./lib.nix;
  hosts = import ./hosts.nix;
in {
  meta = {
    nixpkgs = import ./tools/nixpkgs { };
    nodeNixpkgs.web-1 = import ./tools/nixpkgs { };
    specialArgs.top = name: (lab.host name hosts.${name}).config.system.build.toplevel;
  };
  defaults = { name, top, ... }: { deployment.tags = [ "all" ]; system.build.toplevel = top name; };
  web-1 = { lib, pkgs, ... }: {
    deployment = {
      targetHost = lib.mkDefault "ADDRESS-OF-web-1"; targetPort = PORT-OF-web-1; tags = [ "web" ]; allowLocalDeployment = true;
      keys.token = { text = "out of the store"; permissions = "0400"; };
    };
  };
}
"#;
/// As much of a nixpkgs as a hive asks for: its `lib`, and options that colmena's modules set.
const STUB: &str = r#"{ ... }: { lib = import ./lib; path = ./.; system = "x86_64-linux"; config = { }; overlays = [ ]; }"#;
const EVAL_CONFIG: &str = r#"{ system, modules, specialArgs ? { }, ... }:
let
  lib = import ../../lib;
  anything = lib.mkOption { type = lib.types.anything; default = { }; };
  many = lib.mkOption { type = lib.types.listOf lib.types.anything; default = [ ]; };
in lib.evalModules {
  inherit specialArgs;
  modules = modules ++ [ {
    options = {
      nixpkgs = { overlays = many; config = anything; system = anything; };
      warnings = many;
      assertions = many;
      systemd = { paths = lib.mkOption { type = lib.types.lazyAttrsOf lib.types.raw; default = { }; };
        services = lib.mkOption { type = lib.types.lazyAttrsOf lib.types.raw; default = { }; }; };
      system = { activationScripts = lib.mkOption { type = lib.types.lazyAttrsOf lib.types.raw; default = { }; };
        build.toplevel = lib.mkOption { type = lib.types.raw; }; };
    };
    config = { nixpkgs.system = system; _module.args.pkgs = { inherit lib; }; };
  } ];
}
"#;

/// The programs that are here.
pub struct Tools {
    deploy_rs: Option<PathBuf>,
    colmena: Option<(PathBuf, PathBuf)>,
}

impl Tools {
    pub fn found() -> Self {
        let named = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let deploy_rs = named(REAL_DEPLOY_RS).map(PathBuf::from);
        if deploy_rs.is_none() {
            eprintln!(
                "SKIPPED: deploy-rs itself ({REAL_DEPLOY_RS} names no folder with its `deploy` and `activate`); by hand"
            );
        }
        let colmena = named(REAL_COLMENA).map(PathBuf::from);
        let colmena = colmena.zip(named(NIXPKGS).map(PathBuf::from));
        if colmena.is_none() {
            eprintln!(
                "SKIPPED: colmena itself ({REAL_COLMENA} names no folder with its program and `hive/`, or {NIXPKGS} no \
                 nixpkgs); by hand"
            );
        }
        Self { deploy_rs, colmena }
    }

    /// Is its own program here?
    pub fn real_colmena(&self) -> bool {
        self.colmena.is_some()
    }

    /// The world's repository without manifests, with the two tools' outputs in its flake.
    pub fn own(&self, world: &World) {
        let repo = world.repo();
        std::fs::remove_dir_all(repo.join("fleet")).unwrap();
        trueup_fixtures::fleet::remove_host(&repo, "db-1").unwrap();
        let placed = |text: &str| {
            let mut text = text.replace("ACTIVATE-RS", ACTIVATE_RS);
            for name in [COLMENA, DEPLOY_RS] {
                let at = closures::place(world.host(name));
                text = text
                    .replace(&format!("ADDRESS-OF-{name}"), &at.address)
                    .replace(&format!("PORT-OF-{name}"), &at.port.to_string());
            }
            text
        };
        let mut outputs = placed(DEPLOY);
        match &self.colmena {
            None => outputs.push_str(&placed(RAW)),
            Some((colmena, nixpkgs)) => {
                outputs.push_str(OUTPUTS);
                let tools = repo.join("tools");
                copy_tree(&colmena.join("hive"), &tools.join("hive"));
                copy_tree(&nixpkgs.join("lib"), &tools.join("nixpkgs/lib"));
                let lib = tools.join("nixpkgs/nixos/lib");
                std::fs::create_dir_all(&lib).unwrap();
                std::fs::write(lib.join("eval-config.nix"), EVAL_CONFIG).unwrap();
                std::fs::write(tools.join("nixpkgs/default.nix"), STUB).unwrap();
                std::fs::write(repo.join("hive.nix"), placed(HIVE)).unwrap();
            }
        }
        world
            .edit("flake.nix", |text| {
                text.replacen("  in {\n", &format!("  in {{\n{outputs}"), 1)
            })
            .unwrap();
    }

    /// By its own `apply`, of the flake and then of `hive.nix`; by hand: copy, set the profile, `switch`.
    pub fn colmena(&self, world: &World, host: &Host) -> String {
        let top = world.closures().build_attribute(&format!(
            "nixosConfigurations.{}.config.system.build.toplevel",
            host.name
        ));
        let Some((colmena, _)) = &self.colmena else {
            world.closures().copy(&top, host);
            host.read(&["nix-env", "--profile", PROFILE, "--set", &top]);
            host.read(&[&format!("{top}/bin/switch-to-configuration"), "switch"]);
            return top;
        };
        for hive in ["flake.nix", "hive.nix"] {
            let file = world.repo().join(hive).display().to_string();
            let args = ["apply", "-f", &file, "--on", "@web", "--verbose"];
            let said = run(world, &colmena.join("colmena"), &args);
            assert!(
                said.contains("Activation successful") && said.contains("All done!"),
                "{said}"
            );
        }
        assert_eq!(host.read(&["cat", "/run/keys/token"]), "out of the store");
        top
    }

    /// By its own `deploy`, checks and both kinds of rollback included; by hand: the profile is a folder around the closure,
    /// with a program that switches. The closure, and that folder.
    pub fn deploy_rs(&self, world: &World, host: &Host) -> (String, String) {
        let around = world
            .closures()
            .build_attribute(&format!("activatable.{}", host.name));
        if let Some(folder) = &self.deploy_rs {
            let program = std::fs::read(folder.join("activate")).unwrap();
            world.closures().put(host, &program, ACTIVATE_RS);
            let flake = format!("{}#{}", world.repo().display(), host.name);
            let said = run(world, &folder.join("deploy"), &[&flake]);
            assert!(said.contains("Deployment confirmed"), "{said}");
        } else {
            world.closures().copy(&around, host);
            host.read(&["nix-env", "--profile", PROFILE, "--set", &around]);
            let activate = format!("{around}/deploy-rs-activate");
            host.read(&["env", &format!("PROFILE={PROFILE}"), &activate]);
        }
        (host.link(CURRENT).unwrap(), around)
    }
}

/// A tool as a person runs it: the world's store is its machine's, and the person's ssh reaches the hosts.
#[allow(
    clippy::disallowed_methods,
    reason = "other people's programs, beside trueup's exec"
)]
fn run(world: &World, program: &Path, args: &[&str]) -> String {
    let env = world.lab().env();
    let value = |wanted: &str| {
        let found = env.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let bin = world.dir().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let ssh = format!(
        "#!/bin/sh\nPATH='{path}'\nexport PATH\nexec ssh {} \"$@\"\n",
        value("NIX_SSHOPTS")
    );
    std::fs::write(bin.join("ssh"), ssh).unwrap();
    std::fs::set_permissions(bin.join("ssh"), PermissionsExt::from_mode(0o755)).unwrap();
    let path: Vec<OsString> = vec![bin.into(), value("TRUEUP_LAB_NIX").into(), path.into()];
    // Both look for what they built below /nix: it is the world's store there, for them alone.
    let store = Path::new(&world.closures().store()).join("nix");
    let out = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-euc"])
        .arg("mount --bind \"$1\" /nix; shift; exec \"$@\"")
        .arg("sh")
        .arg(store)
        .arg(program)
        .args(args)
        .env_clear()
        .env("PATH", path.join(&OsString::from(":")))
        .env("NIX_CONFIG", value("NIX_CONFIG"))
        .env("HOME", world.dir())
        .env("TMPDIR", world.dir())
        .current_dir(world.repo())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(out.status.success(), "{}: {said}", program.display());
    eprintln!("{} {args:?}:\n{said}", program.display());
    said
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry.unwrap();
        let at = to.join(entry.path().strip_prefix(from).unwrap());
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(at).unwrap();
        } else if entry.file_type().is_file() {
            std::fs::copy(entry.path(), at).unwrap();
        }
    }
}
