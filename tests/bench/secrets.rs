//! A thousand secrets on a host: opened, written, linked, by the agent's own code in this process, in memory. What can't
//! be avoided is one age unwrap a file: it is measured by itself, and the promise is about the rest.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use secrecy::ExposeSecret as _;
use trueup_agent::files::Layout;
use trueup_agent::secrets::{Places, restore};
use trueup_schema::kind::{FileMode, Owner, SecretFormat};
use trueup_schema::wire::{
    SECRETS_BYTES_MAX, SecretFile, SecretPlace, SecretsGoal, secrets_digest,
};
use trueup_secrets::{EncryptSpec, Format, Identities, Recipient, ScopeRule, agenix};

use crate::numbers::{Outcome, Series};

const SECRETS: usize = 1000;
/// How the thousand are spread over files.
const FILES: [usize; 3] = [1, 10, 100];
const RUNS: usize = 10;
/// Promise of issue 3, in milliseconds, beyond the unwraps.
const MAX: f64 = 1000.0;

pub fn run(outcome: &mut Outcome) -> Result<()> {
    let memory = Path::new("/dev/shm");
    ensure!(memory.is_dir(), "there is no /dev/shm to write to");
    let dir = tempfile::tempdir_in(memory)?;
    let (secret, recipient) = trueup_secrets::generate_identity();
    let key = dir.path().join("key");
    fs::write(&key, secret.expose_secret())?;
    let mut identities = Identities::new();
    identities.add_age(secret.expose_secret())?;
    let unwrap = unwrap(&identities, &recipient)?;
    let one = unwrap.median();
    outcome.row("one age unwrap", "ms", unwrap);
    for files in FILES {
        let goal = goal(files, SECRETS, &recipient, &key)?;
        measure(outcome, &goal, one, dir.path())?;
    }
    // A file for each: fewer than a thousand fit into an intent.
    let mut most = 0;
    for files in (100..=SECRETS).step_by(50) {
        if bytes(&goal(files, files, &recipient, &key)?) > SECRETS_BYTES_MAX {
            break;
        }
        most = files;
    }
    let each = goal(most, most, &recipient, &key)?;
    measure(outcome, &each, one, dir.path())?;
    outcome.note(format!(
        "an intent holds {SECRETS_BYTES_MAX} bytes of secrets: of files with one value each about {most} fit, which is the last row"
    ));
    outcome.note("keys of the kind X25519; an ssh-rsa key takes longer for each file".to_owned());
    Ok(())
}

fn bytes(goal: &SecretsGoal) -> usize {
    serde_json::to_string(goal).map_or(usize::MAX, |text| text.len())
}

fn measure(outcome: &mut Outcome, goal: &SecretsGoal, one: f64, dir: &Path) -> Result<()> {
    let (secrets, files) = (goal.secrets.len(), goal.files.len());
    let size = bytes(goal);
    ensure!(size <= SECRETS_BYTES_MAX, "{size} bytes fit in no intent");
    let mut took = Series::default();
    for n in 0..RUNS {
        let at = dir.join(format!("{files}-{n}"));
        took.add(apply(goal, &at)?);
        fs::remove_dir_all(&at)?;
    }
    let beyond = took.median() - one * files as f64;
    let what = format!("{secrets} secrets from {files} files ({} KiB)", size >> 10);
    outcome.row(&what, "ms", took);
    outcome.promise(
        format!("{what}: {beyond:.0} ms beyond {files} unwraps, less than {MAX:.0}"),
        beyond < MAX,
    );
    Ok(())
}

fn unwrap(identities: &Identities, recipient: &Recipient) -> Result<Series> {
    let entry = agenix::Entry {
        recipients: vec![recipient.clone()],
        armor: true,
    };
    let sealed = agenix::encrypt(&[7; 32], &entry)?;
    let mut took = Series::default();
    for _ in 0..RUNS {
        let began = Instant::now();
        agenix::decrypt(&sealed, identities)?;
        took.add(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(took)
}

fn goal(files: usize, secrets: usize, recipient: &Recipient, key: &Path) -> Result<SecretsGoal> {
    let each = secrets / files;
    let spec = EncryptSpec {
        groups: vec![vec![recipient.clone()]],
        shamir_threshold: None,
        rule: ScopeRule::Default,
        mac_only_encrypted: false,
        now: "2026-11-22T01:02:03Z".parse()?,
    };
    let mut goal = SecretsGoal {
        identity_files: vec![key.display().to_string()],
        ..SecretsGoal::default()
    };
    for file in 0..files {
        let lines = (0..each).map(|n| format!("key-{n}: the value of {file} and {n}\n"));
        let plain: String = lines.collect();
        let sealed = trueup_secrets::encrypt(plain.as_bytes(), Format::Yaml, &spec)?;
        goal.files.push(SecretFile {
            source: format!("secrets/{file}.yaml"),
            format: SecretFormat::Yaml,
            text: Some(String::from_utf8(sealed)?),
            data: None,
        });
        goal.secrets.extend((0..each).map(|n| SecretPlace {
            name: format!("s-{file}-{n}"),
            file,
            key: Some(format!("key-{n}")),
            path: None,
            owner: Owner::root(),
            group: None,
            mode: FileMode::FILE,
            directory_mode: FileMode::DIRECTORY,
            needed_for_users: false,
            restart_units: Vec::new(),
            reload_units: Vec::new(),
        }));
    }
    Ok(goal)
}

/// As after a boot: nothing is there, the ciphertext is.
fn apply(goal: &SecretsGoal, at: &Path) -> Result<f64> {
    let layout = Layout {
        root: at.join("state"),
    };
    fs::create_dir_all(&layout.root)?;
    let kept = serde_json::json!({"digest": secrets_digest(goal), "goal": goal});
    fs::write(layout.root.join("secrets.json"), kept.to_string())?;
    let places = Places {
        root: at.join("run"),
        mount: false,
    };
    let began = Instant::now();
    let count = restore(&layout, &places, false).context("applying the secrets")?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    ensure!(count == goal.secrets.len(), "{count} secrets");
    let last = fs::read_to_string(at.join("run/secrets/s-0-0"))?;
    ensure!(last == "the value of 0 and 0", "another value");
    Ok(took)
}
