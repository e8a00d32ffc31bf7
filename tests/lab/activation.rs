//! What an activation does to a real host, good and bad: judged by links, units and the host's own SSH. A small
//! controller of its own offers and confirms, so that these claims hold for the agent alone.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use trueup_fixtures::fleet;
use trueup_schema::status::Outcome;
use trueup_schema::wire::{
    AttemptReport, AttemptState, Confirm, ConfirmBy, FORMAT, FailedUnits, FailedUnitsPolicy, Goal,
    INTENT_PAYLOAD_TYPE, Intent, Mode, OfferReply, OnTimeout, Order, Report, SYSTEM_V1, Signed,
    SystemGoal, key_text, system_digest,
};
use trueup_schema::{StorePath, Timestamp};

use crate::harness::{Host, Lab, Output, static_agent, wait};

const CURRENT: &str = "/run/current-system";
const PROFILE: &str = "/nix/var/nix/profiles/system";
const BOOT: &str = "/boot/default";
/// The dead-man stands 15 s behind the agent; the way back takes a few seconds.
const PATIENCE: Duration = Duration::from_secs(90);

static SERIAL: AtomicU64 = AtomicU64::new(1);

/// The controller's side of these tests: a store, a fleet, the agent as a store path.
struct Controller {
    store: PathBuf,
    fleet: PathBuf,
    env: Vec<(String, String)>,
    agent: String,
    key: SigningKey,
}

/// How an attempt is asked for; the defaults are short, for tests.
#[derive(Clone)]
struct Ask {
    confirm_secs: u64,
    settle_secs: u64,
    activation_secs: u64,
    on_timeout: OnTimeout,
    by: ConfirmBy,
    retry: bool,
}

