//! This machine: programs, files, keys, database, trunk, clock, controller.

use std::path::Path;
use std::time::Duration;

use trueup_engine::ports::Source as _;
use trueup_schema::kind::FleetManifests;

use super::super::client::Client;
use super::super::output::bytes;
use super::{Finding, bad, good, warning};
use crate::edge::db as db_edge;
use crate::edge::exec::{self, ExecSpec, Limits};
use crate::edge::keys::{FleetKey, INTENT_KEY, KeyError, StoreKey};
use crate::edge::nix::Nix;
use crate::edge::source::GitSource;
use crate::run;
use crate::settings::Settings;

/// No program that is asked for its version takes longer.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// A first fetch of a large repository over a thin line takes longer, and then this says so.
const TRUNK_LIMIT: Duration = Duration::from_secs(60);
/// A mirror, a few thousand logs, the database and its copy.
const STATE_FREE_MIN: u64 = 512 << 20;
/// systemd-timesyncd makes it once the clock was set.
const SYNCHRONIZED: &str = "/run/systemd/timesync/synchronized";

pub async fn programs(settings: &Settings, scratch: &Path) -> Vec<Finding> {
    let mut nix = run::nix_settings(settings, Path::new("").to_owned());
    nix.state = scratch.to_owned();
    let program = settings.nix_program.display();
    let mut found = vec![match Nix::new(nix).works().await {
        Ok(version) => good(format!(
            "nix: {version}, flakes on, store {}",
            settings.hub_store
        )),
        Err(why) => bad(
            format!("nix: {program}: {why}"),
            "install Nix (https://nixos.org/download), or set nix.program or hub.store in the settings",
        ),
    }];
    found.push(ssh().await);
    found.push(if Path::new(SYNCHRONIZED).exists() {
        good("clock: synchronised")
    } else {
        warning("clock: not known to be synchronised (systemd-timesyncd does not say so); hosts are compared below")
    });
    found
}

async fn ssh() -> Finding {
    let fix = "install OpenSSH's client";
    let mut spec = ExecSpec::new("ssh", ["-V"]);
    spec.env = run::environment();
    spec.limits = Limits {
        wall: ASK_LIMIT,
        ..Limits::default()
    };
    match exec::run(&spec).await {
        Ok(exit) if exit.ok() => {
            // It tells its version on standard error.
            let said = format!("{}{}", exit.out_text(), exit.err_text());
            good(format!("ssh: {}", said.lines().next().unwrap_or_default()))
        }
        Ok(exit) => bad(format!("ssh: {}", exit.err_text()), fix),
        Err(e) => bad(format!("ssh: {e}"), fix),
    }
}

pub fn files(settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    if settings.agent_packages.is_empty() {
        found.push(bad(
            "agent: no package is named",
            "add agent.packages: {x86_64-linux: PATH} to the settings",
        ));
    }
    for (system, path) in &settings.agent_packages {
        found.push(if path.exists() || path.starts_with("/nix/store") {
            good(format!("agent for {system}: {}", path.display()))
        } else {
            bad(
                format!("agent for {system}: {} is not there", path.display()),
                "build it: cargo xtask agent",
            )
        });
    }
    let named = [
        ("ssh.identityFile", &settings.ssh_identity_file),
        ("ssh.configFile", &settings.ssh_config_file),
        (
            "repository.credentials.sshKeyFile",
            &settings.repository.credentials.ssh_key_file,
        ),
        (
            "repository.credentials.tokenFile",
            &settings.repository.credentials.token_file,
        ),
        (
            "repository.credentials.knownHostsFile",
            &settings.repository.credentials.known_hosts_file,
        ),
    ];
    for (key, path) in named {
        let Some(path) = path else { continue };
        found.push(match std::fs::File::open(path) {
            Ok(_) => good(format!("{key}: {}", path.display())),
            Err(e) => bad(
                format!("{key}: {}: {e}", path.display()),
                format!("mend {key} in the settings, or put the file there"),
            ),
        });
    }
    found.extend(state(settings));
    found.push(intent_key(settings));
    found.push(key(settings));
    found.push(database(settings));
    found
}

/// Can the state be kept, and is there room for it?
fn state(settings: &Settings) -> Vec<Finding> {
    let dir = &settings.state_dir;
    // What is not made yet is made in the nearest folder above.
    let there = dir
        .ancestors()
        .find(|d| d.exists())
        .unwrap_or(Path::new("/"));
    let writable = rustix::fs::access(there, rustix::fs::Access::WRITE_OK).is_ok();
    if !writable {
        return vec![warning(format!(
            "state: {} can't be written by this user; whoever runs the controller has to",
            there.display()
        ))];
    }
    let Ok(fs) = rustix::fs::statvfs(there) else {
        return vec![warning(format!(
            "state: {}: how much is free is not known",
            there.display()
        ))];
    };
    let free = fs.f_bavail.saturating_mul(fs.f_frsize);
    let at = format!("state: {}, {} free", dir.display(), bytes(free));
    vec![if free < STATE_FREE_MIN {
        bad(
            format!(
                "{at}: logs, mirror and database need {}",
                bytes(STATE_FREE_MIN)
            ),
            "free some, or set stateDir in the settings",
        )
    } else {
        good(at)
    }]
}

