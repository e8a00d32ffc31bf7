//! Secrets from Git to hosts' memory: on those that are selected, on no other, nowhere on a disk. Judged by the hosts'
//! own files and units, and by a search for planted values.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use trueup_secrets::{EncryptSpec, Format, Recipient, ScopeRule};
use trueup_tests::world::{QUICK, Stage, World};

use crate::harness::{Host, Lab, wait};

mod cut;
mod hostkey;
mod swap;

const THREE: [&str; 3] = ["web-1", "web-2", "db-1"];
const WEB: [&str; 2] = ["web-1", "web-2"];
const FILE: &str = "/run/trueup/secrets/token";
const AGENT: &str = "/nix/var/nix/gcroots/trueup/agent/bin/trueup-agent";
/// What a host's disk has of what was written since it is up. `/run` is memory.
const DISK: &str = "/nix/var /var /etc /root /home /tmp /srv";
const MEMORY: &str = "/run /dev/shm";
const ARRIVES_MAX: Duration = Duration::from_secs(120);
/// Values that nothing else has.
const FIRST: &str = "planted-8c1f-first-value-of-the-token";
const SECOND: &str = "planted-8c1f-second-value-of-the-token";
const THIRD: &str = "planted-8c1f-third-value-of-the-token";

fn world(hosts: &[&str]) -> Option<World> {
    let stage = Stage::demo(hosts, QUICK);
    Some(World::set(Lab::up(hosts)?, &stage).unwrap())
}

/// Every call of Nix by the controller from now on, a line each: a `nix` before the real one writes them down.
fn start_with_calls_of_nix_written_down(world: &mut World) -> PathBuf {
    let (bin, calls) = (world.dir().join("bin"), world.dir().join("nix-calls"));
    fs::create_dir_all(&bin).unwrap();
    let real = world.lab().env();
    let real = real.iter().find(|(name, _)| name == "TRUEUP_LAB_NIX");
    let script = format!(
        "#!/bin/sh\necho \"$*\" >>{}\nexec {}/nix \"$@\"\n",
        calls.display(),
        real.unwrap().1
    );
    fs::write(bin.join("nix"), script).unwrap();
    fs::set_permissions(bin.join("nix"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), world.path());
    world.start(&[("PATH", &path)]).unwrap();
    let answers = wait(ARRIVES_MAX, || world.list("hosts").ok());
    assert!(answers.is_some(), "{}", world.log_tail());
    calls
}

/// Those that evaluate, build or copy.
fn work_of_nix(calls: &Path) -> Vec<String> {
    let text = fs::read_to_string(calls).unwrap_or_default();
    let is_work = |line: &&str| {
        let word = line.split_whitespace().find(|w| !w.starts_with('-'));
        matches!(word, Some("eval" | "build" | "copy"))
    };
    text.lines().filter(is_work).map(str::to_owned).collect()
}

/// The encrypted file, for the hosts' own SSH keys.
fn seal(world: &World, value: &str, hosts: &[&str]) -> String {
    let plain = format!("web:\n    token: {value}\n    ana: of-ana-{value}\n");
    seal_text(world, &plain, hosts)
}

fn seal_text(world: &World, plain: &str, hosts: &[&str]) -> String {
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
    let sealed = trueup_secrets::encrypt(plain.as_bytes(), Format::Yaml, &spec).unwrap();
    String::from_utf8(sealed).unwrap()
}

