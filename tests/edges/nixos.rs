//! The NixOS modules, evaluated by NixOS' own module system: `TRUEUP_NIXPKGS=PATH`, a nixpkgs or a tree that has its
//! `lib/` and `nixos/`. Nothing is built and no machine is started: that is nixos/tests/, for machines with KVM. Modules of
//! others beside ours: `TRUEUP_SOPS_NIX=PATH` and `TRUEUP_AGENIX=PATH`, their repositories.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use trueup::edge::exec::{self, ExecSpec};

use crate::local;

/// A whole NixOS takes some seconds and 200 MB; a dozen of them in one process take their sum.
const EVAL_WALL: Duration = Duration::from_secs(600);

/// Only these have no default, since nobody can know them.
const NEEDED: [&str; 2] = [
    "services.trueup.cache.signingKeyFile",
    "services.trueup.controller.repository.url",
];

fn nixos() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../nixos")
        .canonicalize()
        .unwrap()
}

fn nix(args: &[&str]) -> Option<exec::Exit> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|p| p.join(args[0]).is_file()) {
        eprintln!(
            "SKIPPED: no `{}` in PATH (cargo xtask lab env prints one)",
            args[0]
        );
        return None;
    }
    let home = tempfile::tempdir().unwrap();
    let mut spec = ExecSpec::new(args[0], &args[1..]);
    spec.env.insert("PATH".to_owned(), path);
    spec.env.insert("HOME".to_owned(), home.path().into());
    // Evaluation writes nothing, so that the store may be anybody's.
    spec.env.insert("NIX_REMOTE".to_owned(), "dummy://".into());
    let features = "experimental-features = nix-command flakes\n";
    spec.env.insert("NIX_CONFIG".to_owned(), features.into());
    spec.limits.wall = EVAL_WALL;
    Some(local(exec::run(&spec)).unwrap())
}

fn nixpkgs() -> Option<String> {
    let given = std::env::var("TRUEUP_NIXPKGS")
        .ok()
        .filter(|p| !p.is_empty());
    if given.is_none() {
        eprintln!("SKIPPED: TRUEUP_NIXPKGS names no nixpkgs, so NixOS' module system is not here");
    }
    given
}

/// `EXPRESSION` with `of`, which evaluates a module, as JSON.
fn evaluate(expression: &str) -> Option<Value> {
    let nixpkgs = nixpkgs()?;
    let text = format!(
        "let beside = with_: import {0}/tests/eval.nix ({{ nixpkgs = {nixpkgs}; }} // with_); \
         of = module: beside {{ inherit module; }}; \
         cases = import {0}/tests/cases.nix; in {expression}",
        nixos().display()
    );
    let exit = nix(&["nix", "eval", "--impure", "--json", "--expr", &text])?;
    assert!(exit.ok(), "{}", exit.err_text());
    Some(serde_json::from_slice(&exit.stdout).unwrap())
}

fn texts(value: &Value) -> Vec<&str> {
    let list = value.as_array().expect("a list");
    list.iter().map(|v| v.as_str().expect("text")).collect()
}

#[test]
fn every_nix_file_of_ours_can_be_read() {
    let root = nixos().join("..");
    let found = walkdir::WalkDir::new(nixos())
        .into_iter()
        .map(Result::unwrap);
    let mut files: Vec<String> = found
        .filter(|e| e.path().extension().is_some_and(|x| x == "nix"))
        .map(|e| e.path().display().to_string())
        .collect();
    files.push(root.join("flake.nix").display().to_string());
    assert!(files.len() > 8, "{files:?}");
    let mut args = vec!["nix-instantiate", "--parse"];
    args.extend(files.iter().map(String::as_str));
    let Some(exit) = nix(&args) else { return };
    assert!(exit.ok(), "{}", exit.err_text());
}