impl Default for Ask {
    fn default() -> Self {
        Self {
            confirm_secs: 60,
            settle_secs: 1,
            activation_secs: 120,
            on_timeout: OnTimeout::Rollback,
            by: ConfirmBy::Controller,
            retry: false,
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the tests' own programs")]
fn program(path: impl AsRef<std::ffi::OsStr>) -> Command {
    Command::new(path)
}

impl Controller {
    fn nix(&self, args: &[&str]) -> String {
        let dir = self
            .env
            .iter()
            .find(|(k, _)| k == "TRUEUP_LAB_NIX")
            .map(|(_, v)| v.clone());
        let nix = PathBuf::from(dir.expect("the lab names a nix")).join("nix");
        let out = program(nix)
            .args(args)
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            .output()
            .expect("nix runs");
        assert!(
            out.status.success(),
            "nix {args:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    fn new(lab: &Lab) -> Self {
        static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
        let dir = DIR
            .get_or_init(|| tempfile::tempdir_in("/var/tmp").expect("a folder"))
            .path();
        let fleet = dir.join("fleet");
        let mut me = Self {
            store: dir.join("store"),
            env: lab.env(),
            agent: String::new(),
            key: SigningKey::from_bytes(&[7; 32]),
            fleet,
        };
        let store = me.store.to_str().expect("text").to_owned();
        if !me.fleet.exists() {
            lab.seed(&store);
            fleet::materialise("faults", &me.fleet, &Default::default()).expect("a fleet");
        }
        // An agent that was built otherwise, while developing.
        let built = std::env::var_os("TRUEUP_TEST_AGENT").map(PathBuf::from);
        let built = built.unwrap_or_else(|| static_agent().to_owned());
        let tree = dir.join("agent-tree");
        std::fs::create_dir_all(tree.join("bin")).expect("a folder");
        std::fs::copy(&built, tree.join("bin/trueup-agent")).expect("copied");
        me.agent = me.nix(&[
            "--store",
            &store,
            "store",
            "add",
            "--name",
            "trueup-agent",
            tree.to_str().expect("text"),
        ]);
        me
    }

    /// Builds what `h1` is as this variant, copies it, gives its path.
    fn closure(&self, host: &Host, variant: &str, args: &[(&str, &str)]) -> StorePath {
        fleet::set_host(&self.fleet, "h1", variant, args).expect("set");
        let attr = format!(
            "path:{}#nixosConfigurations.h1.config.system.build.toplevel",
            self.fleet.display()
        );
        let store = self.store.to_str().expect("text");
        let path = self.nix(&[
            "build",
            "--store",
            store,
            "--no-link",
            "--print-out-paths",
            &attr,
        ]);
        self.copy(host, &path);
        path.parse().expect("a store path")
    }

    fn copy(&self, host: &Host, path: &str) {
        let opts = format!(
            "-F /dev/null -i {} -o UserKnownHostsFile={} -o StrictHostKeyChecking=yes -o BatchMode=yes -p {}",
            host.key.display(),
            host.known_hosts.display(),
            host.port
        );
        let to = format!("ssh-ng://{}@{}", host.user, host.address);
        let from = self.store.to_str().expect("text");
        let mut me = self.env.clone();
        me.retain(|(k, _)| k != "NIX_SSHOPTS");
        me.push(("NIX_SSHOPTS".to_owned(), opts));
        let other = Self {
            env: me,
            store: self.store.clone(),
            fleet: self.fleet.clone(),
            agent: String::new(),
            key: self.key.clone(),
        };
        other.nix(&["copy", "--no-check-sigs", "--from", from, "--to", &to, path]);
    }

    /// A host that runs a first closure as an installer leaves it, with the agent in its store.
    fn install(&self, host: &Host) -> StorePath {
        self.copy(host, &self.agent);
        let first = self.closure(host, "base", &[("note", "one")]);
        let installed = host.ssh(&[&format!("{first}/bin/lab-install")]);
        assert_eq!(installed.code, 0, "{installed:?}");
        first
    }

    fn agent(&self, host: &Host, args: &str) -> Output {
        host.sh(&format!("{}/bin/trueup-agent {args}", self.agent))
    }

    fn envelope(&self, closure: &StorePath, order: Order, ask: &Ask) -> String {
        let goal = SystemGoal {
            closure: closure.clone(),
            system: "x86_64-linux".parse().expect("a system"),
            mode: Mode::Switch,
            specialisation: None,
            activation_timeout_secs: ask.activation_secs,
            on_timeout: ask.on_timeout,
            settle_secs: ask.settle_secs,
            failed_units: FailedUnits {
                policy: FailedUnitsPolicy::Rollback,
                ignore: Vec::new(),
            },
            health: Vec::new(),
            keep_generations: 10,
            reboot_as_last_resort: false,
        };
        let now = Timestamp::now();
        let intent = Intent {
            format: FORMAT,
            cluster: key_text(&self.key.verifying_key()),
            host: "h1".parse().expect("a name"),
            machine_id: None,
            order,
            revision: format!("main@sha1:{}", "a".repeat(40))
                .parse()
                .expect("a revision"),
            issued_at: now,
            expires_at: now + Duration::from_secs(3600),
            requires: [SYSTEM_V1.to_owned()].into(),
            confirm: Confirm {
                by: ask.by,
                timeout_secs: ask.confirm_secs,
            },
            retry: ask.retry,
            goals: vec![Goal {
                component: "system".parse().expect("a name"),
                digest: system_digest(closure, None),
                body: serde_json::to_value(goal).expect("json"),
            }],
        };
        let bytes = serde_json::to_vec(&intent).expect("json");
        let signed = Signed::new(INTENT_PAYLOAD_TYPE, &bytes, &self.key);
        serde_json::json!({ "signed": signed, "pin": key_text(&self.key.verifying_key()) })
            .to_string()
    }

    fn offer(&self, host: &Host, closure: &StorePath, ask: &Ask) -> (Order, OfferReply) {
        let order = Order {
            term: 1,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
        };
        let line = self.envelope(closure, order, ask);
        let out = host.sh(&format!(
            "{}/bin/trueup-agent offer <<'EOF'\n{line}\nEOF",
            self.agent
        ));
        assert_eq!(out.code, 0, "{out:?}");
        (order, serde_json::from_str(&out.stdout).expect("a reply"))
    }

    fn begin(&self, host: &Host, closure: &StorePath, ask: &Ask) -> Order {
        let (order, reply) = self.offer(host, closure, ask);
        assert_eq!(reply, OfferReply::Begun { order });
        order
    }

    fn report(&self, host: &Host) -> Option<Report> {
        let out = self.agent(host, "report");
        (out.code == 0).then(|| serde_json::from_str(&out.stdout).expect("a report"))
    }

    fn until(&self, host: &Host, order: Order, state: AttemptState) -> AttemptReport {
        let begun = Instant::now();
        let found = wait(PATIENCE, || {
            let attempt = self.report(host)?.attempt?;
            let there = attempt.order == order && attempt.state >= state;
            there.then_some(attempt)
        });
        found.unwrap_or_else(|| {
            let log = host.sh(&format!(
                "cd /nix/var/trueup/attempts/{order} && tail -n 40 *.log; systemctl list-units --all 'trueup-*'"
            ));
            panic!("{order} is not at {state:?} after {:?}: {:?} {}", begun.elapsed(), self.report(host), log.stdout)
        })
    }

    fn confirm(&self, host: &Host, attempt: &AttemptReport) -> Output {
        let nonce = attempt.nonce.clone().expect("a nonce while it waits");
        self.agent(
            host,
            &format!("confirm --order {} --nonce {nonce}", attempt.order),
        )
    }

    /// Offer, confirm over a new connection, end.
    fn deliver(&self, host: &Host, closure: &StorePath, ask: &Ask) -> AttemptReport {
        let order = self.begin(host, closure, ask);
        let attempt = self.until(host, order, AttemptState::AwaitingConfirmation);
        if attempt.state == AttemptState::AwaitingConfirmation {
            let told = self.confirm(host, &attempt);
            assert!(
                told.code == 0 || told.stderr.contains("NotAwaiting"),
                "{told:?}"
            );
        }
        self.until(host, order, AttemptState::Ended)
    }

    /// What each test ends with: a good commit converges, nobody has to help.
    fn converges(&self, host: &Host, note: &str) -> StorePath {
        let good = self.closure(host, "base", &[("note", note)]);
        let end = self.deliver(host, &good, &Ask::default());
        assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
        runs(host, &good, &good, &good);
        assert_eq!(
            host.read(&["systemctl", "is-active", "app.service"]),
            "active"
        );
        let left = host.read(&[
            "systemctl",
            "list-units",
            "--all",
            "--no-legend",
            "trueup-*",
        ]);
        assert_eq!(left, "", "units of ours are left");
        good
    }
}

fn runs(host: &Host, running: &StorePath, profile: &StorePath, boot: &StorePath) {
    let at = |path| host.link(path);
    let got = (at(CURRENT), at(PROFILE), at(BOOT));
    let want = |p: &StorePath| Some(p.to_string());
    assert_eq!(
        got,
        (want(running), want(profile), want(boot)),
        "running, profile, boot default"
    );
}

fn ready() -> Option<(Lab, Controller)> {
    let lab = Lab::up(&["h1"])?;
    let controller = Controller::new(&lab);
    Some((lab, controller))
}

#[test]
fn a_good_closure_is_confirmed_and_committed() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let good = c.closure(host, "base", &[("note", "two")]);

    let order = c.begin(host, &good, &Ask::default());
    let attempt = c.until(host, order, AttemptState::AwaitingConfirmation);
    runs(host, &good, &first, &first); // nothing lasts before the confirmation
    let wrong = c.agent(host, &format!("confirm --order {order} --nonce 00"));
    assert!(wrong.stderr.contains("WrongNonce"), "{wrong:?}");
    let told = c.confirm(host, &attempt);
    assert_eq!(told.code, 0, "{told:?}");
    let report: Report = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(report.attempt.unwrap().outcome, Some(Outcome::Succeeded));
    runs(host, &good, &good, &good);

    let (_, again) = c.offer(host, &good, &Ask::default());
    assert!(matches!(again, OfferReply::Already { .. }), "{again:?}");
    c.converges(host, "three");
}

#[test]
fn an_old_connection_cannot_confirm() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let good = c.closure(host, "base", &[("note", "two")]);
    let order = Order {
        term: 1,
        serial: SERIAL.fetch_add(1, Ordering::Relaxed),
    };
    let ask = Ask {
        confirm_secs: 8,
        ..Ask::default()
    };
    let line = c.envelope(&good, order, &ask);
    let agent = format!("{}/bin/trueup-agent", c.agent);
    let told = host.sh(&format!(
        "{agent} offer <<'EOF'\n{line}\nEOF\n\
         for i in $(seq 100); do n=$({agent} report | sed -n 's/.*\"nonce\":\"\\([0-9a-f]*\\)\".*/\\1/p'); \
         [ -z \"$n\" ] || break; sleep 0.1; done; {agent} confirm --order {order} --nonce $n"
    ));
    assert!(
        told.code == 1 && told.stderr.contains("NotFresh"),
        "{told:?}"
    );
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    assert!(
        !end.evidence,
        "a silent controller is no evidence against the goal"
    );
    runs(host, &first, &first, &first);
    c.converges(host, "three");
}

#[test]
fn a_closure_that_takes_sshd_away_is_rolled_back_by_the_host_alone() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let bad = c.closure(host, "sshd-gone", &[]);
    let ask = Ask {
        confirm_secs: 8,
        ..Ask::default()
    };
    let order = c.begin(host, &bad, &ask);
    wait(PATIENCE, || (host.ssh(&["true"]).code == 255).then_some(())).expect("sshd goes");
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    runs(host, &first, &first, &first);
    assert_eq!(host.unit("sshd.service", "SubState"), "running");
    c.converges(host, "two");
}

#[test]
fn the_dead_man_acts_when_the_agent_is_gone() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    // While it waits for the confirmation, and reloads come all through the window.
    let next = c.closure(host, "base", &[("note", "two")]);
    let ask = Ask {
        confirm_secs: 5,
        ..Ask::default()
    };
    let order = c.begin(host, &next, &ask);
    c.until(host, order, AttemptState::AwaitingConfirmation);
    let stopped = host.sh(&format!("systemctl stop trueup-activate-{order}.service"));
    assert_eq!(stopped.code, 0, "{stopped:?}");
    host.sh(
        "systemd-run --quiet sh -c 'for i in $(seq 30); do systemctl daemon-reload; sleep 1; done'",
    );
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    assert!(end.message.unwrap().contains("dead-man"));
    runs(host, &first, &first, &first);

