//! A hub whose user is not root. Nix ignores what a user whom it does not trust says of builders: that is told by name, and
//! once he is trusted the builders build.

use serde_json::Value;
use trueup_tests::world::{Stage, World};

use crate::harness::{Host, Lab, wait_slowly};
use crate::hub::{
    DEFAULTS, PATIENCE, TOP, builder, built, closure, features, hub_is, machine, store,
};

const TARGET: &str = "web-1";
const HUB: &str = "hub";
const BUILDER: &str = "build-1";
const USER: &str = "hubber";
const KEY: &str = "/etc/builder.key";

/// A user who may log in and use the daemon, with a folder for roots and a key for the builder.
fn make_user(hub: &Host) {
    let key = std::fs::read_to_string(&hub.key).unwrap();
    let out = hub.sh(&format!(
        "set -e; useradd --create-home --shell /bin/sh --groups nix-users {USER}\n\
         install -d -o {USER} -m 700 /home/{USER}/.ssh\n\
         install -o {USER} -m 600 /root/.ssh/authorized_keys /home/{USER}/.ssh/authorized_keys\n\
         install -d -o {USER} -m 755 /nix/var/nix/gcroots/trueup\n\
         install -o {USER} -m 600 /dev/null {KEY}; cat > {KEY} <<'E'\n{key}E\n"
    ));
    assert_eq!(out.code, 0, "{out:?}");
}

fn world() -> Option<World> {
    let lab = Lab::up(&[TARGET, HUB, BUILDER])?;
    let mut world = World::set(lab, &Stage::demo(&[TARGET], DEFAULTS)).unwrap();
    world.patience = PATIENCE;
    let hub = world.host(HUB).clone();
    make_user(&hub);
    world.lab().seed(&store(&hub));
    features(world.host(BUILDER), TOP);
    world
        .edit("lib.nix", |text| {
            let top = "in run \"nixos-system-${hostName}-${version}\" {";
            text.replace(
                top,
                &format!("{top} requiredSystemFeatures = [ \"{TOP}\" ];"),
            )
        })
        .unwrap();
    let manifest = builder(world.host(BUILDER), TOP, 1).replace("/root/builder.key", KEY);
    let manifest = manifest.trim_end_matches("---\n");
    std::fs::write(world.repo().join("fleet/machines.yaml"), manifest).unwrap();
    hub_is(&world, &store(&hub).replace("root@", &format!("{USER}@")));
    Some(world)
}

#[test]
fn a_hub_user_who_is_not_trusted_is_named_and_the_builders_build_once_he_is() {
    let Some(mut world) = world() else { return };
    world.commit("generation one", &[]).unwrap();
    world.start_and_wait().unwrap();
    let named = format!("the hub's Nix does not trust `{USER}`");
    let said = |text: &str| text.contains(&named) && text.contains("trusted-users");
    let told = wait_slowly(PATIENCE, || {
        let builders = world.list("builders").ok()?;
        said(builders.first()?["status"]["message"].as_str()?).then_some(())
    });
    let builders = || world.list("builders");
    assert!(told.is_some(), "{:#?}\n{}", builders(), world.log_tail());
    let failed = wait_slowly(PATIENCE, || {
        let events: Vec<Value> = world.list("builds").ok()?;
        events.iter().any(|b| said(&b.to_string())).then_some(())
    });
    assert!(
        failed.is_some(),
        "{:#?}\n{}",
        world.list("builds"),
        world.log_tail()
    );
    let config = world.dir().join("trueup.yaml").display().to_string();
    let doctor = world
        .call(&["doctor", "--config", &config, "--no-hosts", "-o", "json"])
        .unwrap();
    assert_eq!(doctor.status.code(), Some(1));
    let found = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said(&found), "{found}");

    let trust = format!(
        "echo 'trusted-users = root {USER}' >> /etc/nix/lab.conf; systemctl restart nix-daemon"
    );
    assert_eq!(world.host(HUB).sh(&trust).code, 0);
    // What waits for a builder is tried again by itself, after a pause that grows; nobody waits for that here.
    let ready = wait_slowly(PATIENCE, || {
        (machine(&world, BUILDER)["status"]["state"] == "Ready").then_some(())
    });
    assert!(ready.is_some(), "{:#}", machine(&world, BUILDER));
    world
        .trueup(&["reconcile", "--host", TARGET, "--retry"])
        .unwrap();
    world.all_ready(&[TARGET]).unwrap();
    let top = closure(&world, TARGET);
    assert!(built(world.host(BUILDER)).contains(&top), "{top}");
    assert!(!built(world.host(HUB)).contains(&top), "{top}");
}
