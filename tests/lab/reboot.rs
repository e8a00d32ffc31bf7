//! Modes and reboots of a fleet, through the whole controller: kernels that only a reboot brings, one host of a group at a
//! time, and one that does not boot. What is up and what is down is watched by this test's own connections.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::{Lab, wait};
use trueup_tests::world::{Stage, World, condition};

const THREE: [&str; 3] = ["web-1", "web-2", "db-1"];
const BOOTED: &str = "/run/booted-system";
const BOOT: &str = "/boot/default";
const CURRENT: &str = "/run/current-system";
const PROFILE: &str = "/nix/var/nix/profiles/system";
/// Long enough for a boot on a busy machine, short enough to be waited for.
const DEFAULTS: &str = "    activation: {confirmTimeout: 60s, settle: 1s}\n    drift: {interval: 10s}\n    reboot: whenRequired\n";
/// One look at a host's port.
const LOOK: Duration = Duration::from_millis(1500);
const PAUSE: Duration = Duration::from_millis(100);
const AWAY_MAX: Duration = Duration::from_secs(180);

fn three(defaults: &str) -> Option<World> {
    Some(world(Lab::up(&THREE)?, &THREE, "systemd-boot", defaults))
}

fn world(lab: Lab, names: &[&str], loader: &str, defaults: &str) -> World {
    let world = World::set(lab, &Stage::demo(names, defaults)).unwrap();
    let agent = "/nix/var/nix/gcroots/trueup/agent/bin/trueup-agent";
    // As the agent's module has it: the next boot goes on with the attempt.
    let variant = format!(
        "{{ busybox, kernel ? \"6.12.60\", kernelParams ? \"loglevel=4\", message ? \"hello\", ... }}: {{\n  inherit kernel kernelParams;\n  \
         loader = \"{loader}\";\n  etc.\"web/index.html\" = message + \"\\n\";\n  units.\"trueup-resume.service\" = ''\n    [Unit]\n    \
         ConditionFileIsExecutable={agent}\n    X-RestartIfChanged=false\n    [Service]\n    Type=oneshot\n    \
         RemainAfterExit=yes\n    ExecStart={agent} resume\n  '';\n  units.\"web.service\" = ''\n    [Service]\n    \
         ExecStart=${{busybox}}/bin/httpd -f -p 8080 -h /etc/web\n    Restart=on-failure\n  '';\n}}\n"
    );
    std::fs::write(world.repo().join("variants/booted.nix"), variant).unwrap();
    world
}

/// Looks at hosts' web servers all the time (sshd would punish who never logs in): how many were down at once, at most.
struct Watch {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicU32>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watch {
    fn of(world: &World, names: &[&str]) -> Self {
        let at = |name: &&str| -> SocketAddr {
            let host = world.host(name);
            format!("{}:8080", host.address).parse().unwrap()
        };
        let places: Vec<SocketAddr> = names.iter().map(at).collect();
        let (stop, most) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU32::new(0)),
        );
        let (stopped, seen) = (stop.clone(), most.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let down = places
                    .iter()
                    .filter(|at| TcpStream::connect_timeout(at, LOOK).is_err());
                let down = u32::try_from(down.count()).unwrap_or(u32::MAX);
                seen.fetch_max(down, Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
        });
        Self {
            stop,
            most,
            thread: Some(thread),
        }
    }

    fn end(mut self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.most.load(Ordering::Relaxed)
    }
}

fn all_links(world: &World, name: &str) -> Vec<Option<String>> {
    let host = world.host(name);
    [BOOTED, CURRENT, PROFILE, BOOT]
        .map(|l| host.link(l))
        .to_vec()
}