    // Killed while it activates: systemd starts it again, and it goes on.
    let slow = c.closure(host, "activation-hangs", &[("seconds", "3")]);
    let order = c.begin(host, &slow, &Ask::default());
    let unit = format!("trueup-activate-{order}.service");
    wait(PATIENCE, || {
        let log = host.sh(&format!(
            "cat /nix/var/trueup/attempts/{order}/activate.log"
        ));
        log.stdout.contains("activating").then_some(())
    })
    .expect("it activates");
    assert_eq!(
        host.sh(&format!("systemctl kill -s KILL --kill-whom=main {unit}"))
            .code,
        0
    );
    let attempt = c.until(host, order, AttemptState::AwaitingConfirmation);
    assert_eq!(c.confirm(host, &attempt).code, 0);
    runs(host, &slow, &slow, &slow);
    c.converges(host, "three");
}

#[test]
fn a_power_cut_boots_the_old_system_until_the_boot_entry_is_written() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    // Before the profile.
    let next = c.closure(host, "base", &[("note", "two")]);
    let order = c.begin(host, &next, &Ask::default());
    c.until(host, order, AttemptState::AwaitingConfirmation);
    host.crash();
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::Interrupted), "{end:?}");
    runs(host, &first, &first, &first);

    // Between profile and boot entry.
    std::fs::write(
        c.fleet.join("variants/boot-slow.nix"),
        "{ base, ... }: base // { bootloader = \"sleep 600\"; }\n",
    )
    .unwrap();
    let slow = c.closure(host, "boot-slow", &[]);
    let order = c.begin(host, &slow, &Ask::default());
    let attempt = c.until(host, order, AttemptState::AwaitingConfirmation);
    let nonce = attempt.nonce.unwrap();
    // The shell stays for a moment: an orphan has no SSH connection above it that could be seen to be new.
    host.sh(&format!(
        "{}/bin/trueup-agent confirm --order {order} --nonce {nonce} >/dev/null 2>&1 </dev/null & sleep 2",
        c.agent
    ));
    wait(PATIENCE, || {
        (host.link(PROFILE) == Some(slow.to_string())).then_some(())
    })
    .expect("the profile is set");
    host.sh("sync");
    host.crash();
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::Interrupted), "{end:?}");
    runs(host, &first, &first, &first);

    // After the end.
    let good = c.converges(host, "three");
    host.crash();
    runs(host, &good, &good, &good);
    c.converges(host, "four");
}

