//! From inputs to settings: fills in the defaults and finds every value that can't be, all at once.

use std::path::{Path, PathBuf};

use trueup_schema::kind::Duration;

use super::fragment::{Fragment, LimitsFragment, RepositoryFragment};
use super::{DEFAULT_SOCKET, DEFAULT_STATE_DIR, Limits, Repository, Settings, SettingsError};

/// Polling more often than this is an attack on the Git host.
const INTERVAL_MIN: Duration = Duration::from_secs(5);
/// Less often than this, nobody would call it continuous.
const INTERVAL_MAX: Duration = Duration::from_mins(24 * 60);

/// Fills in the defaults and finds every value that can't be.
pub fn validate(inputs: Fragment) -> Result<Settings, SettingsError> {
    let mut wrong = Vec::new();
    let state_dir = inputs
        .state_dir
        .unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR));
    absolute(&mut wrong, "stateDir", Some(&state_dir));
    absolute(&mut wrong, "listen.socket", inputs.listen.socket.as_deref());
    let signing = &inputs.signing;
    for (key, file, of) in [
        ("keyFile", &signing.key_file, &signing.key_file),
        ("nextKeyFile", &signing.next_key_file, &signing.key_file),
        (
            "intentKeyFile",
            &signing.intent_key_file,
            &signing.intent_key_file,
        ),
        (
            "nextIntentKeyFile",
            &signing.next_intent_key_file,
            &signing.intent_key_file,
        ),
    ] {
        let key = format!("signing.{key}");
        absolute(&mut wrong, &key, file.as_deref());
        if file.is_some() && of.is_none() {
            wrong.push(format!(
                "{key} is given without the key before it; trueup's own keys: trueup keys rotate"
            ));
        }
    }
    absolute(
        &mut wrong,
        "ssh.identityFile",
        inputs.ssh.identity_file.as_deref(),
    );
    absolute(
        &mut wrong,
        "ssh.configFile",
        inputs.ssh.config_file.as_deref(),
    );
    for (system, path) in &inputs.agent.packages {
        absolute(&mut wrong, &format!("agent.packages.{system}"), Some(path));
    }
    let repository = repository(inputs.repository, &mut wrong);
    let hub_store = inputs.hub.store.unwrap_or_else(|| "auto".to_owned());
    if hub_store.is_empty() || hub_store.starts_with('-') {
        wrong.push(format!(
            "hub.store is `{hub_store}`: give a store as Nix writes it, such as `auto` or `daemon`"
        ));
    } else if hub_store.starts_with("ssh") && !hub_store.starts_with("ssh-ng://") {
        wrong.push("hub.store: a hub on another machine is `ssh-ng://root@HOST`".to_owned());
    }
    let limits = limits(&inputs.limits, &mut wrong);
    if !wrong.is_empty() {
        return Err(SettingsError::Invalid(wrong));
    }
    Ok(Settings {
        repository,
        socket: inputs
            .listen
            .socket
            .unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET)),
        hub_store,
        signing_key_file: inputs.signing.key_file,
        next_signing_key_file: inputs.signing.next_key_file,
        intent_key_file: inputs.signing.intent_key_file,
        next_intent_key_file: inputs.signing.next_intent_key_file,
        state_dir,
        ssh_identity_file: inputs.ssh.identity_file,
        ssh_config_file: inputs.ssh.config_file,
        agent_packages: inputs.agent.packages,
        nix_program: inputs.nix.program.unwrap_or_else(|| PathBuf::from("nix")),
        limits,
    })
}

fn absolute(wrong: &mut Vec<String>, key: &str, path: Option<&Path>) {
    if let Some(path) = path.filter(|p| !p.is_absolute()) {
        wrong.push(format!(
            "{key} is `{}`: write the whole path, from `/`",
            path.display()
        ));
    }
}

fn repository(given: RepositoryFragment, wrong: &mut Vec<String>) -> Repository {
    let url = match given.url {
        Some(path) if path.starts_with('/') => format!("file://{path}"),
        Some(url)
            if ["file:///", "ssh://", "https://"]
                .iter()
                .any(|s| url.starts_with(s)) =>
        {
            url
        }
        Some(other) => {
            wrong.push(format!(
                "repository.url is `{other}`: use file:///…, ssh://… or https://…"
            ));
            other
        }
        None => {
            wrong.push(
                "repository.url is not given: add it to the settings, or pass --repository URL"
                    .to_owned(),
            );
            String::new()
        }
    };
    let branch = given.branch.unwrap_or_else(|| "main".to_owned());
    if trueup_schema::Revision::new(&branch, &"0".repeat(40)).is_err() {
        wrong.push(format!(
            "repository.branch is `{branch}`: not the name of a branch"
        ));
    }
    let path = given.path.unwrap_or_else(|| "fleet".to_owned());
    if path.starts_with('/') || path.split('/').any(|p| p == "..") {
        wrong.push(format!(
            "repository.path is `{path}`: a folder inside the repository, without `..`"
        ));
    }
    let interval = given.interval.unwrap_or(Duration::from_secs(60));
    if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) {
        wrong.push(format!(
            "repository.interval is {interval}: {INTERVAL_MIN} to {INTERVAL_MAX}"
        ));
    }
    Repository {
        url,
        branch,
        path,
        interval: interval.get(),
        credentials: given.credentials,
    }
}

fn limits(given: &LimitsFragment, wrong: &mut Vec<String>) -> Limits {
    let d = Limits::default();
    let mut bounded = |key: &str, value: u64, low: u64, high: u64| {
        if !(low..=high).contains(&value) {
            wrong.push(format!("limits.{key} is {value}: {low} to {high}"));
        }
        value.clamp(low, high)
    };
    let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Limits {
        evaluations: count(bounded(
            "evaluations",
            given.evaluations.unwrap_or(d.evaluations).into(),
            1,
            64,
        )),
        builds: count(bounded(
            "builds",
            given.builds.unwrap_or(d.builds).into(),
            1,
            256,
        )),
        evaluation_memory_mib: bounded(
            "evaluationMemoryMiB",
            given
                .evaluation_memory_mib
                .unwrap_or(d.evaluation_memory_mib),
            256,
            1 << 20,
        ),
        evaluation_timeout: given
            .evaluation_timeout
            .map_or(d.evaluation_timeout, Duration::get),
        build_silence: given.build_silence.map_or(d.build_silence, Duration::get),
        released_roots: given.released_roots.map_or(d.released_roots, Duration::get),
    }
}
