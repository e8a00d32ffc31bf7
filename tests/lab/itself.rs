//! The controller deploys the machine that it runs on: itself, a newer one, an older one, one that does not run. It runs there
//! as a unit of the closure, behind the sandbox of the NixOS module; judged by that host and the one beside it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use trueup_tests::programs;
use trueup_tests::world::{Stage, World};

use crate::harness::{Host, Lab, command, static_agent, wait_slowly};
use crate::hub;

pub const HUB: &str = "hub";
pub const OTHER: &str = "web-1";
const HOSTS: [&str; 2] = [HUB, OTHER];
const UNIT: &str = "trueup-controller.service";
const SOCKET: &str = "/run/trueup-controller/api.sock";
const DB: &str = "/var/lib/trueup/db/trueup.sqlite";
const DEFAULTS: &str =
    "    activation: {confirmTimeout: 60s, settle: 1s}\n    drift: {interval: 10s}\n";
const PATIENCE: Duration = Duration::from_secs(300);
/// `systemd-analyze security` counts from 0 to 10; the unit alone has 1.x, root's login instead of a user of its own adds.
const EXPOSURE_MAX: f32 = 3.0;
/// What `nixos/controller.nix` uses too.
const SANDBOX: &str = include_str!("../../nixos/controller-sandbox.json");

/// As lines of a unit.
fn sandbox() -> String {
    let values: BTreeMap<String, Value> = serde_json::from_str(SANDBOX).unwrap();
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut lines = Vec::new();
    for (key, value) in values {
        match value {
            Value::Array(all) => lines.extend(all.iter().map(|v| format!("{key}={}", text(v)))),
            one => lines.push(format!("{key}={}", text(&one))),
        }
    }
    lines.join("\n    ")
}

pub struct Itself {
    pub world: World,
    sandbox: String,
}

impl Itself {
    pub fn hub(&self) -> &Host {
        self.world.host(HUB)
    }

    fn trueup(&self, args: &[&str]) -> Option<String> {
        let all = [&["/usr/local/bin/trueup", "--socket", SOCKET], args].concat();
        let out = self.hub().ssh(&all);
        (out.code == 0).then_some(out.stdout)
    }

    pub fn status(&self, name: &str) -> Option<Value> {
        let text = self.trueup(&["get", "hosts", "-o", "json"])?;
        let list: Value = serde_json::from_str(&text).ok()?;
        let found = list["items"]
            .as_array()?
            .iter()
            .find(|h| h["metadata"]["name"] == name)?;
        Some(found["status"].clone())
    }

    pub fn events(&self) -> Vec<Value> {
        // It answers nothing while it restarts, which is what happens to it here.
        let text = wait_slowly(PATIENCE, || {
            self.trueup(&["events", "--limit", "1000", "-o", "json"])
        });
        let text = text.expect("events");
        let mut list: Value = serde_json::from_str(&text).unwrap();
        let Value::Array(items) = list["items"].take() else {
            panic!("no items: {list}")
        };
        let mut items: Vec<Value> = items.into_iter().map(|e| e["status"].clone()).collect();
        let key = |e: &Value| {
            let id = e["id"].as_str().unwrap().split_once('-').unwrap();
            (id.0.parse::<u64>().unwrap(), id.1.parse::<u64>().unwrap())
        };
        items.sort_by_key(key);
        items
    }

    /// A merge, pushed to the repository on the hub.
    pub fn merge(&mut self, what: &str, hub: &[(&str, &str)], other: Option<&str>) {
        let sandbox = self.sandbox.clone();
        let args = [hub, &[("message", what), ("sandbox", &sandbox)]].concat();
        let message = [("message", other.unwrap_or_default())];
        let mut changes = vec![(HUB, "hub", &args[..])];
        if other.is_some() {
            changes.push((OTHER, "web", &message[..]));
        }
        self.world.commit(what, &changes).unwrap();
        let host = self.hub();
        let ssh = format!(
            "ssh -F /dev/null -i {} -o UserKnownHostsFile={} -o StrictHostKeyChecking=yes -o BatchMode=yes",
            host.key.display(),
            host.known_hosts.display()
        );
        let pushed = command("git")
            .arg("-C")
            .arg(self.world.repo())
            .args([
                "push",
                "--quiet",
                &format!("root@{}:/srv/fleet.git", host.address),
                "main",
            ])
            .env("GIT_SSH_COMMAND", ssh)
            .output()
            .unwrap();
        assert!(pushed.status.success(), "{pushed:?}");
    }