#[test]
fn a_boot_entry_that_does_not_come_is_told() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    for variant in ["boot-unmoved", "boot-fails"] {
        let odd = c.closure(host, variant, &[]);
        let end = c.deliver(host, &odd, &Ask::default());
        assert_eq!(
            end.outcome,
            Some(Outcome::BootNotCommitted),
            "{variant}: {end:?}"
        );
        assert!(!end.evidence, "{variant}");
        runs(host, &odd, &first, &first);
    }
    c.converges(host, "two");
}

#[test]
fn who_switches_in_the_window_is_left_alone() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let theirs = c.closure(host, "base", &[("note", "theirs")]);
    let ours = c.closure(host, "base", &[("note", "ours")]);
    let order = c.begin(host, &ours, &Ask::default());
    let attempt = c.until(host, order, AttemptState::AwaitingConfirmation);
    let switched = host.ssh(&[&format!("{theirs}/bin/switch-to-configuration"), "test"]);
    assert_eq!(switched.code, 0, "{switched:?}");
    c.confirm(host, &attempt);
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::Superseded), "{end:?}");
    runs(host, &theirs, &first, &first);
    c.converges(host, "two");
}

#[test]
fn an_activation_that_hangs_is_rolled_back_and_no_orphan_moves_the_link() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let slow = c.closure(host, "activation-hangs", &[("seconds", "12")]);
    let ask = Ask {
        activation_secs: 4,
        ..Ask::default()
    };
    let order = c.begin(host, &slow, &ask);
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    std::thread::sleep(Duration::from_secs(12));
    runs(host, &first, &first, &first);
    c.converges(host, "two");
}

