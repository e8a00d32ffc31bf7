//! `trueup run`: opens the database, makes the edges, and runs the engine until it is told to stop. Wiring only.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use trueup_engine::ports::{Hosts, Signer as _};
use trueup_engine::{Engine, EngineError, Ports, WAKES, Wake};

use crate::api;
use crate::crash;
use crate::edge::db::{OpenError, SqliteDb};
use crate::edge::keys::KeyError;
use crate::edge::nix::{Nix, NixSettings, SigningRing};
use crate::edge::source::{Bounds, Credentials, Desired, GitSource, ReadFile, SourceSettings};
use crate::edge::ssh::{Masters, SshHosts, SshSettings};
use crate::edge::tokio_rt::TokioRt;
use crate::edge::webhook::Webhooks;
use crate::keyroom::KeyRoom;
use crate::settings::Settings;

/// What programs that we start get of our environment, and nothing else.
const PASSED_ON: [&str; 10] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "TMPDIR",
    "SSH_AUTH_SOCK",
    "XDG_RUNTIME_DIR",
    "NIX_SSL_CERT_FILE",
    "NIX_REMOTE",
];
/// Nix' name for the store that it chooses itself.
const AUTO: &str = "auto";
/// What hosts' `trusted-public-keys` call the key that is made at first start.
pub(crate) const STORE_KEY_NAME: &str = "trueup-1";

/// Why the controller does not run (any more).
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The runtime or a folder.
    #[error("{attempt}: {source}")]
    System {
        /// What was attempted.
        attempt: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The database.
    #[error(transparent)]
    Db(#[from] OpenError),
    /// Keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The API.
    #[error(transparent)]
    Api(#[from] api::ServeError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A key that a person gave is not replaced by one that no host trusts.
    #[error(
        "signing.keyFile is {p}, which is not there: make it (nix key generate-secret --key-name NAME-1 > {p}; chmod 600 {p}), \
         or leave signing.keyFile out, for a key of trueup's own", p = path.display()
    )]
    NoSigningKey {
        /// Where it should be.
        path: PathBuf,
    },
    /// There is no `nix`.
    #[error("{0}; nix.program in trueup.yaml names it")]
    Nix(#[from] crate::edge::exec::ExecError),
    /// A file that the settings name.
    #[error("reading {}, which trueup.yaml names: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl RunError {
    /// The settings are wrong, as opposed to the world.
    #[must_use]
    pub fn is_settings(&self) -> bool {
        matches!(self, Self::NoSigningKey { .. } | Self::Read { .. })
    }
}

fn system(attempt: &'static str) -> impl FnOnce(std::io::Error) -> RunError {
    move |source| RunError::System { attempt, source }
}

/// Runs until SIGTERM or SIGINT. Stopping is a crash that was announced: whatever is under way goes on from the
/// database and from what the hosts report.
pub fn run(settings: &Settings) -> Result<(), RunError> {
    start(settings, None)
}

/// The same with hosts of the caller's behind the port: for benchmarks of the whole controller without a fleet.
pub fn run_over(settings: &Settings, hosts: Rc<dyn Hosts>) -> Result<(), RunError> {
    start(settings, Some(hosts))
}

fn start(settings: &Settings, hosts: Option<Rc<dyn Hosts>>) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("starting the runtime"))?;
    let masters = OnceCell::new();
    let ended = tokio::task::LocalSet::new().block_on(&runtime, serve(settings, hosts, &masters));
    // All tasks are gone, and with them whoever could open another connection.
    if let Some(masters) = masters.get() {
        runtime.block_on(Masters::end_all(masters));
    }
    ended
}

async fn serve(
    settings: &Settings,
    hosts: Option<Rc<dyn Hosts>>,
    masters: &OnceCell<Masters>,
) -> Result<(), RunError> {
    let db = match crash::layout() {
        Some(older) => SqliteDb::open_as(&settings.db_folder(), older)?,
        None => SqliteDb::open(&settings.db_folder())?,
    };
    let told = db.told().map(str::to_owned);
    if let Some(told) = &told {
        tracing::warn!("{told}");
    }
    let (wake, wakes) = mpsc::channel(WAKES);
    let term = db.term();
    let keys = KeyRoom::open(settings)?;
    let (mut ports, nix) = ports(settings, &db, &keys, masters).await?;
    if let Some(hosts) = hosts {
        ports.hosts = hosts;
    }
    let server = api::serve(
        &settings.socket,
        api::State {
            db,
            fence: term,
            // Full means that the engine has yet to read what all of these tell it to read.
            wake: Arc::new(move |w: Wake| drop(wake.try_send(w))),
            logs_dir: settings.logs_dir(),
            keys: Arc::new(keys.with(nix)),
            machine_id: machine_id(),
        },
    )?;
    tracing::info!(
        repository = %settings.repository.url, socket = %settings.socket.display(), term = term.0,
        "trueup {} runs", env!("CARGO_PKG_VERSION"),
    );
    let engine = Engine::run(ports, engine_settings(settings, term, told), wakes);
    let mut term_signal = signal(SignalKind::terminate()).map_err(system("waiting for signals"))?;
    let mut int_signal = signal(SignalKind::interrupt()).map_err(system("waiting for signals"))?;
    let ended = tokio::select! {
        ended = engine => ended.map_err(RunError::from),
        _ = term_signal.recv() => Ok(()),
        _ = int_signal.recv() => Ok(()),
    };
    server.stop();
    ended
}