    pub fn ready(&self) {
        for name in HOSTS {
            let mut last = None;
            let done = wait_slowly(PATIENCE, || {
                last = self.status(name).or(last.take());
                let status = last.as_ref()?;
                let at = status["appliedRevision"].as_str().unwrap_or_default();
                (status["phase"] == "Ready" && at.ends_with(self.world.head())).then_some(())
            });
            assert!(
                done.is_some(),
                "{name} is not Ready: {last:#?}\n{}",
                self.log()
            );
        }
    }

    pub fn log(&self) -> String {
        self.hub().sh(&format!("journalctl -q -u {UNIT} -o cat --no-pager | tail -n 40; tail -n 20 /nix/var/trueup/attempts/*/agent.log")).stdout
    }

    /// What the hub runs now was switched to once, runs after a power cut too, and ended well.
    pub fn deployed_itself(&self) {
        let status = self.status(HUB).expect("the controller answers");
        let closure = status["desiredClosure"].as_str().unwrap().to_owned();
        assert_eq!(
            self.world.switches(HUB).unwrap().get(&closure),
            Some(&1),
            "{}",
            self.log()
        );
        assert_eq!(status["outcome"], "Succeeded", "{status:#}");
        assert_eq!(
            self.hub().link("/run/current-system").as_ref(),
            Some(&closure)
        );
        assert_eq!(self.hub().link("/boot/default"), Some(closure));
    }

    fn greatest(&self, name: &str) -> (u64, u64) {
        let text = self
            .world
            .host(name)
            .read(&["cat", "/nix/var/trueup/greatest"]);
        let order: Value = serde_json::from_str(&text).unwrap();
        (
            order["term"].as_u64().unwrap(),
            order["serial"].as_u64().unwrap(),
        )
    }

    fn run(&self) -> String {
        self.hub().unit(UNIT, "InvocationID")
    }
}

pub fn upload(host: &Host, text: &[u8], at: &str) {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(text);
    let out = host.sh(&format!(
        "umask 077; mkdir -p /srv; base64 -d > {at} <<'E'\n{text}\nE\n"
    ));
    assert_eq!(out.code, 0, "{out:?}");
}

/// The program, its keys and settings, and a repository, on the hub. It runs as the older release.
pub fn set() -> Option<Itself> {
    let lab = Lab::up(&HOSTS)?;
    let stage = Stage {
        fleet: "demo",
        hosts: &HOSTS,
        defaults: DEFAULTS,
        trueup: programs::trueup_with_crash_points(),
        ssh: "",
        agent: static_agent(),
    };
    let world = World::set(lab, &stage).unwrap();
    let hub = world.host(HUB).clone();
    world.lab().seed(&hub::store(&hub));
    // Its symbols are most of it.
    let small = world.dir().join("trueup.small");
    let stripped = command("strip")
        .arg("-o")
        .arg(&small)
        .arg(world.program())
        .status();
    assert!(stripped.unwrap().success());
    world.closures().put(
        &hub,
        &std::fs::read(&small).unwrap(),
        "/usr/local/bin/trueup",
    );
    world.closures().put(
        &hub,
        &std::fs::read(static_agent()).unwrap(),
        "/srv/trueup-agent",
    );
    let key = std::fs::read(&hub.key).unwrap();
    upload(&hub, &key, "/srv/ssh.key");
    let signing = std::fs::read(hub.key.with_file_name("cache-key.sec")).unwrap();
    upload(&hub, &signing, "/srv/store.key");
    let settings = format!(
        "repository: {{url: 'file:///srv/fleet.git', branch: main, interval: 5s}}\nlisten: {{socket: {SOCKET}}}\n\
         ssh: {{configFile: /srv/ssh_config}}\nagent: {{packages: {{x86_64-linux: /srv/trueup-agent}}}}\n"
    );
    upload(&hub, settings.as_bytes(), "/srv/trueup.yaml");
    upload(&hub, b"", "/srv/ssh_config");
    // As on any machine with systemd; a lab host's root is private, and credentials would be mounted where no unit sees them.
    hub.read(&["mount", "--make-rshared", "/"]);
    // A closure that was installed by hand runs the controller for the first time.
    let made = hub.sh("git init --quiet --bare --initial-branch=main /srv/fleet.git && mkdir -p /nix/var/nix/gcroots/trueup");
    assert_eq!(made.code, 0, "{made:?}");
    let sandbox = sandbox();
    let args = [
        ("layout", "1"),
        ("message", "by hand"),
        ("sandbox", &*sandbox),
    ];
    let top = world.closures().install(&hub, "hub", &args);
    let started = hub.sh(&format!("{top}/bin/switch-to-configuration test"));
    assert_eq!(started.code, 0, "{started:?}");
    Some(Itself { world, sandbox })
}