fn intent_key(settings: &Settings) -> Finding {
    let folder = settings.state_dir.join("keys");
    let key = match &settings.intent_key_file {
        Some(file) => FleetKey::load(file, settings.next_intent_key_file.as_deref()),
        None if !folder.join(INTENT_KEY).exists() => {
            return good("key for intents: none yet; made at the first start");
        }
        None => FleetKey::load_or_make(&folder),
    };
    match key.map(|k| k.public()) {
        Ok((key, None)) => good(format!("key for intents: {key}")),
        Ok((key, Some(next))) => warning(format!(
            "key for intents: {key}, and {next} is to take its place: trueup keys status"
        )),
        Err(e) => bad(
            format!("key for intents: {e}"),
            "restore it from a backup: hosts take intents of this key alone",
        ),
    }
}

fn key(settings: &Settings) -> Finding {
    let own = settings
        .state_dir
        .join("keys")
        .join(crate::edge::keys::STORE_KEY);
    let path = match &settings.signing_key_file {
        Some(path) => path,
        None if !own.exists() => {
            return good("key for store paths: none yet; made at the first start");
        }
        None => &own,
    };
    match StoreKey::load(path) {
        Ok(key) => good(format!(
            "key for store paths: hosts trust {} (nix.settings.trusted-public-keys)",
            key.public
        )),
        Err(e) => {
            let fix = match &e {
                KeyError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                    format!(
                        "make it: nix key generate-secret --key-name NAME-1 > {0}; chmod 600 {0}\n\
                     or leave signing.keyFile out of the settings, for a key of trueup's own",
                        path.display()
                    )
                }
                KeyError::Exposed { .. } => format!("chmod 600 {}", path.display()),
                _ => "signing.keyFile is a file as `nix key generate-secret` writes it".to_owned(),
            };
            bad(format!("key for store paths: {e}"), fix)
        }
    }
}

fn database(settings: &Settings) -> Finding {
    let file = settings.db_folder().join(db_edge::FILE);
    if !file.exists() {
        return good(format!("database: none yet; made at {}", file.display()));
    }
    match db_edge::check(&file) {
        Ok(found) => good(format!("database: {} entries, all whole", found.entries)),
        Err(e) => bad(
            format!("database: {}: {e}", file.display()),
            "restore a backup (trueup db backup makes them), or see docs/guide.md, \"The database\"",
        ),
    }
}

/// Fetched into a folder of ours, as the controller would, with its credentials; its manifests tell the hosts.
pub async fn trunk(settings: &Settings, scratch: &Path) -> (Vec<Finding>, Option<FleetManifests>) {
    let fix = "mend repository.url, repository.branch or repository.credentials in the settings";
    let url = &settings.repository.url;
    let mut source = match run::source_settings(settings) {
        Ok(source) => source,
        Err(e) => return (vec![bad(format!("git trunk: {e}"), fix)], None),
    };
    source.state = scratch.to_owned();
    let source = GitSource::new(source);
    let Ok(fetched) = tokio::time::timeout(TRUNK_LIMIT, source.fetch(None)).await else {
        let secs = TRUNK_LIMIT.as_secs();
        let what =
            format!("git trunk: {url}: not fetched within {secs} s; the controller waits longer");
        return (vec![warning(what)], None);
    };
    let head = match fetched {
        Ok(head) => head,
        Err(e) => return (vec![bad(format!("git trunk: {e}"), fix)], None),
    };
    let mut found = vec![good(format!(
        "git trunk: {} \"{}\"",
        head.revision.short(),
        head.subject
    ))];
    match source.open(&head.revision).await {
        Ok(opened) => {
            found.push(good(format!(
                "manifests: {} hosts",
                opened.fleet.hosts.len()
            )));
            (found, Some(opened.fleet))
        }
        Err(e) => {
            found.push(bad(
                format!("manifests: {e}"),
                "trueup validate, in the fleet's repository",
            ));
            (found, None)
        }
    }
}

/// And whether it answers.
pub fn controller(client: &Client) -> (Finding, bool) {
    match client.version() {
        Ok(answer) => (
            good(format!("controller: trueup {} answers", answer.version)),
            true,
        ),
        Err(e) => {
            let fix = e.next.unwrap_or_else(|| "trueup run".to_owned());
            (bad(format!("controller: {}", e.message), fix), false)
        }
    }
}
