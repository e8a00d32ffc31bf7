//! Hosts that are not there, behind the port that the controller reaches hosts by: they answer as late as real ones, take
//! every intent, and report as much as an agent does. Nothing of the controller is simulated.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use trueup_engine::ports::{Hosts, ReportStream, Target, TransportError, TransportFault};
use trueup_schema::status::Outcome;
use trueup_schema::wire::{
    Activation, AgentInfo, AttemptReport, AttemptState, ComponentReport, Farewell, Identity,
    Intent, OfferReply, Order, Report, Running, SYSTEM_V1, Signed, Stage, SystemGoal,
};
use trueup_schema::{Digest, HostName, StorePath, Timestamp};

/// As measured over SSH: a question over a new connection, an offer over a shared one, and what runs on the host.
const ASK: Duration = Duration::from_millis(250);
const OFFER: Duration = Duration::from_millis(40);
const ACTIVATE: Duration = Duration::from_millis(450);
const CONFIRM: Duration = Duration::from_millis(400);
/// Reports that wait, as in the real edge.
const WAITING: usize = 4096;

#[derive(Debug, Clone, Default)]
struct Twin {
    sequence: u64,
    running: Option<StorePath>,
    confirmed: Option<Digest>,
    attempt: Option<AttemptReport>,
}

/// The port's twin. How often it was asked what is kept, for the benchmark's own check.
#[derive(Debug, Clone)]
pub struct Twins {
    hosts: Rc<RefCell<BTreeMap<HostName, Twin>>>,
    to: mpsc::Sender<Told>,
    from: Rc<RefCell<Option<mpsc::Receiver<Told>>>>,
}

type Told = (HostName, Report);

impl Default for Twins {
    fn default() -> Self {
        let (to, from) = mpsc::channel(WAITING);
        Self {
            hosts: Rc::default(),
            to,
            from: Rc::new(RefCell::new(Some(from))),
        }
    }
}

fn intent(signed: &Signed) -> Option<Intent> {
    let payload = base64::engine::general_purpose::STANDARD.decode(&signed.payload);
    serde_json::from_slice(&payload.ok()?).ok()
}

impl Twins {
    fn change<T>(&self, host: &HostName, change: impl FnOnce(&mut Twin) -> T) -> T {
        change(self.hosts.borrow_mut().entry(host.clone()).or_default())
    }

    fn report(&self, host: &HostName) -> Report {
        self.change(host, |twin| {
            twin.sequence += 1;
            twin.report(host)
        })
    }

    /// The host's own work: it activates, and says that it waits.
    async fn activate(self, host: HostName) {
        tokio::time::sleep(ACTIVATE).await;
        self.change(&host, |twin| {
            if let Some(a) = &mut twin.attempt {
                a.state = AttemptState::AwaitingConfirmation;
                a.nonce = Some(format!("{:032x}", twin.sequence));
                a.deadline_in_secs = Some(120);
                twin.running.clone_from(&a.closure);
            }
        });
        let report = self.report(&host);
        let _nobody_listens = self.to.try_send((host, report));
    }
}

#[async_trait(?Send)]
impl Hosts for Twins {
    async fn prepare(&self, _: &Target, _: &[StorePath]) -> Result<Vec<StorePath>, TransportError> {
        tokio::time::sleep(ASK).await;
        Ok(Vec::new())
    }

    async fn offer(&self, target: &Target, signed: &Signed) -> Result<OfferReply, TransportError> {
        tokio::time::sleep(OFFER).await;
        let intent = intent(signed).ok_or_else(|| TransportError {
            host: target.host.clone(),
            fault: TransportFault::Protocol,
            message: "no intent".to_owned(),
        })?;
        let order = intent.order;
        let goal = &intent.goals[0];
        let body: Option<SystemGoal> = serde_json::from_value(goal.body.clone()).ok();
        self.change(&target.host, |twin| {
            let closure = body.map(|b| b.closure);
            let mut attempt = AttemptReport::of(&intent, closure, AttemptState::Activating);
            attempt.timeline.push((Timestamp::now(), Stage::Accept));
            twin.attempt = Some(attempt);
        });
        tokio::task::spawn_local(self.clone().activate(target.host.clone()));
        Ok(OfferReply::Begun { order })
    }