#[test]
fn the_flakes_modules_name_their_packages_and_set_nothing_of_nixpkgs() {
    // A host (and each machine of a NixOS test) may have those options read-only.
    let text = format!(
        "let b = builtins; lib = {{ genAttrs = names: f: b.listToAttrs (map (n: {{ name = n; value = f n; }}) names); mkDefault = v: v; }}; \
         self = (import {}/../flake.nix).outputs {{ inherit self; nixpkgs = {{ inherit lib; legacyPackages = {{ }}; }}; }}; \
         of = m: let c = (m {{ pkgs.stdenv.hostPlatform.system = \"x86_64-linux\"; }}).config; in \
           {{ all = b.attrNames c ++ b.attrNames c.services; ours = b.mapAttrs (_: b.attrNames) c.services.trueup; }}; \
         in b.mapAttrs (_: of) {{ inherit (self.nixosModules) default controller agent; }}",
        nixos().display()
    );
    let Some(exit) = nix(&["nix", "eval", "--impure", "--json", "--expr", &text]) else {
        return;
    };
    assert!(exit.ok(), "{}", exit.err_text());
    let found: Value = serde_json::from_slice(&exit.stdout).unwrap();
    let (controller, agent) = (["agentPackages", "package"], ["package"]);
    for name in ["default", "controller", "agent"] {
        assert_eq!(texts(&found[name]["all"]), ["services", "trueup"], "{name}");
    }
    assert_eq!(texts(&found["default"]["ours"]["controller"]), controller);
    assert_eq!(texts(&found["default"]["ours"]["agent"]), agent);
    assert_eq!(texts(&found["agent"]["ours"]["agent"]), agent);
}

#[test]
fn every_option_has_a_type_a_description_an_example_and_a_default() {
    let Some(found) = evaluate("(of { }).options") else {
        return;
    };
    let options = found.as_array().unwrap();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for option in options {
        let name = option["name"].as_str().unwrap();
        let part = match name.strip_prefix("services.trueup.") {
            Some(rest) => rest.split('.').next().unwrap_or_default(),
            None => "trueup",
        };
        *seen.entry(part).or_default() += 1;
        for (key, what) in [("type", "type"), ("description", "description")] {
            let text = option[key].as_str().unwrap_or_default();
            assert!(
                text.len() > 3 && text != "unspecified value",
                "{name} has no {what}: {text:?}"
            );
        }
        assert_eq!(option["hasExample"], true, "{name} has no example");
        let has_default = option["hasDefault"].as_bool().unwrap();
        assert_eq!(
            has_default,
            !NEEDED.contains(&name),
            "the default of {name}"
        );
    }
    let parts: Vec<&str> = seen.keys().copied().collect();
    assert_eq!(
        parts,
        ["agent", "builder", "cache", "controller", "trueup"],
        "{seen:?}"
    );
}

#[test]
fn each_mistake_is_stopped_by_its_own_sentence_and_nothing_else_is() {
    let Some(found) = evaluate(
        "builtins.mapAttrs (_: case: { inherit (case) refused; inherit (of case.module) failed; }) cases",
    ) else {
        return;
    };
    for (name, case) in found.as_object().unwrap() {
        let (wanted, failed) = (texts(&case["refused"]), texts(&case["failed"]));
        assert_eq!(wanted.len(), failed.len(), "{name}: {failed:#?}");
        for piece in wanted {
            assert!(
                failed.iter().any(|m| m.contains(piece)),
                "{name} is not stopped by `{piece}`: {failed:#?}"
            );
        }
    }
}

#[test]
fn the_settings_of_the_module_are_ones_that_trueup_takes() {
    let Some(found) = evaluate(
        "builtins.mapAttrs (_: c: (of c.module).etc.\"trueup/trueup.yaml\".text) \
         { inherit (cases) controller controllerWithKeys; }",
    ) else {
        return;
    };
    let read = |name: &str| {
        let text = found[name].as_str().unwrap();
        let fragment = trueup::settings::parse(Path::new("trueup.yaml"), text);
        trueup::settings::validate(fragment.unwrap_or_else(|e| panic!("{e}\n{text}"))).unwrap()
    };
    let plain = read("controller");
    assert_eq!(plain.limits, trueup::settings::Limits::default());
    assert_eq!(
        plain.state_dir,
        Path::new(trueup::settings::DEFAULT_STATE_DIR)
    );
    assert_eq!(plain.socket, Path::new("/run/trueup-controller/api.sock"));
    let full = read("controllerWithKeys");
    let credential = |n: &str| PathBuf::from("/run/credentials/trueup-controller.service").join(n);
    assert_eq!(full.signing_key_file, Some(credential("store.key")));
    assert_eq!(
        full.next_signing_key_file,
        Some(credential("store.next.key"))
    );
    assert_eq!(full.intent_key_file, Some(credential("intent.key")));
    assert_eq!(full.next_intent_key_file, None);
    assert_eq!(full.ssh_identity_file, Some(credential("ssh.key")));
    assert_eq!(
        full.repository.credentials.ssh_key_file,
        Some(credential("git.key"))
    );
    assert!(full.repository.credentials.known_hosts_file.is_some());
    assert_eq!((full.limits.builds, full.limits.evaluations), (4, 3));
    assert_eq!(full.limits.build_silence, Duration::from_secs(7200));
}

