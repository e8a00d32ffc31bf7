//! Secrets from Git to hosts' memory: on those that are selected, on no other, nowhere on a disk. Judged by the hosts'
//! own files and units, and by a search for planted values.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use trueup_secrets::{EncryptSpec, Format, Recipient, ScopeRule};
use trueup_tests::programs;
use trueup_tests::world::{QUICK, Stage, World};

use crate::harness::{Host, Lab, static_agent, wait};

const THREE: [&str; 3] = ["web-1", "web-2", "db-1"];
const WEB: [&str; 2] = ["web-1", "web-2"];
const FILE: &str = "/run/trueup/secrets/token";
const AGENT: &str = "/nix/var/nix/gcroots/trueup/agent/bin/trueup-agent";
/// What a host's disk has of what was written since it is up. `/run` is memory.
const DISK: &str = "/nix/var /var /etc /root /home /tmp /srv";
const ARRIVES_MAX: Duration = Duration::from_secs(120);
/// Values that nothing else has.
const FIRST: &str = "planted-8c1f-first-value-of-the-token";
const SECOND: &str = "planted-8c1f-second-value-of-the-token";

fn world() -> Option<World> {
    let stage = Stage {
        fleet: "demo",
        hosts: &THREE,
        defaults: QUICK,
        trueup: programs::trueup(),
        ssh: "",
        agent: static_agent(),
    };
    Some(World::set(Lab::up(&THREE)?, &stage).unwrap())
}

/// The encrypted file, for the hosts' own SSH keys.
fn seal(world: &World, value: &str, hosts: &[&str]) -> String {
    let group = hosts
        .iter()
        .map(|name| Recipient::parse(&world.host(name).host_key).unwrap());
    let spec = EncryptSpec {
        groups: vec![group.collect()],
        shamir_threshold: None,
        rule: ScopeRule::Default,
        mac_only_encrypted: false,
        now: "2026-11-22T01:02:03Z".parse().unwrap(),
    };
    let plain = format!("web:\n    token: {value}\n");
    let sealed = trueup_secrets::encrypt(plain.as_bytes(), Format::Yaml, &spec).unwrap();
    String::from_utf8(sealed).unwrap()
}