#[test]
fn a_closure_that_harms_units_is_rolled_back_with_the_unit_named() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let started = host.ssh(&["systemctl", "start", "by-hand.service"]);
    assert_eq!(started.code, 0, "{started:?}");
    let table: [(&str, u64, &str); 6] = [
        ("fails-at-start", 1, ".service"),
        ("fails-later", 7, "app.service"),
        ("crash-loop", 8, "app.service"),
        ("missing-requires", 1, "new.service"),
        ("new-pre-fails", 2, ".service"),
        ("activation-fails", 1, ""),
    ];
    for (variant, settle_secs, unit) in table {
        let bad = c.closure(host, variant, &[]);
        let ask = Ask {
            settle_secs,
            ..Ask::default()
        };
        let order = c.begin(host, &bad, &ask);
        let end = c.until(host, order, AttemptState::Ended);
        assert_eq!(end.outcome, Some(Outcome::RolledBack), "{variant}: {end:?}");
        assert!(end.evidence, "{variant}");
        let named = unit.is_empty() || end.failed_units.iter().any(|u| u.name.ends_with(unit));
        assert!(named, "{variant}: {end:?}");
        runs(host, &first, &first, &first);
        for up in ["app.service", "by-hand.service"] {
            assert_eq!(
                host.unit(up, "ActiveState"),
                "active",
                "{variant}: {up} after the way back"
            );
        }
        let (_, reply) = c.offer(host, &bad, &ask);
        let quarantined =
            matches!(&reply, OfferReply::Refused { reason, .. } if reason == "Quarantined");
        assert!(quarantined, "{variant}: {reply:?}");
    }
    c.converges(host, "two");
}