#[test]
fn the_controller_runs_as_little_as_it_can_and_gets_its_keys_from_systemd() {
    let Some(found) = evaluate(
        "let s = of cases.controllerWithKeys.module; in { inherit (s) services tmpfiles groups; }",
    ) else {
        return;
    };
    let unit = &found["services"]["trueup-controller"];
    let service = &unit["serviceConfig"];
    for (key, wanted) in [
        ("User", "trueup"),
        ("ProtectSystem", "strict"),
        ("CapabilityBoundingSet", ""),
        ("StateDirectory", "trueup"),
        ("StateDirectoryMode", "0700"),
        ("RuntimeDirectoryMode", "0750"),
    ] {
        assert_eq!(service[key], wanted, "{key}");
    }
    for key in [
        "NoNewPrivileges",
        "ProtectHome",
        "PrivateTmp",
        "PrivateDevices",
        "RestrictNamespaces",
        "LockPersonality",
    ] {
        assert_eq!(service[key], true, "{key}");
    }
    assert_eq!(
        texts(&service["LoadCredential"]),
        [
            "extra.chat:/run/secrets/chat",
            "git.key:/run/secrets/deploy-key",
            "intent.key:/run/secrets/intent-key",
            "ssh.key:/run/secrets/ssh-key",
            "store.key:/run/secrets/store-key",
            "store.next.key:/run/secrets/store-key-2",
        ]
    );
    let start = service["ExecStart"].as_str().unwrap();
    assert!(
        start.contains("/bin/trueup run --config /nix/store/"),
        "{start}"
    );
    // What it may write outside of its own folders is made for it, with its name on it.
    assert_eq!(
        texts(&service["ReadWritePaths"]),
        ["/nix/var/nix/gcroots/trueup"]
    );
    let rule = texts(&found["tmpfiles"]).join("\n");
    assert!(
        rule.contains("d /nix/var/nix/gcroots/trueup 0755 trueup trueup"),
        "{rule}"
    );
    // The command line finds the socket where it looks by itself.
    let link = format!(
        "L+ {} - - - - /run/trueup-controller/api.sock",
        trueup::settings::DEFAULT_SOCKET
    );
    assert!(rule.contains(&link), "{rule}");
    assert_eq!(texts(&found["groups"]["trueup"]), ["ana"]);
}

#[test]
fn the_resume_unit_runs_the_agent_that_wrote_the_journal_and_no_activation_waits_for_it() {
    let Some(found) = evaluate("(of cases.agent.module).services.trueup-resume") else {
        return;
    };
    let agent = "/nix/var/nix/gcroots/trueup/agent/bin/trueup-agent";
    assert_eq!(
        found["serviceConfig"]["ExecStart"],
        format!("{agent} resume")
    );
    assert_eq!(found["unitConfig"]["ConditionFileIsExecutable"], agent);
    assert_eq!(found["restartIfChanged"], false);
    assert_eq!(texts(&found["wantedBy"]), ["multi-user.target"]);
}

#[test]
fn a_host_for_another_user_than_root_has_login_sudo_and_trust() {
    let Some(found) = evaluate(
        "let s = of cases.agentOfAnotherUser.module; in { inherit (s) users sudo nix etc; }",
    ) else {
        return;
    };
    let user = &found["users"]["trueup-deploy"];
    assert_eq!(user["isSystemUser"], true);
    let line = texts(&user["keys"])[0];
    assert!(
        line.starts_with("no-agent-forwarding,no-port-forwarding,no-pty,"),
        "{line}"
    );
    assert!(
        !line.contains("restrict") && line.contains(" ssh-ed25519 AAAA"),
        "{line}"
    );
    assert_eq!(found["sudo"][0]["users"][0], "trueup-deploy");
    assert_eq!(found["sudo"][0]["commands"][0]["options"][0], "NOPASSWD");
    let trusted = texts(&found["nix"]["trusted-public-keys"]);
    assert!(
        trusted.iter().any(|k| k.starts_with("trueup-1:")),
        "{trusted:?}"
    );
    assert!(
        trusted.iter().any(|k| k.starts_with("cache.nixos.org-1:")),
        "{trusted:?}"
    );
    assert!(texts(&found["nix"]["substituters"]).contains(&"http://cache.example.org:5000"));
    let pinned = found["etc"]["trueup/controller.pub"]["text"]
        .as_str()
        .unwrap();
    assert_eq!(pinned.lines().count(), 1);
}