fn put(world: &World, text: &str) {
    let path = world.repo().join("secrets/web.yaml");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn manifest(hosts: &str) -> String {
    format!(
        "apiVersion: trueup/v1alpha1\nkind: Secret\nmetadata: {{name: token}}\nspec:\n  source: secrets/web.yaml\n  key: web/token\n  hosts: {hosts}\n  mode: \"0440\"\n  restartUnits: [web.service]\n"
    )
}

fn holds(host: &Host, value: &str) -> bool {
    host.ssh(&["cat", FILE]).stdout == value
}

/// Which run of its own service each host is in.
fn runs(world: &World) -> [String; 3] {
    THREE.map(|name| {
        let unit = if name == "db-1" {
            "db.service"
        } else {
            "web.service"
        };
        world.host(name).unit(unit, "InvocationID")
    })
}

fn arrives(world: &World, name: &str, value: &str) {
    let there = wait(ARRIVES_MAX, || holds(world.host(name), value).then_some(()));
    assert!(there.is_some(), "{name}: {:?}", world.why(name));
}

/// A value as it might be lying about.
fn forms(value: &str) -> [String; 3] {
    let hex = value.bytes().map(|b| format!("{b:02x}")).collect();
    // Without the last letters, which depend on what follows.
    let coded = STANDARD.encode(value);
    [value.to_owned(), coded[..coded.len() - 4].to_owned(), hex]
}

/// Files that have any of the values, on a host's disk, and the environments of its processes.
fn on_disk(host: &Host, values: &[&str]) -> String {
    let words: String = values
        .iter()
        .flat_map(|value| forms(value))
        .map(|word| format!(" -e {word}"))
        .collect();
    let script = format!(
        "grep -rlaF{words} {DISK} 2>/dev/null; for e in /proc/[0-9]*/environ; do grep -laF{words} $e 2>/dev/null; done; true"
    );
    host.sh(&script).stdout
}

/// The same below a folder of the controller's machine.
fn in_folder(dir: &Path, values: &[&str]) -> Vec<String> {
    let words: Vec<Vec<u8>> = values
        .iter()
        .flat_map(|value| forms(value))
        .map(String::into_bytes)
        .collect();
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(dir).into_iter().flatten() {
        if !entry.file_type().is_file() {
            continue;
        }
        let Ok(bytes) = fs::read(entry.path()) else {
            continue;
        };
        if words
            .iter()
            .any(|w| bytes.windows(w.len()).any(|b| b == &w[..]))
        {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

#[test]
fn a_secret_for_two_of_three_hosts_is_on_those_two_alone_and_on_no_disk() {
    let Some(mut world) = world() else { return };
    world.commit("as it begins", &[]).unwrap();
    world.start_and_wait().unwrap();
    world.all_ready(&THREE).unwrap();
    let closures: Vec<_> = THREE
        .map(|n| world.host(n).link("/run/current-system"))
        .into();

    put(&world, &seal(&world, FIRST, &WEB));
    fs::write(
        world.repo().join("fleet/secrets.yaml"),
        manifest("role=web"),
    )
    .unwrap();
    world.commit("a token for web", &[]).unwrap();
    for name in WEB {
        arrives(&world, name, FIRST);
        let stat = world.host(name).read(&["stat", "-Lc", "%a %u %g", FILE]);
        assert_eq!(stat, "440 0 0", "{name}");
    }
    world.all_ready(&THREE).unwrap();
    let db = world.host("db-1");
    assert_ne!(db.ssh(&["test", "-e", "/run/trueup/secrets"]).code, 0);
    let sealed = fs::read_to_string(world.repo().join("secrets/web.yaml")).unwrap();
    let data = sealed
        .split("data:")
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap()
        .to_owned();
    let there = |host: &Host| {
        host.sh(&format!("grep -rlaF {data} /nix/var/trueup 2>/dev/null"))
            .stdout
    };
    assert!(
        !there(world.host("web-1")).is_empty(),
        "the search finds what is there"
    );
    assert_eq!(there(db), "", "not even encrypted");

    // Rotated: units restart on those two only, and nothing is switched.
    let (before, switches) = (runs(&world), THREE.map(|n| world.switches(n).unwrap()));
    put(&world, &seal(&world, SECOND, &WEB));
    world.commit("another token", &[]).unwrap();
    let begun = Instant::now();
    for name in WEB {
        arrives(&world, name, SECOND);
    }
    println!("rotated on both after {:?}", begun.elapsed());
    world.all_ready(&THREE).unwrap();
    let after = runs(&world);
    assert!(before[0] != after[0] && before[1] != after[1] && before[2] == after[2]);
    assert_eq!(switches, THREE.map(|n| world.switches(n).unwrap()));
    let now: Vec<_> = THREE
        .map(|n| world.host(n).link("/run/current-system"))
        .into();
    assert_eq!(now, closures);

    // Tampered with: nothing changes, and the words name file and key.
    let good = seal(&world, "never-to-arrive", &WEB);
    let at = good.find("data:").unwrap() + 5;
    let other = if good.as_bytes()[at] == b'A' {
        "B"
    } else {
        "A"
    };
    put(
        &world,
        &format!("{}{other}{}", &good[..at], &good[at + 1..]),
    );
    world.commit("damaged on the way", &[]).unwrap();
    for name in WEB {
        world.outcome(name, "Failed").unwrap();
        assert!(holds(world.host(name), SECOND));
        let why = world.why(name).unwrap();
        assert!(
            why.contains("secrets/web.yaml") && why.contains("web/token"),
            "{why}"
        );
    }
    put(&world, &seal(&world, SECOND, &WEB));
    world.commit("whole again", &[]).unwrap();
    world.all_ready(&THREE).unwrap();

    // Deleted in memory: found, and put right.
    world.host("web-2").read(&["rm", FILE]);
    arrives(&world, "web-2", SECOND);

    // A reboot, with nobody there to send anything.
    world.stop().unwrap();
    let host = world.host("web-1");
    let boot = host.boot_id();
    host.crash();
    host.boot();
    host.wait_other_boot(&boot);
    assert!(!holds(host, SECOND), "memory is empty after a boot");
    host.read(&[AGENT, "secrets", "restore"]);
    assert!(holds(host, SECOND));
    world.start_and_wait().unwrap();

    // Removed: gone.
    fs::remove_file(world.repo().join("fleet/secrets.yaml")).unwrap();
    world.commit("no token", &[]).unwrap();
    for name in WEB {
        let gone = wait(ARRIVES_MAX, || {
            (world.host(name).ssh(&["test", "-e", FILE]).code != 0).then_some(())
        });
        assert!(gone.is_some(), "{name}");
    }
    world.all_ready(&THREE).unwrap();

    // Nowhere, in any form; and the search does find what it looks for.
    let planted = [FIRST, SECOND];
    assert_eq!(in_folder(world.dir(), &planted), Vec::<String>::new());
    for name in THREE {
        assert_eq!(on_disk(world.host(name), &planted), "", "{name}");
    }
    for form in forms(FIRST) {
        fs::write(world.dir().join("planted"), &form).unwrap();
        assert_eq!(in_folder(world.dir(), &planted).len(), 1);
        world
            .host("db-1")
            .sh(&format!("echo {form} > /var/planted"));
        assert_eq!(on_disk(world.host("db-1"), &planted).trim(), "/var/planted");
    }
}
