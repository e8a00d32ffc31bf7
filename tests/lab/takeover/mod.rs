//! A fleet that deploy-rs and colmena deployed before, as those tools leave a host: trueup takes it over, and nothing that
//! runs there is restarted. Judged by the hosts' own units and journals.

mod tools;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use trueup_tests::world::{Stage, World};

use self::tools::Tools;
use crate::harness::{Host, Lab};

const COLMENA: &str = "web-1";
const DEPLOY_RS: &str = "web-2";
const CURRENT: &str = "/run/current-system";
const PROFILE: &str = "/nix/var/nix/profiles/system";
const PATIENCE: Duration = Duration::from_secs(240);

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
    let tools = Tools::found();
    tools.own(&world);
    world
        .commit("as deploy-rs and colmena have it", &[])
        .unwrap();
    let (web, other) = (world.host(COLMENA).clone(), world.host(DEPLOY_RS).clone());
    let top = tools.colmena(&world, &web);
    let (inner, around) = tools.deploy_rs(&world, &other);
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
    if tools.real_colmena() {
        for part in [
            "1 nodes of colmenaHive",
            "nixosConfigurations has 1 of its nodes too",
            "web-1: allowLocalDeployment is not taken over",
            "web-1: 1 of deployment.keys are not taken over",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        for part in [
            "labels: {all: \"true\", web: \"true\"}",
            "closure: colmenaHive.nodes.web-1.config.system.build.toplevel",
        ] {
            assert!(hosts.contains(part), "{part}: {hosts}");
        }
    }
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
    let switched = world.switches(COLMENA).unwrap();
    assert!(switched.contains_key(&top), "colmena's: {switched:?}");

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
        world.switches(COLMENA).unwrap(),
        switched,
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