#[test]
fn a_builder_takes_derivations_and_gives_no_shell() {
    let Some(found) = evaluate("let s = of cases.builder.module; in { inherit (s) users nix; }")
    else {
        return;
    };
    let line = texts(&found["users"]["trueup-builder"]["keys"])[0];
    assert!(line.starts_with("restrict,command=\"/nix/store/"), "{line}");
    assert!(
        line.contains("/bin/nix-daemon --stdio\" ssh-ed25519 "),
        "{line}"
    );
    let trusted = texts(&found["nix"]["trusted-users"]);
    assert!(
        trusted.contains(&"root") && trusted.contains(&"trueup-builder"),
        "{trusted:?}"
    );
}

#[test]
fn a_cache_serves_by_the_module_that_nixos_has() {
    let Some(found) =
        evaluate("let s = of cases.cache.module; in { inherit (s) served firewall; }")
    else {
        return;
    };
    let served = &found["served"]["nix-serve"];
    assert_eq!(served["port"], 5000);
    assert_eq!(served["bindAddress"], "[::]");
    assert_eq!(served["secretKeyFile"], "/run/secrets/cache-key");
    let open: Vec<u64> = found["firewall"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_u64)
        .collect();
    assert!(open.contains(&5000), "{open:?}");
}

#[test]
fn behind_a_forced_command_the_key_runs_the_agent_of_this_configuration_and_nothing_else() {
    let Some(found) = evaluate(
        "let s = of cases.agentBehindAForcedCommand.module; in { inherit (s) services users sudo; }",
    ) else {
        return;
    };
    let lines = texts(&found["users"]["trueup-deploy"]["keys"]);
    let forced = |line: &&str, end: &str| {
        line.starts_with("restrict,command=\"/nix/store/")
            && line.contains(&format!(
                "-trueup-agent/bin/trueup-agent {end}\" ssh-ed25519 "
            ))
    };
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(forced(&lines[0], "ssh-command"), "{lines:?}");
    let rules = found["sudo"].as_array().unwrap();
    let of_login = |r: &&Value| texts(&r["users"]) == ["trueup-deploy"];
    let rule = rules.iter().find(of_login).expect("a rule of the login");
    let commands = rule["commands"].as_array().unwrap();
    let command = commands[0]["command"].as_str().unwrap();
    assert!(
        commands.len() == 1 && command.ends_with("-trueup-agent/bin/trueup-agent"),
        "{rule}"
    );
    // None is brought, so what runs at boot is that one too.
    for (unit, verb) in [
        ("trueup-resume", "resume"),
        ("trueup-secrets", "secrets restore"),
    ] {
        let start = found["services"][unit]["serviceConfig"]["ExecStart"]
            .as_str()
            .unwrap();
        assert_eq!(start, format!("{command} {verb}"));
    }
}

#[test]
fn secrets_have_paths_and_come_back_at_boot_but_not_in_an_activation() {
    let Some(found) = evaluate(
        "let s = of cases.agentWithSecrets.module; in { inherit (s) secrets services beforeUsers tmpfiles; }",
    ) else {
        return;
    };
    assert_eq!(
        found["secrets"]["api-token"]["path"],
        "/run/trueup/secrets/api-token"
    );
    assert_eq!(
        found["secrets"]["ana"]["path"],
        "/run/trueup/secrets-for-users/ana"
    );
    assert!(texts(&found["beforeUsers"]).contains(&"trueupSecretsForUsers"));
    let unit = &found["services"]["trueup-secrets"];
    let start = unit["serviceConfig"]["ExecStart"].as_str().unwrap();
    assert!(
        start.ends_with("/bin/trueup-agent secrets restore"),
        "{start}"
    );
    // The marker stops a later start, and the unit is before what makes the marker.
    assert!(texts(&unit["unitConfig"]["ConditionPathExists"]).contains(&"!/run/trueup/booted"));
    assert!(texts(&unit["before"]).contains(&"systemd-tmpfiles-setup.service"));
    assert!(
        texts(&found["tmpfiles"])
            .iter()
            .any(|r| r.starts_with("f /run/trueup/booted "))
    );
    assert_eq!(unit["restartIfChanged"], false);
    assert!(found["services"].get("trueup-secrets-for-users").is_none());
}