#[test]
fn the_controller_deploys_itself_a_newer_one_an_older_one_and_survives_one_that_does_not_run() {
    let Some(mut it) = set() else { return };
    it.merge("self", &[("layout", "1")], Some("one"));
    it.ready();
    it.deployed_itself();
    goes_last(&it);
    is_confined(&it);

    let before = it.run();
    it.merge("newer", &[], Some("two"));
    it.ready();
    it.deployed_itself();
    assert_ne!(it.run(), before, "the activation restarted it");
    let kept = format!("{DB}.layout-1");
    assert_eq!(
        it.hub().ssh(&["test", "-s", &kept]).code,
        0,
        "a backup from before"
    );
    println!("newer: migrated, and recorded its own activation");

    let (seen, hub) = (it.greatest(OTHER), it.greatest(HUB));
    it.merge("older", &[("layout", "1")], None);
    it.ready();
    let status = it.status(HUB).unwrap();
    let closure = status["desiredClosure"].as_str().unwrap();
    assert_eq!(
        it.world.switches(HUB).unwrap().get(closure),
        Some(&1),
        "{}",
        it.log()
    );
    let kept = format!("{DB}.layout-2");
    assert_eq!(
        it.hub().ssh(&["test", "-s", &kept]).code,
        0,
        "the newer database is kept"
    );
    let said = |e: &Value| {
        e["reason"] == "ControllerStarted" && e["message"].to_string().contains("backup")
    };
    assert!(it.events().iter().any(said), "{}", it.log());
    println!("older: took the backup, and confirmed what the newer one had begun");

    it.merge("older goes on", &[("layout", "1")], Some("three"));
    it.ready();
    it.deployed_itself();
    // Of the other host the backup knew all; of its own host not the attempt that ended with it.
    assert!(
        it.greatest(OTHER) > seen,
        "{:?} after {seen:?}",
        it.greatest(OTHER)
    );
    assert_eq!(it.greatest(HUB).0, hub.0 + 1, "a new term above {hub:?}");
    println!("older: nothing was issued below what the hosts had seen");

    does_not_run(&mut it);
}

/// A controller that can't start takes its host back to the one before, which tells of it.
fn does_not_run(it: &mut Itself) {
    let runs = it.hub().link("/run/current-system");
    it.merge(
        "broken",
        &[("layout", "1"), ("program", "/bin/false")],
        None,
    );
    let back = wait_slowly(PATIENCE, || {
        let status = it.status(HUB)?;
        let tried = status["attemptedRevision"]
            .as_str()?
            .ends_with(it.world.head());
        (tried && status["outcome"] == "RolledBack").then_some(())
    });
    assert!(back.is_some(), "{:#?}\n{}", it.status(HUB), it.log());
    assert_eq!(it.hub().link("/run/current-system"), runs);
    it.merge("mended", &[("layout", "1")], None);
    it.ready();
    it.deployed_itself();
    println!("broken: went back, and the controller of before told it");
}

fn goes_last(it: &Itself) {
    let events = it.events();
    let at = |name: &str, reason: &str| {
        let of = |e: &Value| e["reason"] == reason && e["subject"].to_string().contains(name);
        events
            .iter()
            .position(of)
            .unwrap_or_else(|| panic!("{name} has no {reason}: {events:#?}"))
    };
    assert!(
        at(OTHER, "Succeeded") < at(HUB, "ActivationStarted"),
        "{events:#?}"
    );
    let plan: Value = serde_json::from_str(&it.trueup(&["diff", "-o", "json"]).unwrap()).unwrap();
    let last = plan["items"].as_array().unwrap().last().unwrap();
    assert!(last["host"] == HUB && last["goesLast"] == true, "{plan:#}");
}

fn is_confined(it: &Itself) {
    let out = it.hub().sh(&format!(
        "systemd-analyze security --no-pager {UNIT} | tail -n 1"
    ));
    let level = out
        .stdout
        .split(": ")
        .nth(1)
        .and_then(|t| t.split_whitespace().next()?.parse::<f32>().ok());
    println!("{}", out.stdout.trim());
    assert!(level.is_some_and(|l| l < EXPOSURE_MAX), "{out:?}");
    // The keys came as credentials: nothing in its settings names them, and nobody else reads them.
    let named = it.hub().read(&["cat", "/srv/trueup.yaml"]);
    assert!(
        !named.contains("keyFile") && !named.contains("identityFile"),
        "{named}"
    );
}