    async fn witness(&self, _: &Target, _: &Signed) -> Result<(), TransportError> {
        Ok(())
    }

    async fn leave(&self, _: &Target) -> Result<Farewell, TransportError> {
        Ok(Farewell::default())
    }

    async fn copy(&self, _: &Target, _: &[StorePath]) -> Result<(), TransportError> {
        Ok(())
    }

    async fn confirm(
        &self,
        target: &Target,
        _: Order,
        _: &str,
        _: u64,
    ) -> Result<Report, TransportError> {
        tokio::time::sleep(CONFIRM).await;
        self.change(&target.host, |twin| {
            if let Some(a) = &mut twin.attempt {
                a.state = AttemptState::Ended;
                a.outcome = Some(Outcome::Succeeded);
                a.nonce = None;
                a.deadline_in_secs = None;
                twin.confirmed = a.goals.values().next().cloned();
                let stages = [
                    Stage::Preflight,
                    Stage::Record,
                    Stage::Arm,
                    Stage::Activate,
                    Stage::Confirm,
                    Stage::Profile,
                    Stage::Boot,
                ];
                a.timeline
                    .extend(stages.map(|stage| (Timestamp::now(), stage)));
            }
        });
        Ok(self.report(&target.host))
    }

    async fn observe(&self, target: &Target) -> Result<Report, TransportError> {
        tokio::time::sleep(ASK).await;
        Ok(self.report(&target.host))
    }

    fn reports(&self) -> ReportStream {
        match self.from.borrow_mut().take() {
            Some(mut from) => futures::stream::poll_fn(move |cx| from.poll_recv(cx)).boxed_local(),
            None => futures::stream::empty().boxed_local(),
        }
    }
}

impl Twin {
    fn report(&self, host: &HostName) -> Report {
        let machine_id = Digest::of(host.as_str().as_bytes()).as_str()[..32].to_owned();
        let first: Option<StorePath> =
            "/nix/store/00000000000000000000000000000000-nixos-system-first"
                .parse()
                .ok();
        let running = self.running.clone().or(first);
        let key = "AAAAC3NzaC1lZDI1NTE5AAAAIBoyqQ8Qg2q0Wk3dQ3v0l7m0o1m2b3c4d5e6f7g8h9iA";
        Report {
            format: 1,
            host: Some(host.clone()),
            identity: Identity {
                host_keys: vec![format!("ssh-ed25519 {key}")],
                machine_id: machine_id.clone(),
            },
            boot_id: machine_id,
            sequence: self.sequence,
            taken_at: Timestamp::now(),
            in_reply_to: self.attempt.as_ref().map(|a| a.order),
            greatest: self.attempt.as_ref().map(|a| a.order),
            agent: AgentInfo {
                version: "0.1.0".to_owned(),
                path: running.clone(),
                understands: vec![SYSTEM_V1.to_owned()],
            },
            running: Running {
                running: running.clone(),
                specialisation: None,
                profile: running.clone(),
                booted: running.clone(),
                boot_default: running.clone(),
                loader: "systemd-boot".to_owned(),
                reboot_required: Vec::new(),
                activation: Activation::Complete,
                failed_units: Vec::new(),
            },
            attempt: self.attempt.clone(),
            components: self
                .confirmed
                .iter()
                .map(|digest| ComponentReport {
                    name: "system".parse().expect("a DNS label"),
                    confirmed: Some(digest.clone()),
                    observed: Some(digest.clone()),
                    last: Some((digest.clone(), Outcome::Succeeded)),
                    quarantined: Vec::new(),
                })
                .collect(),
            other_managers: Vec::new(),
            watches: Vec::new(),
            keys: None,
            hold: None,
            warnings: Vec::new(),
        }
    }
}