fn put(world: &World, text: &str) {
    let path = world.repo().join("secrets/web.yaml");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn manifest(hosts: &str, owner: &str, unit: &str) -> String {
    format!(
        "apiVersion: trueup/v1alpha1\nkind: Secret\nmetadata: {{name: token}}\nspec:\n  source: secrets/web.yaml\n  key: web/token\n  hosts: {hosts}\n  owner: {owner}\n  mode: \"0440\"\n  restartUnits: [{unit}]\n"
    )
}

fn declare(world: &World, text: &str) {
    fs::write(world.repo().join("fleet/secrets.yaml"), text).unwrap();
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

/// For `grep`.
fn patterns(values: &[&str]) -> String {
    let forms = values.iter().flat_map(|value| forms(value));
    forms.map(|word| format!(" -e {word}")).collect()
}

/// Files that have any of the values, on a host's disk, and the environments of its processes.
fn on_disk(host: &Host, values: &[&str]) -> String {
    let words = patterns(values);
    let script = format!(
        "grep -rlaF{words} {DISK} 2>/dev/null; for e in /proc/[0-9]*/environ; do grep -laF{words} $e 2>/dev/null; done; true"
    );
    host.sh(&script).stdout
}

/// The same in file systems that are memory.
fn in_memory(host: &Host, values: &[&str]) -> String {
    let words = patterns(values);
    host.sh(&format!("grep -rlaF{words} {MEMORY} 2>/dev/null; true"))
        .stdout
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
    let Some(mut world) = world(&THREE) else {
        return;
    };
    world.commit("as it begins", &[]).unwrap();
    let calls = start_with_calls_of_nix_written_down(&mut world);
    world.all_ready(&THREE).unwrap();
    assert!(!work_of_nix(&calls).is_empty(), "the list shows work");
    let closures: Vec<_> = THREE
        .map(|n| world.host(n).link("/run/current-system"))
        .into();

    put(&world, &seal(&world, FIRST, &WEB));
    declare(&world, &manifest("role=web", "root", "web.service"));
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
    // On its disk, in its memory file systems, in its intents.
    let there = |host: &Host| {
        let folders = format!("{DISK} {MEMORY}");
        host.sh(&format!("grep -rlaF {data} {folders} 2>/dev/null"))
            .stdout
    };
    assert!(
        !there(world.host("web-1")).is_empty(),
        "the search finds what is there"
    );
    assert_eq!(there(db), "", "not even encrypted");
    assert_eq!(in_memory(db, &[FIRST]), "");
    assert!(!in_memory(world.host("web-1"), &[FIRST]).is_empty());

    // Rotated: units restart on those two only, and nothing is switched.
    let (before, switches) = (runs(&world), THREE.map(|n| world.switches(n).unwrap()));
    let worked = work_of_nix(&calls);
    put(&world, &seal(&world, SECOND, &WEB));
    world.commit("another token", &[]).unwrap();
    let begun = Instant::now();
    for name in WEB {
        arrives(&world, name, SECOND);
    }
    println!("rotated on both after {:?}", begun.elapsed());
    world.all_ready(&THREE).unwrap();
    assert_eq!(work_of_nix(&calls), worked, "nothing evaluated or built");
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

    let events = world.list("events").unwrap();
    let told = |e: &&Value| {
        let text = e["status"]["message"].as_str().unwrap_or_default();
        e["status"]["severity"] == "error"
            && text.contains("secrets/web.yaml")
            && text.contains("web/token")
    };
    assert!(events.iter().filter(told).count() >= WEB.len());

    // Deleted in memory, given away, written over: found, and put right.
    for harm in ["rm $f", "chmod 0604 $f && chown 7:7 $f", "echo other >$f"] {
        let host = world.host("web-2");
        let done = host.sh(&format!("f=$(readlink -f {FILE}) && {harm}"));
        assert_eq!(done.code, 0, "{harm}: {done:?}");
        let right = || {
            let stat = host.ssh(&["stat", "-Lc", "%a %u %g", FILE]).stdout;
            (stat.trim() == "440 0 0" && holds(host, SECOND)).then_some(())
        };
        let why = || format!("{harm}: {:?}", world.why("web-2"));
        assert!(wait(ARRIVES_MAX, right).is_some(), "{}", why());
    }

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

/// What the reader's unit copied at its start.
const COPY: &str = "/run/reader/token";

fn copied(host: &Host, value: &str) -> bool {
    host.ssh(&["cat", COPY]).stdout == value
}

/// A real userborn, where somebody has built one; without it a unit of that name reads the password.
const REAL_USERBORN: &str = "TRUEUP_TEST_USERBORN";
/// Where it lies on the host.
const USERBORN: &str = "/root/userborn";

fn userborn(world: &World) -> bool {
    let Some(program) = std::env::var_os(REAL_USERBORN).filter(|p| !p.is_empty()) else {
        eprintln!(
            "SKIPPED: userborn itself ({REAL_USERBORN} names no program); a unit of its name"
        );
        return false;
    };
    let program = std::fs::read(program).unwrap();
    world
        .closures()
        .put(world.host("web-1"), &program, USERBORN);
    true
}

#[test]
fn a_secret_is_its_owners_before_the_unit_that_reads_it_at_first_and_after_a_reboot() {
    let Some(mut world) = world(&["web-1"]) else {
        return;
    };
    world.commit("as it begins", &[]).unwrap();
    world.start_and_wait().unwrap();
    world.all_ready(&["web-1"]).unwrap();
    let web = |world: &World| world.host("web-1").ssh(&["id", "secretary"]).code;
    assert_ne!(web(&world), 0, "nobody of that name yet");

    // User, unit and secret in one commit.
    put(&world, &seal(&world, FIRST, &["web-1"]));
    let text = manifest("role=web", "secretary", "reader.service");
    declare(
        &world,
        &format!("{text}  reloadUnits: [reloader.service]\n"),
    );
    let userborn = userborn(&world);
    let args: Vec<_> = userborn
        .then_some(("userborn", USERBORN))
        .into_iter()
        .collect();
    let variant = [("web-1", "secrets", args.as_slice())];
    world.commit("a reader", &variant).unwrap();
    world.all_ready(&["web-1"]).unwrap();
    let host = world.host("web-1");
    assert_eq!(host.read(&["stat", "-Lc", "%a %u %g", FILE]), "440 950 950");
    assert!(copied(host, FIRST), "{:?}", host.journal());
    assert_eq!(host.unit("reader.service", "NRestarts"), "0");

    // Rotated: one restarted with the new one, the other reloaded, in the run that it was in.
    let run = host.unit("reloader.service", "InvocationID");
    put(&world, &seal(&world, SECOND, &["web-1"]));
    world.commit("another token", &[]).unwrap();
    world.all_ready(&["web-1"]).unwrap();
    let host = world.host("web-1");
    assert!(copied(host, SECOND));
    let taken = host.ssh(&["cat", "/run/reloader/token"]);
    assert_eq!(taken.stdout, SECOND, "{taken:?}");
    assert_eq!(host.unit("reloader.service", "InvocationID"), run);

    // What users are made from: the running closure's activation runs again, and nothing is switched.
    let ana = "apiVersion: trueup/v1alpha1\nkind: Secret\nmetadata: {name: ana}\nspec:\n  source: secrets/web.yaml\n  key: web/ana\n  hosts: role=web\n  neededForUsers: true\n";
    let with_ana = format!(
        "{}---\n{ana}",
        manifest("role=web", "secretary", "reader.service")
    );
    let module = |text: String| text.replacen("spec:\n", "spec:\n  secrets: {module: true}\n", 1);
    world.edit("fleet/hosts.yaml", module).unwrap();
    declare(&world, &with_ana);
    world.commit("a password", &[]).unwrap();
    world.all_ready(&["web-1"]).unwrap();
    let for_users = |world: &World| {
        world
            .host("web-1")
            .ssh(&["cat", "/run/trueup/secrets-for-users/ana"])
            .stdout
    };
    assert_eq!(for_users(&world), format!("of-ana-{SECOND}"));
    // Where a unit makes users, that is what reads it again.
    let by_unit = |world: &World| {
        let host = world.host("web-1");
        if userborn {
            host.read(&[
                "sed",
                "-n",
                "s/^ana:\\([^:]*\\):.*/\\1/p",
                "/run/users/shadow",
            ])
        } else {
            host.read(&["cat", "/run/users/ana"])
        }
    };
    assert_eq!(by_unit(&world), format!("of-ana-{SECOND}"));
    let activations = |world: &World| {
        world
            .host("web-1")
            .read(&["grep", "-c", "run", "/run/activations"])
    };
    let (ran, switches) = (activations(&world), world.switches("web-1").unwrap());
    put(&world, &seal(&world, THIRD, &["web-1"]));
    world.commit("another password", &[]).unwrap();
    world.all_ready(&["web-1"]).unwrap();
    assert_eq!(for_users(&world), format!("of-ana-{THIRD}"));
    assert_eq!(by_unit(&world), format!("of-ana-{THIRD}"));
    assert_ne!(activations(&world), ran);
    assert_eq!(world.switches("web-1").unwrap(), switches);

    // New secrets and a closure that harms the host: both go back.
    put(&world, &seal(&world, FIRST, &["web-1"]));
    world
        .commit("harm", &[("web-1", "fails-at-start", &[])])
        .unwrap();
    world.outcome("web-1", "RolledBack").unwrap();
    assert!(holds(world.host("web-1"), THIRD));
    assert_eq!(for_users(&world), format!("of-ana-{THIRD}"));
    assert_eq!(by_unit(&world), format!("of-ana-{THIRD}"));
    assert!(copied(world.host("web-1"), THIRD));
    put(&world, &seal(&world, SECOND, &["web-1"]));
    declare(&world, &manifest("role=web", "secretary", "reader.service"));
    world.commit("as it was", &variant).unwrap();
    world.all_ready(&["web-1"]).unwrap();

    // An owner whom nobody makes: nothing changes, and the name is told.
    declare(
        &world,
        &manifest("role=web", "nobody-of-this-name", "reader.service"),
    );
    world.commit("a slip", &[]).unwrap();
    world.outcome("web-1", "Failed").unwrap();
    let why = world.why("web-1").unwrap();
    assert!(why.contains("`nobody-of-this-name` of `token`"), "{why}");
    let host = world.host("web-1");
    assert_eq!(host.read(&["stat", "-Lc", "%a %u %g", FILE]), "440 950 950");
    assert!(holds(host, SECOND));
    declare(&world, &manifest("role=web", "secretary", "reader.service"));
    world.commit("as it was", &[]).unwrap();
    world.all_ready(&["web-1"]).unwrap();

    // A power cut, and nobody there to send anything: back before the unit that reads it.
    world.stop().unwrap();
    let host = world.host("web-1");
    let boot = host.boot_id();
    host.crash();
    host.boot();
    host.wait_other_boot(&boot);
    let back = wait(ARRIVES_MAX, || copied(host, SECOND).then_some(()));
    assert!(back.is_some(), "{}", host.journal());
    assert_eq!(host.unit("reader.service", "Result"), "success");
    assert_eq!(host.unit("reader.service", "NRestarts"), "0");
    assert_eq!(host.read(&["stat", "-Lc", "%a %u %g", FILE]), "440 950 950");
    let swap = swap::Swap::on(world.dir());
    swap::a_process_with_plain_text_leaves_nothing(host, SECOND);
    if let Some(swap) = swap {
        assert!(
            swap.has(&[swap::CARELESS.to_owned()]),
            "the search finds what was swapped"
        );
        assert!(!swap.has(&forms(SECOND)));
    }
}

const EARLY: &str = "trueup-secrets.service";

/// The verb, and that nothing of ours lies on the host afterwards.
fn left(world: &World, name: &str) -> String {
    let said = world.trueup(&["leave", &format!("host/{name}")]).unwrap();
    let host = world.host(name);
    for gone in ["/nix/var/trueup", "/nix/var/nix/gcroots/trueup"] {
        assert_eq!(host.ssh(&["test", "-e", gone]).code, 1, "{gone}: {said}");
    }
    assert_eq!(on_disk(host, &[FIRST]), "", "{said}");
    said
}

#[test]
fn a_host_that_is_left_has_no_secret_on_its_disk_and_none_after_its_next_boot() {
    let Some(mut world) = world(&WEB) else { return };
    put(&world, &seal(&world, FIRST, &WEB));
    declare(&world, &manifest("role=web", "secretary", "reader.service"));
    let both = WEB.map(|name| (name, "secrets", &[][..]));
    world.commit("readers", &both).unwrap();
    world.start_and_wait().unwrap();
    world.all_ready(&WEB).unwrap();
    let [abrupt, tidy] = WEB.map(|name| world.host(name).clone());
    assert!(copied(&abrupt, FIRST) && copied(&tidy, FIRST));

    // Left with its secrets and the module still in what runs: the service goes on, and is told what it loses.
    let run = abrupt.unit("reader.service", "InvocationID");
    crate::byhand::released(&mut world, "web-1");
    let said = left(&world, "web-1");
    assert!(
        said.contains("1 secrets in memory") && said.contains("token"),
        "{said}"
    );
    assert_eq!(abrupt.unit("reader.service", "InvocationID"), run);
    assert!(holds(&abrupt, FIRST), "what runs may read it again");
    let boot = abrupt.boot_id();
    abrupt.crash();
    abrupt.boot();
    abrupt.wait_other_boot(&boot);
    assert_eq!(in_memory(&abrupt, &[FIRST]), "");
    assert_eq!(on_disk(&abrupt, &[FIRST]), "");
    // Its early unit finds nothing of ours, and is no failure.
    assert_eq!(abrupt.unit(EARLY, "ActiveState"), "inactive");
    assert_eq!(abrupt.unit(EARLY, "Result"), "success");

    // The other way: first the trunk takes secret and module away, then the host is left. Nothing is in memory either.
    fs::remove_file(world.repo().join("fleet/secrets.yaml")).unwrap();
    world.commit("no reader", &[("web-2", "web", &[])]).unwrap();
    world.all_ready(&["web-2"]).unwrap();
    assert_eq!(in_memory(&tidy, &[FIRST]), "");
    assert_eq!(tidy.unit(EARLY, "LoadState"), "not-found");
    let since = tidy.unit("web.service", "InvocationID");
    let said = world
        .trueup(&["leave", "host/web-2", "--still-managed"])
        .unwrap();
    assert!(!said.contains("secrets"), "{said}");
    assert_eq!(tidy.unit("web.service", "InvocationID"), since);
    let own = tidy.ssh(&[
        "/nix/var/nix/profiles/system/bin/switch-to-configuration",
        "boot",
    ]);
    assert_eq!(own.code, 0, "a plain NixOS: {own:?}");
}