#[test]
fn a_group_is_rebooted_one_by_one_and_a_kernel_that_does_not_boot_is_gone_with_the_power() {
    let Some(mut world) = three(DEFAULTS) else {
        return;
    };
    world
        .edit("fleet/fleet.yaml", |text| {
            text.replace(
                "    maxConcurrent: 2\n",
                "    maxConcurrent: 3\n    maxUnavailable: [{label: role, max: 1}]\n",
            )
        })
        .unwrap();
    let to = |kernel: &'static str| -> [(&'static str, &'static str); 1] { [("kernel", kernel)] };
    let one = to("6.12.60");
    let same: Vec<_> = THREE.iter().map(|h| (*h, "booted", &one[..])).collect();
    world.commit("the same kernel", &same).unwrap();
    world.start_and_wait().unwrap();
    world.all_ready(&THREE).unwrap();
    let before = THREE.map(|h| world.host(h).boot_id());

    // Two of three hosts are one group, with a new kernel each.
    let watch = Watch::of(&world, &["web-1", "web-2"]);
    let two = to("6.18.1");
    world
        .commit(
            "a new kernel",
            &[("web-1", "booted", &two[..]), ("web-2", "booted", &two[..])],
        )
        .unwrap();
    world.all_ready(&["web-1", "web-2"]).unwrap();
    assert_eq!(watch.end(), 1, "each was down, never both");
    for (n, name) in THREE.iter().enumerate() {
        let rebooted = world.host(name).boot_id() != before[n];
        assert_eq!(rebooted, *name != "db-1", "{name}");
        let wanted = world.status(name).unwrap()["desiredClosure"]
            .as_str()
            .map(str::to_owned);
        if *name != "db-1" {
            assert_eq!(all_links(&world, name), vec![wanted; 4], "{name}");
        }
    }

    // One that hangs: nobody but who cycles its power brings it back.
    let was = all_links(&world, "db-1");
    let three = to("6.19-does-not-boot");
    world
        .commit("db-1: a bad kernel", &[("db-1", "booted", &three[..])])
        .unwrap();
    world
        .until(&["db-1"], "Rebooting", |s| s["phase"] == "Rebooting")
        .unwrap();
    let host = world.host("db-1");
    wait(AWAY_MAX, || (host.ssh(&["true"]).code != 0).then_some(())).expect("it went down");
    host.wait_one_shot_taken();
    host.crash();
    world
        .until(&["db-1"], "rolled back and quarantined", |s| {
            s["outcome"] == "RolledBack"
                && condition(s, "Stalled").is_some_and(|c| c["reason"] == "Quarantined")
        })
        .unwrap();
    assert_eq!(
        all_links(&world, "db-1"),
        vec![was[1].clone(); 4],
        "the old system is back, and is what was booted"
    );
    let told = world.trueup(&["describe", "host/db-1"]).unwrap();
    assert!(
        told.contains("was booted once and did not come up"),
        "{told}"
    );

    // And a good commit converges without anybody's help.
    let four = to("6.18.1");
    world
        .commit("db-1: a good kernel", &[("db-1", "booted", &four[..])])
        .unwrap();
    world.all_ready(&["db-1"]).unwrap();
    let wanted = world.status("db-1").unwrap()["desiredClosure"]
        .as_str()
        .map(str::to_owned);
    assert_eq!(all_links(&world, "db-1"), vec![wanted; 4]);
}

#[test]
fn a_host_of_grub_gets_a_new_kernel_and_forgets_one_that_does_not_boot() {
    let one = ["db-1"];
    let Some(lab) = Lab::up(&one) else { return };
    lab.host("db-1").grub();
    let mut world = world(lab, &one, "grub", DEFAULTS);
    // As an installer leaves it, with GRUB.
    let host = world.host("db-1").clone();
    host.read(&["sh", "-c", "rm -rf /boot/*"]);
    let first = [("kernel", "6.12.60")];
    world.closures().install(&host, "booted", &first);
    world
        .commit("what runs", &[("db-1", "booted", &first[..])])
        .unwrap();
    world.start_and_wait().unwrap();
    world.all_ready(&one).unwrap();
    let before = host.boot_id();
    let three = || [BOOTED, CURRENT, PROFILE].map(|l| host.link(l));

    let good = [("kernel", "6.18.1")];
    world
        .commit("a new kernel", &[("db-1", "booted", &good[..])])
        .unwrap();
    world.all_ready(&one).unwrap();
    assert_ne!(host.boot_id(), before);
    let wanted = world.status("db-1").unwrap()["desiredClosure"]
        .as_str()
        .map(str::to_owned);
    assert_eq!(three(), [wanted.clone(), wanted.clone(), wanted.clone()]);

    let bad = [("kernel", "6.19-does-not-boot")];
    world
        .commit("a bad kernel", &[("db-1", "booted", &bad[..])])
        .unwrap();
    world
        .until(&one, "Rebooting", |s| s["phase"] == "Rebooting")
        .unwrap();
    wait(AWAY_MAX, || (host.ssh(&["true"]).code != 0).then_some(())).expect("it went down");
    host.wait_one_shot_taken();
    host.crash();
    world
        .until(&one, "rolled back and quarantined", |s| {
            s["outcome"] == "RolledBack"
                && condition(s, "Stalled").is_some_and(|c| c["reason"] == "Quarantined")
        })
        .unwrap();
    assert_eq!(three(), [wanted.clone(), wanted.clone(), wanted.clone()]);
    let told = world.trueup(&["describe", "host/db-1"]).unwrap();
    assert!(
        told.contains("was booted once and did not come up"),
        "{told}"
    );
    // And it stays so: what the power brings is what was confirmed.
    host.crash();
    assert_eq!(three(), [wanted.clone(), wanted.clone(), wanted]);
}

