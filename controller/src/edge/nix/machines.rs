//! The machines that the hub hands derivations to: how Nix is told of them, and whether each answers. It schedules
//! nothing, that is Nix' own work; but Nix waits for a machine that went away for as long as TCP does, so who is lost
//! is found out here, and left out until it answers again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::StreamExt as _;
use tokio::sync::Notify;
use trueup_engine::ports::{MachineState, MachineStatus};
use trueup_schema::Timestamp;
use trueup_schema::kind::ResolvedBuilder;

use super::{Nix, exec};
use crate::edge::exec::{ExecSpec, Limits};

/// One question to a machine, login and all.
const PROBE_WALL: Duration = Duration::from_secs(20);
/// Between two questions to a machine that answers and does nothing for us.
const PROBE_IDLE: Duration = Duration::from_secs(60);
/// Between two questions to one that builds for us, or that is lost.
const PROBE_BUSY: Duration = Duration::from_secs(10);
/// A machine that builds is lost after so many questions without an answer: it may only be busy.
const MISSES: u32 = 2;
/// Questions at the same time.
const PROBES: usize = 8;
/// Of what a machine said.
const MESSAGE_CHARS: usize = 300;

#[derive(Debug)]
struct Machine {
    manifest: ResolvedBuilder,
    status: MachineStatus,
    misses: u32,
}

/// All that is known of them.
#[derive(Debug, Default)]
pub(super) struct Machines {
    all: Mutex<BTreeMap<String, Machine>>,
    /// Rises with each revision's list, so that an empty one is news too.
    lists: AtomicU64,
    /// Something changed, or is to be asked again now.
    pub(super) kick: Notify,
    /// Somebody was lost: builds look whether it concerns them.
    pub(super) lost: Notify,
}

