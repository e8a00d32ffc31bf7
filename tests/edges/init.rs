//! `trueup init` with the real `nix`, `ssh` and `ssh-keygen`: a flake that deploy-rs and colmena deploy becomes a fleet.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TRUEUP: &str = env!("CARGO_BIN_EXE_trueup-cli");
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE0MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM";

/// Whatever a host's configuration would cost is a `throw` here: it must not be asked for.
const FLAKE: &str = r#"{ outputs = { self }: let
  host = system: { pkgs.stdenv.hostPlatform = { inherit system; }; config.system.build.toplevel = throw "nobody builds here"; };
in {
  nixosConfigurations = {
    web-1 = host "x86_64-linux";
    web-2 = host "x86_64-linux";
    "Mail_1.example" = host "aarch64-linux";
    odd = host "x86_64-linux";
    wrong = throw "this host is wrong";
    laptop = host "x86_64-linux";
  };
  deploy = {
    sshUser = "deploy";
    magicRollback = true;
    nodes = {
      web-1 = {
        hostname = "10.0.0.1"; sshOpts = [ "-p" "2222" ]; confirmTimeout = 60; activationTimeout = 300;
        profiles.system = { user = "root"; path = throw "nobody builds here"; };
        profiles.home = { user = "ann"; path = throw "nor here"; };
      };
      odd = {
        hostname = "x; reboot"; sshUser = "-oProxyCommand=reboot"; sshOpts = [ "-i" "/root/key" ]; confirmTimeout = -1;
        activationTimeout = "soon"; remoteBuild = true; profiles.system.path = throw "nobody builds here";
      };
      router = { hostname = "10.0.0.254"; profiles.system.path = throw "nobody builds here"; };
    };
  };
  colmena = {
    meta = throw "not needed";
    defaults = { deployment.targetUser = "root"; deployment.tags = [ "all" ]; };
    web-2 = { pkgs, lib, name, ... }: { imports = [ ./nowhere.nix ]; deployment = {
      targetHost = "${name}.lan"; targetPort = 2200; tags = [ "web" "two words" ]; buildOnTarget = true; allowLocalDeployment = true;
      keys.token = throw "a secret"; }; boot = throw "not needed"; };
    "Mail_1.example" = { config, ... }: { deployment.targetHost = config.networking.fqdn; };
    wrong = { deployment.targetHost = null; };
  };
}; }"#;

struct Fleet {
    dir: tempfile::TempDir,
}

impl Fleet {
    fn new(flake: &str) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        for program in ["nix", "ssh", "ssh-keygen"] {
            if !std::env::split_paths(&path).any(|p| p.join(program).is_file()) {
                eprintln!(
                    "SKIPPED: no `{program}` in PATH (cargo xtask lab env prints one with nix)"
                );
                return None;
            }
        }
        let fleet = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(fleet.flake()).unwrap();
        std::fs::write(fleet.flake().join("flake.nix"), flake).unwrap();
        let at = |part: &str| fleet.dir.path().join(part).display().to_string();
        // The person's ssh: one key was accepted before, one machine is behind another.
        std::fs::write(at("known_hosts"), format!("[10.0.0.1]:2222 {KEY}\n")).unwrap();
        std::fs::write(
            at("ssh_config"),
            format!("Host *.lan\n  ProxyJump bastion\nHost *\n  UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n", at("known_hosts")),
        )
        .unwrap();
        std::fs::write(
            at("trueup.yaml"),
            format!("ssh: {{configFile: {}}}\n", at("ssh_config")),
        )
        .unwrap();
        Some(fleet)
    }

    fn flake(&self) -> PathBuf {
        self.dir.path().join("My Fleet")
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "a test starts the program that it tests"
    )]
    fn trueup(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(TRUEUP);
        command.env_clear();
        for name in ["PATH", "NIX_CONFIG"] {
            command.envs(std::env::var_os(name).map(|v| (name, v)));
        }
        let Output {
            status,
            stdout,
            stderr,
        } = command
            .args(args)
            .env("HOME", self.dir.path())
            .env("TRUEUP_CONFIG", self.dir.path().join("trueup.yaml"))
            .current_dir(self.flake())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap_or(-1), text(stdout), text(stderr))
    }

    fn init(&self, more: &[&str]) -> (i32, String, String) {
        let store = self.dir.path().join("store").display().to_string();
        self.trueup(&[&["init", "--store", &store], more].concat())
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.flake().join(file)).unwrap_or_default()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for entry in walkdir::WalkDir::new(self.dir.path()).into_iter().flatten() {
            if entry.file_type().is_dir() {
                let _not_ours = std::fs::set_permissions(
                    entry.path(),
                    std::os::unix::fs::PermissionsExt::from_mode(0o755),
                );
            }
        }
    }
}