#[test]
fn each_mode_does_what_it_says_and_no_more() {
    let defaults = DEFAULTS.replace("whenRequired", "never");
    let Some(mut world) = three(&defaults) else {
        return;
    };
    for (name, mode) in [
        ("web-1", "boot"),
        ("web-2", "test"),
        ("db-1", "dryActivate"),
    ] {
        let place = format!("  name: {name}\n");
        world
            .edit("fleet/hosts.yaml", |text| {
                let (head, tail) = text.split_once(&place).unwrap();
                let tail = tail.replacen(
                    "spec:\n",
                    &format!("spec:\n  activation: {{mode: {mode}}}\n"),
                    1,
                );
                format!("{head}{place}{tail}")
            })
            .unwrap();
    }
    let was = THREE.map(|h| world.host(h).link(CURRENT));
    let changes: Vec<_> = THREE
        .iter()
        .map(|h| (*h, "booted", &[("message", "two")][..]))
        .collect();
    world.commit("each in its mode", &changes).unwrap();
    world.start_and_wait().unwrap();

    world.all_ready(&["web-2"]).unwrap();
    world
        .until(&["db-1"], "shown", |s| {
            s["phase"] == "Held" && s["outcome"] == "Skipped"
        })
        .unwrap();
    world
        .until(&["web-1"], "waiting for a reboot", |s| {
            s["outcome"] == "RebootRequired"
        })
        .unwrap();
    let wanted = |name: &str| {
        world.status(name).unwrap()["desiredClosure"]
            .as_str()
            .map(str::to_owned)
    };

    // test: it runs, and is not what boots.
    let host = world.host("web-2");
    assert_eq!(host.link(CURRENT), wanted("web-2"));
    assert_eq!(
        [host.link(PROFILE), host.link(BOOT)],
        [was[1].clone(), was[1].clone()]
    );
    // dryActivate: what would be done is told, and nothing is.
    let host = world.host("db-1");
    assert_eq!(
        [CURRENT, PROFILE, BOOT].map(|l| host.link(l)),
        [was[2].clone(), was[2].clone(), was[2].clone()]
    );
    let told = world.trueup(&["describe", "host/db-1"]).unwrap();
    assert!(told.contains("would activate the configuration"), "{told}");
    // boot: nothing changes before somebody reboots it; then it is confirmed and stays.
    let host = world.host("web-1");
    assert_eq!(
        [CURRENT, PROFILE, BOOT].map(|l| host.link(l)),
        [was[0].clone(), was[0].clone(), was[0].clone()]
    );
    let why = world.why("web-1").unwrap();
    assert!(why.contains("is booted once"), "{why}");
    let before = host.boot_id();
    host.ssh(&["systemctl", "reboot"]);
    host.wait_other_boot(&before);
    world.all_ready(&["web-1"]).unwrap();
    assert_eq!(all_links(&world, "web-1"), vec![wanted("web-1"); 4]);
}

/// `HH:00-HH:00` in UTC, from so many hours from now to so many.
fn hours(from: i64, to: i64) -> String {
    let now = trueup_schema::Timestamp::now().as_second() / 3600;
    let at = |hours: i64| (now + hours).rem_euclid(24);
    format!("{:02}:00-{:02}:00", at(from), at(to))
}