fn engine_settings(
    settings: &Settings,
    fence: trueup_engine::ports::Fence,
    told_at_start: Option<String>,
) -> trueup_engine::Settings {
    trueup_engine::Settings {
        fence,
        poll_interval: settings.repository.interval,
        // Of derivations; of processes the edge holds the limit itself.
        max_builds: settings.limits.builds as usize * crate::edge::nix::GROUP_MAX,
        released_roots: settings.limits.released_roots,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine_id: machine_id(),
        told_at_start,
        ..trueup_engine::Settings::default()
    }
}

/// Where there is none, the controller is on no host of a fleet.
fn machine_id() -> Option<String> {
    let id = std::fs::read_to_string("/etc/machine-id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// What programs that we start get of our environment.
pub(crate) fn environment() -> BTreeMap<String, OsString> {
    let var = |name: &str| Some((name.to_owned(), std::env::var_os(name)?));
    PASSED_ON.iter().filter_map(|name| var(name)).collect()
}

/// Where the hub's store keeps its roots: a store in a folder has them below that folder.
fn roots_of(store: &str) -> PathBuf {
    let base = if store.starts_with('/') {
        Path::new(store)
    } else {
        Path::new("/")
    };
    base.join("nix/var/nix/gcroots/trueup")
}

/// Nix as the settings have it.
pub(crate) fn nix_settings(settings: &Settings, signing_key: PathBuf) -> NixSettings {
    NixSettings {
        program: settings.nix_program.clone(),
        store: hub(settings),
        env: environment(),
        config: std::env::var("NIX_CONFIG").unwrap_or_default(),
        state: settings.state_dir.clone(),
        roots: roots_of(&settings.hub_store),
        evaluation_memory: settings.limits.evaluation_memory_mib << 20,
        evaluation_wall: settings.limits.evaluation_timeout,
        evaluations: settings.limits.evaluations as usize,
        builds: settings.limits.builds as usize,
        evaluation_store_max: crate::edge::nix::EVALUATION_STORE_MAX,
        build_silence: settings.limits.build_silence,
        signing_key,
        ring: SigningRing::default(),
    }
}

/// ssh as the settings have it.
pub(crate) fn ssh_settings(settings: &Settings, pin: String, store_key: String) -> SshSettings {
    let mut env = environment();
    let nix_config = std::env::var("NIX_CONFIG").unwrap_or_default();
    let config = format!("extra-experimental-features = nix-command flakes\n{nix_config}");
    env.insert("NIX_CONFIG".to_owned(), config.into());
    SshSettings {
        ssh: "ssh".into(),
        nix: settings.nix_program.clone(),
        env,
        identity: settings.ssh_identity_file.clone(),
        config: settings.ssh_config_file.clone(),
        run_dir: settings.state_dir.join("ssh"),
        hub: hub(settings),
        agents: settings.agent_packages.clone(),
        pin,
        book: None,
        store_key,
    }
}

fn hub(settings: &Settings) -> Option<String> {
    (settings.hub_store != AUTO).then(|| settings.hub_store.clone())
}

async fn ports(
    settings: &Settings,
    db: &SqliteDb,
    keys: &KeyRoom,
    masters: &OnceCell<Masters>,
) -> Result<(Ports, Nix), RunError> {
    let mut nix = nix_settings(settings, keys.store_key().file);
    nix.ring = keys.ring();
    let nix = Nix::new(nix);
    let key = keys.fleet_key().clone();
    let mut ssh = ssh_settings(settings, key.cluster(), keys.store_key().public);
    ssh.book = Some(Rc::new(keys.clone()));
    let hosts = SshHosts::new(ssh).map_err(system("making the folder for ssh's sockets"))?;
    masters.get_or_init(|| hosts.masters());
    let for_keys = nix.clone();
    let nix = Rc::new(nix);
    let ports = Ports {
        db: Rc::new(db.clone()),
        source: Rc::new(GitSource::new(source_settings(settings)?)),
        evaluator: nix.clone(),
        builder: nix.clone(),
        publisher: nix,
        hosts: Rc::new(hosts),
        signer: Rc::new(key),
        alerts: Rc::new(Webhooks),
        rt: Rc::new(TokioRt::new()),
        crash: crash::hook(),
    };
    Ok((ports, for_keys))
}

/// Manifests with their encrypted files: what holds, and what each host is sent of them.
fn desired(files: &[(String, Vec<u8>)], file: ReadFile<'_>) -> Result<Desired, Vec<String>> {
    use crate::secrets::{Found, Repository, goals};
    // What a commit has, Git tracks.
    let read = |source: &str| file(source).map_or(Found::Missing, Found::File);
    let repository = Repository::new(&read);
    let fleet = trueup_schema::manifest::resolve_with(files, Some(&repository))
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let secrets = goals(&fleet, &read)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    Ok(Desired { fleet, secrets })
}

/// The trunk as the settings have it.
pub(crate) fn source_settings(settings: &Settings) -> Result<SourceSettings, RunError> {
    let repository = &settings.repository;
    let read = |path: &Option<PathBuf>| match path {
        None => Ok(None),
        Some(path) => match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(text)),
            Err(source) => Err(RunError::Read {
                path: path.clone(),
                source,
            }),
        },
    };
    let known = read(&repository.credentials.known_hosts_file)?.unwrap_or_default();
    let token = read(&repository.credentials.token_file)?;
    Ok(SourceSettings {
        url: repository.url.clone(),
        branch: repository.branch.clone(),
        fleet: repository.path.clone(),
        state: settings.state_dir.clone(),
        credentials: Credentials {
            ssh_key: repository.credentials.ssh_key_file.clone(),
            known_hosts: known.lines().map(str::to_owned).collect(),
            user: repository.credentials.username.clone(),
            token: token.map(|t| t.trim().to_owned()),
        },
        bounds: Bounds::default(),
        read: desired,
    })
}