fn golden(name: &str, found: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("edges/init");
    trueup_tests::golden::same(&folder.join(name), found);
}

#[test]
fn a_flake_of_deploy_rs_and_colmena_becomes_a_fleet_that_validates() {
    let Some(fleet) = Fleet::new(FLAKE) else {
        return;
    };
    let dry = fleet.init(&["--no-scan", "--dry-run"]);
    assert_eq!(dry.0, 0, "{dry:?}");
    assert!(
        !fleet.flake().join("fleet").exists(),
        "a dry run writes nothing"
    );

    let (code, out, err) = fleet.init(&["--no-scan"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    golden("said.txt", &out);
    golden("fleet.yaml", &fleet.read("fleet/fleet.yaml"));
    golden("hosts.yaml", &fleet.read("fleet/hosts.yaml"));
    let said_before = out
        .lines()
        .take_while(|l| !l.starts_with("wrote"))
        .collect::<Vec<_>>()
        .join("\n");
    assert!(dry.1.starts_with(&said_before), "{}", dry.1);
    assert!(
        dry.1.contains(fleet.read("fleet/hosts.yaml").trim_end()),
        "{}",
        dry.1
    );

    let (code, out, _) = fleet.trueup(&["validate"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "2 files, 6 hosts: no problem found\n")
    );

    std::fs::write(fleet.flake().join("fleet/hosts.yaml"), "mine").unwrap();
    let (code, _, err) = fleet.init(&["--no-scan"]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("nothing is overwritten"), "{err}");
    assert_eq!(fleet.read("fleet/hosts.yaml"), "mine");
}

#[test]
fn a_hive_tells_of_its_nodes_and_is_where_their_closures_are() {
    let hive = r#"{ outputs = { self }: {
      colmena = throw "the hive is asked, not its source";
      colmenaHive.nodes.db-1 = { pkgs.stdenv.hostPlatform.system = "aarch64-linux"; config.deployment = {
        targetHost = "db.example.org"; targetUser = "admin"; targetPort = null; tags = [ "db" ]; sshOptions = [ "-oPort=2022" ];
        privilegeEscalationCommand = [ "doas" ]; keys = { }; }; };
    }; }"#;
    let Some(fleet) = Fleet::new(hive) else {
        return;
    };
    let (code, out, err) = fleet.init(&["--no-scan", "--name", "prod"]);
    assert_eq!(code, 0, "{out}{err}");
    let text = fleet.read("fleet/hosts.yaml");
    for part in [
        "closure: colmenaHive.nodes.db-1.config.system.build.toplevel",
        "address: db.example.org",
        "    user: admin\n    become: true\n    port: 2022\n",
        "labels: {db: \"true\"}",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert!(fleet.read("fleet/fleet.yaml").contains("name: prod\nspec:"));
    assert!(
        fleet
            .read("fleet/fleet.yaml")
            .contains("system: aarch64-linux")
    );
    assert!(
        out.contains("colmena: could not be read")
            && out.contains("privilegeEscalationCommand is not taken over"),
        "{out}"
    );
}

#[test]
fn where_there_is_no_fleet_init_says_what_it_looked_for() {
    let Some(fleet) = Fleet::new("{ outputs = { self }: { packages = { }; }; }") else {
        return;
    };
    let (code, _, err) = fleet.init(&[]);
    assert_eq!(code, 1);
    assert!(
        err.contains("no nixosConfigurations and no colmenaHive"),
        "{err}"
    );
    std::fs::write(
        fleet.flake().join("flake.nix"),
        "{ outputs = {self}: nonsense; }",
    )
    .unwrap();
    let (code, _, err) = fleet.init(&[]);
    assert_eq!(code, 1);
    assert!(
        err.contains("the flake does not evaluate: undefined variable 'nonsense'"),
        "{err}"
    );
    std::fs::remove_file(fleet.flake().join("flake.nix")).unwrap();
    let (code, _, err) = fleet.init(&[]);
    assert_eq!(code, 2);
    assert!(err.contains("has no flake.nix"), "{err}");
    std::fs::write(fleet.flake().join("hive.nix"), "{ }").unwrap();
    let (code, _, err) = fleet.init(&[]);
    assert_eq!(code, 2);
    assert!(err.contains("colmena.lib.makeHive"), "{err}");
}

#[test]
fn what_only_the_module_system_knows_of_a_hive_is_named_and_not_guessed() {
    let hive = r#"{ outputs = { self }: {
      nixosConfigurations = builtins.mapAttrs (_: _: { pkgs.stdenv.hostPlatform.system = "x86_64-linux"; }) self.colmena;
      colmena = {
        listed = [ { deployment.targetHost = "10.0.0.1"; } ];
        maybe = { deployment = { _type = "if"; condition = true; content.targetHost = "10.0.0.2"; }; };
        merged = { config = { _type = "merge"; contents = [ { deployment.targetHost = "10.0.0.3"; } ]; }; };
        imported = { imports = [ { deployment.targetHost = "10.0.0.4"; } ]; };
        plain = { imports = [ ]; config.deployment.targetHost = "10.0.0.5"; };
      };
    }; }"#;
    let Some(fleet) = Fleet::new(hive) else {
        return;
    };
    let (code, out, err) = fleet.init(&["--no-scan"]);
    assert_eq!(code, 0, "{out}{err}");
    let text = fleet.read("fleet/hosts.yaml");
    for host in ["listed", "maybe", "merged", "imported"] {
        assert!(
            out.contains(&format!("{host}: its `deployment` is only known"))
                || out.contains(&format!("{host}: says nothing of its `deployment`")),
            "{host}: {out}"
        );
        assert!(
            text.contains(&format!("address: {host} # its name")),
            "{text}"
        );
    }
    assert!(text.contains("address: \"10.0.0.5\""), "{text}");
    assert!(!out.contains("plain: says nothing"), "{out}");
    assert!(
        out.contains("colmena: 5 of its nodes get the closure of nixosConfigurations"),
        "{out}"
    );
}

#[test]
fn what_colmena_deployed_is_the_closure_where_nixos_configurations_has_the_host_too() {
    let hive = r#"{ outputs = { self }: let host = { pkgs.stdenv.hostPlatform.system = "x86_64-linux"; config.deployment = { }; }; in {
      nixosConfigurations = { a = host; b = host; };
      colmenaHive.nodes = { a = host; b = host; };
      deploy.nodes.b = { hostname = "10.0.0.1"; profiles.system = { }; };
    }; }"#;
    let Some(fleet) = Fleet::new(hive) else {
        return;
    };
    let (code, out, err) = fleet.init(&["--no-scan"]);
    assert_eq!(code, 0, "{out}{err}");
    let text = fleet.read("fleet/hosts.yaml");
    assert_eq!(
        text.matches("closure: ").count(),
        1,
        "deploy-rs has its own for `b`: {text}"
    );
    assert!(
        text.contains("closure: colmenaHive.nodes.a.config.system.build.toplevel"),
        "{text}"
    );
    assert!(
        out.contains("colmenaHive: nixosConfigurations has 1 of its nodes too"),
        "{out}"
    );
}