impl Machines {
    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Machine>> {
        // Nothing is left half changed by a panic in here.
        self.all.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The machines of a new revision. What is known of one that stays as it was is kept.
    pub(super) fn replace(&self, machines: Vec<ResolvedBuilder>) {
        let mut all = self.locked();
        let mut old = std::mem::take(&mut *all);
        for manifest in machines {
            let same = old
                .remove(&manifest.name)
                .filter(|m| m.manifest == manifest);
            let machine = same.unwrap_or_else(|| Machine {
                status: MachineStatus {
                    name: manifest.name.clone(),
                    state: MachineState::Unknown,
                    message: "not asked yet".to_owned(),
                    since: Timestamp::now(),
                    building: Vec::new(),
                },
                misses: 0,
                manifest,
            });
            all.insert(machine.manifest.name.clone(), machine);
        }
        drop(all);
        self.lists.fetch_add(1, Ordering::Relaxed);
        self.kick.notify_one();
    }

    pub(super) fn snapshot(&self) -> Vec<MachineStatus> {
        self.locked().values().map(|m| m.status.clone()).collect()
    }

    /// Lines for Nix' `builders`; `None`: no manifest names one, so Nix' own configuration holds.
    pub(super) fn lines(&self) -> Option<String> {
        let all = self.locked();
        if all.is_empty() {
            return None;
        }
        let used = all
            .values()
            .filter(|m| m.status.state != MachineState::Lost);
        Some(
            used.map(|m| line(&m.manifest))
                .collect::<Vec<_>>()
                .join(" ; "),
        )
    }

    /// Those that are lost, each with why: one of them may have what a message of Nix asks for.
    pub(super) fn lost_names(&self) -> Vec<String> {
        let all = self.locked();
        let lost = all
            .values()
            .filter(|m| m.status.state == MachineState::Lost);
        let told = |m: &Machine| format!("{}: {}", m.manifest.name, m.status.message);
        lost.map(told).collect()
    }

    /// Nix found nobody for a derivation. Does one of these have what it asks for? Then Nix was told wrong.
    pub(super) fn offer(&self, said: &str) -> bool {
        let asked = said
            .split_once("with features {")
            .and_then(|(_, rest)| rest.split_once('}'));
        let Some((words, _)) = asked else {
            return false;
        };
        let words: Vec<&str> = words
            .split(',')
            .map(str::trim)
            .filter(|w| !w.is_empty())
            .collect();
        self.locked().values().any(|m| {
            let has = |w: &&str| {
                let m = &m.manifest;
                m.supported_features
                    .iter()
                    .chain(&m.mandatory_features)
                    .any(|f| f == w)
            };
            !words.is_empty() && words.iter().all(has)
        })
    }

    /// The name of the machine that Nix calls by its store: `ssh-ng://root@10.0.0.1`.
    pub(super) fn name_of(&self, store: &str) -> Option<String> {
        let all = self.locked();
        let found = all.values().find(|m| self::store(&m.manifest) == store);
        found.map(|m| m.manifest.name.clone())
    }

    pub(super) fn is_lost(&self, name: &str) -> bool {
        let all = self.locked();
        all.get(name)
            .is_some_and(|m| m.status.state == MachineState::Lost)
    }

    /// What a machine builds for us, or no longer builds.
    pub(super) fn building(&self, name: &str, what: &str, begins: bool) {
        if let Some(m) = self.locked().get_mut(name) {
            let there = m.status.building.iter().position(|w| w == what);
            match (begins, there) {
                (true, None) => m.status.building.push(what.to_owned()),
                (false, Some(i)) => drop(m.status.building.remove(i)),
                _ => return,
            }
        }
        self.kick.notify_one();
    }

    /// A build found that it does not answer.
    pub(super) fn lose(&self, name: &str, why: &str) {
        self.answered(name, Err(why.to_owned()), true);
    }

    fn answered(&self, name: &str, answer: Result<String, String>, certain: bool) {
        let mut all = self.locked();
        let Some(m) = all.get_mut(name) else { return };
        let (state, message) = match answer {
            Ok(said) => {
                m.misses = 0;
                (MachineState::Ready, said)
            }
            Err(why) => {
                m.misses += 1;
                let patient = !certain && m.misses < MISSES && !m.status.building.is_empty();
                match patient {
                    true => (m.status.state, m.status.message.clone()),
                    false => (MachineState::Lost, why),
                }
            }
        };
        let lost = state == MachineState::Lost && m.status.state != state;
        if state != m.status.state {
            m.status.since = Timestamp::now();
        }
        m.status.state = state;
        m.status.message = message.chars().take(MESSAGE_CHARS).collect();
        drop(all);
        if lost {
            self.lost.notify_waiters();
        }
        self.kick.notify_one();
    }

    /// Who is to be asked now, and how long until the next round.
    fn round(&self) -> (Vec<ResolvedBuilder>, Duration) {
        let all = self.locked();
        let busy = all.values().any(|m| {
            m.status.state == MachineState::Lost || m.misses > 0 || !m.status.building.is_empty()
        });
        let manifests = all.values().map(|m| m.manifest.clone()).collect();
        (manifests, if busy { PROBE_BUSY } else { PROBE_IDLE })
    }
}

/// As Nix names it, without parameters.
fn store(m: &ResolvedBuilder) -> String {
    let address = m.address.to_string();
    match address.contains(':') {
        true => format!("ssh-ng://{}@[{address}]", m.user),
        false => format!("ssh-ng://{}@{address}", m.user),
    }
}

/// A line of Nix' `builders`. Every word of it was checked with the manifest: no blank, semicolon or `@` at its front.
fn line(m: &ResolvedBuilder) -> String {
    let list = |words: &[String]| match words.is_empty() {
        true => "-".to_owned(),
        false => words.join(","),
    };
    let systems: Vec<String> = m.systems.iter().map(ToString::to_string).collect();
    format!(
        "{} {} {} {} {} {} {} {}",
        store(m),
        list(&systems),
        m.ssh_key.as_deref().unwrap_or("-"),
        m.max_jobs,
        m.speed_factor,
        list(&m.supported_features),
        list(&m.mandatory_features),
        BASE64.encode(m.host_key.to_string()),
    )
}

/// The machine's store with key and host key, for a question.
fn probed(m: &ResolvedBuilder) -> String {
    let mut url = format!(
        "{}?base64-ssh-public-host-key={}",
        store(m),
        percent(&BASE64.encode(m.host_key.to_string()))
    );
    if let Some(key) = &m.ssh_key {
        let _infallible = write!(url, "&ssh-key={}", percent(key));
    }
    url
}

/// For a parameter of a URL.
pub(super) fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' => {
                out.push(char::from(b));
            }
            _ => {
                let _infallible = write!(out, "%{b:02X}");
            }
        }
    }
    out
}