#[test]
fn users_that_an_activation_makes_own_their_secrets_before_units_start() {
    let Some(found) = evaluate(
        "let a = of cases.agentWithSecrets.module; s = of cases.agentWithSecretsAndSysusers.module; in \
         { inherit (a) afterUsers; inherit (s) services beforeUsers; }",
    ) else {
        return;
    };
    assert_eq!(texts(&found["afterUsers"]), ["users", "groups"]);
    // Where units make the users, units do the same.
    assert_eq!(texts(&found["beforeUsers"]), [""; 0]);
    let own = &found["services"]["trueup-secrets-own"];
    assert!(texts(&own["after"]).contains(&"systemd-sysusers.service"));
    assert!(texts(&own["before"]).contains(&"sysinit-reactivation.target"));
    let for_users = &found["services"]["trueup-secrets-for-users"];
    assert!(texts(&for_users["before"]).contains(&"systemd-sysusers.service"));
    let all = &found["services"]["trueup-secrets"];
    assert!(texts(&all["after"]).contains(&"systemd-sysusers.service"));
}

/// What systemd itself orders early in a boot (systemd 257): `/dev` is set up with users' names, file systems are mounted
/// after that, and all of it is there before `sysinit.target`.
const EARLY: [[&str; 2]; 6] = [
    [
        "systemd-sysusers.service",
        "systemd-tmpfiles-setup-dev.service",
    ],
    ["userborn.service", "systemd-tmpfiles-setup-dev.service"],
    ["systemd-tmpfiles-setup-dev.service", "local-fs-pre.target"],
    ["local-fs-pre.target", "local-fs.target"],
    ["local-fs.target", "systemd-tmpfiles-setup.service"],
    ["systemd-tmpfiles-setup.service", "sysinit.target"],
];

/// A unit that would have to be before itself, if there is one: systemd leaves out some unit of such a circle.
fn circle(edges: &[[String; 2]]) -> Option<String> {
    let mut left: Vec<&[String; 2]> = edges.iter().collect();
    loop {
        // An edge is done with when nothing is before its first unit.
        let free = |e: &&[String; 2]| left.iter().all(|other| other[1] != e[0]);
        let next: Vec<_> = left.iter().copied().filter(|e| !free(e)).collect();
        if next.is_empty() {
            return None;
        }
        if next.len() == left.len() {
            return Some(next[0][0].clone());
        }
        left = next;
    }
}

#[test]
fn secrets_of_users_are_before_who_makes_them_and_no_unit_is_before_itself() {
    let Some(found) = evaluate(
        "builtins.mapAttrs (_: c: { inherit (of c.module) services makers beforeUsers; }) \
         { sysusers = cases.agentWithSecretsAndSysusers; userborn = cases.agentWithSecretsAndUserborn; \
           snippets = cases.agentWithSecrets; }",
    ) else {
        return;
    };
    for (name, maker) in [
        ("userborn", "userborn.service"),
        ("sysusers", "systemd-sysusers.service"),
    ] {
        let case = &found[name];
        let for_users = &case["services"]["trueup-secrets-for-users"];
        assert!(texts(&for_users["before"]).contains(&maker), "{name}");
        assert_eq!(texts(&for_users["wantedBy"]), ["sysinit.target"], "{name}");
        assert!(!texts(&case["beforeUsers"]).contains(&"trueupSecretsForUsers"));
        for unit in ["trueup-secrets", "trueup-secrets-own"] {
            let after = texts(&case["services"][unit]["after"]);
            assert!(after.contains(&maker), "{name}: {unit}");
        }
        if case["makers"].get(name).is_none() && name == "userborn" {
            eprintln!("this nixpkgs has no userborn: its unit's own order is not looked at");
        }
        let mut edges: Vec<[String; 2]> = EARLY.map(|e| e.map(str::to_owned)).into();
        let units = case["services"].as_object().unwrap().iter();
        for (unit, it) in units.chain(case["makers"].as_object().unwrap()) {
            let unit = format!("{unit}.service");
            for other in texts(&it["before"]) {
                edges.push([unit.clone(), other.to_owned()]);
            }
            for other in texts(&it["after"]) {
                edges.push([other.to_owned(), unit.clone()]);
            }
        }
        assert_eq!(circle(&edges), None, "{name}: {edges:#?}");
        // The look finds the circle that there would be.
        edges.push(["local-fs.target", "trueup-secrets-for-users.service"].map(str::to_owned));
        assert!(circle(&edges).is_some(), "{name}");
    }
    let snippets = &found["snippets"];
    assert!(texts(&snippets["beforeUsers"]).contains(&"trueupSecretsForUsers"));
    assert!(
        snippets["services"]
            .get("trueup-secrets-for-users")
            .is_none()
    );
}