#[test]
fn what_cannot_be_switched_to_is_refused_before_anything_is_touched() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    let first = c.install(host);
    let pid = host.unit("app.service", "MainPID");
    let table = [
        ("inhibited", Outcome::RebootRequired, "SwitchInhibited"),
        ("init-changed", Outcome::RebootRequired, "init interface"),
        ("wrong-system", Outcome::Failed, "WrongSystem"),
        ("check-refuses", Outcome::Failed, "pre-switch"),
    ];
    for (variant, outcome, said) in table {
        let odd = c.closure(host, variant, &[]);
        let order = c.begin(host, &odd, &Ask::default());
        let end = c.until(host, order, AttemptState::Ended);
        assert_eq!(end.outcome, Some(outcome), "{variant}: {end:?}");
        assert!(
            end.message.as_ref().unwrap().contains(said),
            "{variant}: {end:?}"
        );
        runs(host, &first, &first, &first);
        assert_eq!(host.unit("app.service", "MainPID"), pid, "{variant}");
    }
    c.converges(host, "two");
}

#[test]
fn a_socket_whose_address_changed_hears_after_the_switch_and_after_the_way_back() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    c.install(host);
    let hears = |port: &str| {
        let said = host.sh(&format!(
            "echo hi | timeout 3 busybox nc 127.0.0.1 {port} | head -n 1"
        ));
        said.stdout.trim() == "hi"
    };
    let one = c.closure(host, "socket", &[("port", "7001")]);
    let end = c.deliver(host, &one, &Ask::default());
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    assert!(hears("7001"));
    let two = c.closure(host, "socket", &[("port", "7002")]);
    let ask = Ask {
        confirm_secs: 6,
        ..Ask::default()
    };
    let order = c.begin(host, &two, &ask);
    c.until(host, order, AttemptState::AwaitingConfirmation);
    assert!(hears("7002"), "after the switch");
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    assert!(hears("7001"), "after the way back");
    c.converges(host, "two");
}

#[test]
fn a_stale_reload_list_does_not_wedge_the_host() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    c.install(host);
    let put = host.sh("mkdir -p /run/nixos && echo gone.service > /run/nixos/reload-list && echo gone.service > /run/nixos/start-list");
    assert_eq!(put.code, 0, "{put:?}");
    c.converges(host, "two");
}

#[test]
fn a_new_kernel_runs_after_a_reboot_and_is_told_until_then() {
    let Some((lab, c)) = ready() else { return };
    let host = lab.host("h1");
    c.install(host);
    let new = c.closure(host, "kernel-changed", &[]);
    let end = c.deliver(host, &new, &Ask::default());
    assert_eq!(end.outcome, Some(Outcome::RebootRequired), "{end:?}");
    runs(host, &new, &new, &new);
    let named = c.report(host).unwrap().running.reboot_required;
    assert!(named.contains(&"kernel".to_owned()), "{named:?}");
    host.crash();
    assert_eq!(
        c.report(host).unwrap().running.reboot_required,
        Vec::<String>::new()
    );
}
