//! What a host is sent: the ciphertext of each file that it gets a secret of, once, and where the values go.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use trueup_schema::HostName;
use trueup_schema::kind::{FleetManifests, ResolvedHost, ResolvedSecret, ResolvedTemplate};
use trueup_schema::wire::{
    Goal, SECRETS_BYTES_MAX, SecretFile, SecretPlace, SecretTemplate, SecretsGoal, secrets_digest,
};

use super::Found;

/// Why a host's secrets can't be sent.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GoalError {
    /// A file went away between check and reading.
    #[error("Secret `{secret}`: there is no file `{source_file}` in the repository")]
    Missing {
        /// Whose.
        secret: String,
        /// Which.
        source_file: String,
    },
    /// They don't fit into one intent.
    #[error(
        "the secrets of host `{host}` come to {bytes} bytes of ciphertext, and at most {max} fit: put fewer files on it, or several values into one file"
    )]
    TooLarge {
        /// Whose.
        host: HostName,
        /// How much.
        bytes: usize,
        /// How much fits.
        max: usize,
    },
}

/// A `secrets` goal for every host, also for those without any: theirs is empty, and takes away what they had.
pub fn goals(
    fleet: &FleetManifests,
    read: &dyn Fn(&str) -> Found,
) -> Result<BTreeMap<HostName, Goal>, Vec<GoalError>> {
    let (mut goals, mut errors) = (BTreeMap::new(), Vec::new());
    let mut files: BTreeMap<&str, Option<SecretFile>> = BTreeMap::new();
    for secret in fleet.secrets.values() {
        files
            .entry(&secret.source)
            .or_insert_with(|| file(secret, read));
    }
    for host in fleet.hosts.values() {
        match goal(fleet, host, &files) {
            Ok(goal) => {
                goals.insert(host.name.clone(), goal);
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() {
        Ok(goals)
    } else {
        Err(errors)
    }
}

/// Text travels as text, which is a quarter shorter.
fn file(secret: &ResolvedSecret, read: &dyn Fn(&str) -> Found) -> Option<SecretFile> {
    let Found::File(bytes) = read(&secret.source) else {
        return None;
    };
    let (text, data) = match String::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(not_text) => (None, Some(STANDARD.encode(not_text.as_bytes()))),
    };
    Some(SecretFile {
        source: secret.source.clone(),
        format: secret.format,
        text,
        data,
    })
}

fn goal(
    fleet: &FleetManifests,
    host: &ResolvedHost,
    files: &BTreeMap<&str, Option<SecretFile>>,
) -> Result<Goal, GoalError> {
    let mut body = SecretsGoal {
        files: Vec::new(),
        secrets: Vec::new(),
        templates: Vec::new(),
        identity_files: host.secrets.identity_files.clone(),
        settle_secs: host.activation.settle.as_secs(),
    };
    let mine = fleet
        .secrets
        .values()
        .filter(|s| s.hosts.contains(&host.name));
    for secret in mine {
        let known = body.files.iter().position(|f| f.source == secret.source);
        let at = match (known, files.get(secret.source.as_str())) {
            (Some(at), _) => at,
            (None, Some(Some(file))) => {
                body.files.push(file.clone());
                body.files.len() - 1
            }
            (None, _) => {
                return Err(GoalError::Missing {
                    secret: secret.name.clone(),
                    source_file: secret.source.clone(),
                });
            }
        };
        body.secrets.push(place(secret, at));
        body.templates.extend(secret.templates.iter().map(template));
    }
    let value = serde_json::to_value(&body).unwrap_or_default();
    let bytes = value.to_string().len();
    if bytes > SECRETS_BYTES_MAX {
        return Err(GoalError::TooLarge {
            host: host.name.clone(),
            bytes,
            max: SECRETS_BYTES_MAX,
        });
    }
    Ok(Goal {
        component: "secrets".parse().expect("a DNS label"),
        digest: secrets_digest(&body),
        body: value,
    })
}

fn place(secret: &ResolvedSecret, file: usize) -> SecretPlace {
    SecretPlace {
        name: secret.name.clone(),
        file,
        key: secret.key.clone(),
        path: secret.path.clone(),
        owner: secret.owner.clone(),
        group: secret.group.clone(),
        mode: secret.mode,
        directory_mode: secret.directory_mode,
        needed_for_users: secret.needed_for_users,
        restart_units: secret.restart_units.clone(),
        reload_units: secret.reload_units.clone(),
    }
}

fn template(template: &ResolvedTemplate) -> SecretTemplate {
    SecretTemplate {
        name: template.name.clone(),
        content: template.content.clone(),
        path: template.path.clone(),
        owner: template.owner.clone(),
        group: template.group.clone(),
        mode: template.mode,
        restart_units: template.restart_units.clone(),
        reload_units: template.reload_units.clone(),
    }
}