#[test]
fn a_witness_gets_one_program_of_the_agent_and_the_controllers_key_stays_as_it_is() {
    let Some(found) = evaluate(
        "{ with_ = (of cases.agentWithAWitness.module).users.root.keys; without = (of cases.agent.module).users.root.keys; }",
    ) else {
        return;
    };
    let (with, without) = (texts(&found["with_"]), texts(&found["without"]));
    assert_eq!(with.len(), without.len() + 1, "{with:?}");
    assert_eq!(with[..without.len()], without[..]);
    let line = with[without.len()];
    let (options, key) = line.split_once(" ssh-ed25519 ").unwrap();
    assert!(
        options.starts_with("restrict,command=\"/nix/store/")
            && options.ends_with("-trueup-agent/bin/trueup-agent ssh-witness\""),
        "{line}"
    );
    assert!(key.ends_with(" root@web-1"), "{line}");
}

#[test]
fn a_key_on_a_file_system_that_is_mounted_late_is_waited_for() {
    let Some(found) = evaluate(
        "let s = of cases.agentWithAKeyThatIsMountedInTime.module; in s.services.trueup-secrets.unitConfig",
    ) else {
        return;
    };
    assert_eq!(
        found["RequiresMountsFor"],
        "/nix/var/trueup /persist/ssh/ssh_host_ed25519_key"
    );
}

/// What a fleet has that came from sops-nix and agenix, as their own modules say it.
const OTHERS: &str = r#"
  sops = { imports = [ SOPS/modules/sops ]; sops = {
    package = { outPath = "/nix/store/00000000000000000000000000000000-sops"; type = "derivation"; name = "sops"; meta = { }; };
    validateSopsFiles = false; defaultSopsFile = "/etc/secrets.yaml";
    secrets.db = { owner = "root"; restartUnits = [ "db.service" ]; };
    secrets.pw.neededForUsers = true;
    age.sshKeyPaths = [ "/etc/ssh/ssh_host_ed25519_key" ]; gnupg.sshKeyPaths = [ ]; }; };
  agenix = { imports = [ AGENIX/modules/age.nix ]; age = {
    ageBin = "/bin/age"; secrets.mail.file = "/etc/mail.age"; identityPaths = [ "/etc/ssh/ssh_host_ed25519_key" ]; }; };
"#;

#[test]
fn a_fleet_with_sops_nix_and_agenix_works_unchanged_beside_ours() {
    let path = |name: &str| {
        let given = std::env::var(name).ok().filter(|p| !p.is_empty());
        if given.is_none() {
            eprintln!("SKIPPED: {name} names no repository");
        }
        given
    };
    let (Some(sops), Some(agenix)) = (path("TRUEUP_SOPS_NIX"), path("TRUEUP_AGENIX")) else {
        return;
    };
    let others = OTHERS.replace("SOPS", &sops).replace("AGENIX", &agenix);
    let Some(found) = evaluate(&format!(
        "let {others} with_ = module: beside {{ others = [ sops agenix ]; inherit module; }}; in \
         {{ alone = {{ inherit (with_ {{ }}) sops agenix; }}; \
            both = {{ inherit (with_ cases.agentWithSecrets.module) sops agenix secrets failed beforeUsers; }}; }}"
    )) else {
        return;
    };
    for other in ["sops", "agenix"] {
        assert!(
            !found["alone"][other]["snippets"]
                .as_object()
                .unwrap()
                .is_empty()
        );
        assert_eq!(found["alone"][other], found["both"][other], "{other}");
    }
    let both = &found["both"];
    assert_eq!(texts(&both["failed"]), [""; 0]);
    assert_eq!(both["sops"]["paths"]["db"], "/run/secrets/db");
    assert_eq!(both["agenix"]["paths"]["mail"], "/run/agenix/mail");
    assert_eq!(
        both["secrets"]["api-token"]["path"],
        "/run/trueup/secrets/api-token"
    );
    let before = texts(&both["beforeUsers"]);
    for snippet in [
        "setupSecretsForUsers",
        "agenixInstall",
        "trueupSecretsForUsers",
    ] {
        assert!(before.contains(&snippet), "{before:?}");
    }
}
