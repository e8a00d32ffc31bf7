//! What an activation does to a real host, good and bad: judged by links, units and the host's own SSH. A small
//! controller of its own offers and confirms, so that these claims hold for the agent alone. Which case is shown where:
//! `docs/testing-activation.md`.
//!
//! Machines may be slow: no test races with a window. What has to happen while a host waits is done by a unit on the host
//! ([`Controller::meanwhile`]), and windows that must not pass are long.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use trueup_fixtures::fleet;
use trueup_schema::status::Outcome;
use trueup_schema::wire::{
    AttemptReport, AttemptState, Check, Confirm, ConfirmBy, FORMAT, FailedUnits, FailedUnitsPolicy,
    Goal, INTENT_PAYLOAD_TYPE, Intent, Mode, OfferReply, OnTimeout, Order, Report, SYSTEM_V1,
    Signed, SystemGoal, key_text, system_digest,
};
use trueup_schema::{Digest, StorePath, Timestamp};

use crate::harness::{Host, Lab, Output, planted_agent, static_agent, wait};

mod back;
mod boot;
mod claims;
mod confirm;
mod deadman;
mod exits;
mod grub;
mod harm;
mod order;
mod planted;
mod reboot;
mod refuse;
mod units;

const CURRENT: &str = "/run/current-system";
const PROFILE: &str = "/nix/var/nix/profiles/system";
const BOOT: &str = "/boot/default";
/// Far above what anything here takes on a busy machine: the dead-man alone stands 15 s behind the agent.
const PATIENCE: Duration = Duration::from_secs(180);
/// Confirmation windows that are meant to pass.
const SOON: u64 = 5;

/// As they are in a report.
const STATES: [(AttemptState, &str); 7] = [
    (AttemptState::Offered, "offered"),
    (AttemptState::Activating, "activating"),
    (AttemptState::Rebooting, "rebooting"),
    (AttemptState::AwaitingConfirmation, "awaitingConfirmation"),
    (AttemptState::Committing, "committing"),
    (AttemptState::RollingBack, "rollingBack"),
    (AttemptState::Ended, "ended"),
];

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
    health: Vec<Check>,
    last_resort: bool,
    mode: Mode,
    may_reboot: bool,
    unconfirmed_boot: bool,
    /// Body of the test-only second component.
    second: Option<serde_json::Value>,
}

impl Default for Ask {
    fn default() -> Self {
        Self {
            confirm_secs: 120,
            settle_secs: 1,
            activation_secs: 120,
            on_timeout: OnTimeout::Rollback,
            by: ConfirmBy::Controller,
            retry: false,
            health: Vec::new(),
            last_resort: false,
            mode: Mode::Switch,
            may_reboot: false,
            unconfirmed_boot: false,
            second: None,
        }
    }
}