impl Nix {
    /// Asks each machine, and says all states whenever one changed. Goes on for as long as somebody reads.
    pub(super) fn follow_machines(
        self,
    ) -> futures::stream::LocalBoxStream<'static, Vec<MachineStatus>> {
        let told: Option<(u64, Vec<MachineStatus>)> = None;
        futures::stream::unfold((self, told), |(nix, mut told)| async move {
            let mut next = tokio::time::Instant::now();
            loop {
                let now = (
                    nix.machines.lists.load(Ordering::Relaxed),
                    nix.machines.snapshot(),
                );
                if told.as_ref() != Some(&now) {
                    told = Some(now.clone());
                    return Some((now.1, (nix, told)));
                }
                tokio::select! {
                    () = tokio::time::sleep_until(next) => {}
                    () = nix.machines.kick.notified() => {
                        let fresh = nix.machines.snapshot();
                        let unknown = fresh.iter().any(|m| m.state == MachineState::Unknown);
                        if !unknown {
                            continue;
                        }
                    }
                }
                let (asked, pause) = nix.machines.round();
                next = tokio::time::Instant::now() + pause;
                let taken = match asked.is_empty() {
                    true => Ok(()),
                    false => nix.hub_takes_builders().await,
                };
                futures::stream::iter(asked)
                    .for_each_concurrent(PROBES, |m| {
                        let (nix, taken) = (nix.clone(), taken.clone());
                        async move {
                            let answer = match taken {
                                Ok(()) => nix.probe(&m).await,
                                // Whether it answers is of no use then.
                                Err(why) => Err(why),
                            };
                            nix.machines.answered(&m.name, answer, false);
                        }
                    })
                    .await;
            }
        })
        .boxed_local()
    }

    /// Does it log us in, and does its Nix answer and trust us?
    pub async fn probe(&self, m: &ResolvedBuilder) -> Result<String, String> {
        let url = probed(m);
        let spec = match &self.hub {
            // From where the builds begin: what the controller reaches says nothing of what the hub does.
            Some(hub) => hub.nix(
                &self.settings,
                &["store", "info", "--json", "--store", &url],
            ),
            None => {
                let args = ["store", "info", "--json", "--store", &url];
                let mut spec = ExecSpec::new(self.settings.program.clone(), args);
                spec.env.clone_from(&self.settings.env);
                spec.env
                    .insert("NIX_CONFIG".to_owned(), self.config().into());
                spec.env
                    .insert("NIX_SSHOPTS".to_owned(), super::hub::SSH_OPTIONS.into());
                spec
            }
        };
        let limits = Limits {
            wall: PROBE_WALL,
            output: 64 << 10,
            rss: None,
        };
        match exec::run(&ExecSpec { limits, ..spec }).await {
            Ok(exit) if exit.ok() => {
                let said: serde_json::Value =
                    serde_json::from_slice(&exit.stdout).unwrap_or_default();
                let version = said["version"].as_str().unwrap_or("of unknown version");
                match said["trusted"].as_u64() {
                    Some(0) => Err(format!(
                        "its Nix does not trust `{}`: add it to trusted-users there",
                        m.user
                    )),
                    _ => Ok(format!("Nix {version}")),
                }
            }
            Ok(exit) => Err(super::publish::last_error(&super::log::plain(
                &exit.err_text(),
            ))),
            Err(e) => Err(e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(name: &str) -> ResolvedBuilder {
        ResolvedBuilder {
            name: name.to_owned(),
            address: "10.0.0.1".parse().unwrap(),
            user: "root".to_owned(),
            systems: vec![
                "x86_64-linux".parse().unwrap(),
                "i686-linux".parse().unwrap(),
            ],
            max_jobs: 4,
            speed_factor: 2,
            supported_features: vec!["kvm".to_owned(), "big-parallel".to_owned()],
            mandatory_features: Vec::new(),
            host_key:
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAII8EI9KtA0KN3MYeClVMl0rJhS3PmGd4MipE7+WNANVS"
                    .parse()
                    .unwrap(),
            ssh_key: Some("/etc/trueup/builder key".to_owned()),
        }
    }

    #[test]
    fn a_machine_is_a_line_as_nix_reads_it() {
        let m = ResolvedBuilder {
            ssh_key: Some("/k".to_owned()),
            ..machine("a")
        };
        let text = line(&m);
        let words: Vec<&str> = text.split(' ').collect();
        assert_eq!(
            words[..7],
            [
                "ssh-ng://root@10.0.0.1",
                "x86_64-linux,i686-linux",
                "/k",
                "4",
                "2",
                "kvm,big-parallel",
                "-"
            ]
        );
        assert_eq!(
            BASE64.decode(words[7]).unwrap(),
            m.host_key.to_string().as_bytes()
        );
        assert!(probed(&machine("a")).ends_with("&ssh-key=/etc/trueup/builder%20key"));
    }

    #[test]
    fn who_is_lost_is_left_out_until_it_answers() {
        let machines = Machines::default();
        assert_eq!(machines.lines(), None, "Nix' own configuration holds");
        let other = ResolvedBuilder {
            address: "10.0.0.2".parse().unwrap(),
            ..machine("b")
        };
        machines.replace(vec![machine("a"), other.clone()]);
        assert_eq!(machines.lines().unwrap().matches("ssh-ng://").count(), 2);
        assert_eq!(
            machines.name_of("ssh-ng://root@10.0.0.2").as_deref(),
            Some("b")
        );
        machines.lose("a", "no route");
        assert!(machines.is_lost("a") && !machines.lines().unwrap().contains("10.0.0.1"));
        machines.replace(vec![machine("a"), other]);
        assert!(
            machines.is_lost("a"),
            "the same machine is as lost as before"
        );
        machines.answered("a", Ok("Nix 2".to_owned()), false);
        assert!(!machines.is_lost("a"));
    }

    #[test]
    fn a_feature_that_a_machine_has_is_no_fault_of_the_derivation() {
        let machines = Machines::default();
        machines.replace(vec![machine("a")]);
        let said = |features: &str| {
            format!("a 'x' with features {{{features}}} is required to build 'y', but I am")
        };
        assert!(machines.offer(&said("kvm, big-parallel")));
        assert!(!machines.offer(&said("kvm, gpu")) && !machines.offer(&said("")));
    }

    #[test]
    fn one_that_builds_may_miss_a_question() {
        let machines = Machines::default();
        machines.replace(vec![machine("a")]);
        machines.answered("a", Ok("Nix 2".to_owned()), false);
        machines.building("a", "x.drv", true);
        machines.answered("a", Err("no answer".to_owned()), false);
        assert!(!machines.is_lost("a"));
        machines.answered("a", Err("no answer".to_owned()), false);
        assert!(machines.is_lost("a"));
        machines.building("a", "x.drv", false);
        assert!(machines.snapshot()[0].building.is_empty());
    }
}
