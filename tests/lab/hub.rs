//! Where closures come from when a fleet is larger than one machine: a hub elsewhere, builders behind it, a cache, each a
//! lab host. Judged by their stores: what a store says it built itself, it built.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::TcpListener;
use std::time::Duration;

use serde_json::Value;
use trueup_tests::world::{Stage, World};

use crate::harness::{Host, Lab, command, wait};

const TARGETS: [&str; 3] = ["web-1", "web-2", "db-1"];
const HUB: &str = "hub";
const CACHE: &str = "cache-1";
const BUILDERS: [&str; 2] = ["build-1", "build-2"];
pub(crate) const DEFAULTS: &str =
    "    activation: {confirmTimeout: 40s, settle: 1s}\n    drift: {interval: 10s}\n";
/// Seven hosts share this machine with whatever else runs on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// Who builds what: these features are asked for by the two kinds of derivations of each host.
const ETC: &str = "etc-maker";
pub(crate) const TOP: &str = "top-maker";

fn percent(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._/".contains(&b);
    text.bytes()
        .map(|b| match plain(b) {
            true => char::from(b).to_string(),
            false => format!("%{b:02X}"),
        })
        .collect()
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// A lab host as a store that Nix can reach without more configuration, pinned.
pub(crate) fn store(host: &Host) -> String {
    format!(
        "ssh-ng://root@{}?ssh-key={}&base64-ssh-public-host-key={}",
        host.address,
        percent(&host.key.display().to_string()),
        percent(&base64(&host.host_key))
    )
}

/// The lab's key on a host, for logins from there.
fn give_key(host: &Host) {
    let key = std::fs::read_to_string(&host.key).unwrap();
    let out = host.sh(&format!(
        "umask 077; cat > /root/builder.key <<'E'\n{key}E\n"
    ));
    assert_eq!(out.code, 0, "{out:?}");
}

pub(crate) fn features(host: &Host, words: &str) {
    let line = format!(
        "echo 'system-features = {words}' >> /etc/nix/lab.conf; systemctl restart nix-daemon"
    );
    assert_eq!(host.sh(&line).code, 0);
}

pub(crate) fn builder(host: &Host, features: &str, speed: u32) -> String {
    format!(
        "apiVersion: trueup/v1alpha1\nkind: Builder\nmetadata: {{name: {name}}}\nspec:\n  address: {address}\n  \
         systems: [x86_64-linux]\n  maxJobs: 2\n  speedFactor: {speed}\n  supportedFeatures: [{features}]\n  \
         hostKey: {key}\n  sshKey: /root/builder.key\n---\n",
        name = host.name,
        address = host.address,
        key = host.host_key,
    )
}

/// A hub that builds nothing itself, two builders, a cache, three targets; the controller is on none of them.
fn seven() -> Option<World> {
    let names = [&TARGETS[..], &[HUB, CACHE], &BUILDERS].concat();
    let lab = Lab::up(&names)?;
    let stage = Stage::demo(&TARGETS, DEFAULTS);
    let mut world = World::set(lab, &stage).unwrap();
    world.patience = PATIENCE;
    let hub = world.host(HUB).clone();
    give_key(&hub);
    world.lab().seed(&store(&hub));
    features(world.host("build-1"), ETC);
    features(world.host("build-2"), &format!("{TOP} {ETC}"));
    // Files are made where one feature is, the closure around them where the other is.
    world
        .edit("lib.nix", |text| {
            let tree = "in run name\n    (builtins.listToAttrs";
            let top = "in run \"nixos-system-${hostName}-${version}\" {";
            assert!(text.contains(tree) && text.contains(top), "{text}");
            text.replace(tree, &format!("in run name\n    ({{ requiredSystemFeatures = [ \"{ETC}\" ]; }} // builtins.listToAttrs"))
                .replace(top, &format!("{top} requiredSystemFeatures = [ \"{TOP}\" ];"))
        })
        .unwrap();
    let cache = format!(
        "apiVersion: trueup/v1alpha1\nkind: Cache\nmetadata: {{name: far}}\nspec: {{url: \"{}\", push: true}}\n",
        store(world.host(CACHE))
    );
    let builders = [
        builder(world.host("build-1"), ETC, 4),
        builder(world.host("build-2"), &format!("{TOP}, {ETC}"), 1),
    ];
    let text = builders.concat() + &cache;
    std::fs::write(world.repo().join("fleet/machines.yaml"), text).unwrap();
    hub_is(&world, &store(&hub));
    Some(world)
}

pub(crate) fn hub_is(world: &World, url: &str) {
    let settings = world.dir().join("trueup.yaml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let own = format!("  store: {}\n", world.closures().store());
    assert!(text.contains(&own), "{text}");
    let other = format!("  store: \"{url}\"\n");
    std::fs::write(&settings, text.replace(&own, &other)).unwrap();
}

/// What a host's store built itself.
pub(crate) fn built(host: &Host) -> BTreeSet<String> {
    let json = host.read(&["nix", "path-info", "--all", "--json"]);
    let all: serde_json::Map<String, Value> = serde_json::from_str(&json).unwrap();
    let own = all.into_iter().filter(|(_, info)| info["ultimate"] == true);
    own.map(|(path, _)| path).collect()
}

pub(crate) fn closure(world: &World, name: &str) -> String {
    let status = world.status(name).unwrap();
    status["desiredClosure"].as_str().unwrap().to_owned()
}

pub(crate) fn machine(world: &World, name: &str) -> Value {
    let all = world.list("builders").unwrap();
    let found = all.into_iter().find(|m| m["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no builder {name}"))
}

fn state(world: &World, name: &str) -> String {
    machine(world, name)["status"]["state"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn a_merge_is_built_on_the_builders_of_a_hub_elsewhere_is_cached_and_lands() {
    let Some(mut world) = seven() else { return };
    world.commit("generation one", &[]).unwrap();
    world.start_and_wait().unwrap();
    world.all_ready(&TARGETS).unwrap();
    it_was_built_once_and_where_it_should(&world);
    it_lies_signed_in_the_hub_and_in_the_cache(&world);
    a_builder_is_cut_off_in_the_middle(&mut world);
    the_hub_is_cut_off_in_the_middle(&mut world);
}

fn it_was_built_once_and_where_it_should(world: &World) {
    let [one, two] = BUILDERS.map(|name| built(world.host(name)));
    assert!(
        one.is_disjoint(&two),
        "built twice: {:?}",
        one.intersection(&two)
    );
    for name in TARGETS {
        let top = closure(world, name);
        assert_eq!(world.host(name).link("/run/current-system").unwrap(), top);
        assert!(two.contains(&top), "{top} was built on build-2");
        let etc = format!("-etc-{name}");
        assert!(
            one.iter().chain(&two).any(|p| p.ends_with(&etc)),
            "{etc} was built on a builder: {one:?} {two:?}"
        );
    }
    assert!(!one.is_empty(), "build-1 had its share");
    let here = built(world.host(HUB));
    assert!(here.is_empty(), "the hub built nothing by itself: {here:?}");
    for name in BUILDERS {
        assert_eq!(state(world, name), "Ready");
    }
    let table = world.trueup(&["get", "builders"]).unwrap();
    assert!(
        table.contains("build-1") && table.contains(ETC) && table.contains("Nix 2"),
        "{table}"
    );
    // What is wanted is kept from the hub's collector.
    world.host(HUB).read(&["nix", "store", "gc"]);
    for name in TARGETS {
        world
            .host(HUB)
            .read(&["nix", "path-info", &closure(world, name)]);
    }
}

fn it_lies_signed_in_the_hub_and_in_the_cache(world: &World) {
    for name in TARGETS {
        let top = closure(world, name);
        for place in [HUB, CACHE] {
            let host = world.host(place);
            let there = wait(PATIENCE, || {
                let out = host.ssh(&["nix", "path-info", "--json", &top]);
                (out.code == 0).then_some(out.stdout)
            });
            let json =
                there.unwrap_or_else(|| panic!("{top} does not come to {place}: {}", world.log()));
            assert!(json.contains("trueup-lab-1:"), "{place}: {json}");
        }
    }
}

fn build_2_is_in_the_middle_of(world: &mut World, host: &str) {
    let message = format!("{host} takes its time");
    world
        .commit(&message, &[(host, "slow-build", &[("seconds", "25")])])
        .unwrap();
    wait(PATIENCE, || {
        let building = machine(world, "build-2")["status"]["building"].to_string();
        building
            .contains(&format!("nixos-system-{host}"))
            .then_some(())
    })
    .expect("build-2 builds, and that is shown");
}

/// It comes back, and what only it can build is built by it then; nobody has to do anything.
fn a_builder_is_cut_off_in_the_middle(world: &mut World) {
    build_2_is_in_the_middle_of(world, "web-1");
    world.host("build-2").net(false);
    wait(PATIENCE, || {
        (state(world, "build-2") == "Lost").then_some(())
    })
    .unwrap_or_else(|| panic!("build-2 is lost: {}", world.log()));
    let table = world.trueup(&["events"]).unwrap();
    assert!(table.contains("BuilderLost"), "{table}");
    world.host("build-2").net(true);
    wait(PATIENCE, || {
        (state(world, "build-2") == "Ready").then_some(())
    })
    .expect("it is back");
    world.all_ready(&["web-1"]).unwrap();
    let top = closure(world, "web-1");
    assert!(built(world.host("build-2")).contains(&top));
}

fn the_hub_is_cut_off_in_the_middle(world: &mut World) {
    build_2_is_in_the_middle_of(world, "web-2");
    world.host(HUB).net(false);
    // Long enough for the controller to notice: three keep-alives of five seconds.
    wait(PATIENCE, || {
        let log = world.trueup(&["events"]).unwrap();
        (log.contains("BuildFailed") || log.contains("EvaluationFailed")).then_some(())
    })
    .unwrap_or_else(|| panic!("a hub that is gone is told: {}", world.log()));
    world.host(HUB).net(true);
    world.all_ready(&["web-2"]).unwrap();
    let [one, two] = BUILDERS.map(|name| built(world.host(name)));
    assert!(
        one.is_disjoint(&two),
        "built twice: {:?}",
        one.intersection(&two)
    );
    assert_eq!(
        world.host("web-2").link("/run/current-system").unwrap(),
        closure(world, "web-2")
    );
}

/// Takes connections and never says a word.
fn hanging() -> (u16, std::sync::mpsc::Receiver<()>) {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _test_ended = tell.send(());
            std::thread::spawn(move || {
                let mut sink = [0; 1024];
                while stream.read(&mut sink).is_ok_and(|n| n > 0) {}
            });
        }
    });
    (port, asked)
}

#[test]
fn a_cache_that_hangs_holds_up_nobody_and_is_named() {
    let targets = ["web-1", "web-2", "db-1"];
    let Some(lab) = Lab::up(&targets) else { return };
    let stage = Stage::demo(&targets, DEFAULTS);
    let mut world = World::set(lab, &stage).unwrap();
    world.patience = PATIENCE;
    world.commit("generation one", &[]).unwrap();
    world.start_and_wait().unwrap();
    world.all_ready(&targets).unwrap();
    let round = |world: &mut World, message: &str| {
        let began = std::time::Instant::now();
        world
            .commit(message, &[("web-1", "web", &[("message", message)])])
            .unwrap();
        world.all_ready(&["web-1"]).unwrap();
        world.page("web-1", message).unwrap();
        began.elapsed()
    };
    let without = round(&mut world, "without a cache");

    // The host's own substituter hangs, and the cache that is pushed to as well.
    let (port, asked) = hanging();
    let here = world
        .host("web-1")
        .address
        .rsplit_once('.')
        .unwrap()
        .0
        .to_owned();
    let url = format!("http://{here}.1:{port}");
    let line =
        format!("echo 'substituters = {url}' >> /etc/nix/lab.conf; systemctl restart nix-daemon");
    assert_eq!(world.host("web-1").sh(&line).code, 0);
    let cache = format!(
        "apiVersion: trueup/v1alpha1\nkind: Cache\nmetadata: {{name: hung}}\nspec: {{url: \"{url}\", push: true}}\n"
    );
    std::fs::write(world.repo().join("fleet/cache.yaml"), cache).unwrap();
    let with = round(&mut world, "with a cache that hangs");
    assert!(asked.try_recv().is_ok(), "it was asked");
    // The promise of issue 4, item 2. Both rounds are on the same machine with the same load.
    let more = with.saturating_sub(without);
    assert!(
        more < Duration::from_secs(10),
        "{without:?} without, {with:?} with it"
    );
    wait(PATIENCE, || {
        let events = world.trueup(&["events"]).unwrap();
        (events.contains("PublishFailed") && events.contains(&url)).then_some(())
    })
    .unwrap_or_else(|| panic!("it is named: {}", world.trueup(&["events"]).unwrap()));
}

#[test]
fn a_forged_path_in_a_cache_is_refused_by_the_host() {
    let Some(lab) = Lab::up(&["web-1"]) else {
        return;
    };
    let closures = trueup_tests::closures::Closures::of(&lab, "demo", &["web-1"]);
    let host = lab.host("web-1").clone();
    closures.install(&host, "base", &[]);
    let top = closures.build("web-1", "web", &[("message", "a true word")]);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let nix = |args: &[&str]| {
        let env = lab.env();
        let path = env.iter().find(|(name, _)| name == "TRUEUP_LAB_NIX");
        let out = command(format!("{}/nix", path.unwrap().1))
            .args(args)
            .envs(env.iter().map(|(a, b)| (a, b)))
            .env("HOME", dir.path())
            .output()
            .unwrap();
        assert!(out.status.success(), "{args:?}: {out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    let secret = nix(&["key", "generate-secret", "--key-name", "forger-1"]);
    std::fs::write(at("key"), secret).unwrap();
    let cache = |name: &str| {
        let url = format!(
            "file://{}?secret-key={}&compression=none",
            at(name),
            at("key")
        );
        nix(&["copy", "--store", &closures.store(), "--to", &url, &top]);
    };
    // What the host says to a cache that lies in a folder of its own.
    let offered = |name: &str| {
        let tar = at(&format!("{name}.tar"));
        let made = command("tar")
            .args(["-C", &at(""), "-cf", &tar, name])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        closures.put(&host, &std::fs::read(&tar).unwrap(), "/root/cache.tar");
        host.read(&["tar", "-C", "/root", "-xf", "/root/cache.tar"]);
        host.ssh(&[
            "nix",
            "copy",
            "--from",
            &format!("file:///root/{name}"),
            &top,
        ])
    };
    let files = |name: &str, kind: &'static str| {
        let all = walkdir::WalkDir::new(at(name)).into_iter().flatten();
        all.map(walkdir::DirEntry::into_path)
            .filter(move |p| p.extension().is_some_and(|e| e == kind))
    };

    // Only a stranger's word for it.
    cache("stranger");
    for file in files("stranger", "narinfo") {
        let text = std::fs::read_to_string(&file).unwrap();
        let kept: Vec<&str> = text
            .lines()
            .filter(|l| !l.starts_with("Sig: trueup-lab-1"))
            .collect();
        let text = kept.join("\n") + "\n";
        assert!(text.contains("Sig: forger-1"), "{text}");
        std::fs::write(&file, text).unwrap();
    }
    let out = offered("stranger");
    assert_ne!(out.code, 0, "{out:?}");
    assert!(
        out.stderr.contains("lacks a signature by a trusted key"),
        "{out:?}"
    );

    // The right signature, and another content.
    cache("altered");
    let mut altered = 0;
    for file in files("altered", "nar") {
        let mut bytes = std::fs::read(&file).unwrap();
        let word = b"a true word";
        while let Some(i) = bytes.windows(word.len()).position(|w| w == word) {
            bytes[i..i + word.len()].copy_from_slice(b"another one");
            altered += 1;
        }
        std::fs::write(&file, bytes).unwrap();
    }
    assert!(altered > 0);
    let out = offered("altered");
    assert_ne!(out.code, 0, "{out:?}");
    assert!(out.stderr.contains("hash mismatch"), "{out:?}");
    assert_ne!(host.ssh(&["nix", "path-info", &top]).code, 0);

    // As it was made it is taken.
    cache("true");
    let out = offered("true");
    assert_eq!(out.code, 0, "{out:?}");
}