#[test]
fn a_window_that_is_closed_is_waited_for_by_name_and_an_open_one_is_used() {
    let (closed, open) = (hours(6, 8), hours(-1, 3));
    let window = |w: &str| format!("reboot: window\n    rebootWindow: \"{w}\"");
    let Some(mut world) = three(&DEFAULTS.replace("reboot: whenRequired", &window(&closed))) else {
        return;
    };
    let one = [("kernel", "6.12.60")];
    world
        .commit("the kernel that runs", &[("web-1", "booted", &one[..])])
        .unwrap();
    world.start_and_wait().unwrap();
    world.all_ready(&["web-1"]).unwrap();
    let before = world.host("web-1").boot_id();
    let was = world.host("web-1").link(BOOTED);

    let two = [("kernel", "6.18.1")];
    world
        .commit("a new kernel", &[("web-1", "booted", &two[..])])
        .unwrap();
    let head = world.head().to_owned();
    world
        .until(&["web-1"], "waiting for its window", |s| {
            let tried = s["attemptedRevision"].as_str().unwrap_or_default();
            let told = condition(s, "RebootRequired");
            tried.ends_with(&head)
                && told.is_some_and(|c| {
                    c["status"] == "True" && c["message"].to_string().contains(&closed)
                })
        })
        .unwrap();
    let status = world.status("web-1").unwrap();
    let wanted = status["desiredClosure"].as_str().map(str::to_owned);
    let host = world.host("web-1");
    assert_eq!(host.boot_id(), before, "nobody rebooted it");
    assert_eq!(
        [host.link(BOOTED), host.link(CURRENT)],
        [was, wanted.clone()]
    );

    world
        .edit("fleet/fleet.yaml", |text| text.replace(&closed, &open))
        .unwrap();
    world.commit("the window opens", &[]).unwrap();
    let host = world.host("web-1");
    wait(AWAY_MAX, || {
        let now = host.ssh(&["cat", "/proc/sys/kernel/random/boot_id"]);
        (now.code == 0 && now.stdout.trim() != before).then_some(())
    })
    .expect("it reboots within its window");
    world.all_ready(&["web-1"]).unwrap();
    assert_eq!(all_links(&world, "web-1"), vec![wanted; 4]);
}

#[test]
fn a_reboot_that_a_power_cycle_could_not_undo_is_refused_and_made_where_that_is_allowed() {
    let Some(mut world) = three(DEFAULTS) else {
        return;
    };
    let one = [("kernel", "6.12.60")];
    world
        .commit("the kernel that runs", &[("web-1", "booted", &one[..])])
        .unwrap();
    world.start_and_wait().unwrap();
    world.all_ready(&["web-1"]).unwrap();
    let host = world.host("web-1");
    // The loader could boot an entry once; what would ask it to is not there.
    let gone = host.sh("rm $(command -v bootctl) && ! command -v bootctl");
    assert_eq!(gone.code, 0, "{gone:?}");
    let (before, was) = (host.boot_id(), all_links(&world, "web-1"));

    let two = [("kernel", "6.18.1")];
    world
        .commit("a new kernel", &[("web-1", "booted", &two[..])])
        .unwrap();
    world.outcome("web-1", "RebootRequired").unwrap();
    let why = world.why("web-1").unwrap();
    assert!(
        why.contains("NoOneShot") && why.contains("unconfirmedBoot: allow"),
        "{why}"
    );
    assert_eq!(world.host("web-1").boot_id(), before);
    assert_eq!(all_links(&world, "web-1"), was, "nothing changed");

    world
        .edit("fleet/fleet.yaml", |text| {
            text.replace("settle: 1s}", "settle: 1s, unconfirmedBoot: allow}")
        })
        .unwrap();
    world.commit("the risk is taken", &[]).unwrap();
    world.all_ready(&["web-1"]).unwrap();
    let wanted = world.status("web-1").unwrap()["desiredClosure"]
        .as_str()
        .map(str::to_owned);
    assert_ne!(world.host("web-1").boot_id(), before);
    assert_eq!(all_links(&world, "web-1"), vec![wanted; 4]);
}