impl Ask {
    /// Nobody will confirm.
    fn unconfirmed() -> Self {
        Self {
            confirm_secs: SOON,
            ..Self::default()
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the tests' own programs")]
fn program(path: impl AsRef<std::ffi::OsStr>) -> Command {
    Command::new(path)
}

fn next_order() -> Order {
    Order {
        term: 1,
        serial: SERIAL.fetch_add(1, Ordering::Relaxed),
    }
}

impl Controller {
    fn nix(&self, args: &[&str]) -> String {
        self.nix_with(args, &[])
    }

    fn nix_with(&self, args: &[&str], more: &[(&str, &str)]) -> String {
        let dir = self
            .env
            .iter()
            .find(|(k, _)| k == "TRUEUP_LAB_NIX")
            .map(|(_, v)| v.clone());
        let nix = PathBuf::from(dir.expect("the lab names a nix")).join("nix");
        let out = program(nix)
            .args(args)
            .envs(self.env.iter().cloned())
            .envs(more.iter().copied())
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

    /// With the agent that ships.
    fn new(lab: &Lab) -> Self {
        Self::with(lab, static_agent(), "one")
    }

    /// With this agent; another `mark` makes another store path of the same program.
    fn with(lab: &Lab, agent: &Path, mark: &str) -> Self {
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
        let tree = dir.join("agent-tree");
        std::fs::create_dir_all(tree.join("bin")).expect("a folder");
        std::fs::copy(agent, tree.join("bin/trueup-agent")).expect("copied");
        std::fs::write(tree.join("mark"), mark).expect("written");
        let tree = tree.to_str().expect("text");
        me.agent = me.nix(&[
            "--store",
            &store,
            "store",
            "add",
            "--name",
            "trueup-agent",
            tree,
        ]);
        me
    }

    /// A variant that only one test needs.
    fn variant(&self, name: &str, text: &str) {
        let path = self.fleet.join(format!("variants/{name}.nix"));
        std::fs::write(path, text).expect("written");
    }

    /// Builds what `h1` is as this variant, gives its path.
    fn build(&self, variant: &str, args: &[(&str, &str)]) -> StorePath {
        fleet::set_host(&self.fleet, "h1", variant, args).expect("set");
        let attr = format!(
            "path:{}#nixosConfigurations.h1.config.system.build.toplevel",
            self.fleet.display()
        );
        let store = self.store.to_str().expect("text");
        let args = [
            "build",
            "--store",
            store,
            "--no-link",
            "--print-out-paths",
            &attr,
        ];
        self.nix(&args).parse().expect("a store path")
    }

    /// Builds and copies.
    fn closure(&self, host: &Host, variant: &str, args: &[(&str, &str)]) -> StorePath {
        let path = self.build(variant, args);
        self.copy(host, path.as_str());
        path
    }

    fn copy(&self, host: &Host, path: &str) {
        let opts = format!(
            "-F /dev/null -i {} -o UserKnownHostsFile={} -o HostKeyAlias={} -o CheckHostIP=no \
             -o StrictHostKeyChecking=yes -o BatchMode=yes -p {}",
            host.key.display(),
            host.known_hosts.display(),
            host.address,
            host.port
        );
        let to = format!("ssh-ng://{}@{}", host.user, host.address);
        let from = self.store.to_str().expect("text");
        let args = ["copy", "--no-check-sigs", "--from", from, "--to", &to, path];
        self.nix_with(&args, &[("NIX_SSHOPTS", &opts)]);
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
        let system = SystemGoal {
            closure: closure.clone(),
            system: "x86_64-linux".parse().expect("a system"),
            mode: ask.mode,
            specialisation: None,
            activation_timeout_secs: ask.activation_secs,
            on_timeout: ask.on_timeout,
            settle_secs: ask.settle_secs,
            failed_units: FailedUnits {
                policy: FailedUnitsPolicy::Rollback,
                ignore: Vec::new(),
            },
            health: ask.health.clone(),
            keep_generations: 10,
            reboot_as_last_resort: ask.last_resort,
            may_reboot: ask.may_reboot,
            unconfirmed_boot: ask.unconfirmed_boot,
        };
        let goal = |name: &str, digest, body| Goal {
            component: name.parse().expect("a name"),
            digest,
            body,
        };
        let body = serde_json::to_value(system).expect("json");
        let mut goals = vec![goal("system", system_digest(closure, None), body)];
        let mut requires = vec![SYSTEM_V1.to_owned()];
        if let Some(body) = &ask.second {
            let digest = Digest::of(order.to_string().as_bytes());
            goals.push(goal("second", digest, body.clone()));
            requires.push("component/second/1".to_owned());
        }
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
            requires: requires.into_iter().collect(),
            confirm: Confirm {
                by: ask.by,
                timeout_secs: ask.confirm_secs,
                witness: None,
            },
            retry: ask.retry,
            goals,
        };
        let bytes = serde_json::to_vec(&intent).expect("json");
        let signed = Signed::new(INTENT_PAYLOAD_TYPE, &bytes, &self.key);
        serde_json::json!({ "signed": signed, "pin": key_text(&self.key.verifying_key()) })
            .to_string()
    }

    /// What the host's shell runs to take an offer.
    fn offer_script(&self, closure: &StorePath, order: Order, ask: &Ask, flags: &str) -> String {
        let line = self.envelope(closure, order, ask);
        format!(
            "{}/bin/trueup-agent offer {flags} <<'EOF'\n{line}\nEOF\n",
            self.agent
        )
    }

    fn offer_as(&self, host: &Host, closure: &StorePath, order: Order, ask: &Ask) -> OfferReply {
        let out = host.sh(&self.offer_script(closure, order, ask, ""));
        assert_eq!(out.code, 0, "{out:?}");
        serde_json::from_str(&out.stdout).expect("a reply")
    }

    fn offer(&self, host: &Host, closure: &StorePath, ask: &Ask) -> (Order, OfferReply) {
        let order = next_order();
        (order, self.offer_as(host, closure, order, ask))
    }

    fn begin(&self, host: &Host, closure: &StorePath, ask: &Ask) -> Order {
        let (order, reply) = self.offer(host, closure, ask);
        assert_eq!(reply, OfferReply::Begun { order });
        order
    }

    /// Begins an attempt; a unit on the host runs `script` (which finds it as `$order`) as soon as the attempt is at `state`.
    fn meanwhile(
        &self,
        host: &Host,
        closure: &StorePath,
        ask: &Ask,
        state: &str,
        script: &str,
    ) -> Order {
        let order = next_order();
        let put = host.sh(&format!(
            "cat > /root/meanwhile-{order} <<'EOS'\n\
             until {}/bin/trueup-agent report | grep -q '\"serial\":{}.*\"state\":\"{state}\"'; do sleep 0.25; done\n\
             order={order}\n{script}\nEOS\n\
             systemd-run --quiet --collect --unit=meanwhile-{order} sh /root/meanwhile-{order}",
            self.agent, order.serial
        ));
        assert_eq!(put.code, 0, "{put:?}");
        assert_eq!(
            self.offer_as(host, closure, order, ask),
            OfferReply::Begun { order }
        );
        order
    }

    fn report(&self, host: &Host) -> Option<Report> {
        let out = self.agent(host, "report");
        (out.code == 0).then(|| serde_json::from_str(&out.stdout).expect("a report"))
    }

    /// Asks until the attempt is there. One login asks many times: a key exchange each time is what a busy machine spends
    /// itself on.
    fn until(&self, host: &Host, order: Order, state: AttemptState) -> AttemptReport {
        let begun = Instant::now();
        let past: Vec<&str> = STATES
            .iter()
            .filter(|(s, _)| *s >= state)
            .map(|(_, name)| *name)
            .collect();
        let ask = format!(
            "for i in $(seq 40); do r=$({}/bin/trueup-agent report) || exit 1; \
             echo \"$r\" | grep -qE '\"serial\":{},.*\"state\":\"({})\"' && break; sleep 0.25; done; echo \"$r\"",
            self.agent,
            order.serial,
            past.join("|")
        );
        let found = wait(PATIENCE, || {
            let out = host.sh(&ask);
            let report: Report = serde_json::from_str(&out.stdout).ok()?;
            let attempt = report.attempt?;
            let there = attempt.order == order && attempt.state >= state;
            there.then_some(attempt)
        });
        found.unwrap_or_else(|| {
            let log = host.sh(&format!(
                "cd /nix/var/trueup/attempts/{order} && tail -n 40 *.log; systemctl list-units --all 'trueup-*'"
            ));
            panic!(
                "{order} is not at {state:?} after {:?}: {:?} {}",
                begun.elapsed(),
                self.report(host),
                log.stdout
            )
        })
    }

    fn confirm(&self, host: &Host, attempt: &AttemptReport) -> Output {
        let nonce = attempt
            .nonce
            .clone()
            .unwrap_or_else(|| panic!("no nonce: {attempt:?}"));
        self.agent(
            host,
            &format!("confirm --order {} --nonce {nonce}", attempt.order),
        )
    }

    /// Confirms over a new connection as soon as it is waited for; gives how it ended.
    fn complete(&self, host: &Host, order: Order) -> AttemptReport {
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

    /// Offer, confirm over a new connection, end.
    fn deliver(&self, host: &Host, closure: &StorePath, ask: &Ask) -> AttemptReport {
        let order = self.begin(host, closure, ask);
        self.complete(host, order)
    }

    /// Offer, and nobody confirms.
    fn leave(&self, host: &Host, closure: &StorePath, ask: &Ask) -> AttemptReport {
        let order = self.begin(host, closure, ask);
        self.until(host, order, AttemptState::Ended)
    }

    /// What each case ends with: a good commit converges, nobody has to help.
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

/// What runs, the profile, what a power cut boots: all three at once.
fn links(host: &Host) -> [Option<String>; 3] {
    let out = host.sh(&format!(
        "for l in {CURRENT} {PROFILE} {BOOT}; do readlink -e $l || echo; done"
    ));
    assert_eq!(out.code, 0, "{out:?}");
    let mut lines = out
        .stdout
        .lines()
        .map(|l| Some(l.to_owned()).filter(|l| !l.is_empty()));
    std::array::from_fn(|_| lines.next().flatten())
}

fn runs(host: &Host, running: &StorePath, profile: &StorePath, boot: &StorePath) {
    let want = [running, profile, boot].map(|p| Some(p.to_string()));
    assert_eq!(links(host), want, "running, profile, boot default");
}

fn ready() -> Option<(Lab, Controller)> {
    let lab = Lab::up(&["h1"])?;
    let controller = Controller::new(&lab);
    Some((lab, controller))
}

/// An end that says nothing against the goal: it may be tried again.
fn is_not_blamed(end: &AttemptReport) {
    assert!(!end.evidence, "{end:?}");
}
