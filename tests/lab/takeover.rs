//! A fleet that deploy-rs and colmena deployed before, as those tools leave a host: trueup takes it over, and nothing that
//! runs there is restarted. Judged by the hosts' own units and journals.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use trueup_tests::closures;
use trueup_tests::world::{Stage, World};

use crate::harness::{Host, Lab};

const COLMENA: &str = "web-1";
const DEPLOY_RS: &str = "web-2";
const CURRENT: &str = "/run/current-system";
const PROFILE: &str = "/nix/var/nix/profiles/system";
const PATIENCE: Duration = Duration::from_secs(240);

/// What a flake has for these two tools: attributes as their documents have them. `path` is what deploy-rs builds.
const OUTPUTS: &str = r#"
    deploy = {
      sshUser = "root";
      nodes.web-2 = { hostname = "ADDRESS-OF-web-2"; sshOpts = [ "-p" "PORT-OF-web-2" ]; confirmTimeout = 60;
        profiles.system = { user = "root"; path = self.activatable.web-2; }; };
    };
    colmena = {
      meta = { };
      web-1 = { pkgs, ... }: { deployment = { targetHost = "ADDRESS-OF-web-1"; targetPort = PORT-OF-web-1; tags = [ "web" ]; }; };
    };
    activatable = builtins.mapAttrs (name: host: lab.run "activatable-nixos-system-${name}" { top = "${host.config.system.build.toplevel}"; } ''
      mkdir $out
      for f in $top/*; do ln -s $f $out/; done
      printf '#!/bin/sh\nexec %s/bin/switch-to-configuration switch\n' $top >$out/deploy-rs-activate
      printf '#!/bin/sh\nexec ACTIVATE-RS "$@"\n' >$out/activate-rs
      chmod +x $out/deploy-rs-activate $out/activate-rs
    '') self.nixosConfigurations;
"#;

/// A folder with deploy-rs' own `activate`, where somebody has built it; without it the test does by hand what it does.
const REAL: &str = "TRUEUP_TEST_DEPLOY_RS";
/// Where that program lies on a host.
const ACTIVATE_RS: &str = "/root/deploy-rs-activate-program";

/// Every unit that runs, with the id of its run and when it began.
fn runs(host: &Host) -> BTreeMap<String, String> {
    let out = host.read(&[
        "systemctl",
        "show",
        "*.service",
        "--property",
        "Id,InvocationID,ActiveState,ActiveEnterTimestampMonotonic",
    ]);
    let mut found = BTreeMap::new();
    for block in out.split("\n\n") {
        let of: BTreeMap<&str, &str> = block.lines().filter_map(|l| l.split_once('=')).collect();
        let (Some(id), Some(state)) = (of.get("Id"), of.get("ActiveState")) else {
            continue;
        };
        // A login makes and ends these; trueup's own are not what ran before.
        let passing = [
            "session-",
            "user",
            "trueup-",
            "ssh@",
            "systemd-hostnamed",
            "systemd-logind",
        ];
        if *state == "active" && !passing.iter().any(|p| id.starts_with(p)) {
            let run = format!(
                "{:?} {:?}",
                of.get("InvocationID"),
                of.get("ActiveEnterTimestampMonotonic")
            );
            found.insert((*id).to_owned(), run);
        }
    }
    assert!(
        found.contains_key("web.service") && found.contains_key("sshd.service"),
        "{found:#?}"
    );
    found
}

/// The world's repository without manifests, with the two tools' outputs in its flake.
fn as_the_tools_had_it(world: &World) {
    let repo = world.repo();
    std::fs::remove_dir_all(repo.join("fleet")).unwrap();
    trueup_fixtures::fleet::remove_host(&repo, "db-1").unwrap();
    let mut outputs = OUTPUTS.replace("ACTIVATE-RS", ACTIVATE_RS);
    for name in [COLMENA, DEPLOY_RS] {
        let at = closures::place(world.host(name));
        outputs = outputs
            .replace(&format!("ADDRESS-OF-{name}"), &at.address)
            .replace(&format!("PORT-OF-{name}"), &at.port.to_string());
    }
    world
        .edit("flake.nix", |text| {
            text.replacen("  in {\n", &format!("  in {{\n{outputs}"), 1)
        })
        .unwrap();
}

/// What colmena does: copy, set the profile, `switch`.
fn colmena_deploys(world: &World, host: &Host) -> String {
    let top = world.closures().build_attribute(&format!(
        "nixosConfigurations.{}.config.system.build.toplevel",
        host.name
    ));
    world.closures().copy(&top, host);
    host.read(&["nix-env", "--profile", PROFILE, "--set", &top]);
    host.read(&[&format!("{top}/bin/switch-to-configuration"), "switch"]);
    top
}

/// What deploy-rs does: the profile is a folder around the closure, with a program that switches.
fn deploy_rs_deploys(world: &World, host: &Host) -> (String, String) {
    let around = world
        .closures()
        .build_attribute(&format!("activatable.{}", host.name));
    world.closures().copy(&around, host);
    match std::env::var_os(REAL) {
        Some(folder) => activate_rs(world, host, &around, &folder),
        None => {
            eprintln!(
                "SKIPPED: deploy-rs' own program ({REAL} names no folder with its `activate`)"
            );
            host.read(&["nix-env", "--profile", PROFILE, "--set", &around]);
            host.read(&[&format!("{around}/deploy-rs-activate")]);
        }
    }
    (host.link(CURRENT).unwrap(), around)
}

/// What its `deploy` says over SSH: activate with both kinds of rollback armed, wait until it asks, confirm.
fn activate_rs(world: &World, host: &Host, around: &str, folder: &std::ffi::OsStr) {
    let program = std::fs::read(std::path::Path::new(folder).join("activate")).unwrap();
    world.closures().put(host, &program, ACTIVATE_RS);
    let script = format!(
        "exec 2>&1; a={around}/activate-rs\n\
         $a activate {around} --profile-path {PROFILE} --temp-path /tmp --confirm-timeout 50 --magic-rollback --auto-rollback &\n\
         $a wait {around} --temp-path /tmp && rm /tmp/deploy-rs-canary-* && wait $!"
    );
    let said = host.sh(&script);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains("Activation succeeded"), "{said:?}");
}

fn previews(world: &World) -> BTreeMap<String, Value> {
    let text = world
        .trueup(&["adopt", "--dry-run", "--all", "-o", "json"])
        .unwrap();
    let list: Vec<Value> = serde_json::from_str(&text).unwrap();
    let named = |v: Value| (v["host"].as_str().unwrap().to_owned(), v);
    list.into_iter().map(named).collect()
}

#[test]
fn a_fleet_of_deploy_rs_and_colmena_is_taken_over_and_nothing_restarts() {
    let names = [COLMENA, DEPLOY_RS];
    let Some(lab) = Lab::up(&names) else { return };
    let stage = Stage::demo(&names, "");
    let mut world = World::set(lab, &stage).unwrap();
    world.patience = PATIENCE;
    as_the_tools_had_it(&world);
    world
        .commit("as deploy-rs and colmena have it", &[])
        .unwrap();
    let (web, other) = (world.host(COLMENA).clone(), world.host(DEPLOY_RS).clone());
    let top = colmena_deploys(&world, &web);
    let (inner, around) = deploy_rs_deploys(&world, &other);
    assert_eq!(web.link(CURRENT).as_deref(), Some(top.as_str()));
    assert_eq!(other.link(PROFILE).as_deref(), Some(around.as_str()));
    assert_ne!(inner, around);
    // Another one that deploys by itself, forgotten by everybody.
    let timer = "printf '[Timer]\\nOnCalendar=yearly\\n' > /run/systemd/system/nixos-upgrade.timer && \
         printf '[Service]\\nExecStart=/bin/true\\n' > /run/systemd/system/nixos-upgrade.service && systemctl daemon-reload && \
         systemctl start nixos-upgrade.timer";
    assert_eq!(web.sh(timer).code, 0);

    // The fleet's first manifests, from the flake; host keys are shown with their fingerprints and compared here.
    let repo = world.repo().display().to_string();
    let store = world.closures().store();
    let said = world
        .trueup(&["init", &repo, "--store", &store, "--name", "taken"])
        .unwrap();
    assert!(
        said.contains("2 nixosConfigurations, 1 deploy.nodes, 1 nodes of colmena"),
        "{said}"
    );
    assert_eq!(said.matches("ssh-ed25519 SHA256:").count(), 2, "{said}");
    let hosts = std::fs::read_to_string(world.repo().join("fleet/hosts.yaml")).unwrap();
    for host in [&web, &other] {
        assert!(hosts.contains(&host.host_key), "{}\n{hosts}", host.host_key);
    }
    assert!(
        hosts.contains("confirmTimeout: 60s") && hosts.contains("web: \"true\""),
        "{hosts}"
    );
    world.trueup(&["validate", &repo]).unwrap();
    world.commit("for trueup", &[]).unwrap();

    // What would stand in the way is told before anything begins.
    let config = world.dir().join("trueup.yaml").display().to_string();
    let doctor = ["doctor", "--config", &config, "-o", "json"];
    let found: Vec<Value> = serde_json::from_slice(&world.call(&doctor).unwrap().stdout).unwrap();
    let bad: Vec<&Value> = found.iter().filter(|f| f["health"] == "bad").collect();
    assert_eq!(
        bad.len(),
        1,
        "no controller runs yet, and nothing else is wrong: {bad:#?}"
    );
    let told = |text: &str| {
        found
            .iter()
            .any(|f| f["what"].as_str().unwrap().contains(text))
    };
    assert!(told("web-1: nixos-upgrade deploys to it too"), "{found:#?}");
    let plan = world
        .trueup(&[
            "plan", "--repo", &repo, "--config", &config, "--store", &store,
        ])
        .unwrap();
    assert!(plan.contains(COLMENA) && plan.contains(DEPLOY_RS), "{plan}");

    let before = [runs(&web), runs(&other)];
    world.start_and_wait().unwrap();
    world
        .until(&names, "evaluated, and not adopted", |status| {
            let ready = status["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|c| c["type"] == "Ready");
            ready.is_some_and(|c| c["reason"] == "AdoptionRequired")
                && status["desiredClosure"].is_string()
        })
        .unwrap();
    let shown = previews(&world);
    assert_eq!(shown[COLMENA]["first"], "nothing", "{:#}", shown[COLMENA]);
    assert_eq!(shown[COLMENA]["otherManagers"][0]["name"], "nixos-upgrade");
    assert_eq!(
        shown[COLMENA]["identity"]["machineId"],
        web.read(&["cat", "/etc/machine-id"])
    );
    assert_eq!(shown[DEPLOY_RS]["first"], "keep", "{:#}", shown[DEPLOY_RS]);
    assert_eq!(shown[DEPLOY_RS]["desired"], inner.as_str());
    assert_eq!(shown[DEPLOY_RS]["profile"], around.as_str());
    assert_eq!(
        world.switches(COLMENA).unwrap().get(&top),
        Some(&1),
        "colmena's"
    );

    let said = world.trueup(&["adopt", "--all"]).unwrap();
    assert!(said.contains("nixos-upgrade deploys to it too"), "{said}");
    world.all_ready(&names).unwrap();
    for (host, before) in [&web, &other].into_iter().zip(&before) {
        let after = runs(host);
        let restarted: Vec<_> = before
            .iter()
            .filter(|(unit, run)| after.get(*unit) != Some(run))
            .collect();
        assert!(restarted.is_empty(), "{}: {restarted:#?}", host.name);
    }
    for (host, closure) in [(&web, &top), (&other, &inner)] {
        for link in [CURRENT, PROFILE, "/boot/default"] {
            assert_eq!(
                host.link(link).as_ref(),
                Some(closure),
                "{} {link}",
                host.name
            );
        }
    }
    assert_eq!(
        world.switches(COLMENA).unwrap().get(&top),
        Some(&1),
        "nothing was to be done there"
    );
    let all: Value = serde_json::from_str(
        &world
            .trueup(&["describe", "host/web-1", "-o", "json"])
            .unwrap(),
    )
    .unwrap();
    let pinned = &all["adoption"]["identity"]["machineId"];
    assert_eq!(*pinned, Value::from(web.read(&["cat", "/etc/machine-id"])));
}
