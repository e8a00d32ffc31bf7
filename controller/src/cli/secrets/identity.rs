//! Private keys: those named on the command line, else those where sops and ssh keep them. Asks for passphrases of named
//! keys only, and on a terminal only.

use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;
use trueup_secrets::{Error, Identities, is_sealed_key_file, needs_passphrase, open_key_file};

use super::{Failure, ask, file};

/// Which private keys open the file
#[derive(Debug, Default, clap::Args)]
pub(super) struct IdentityArgs {
    /// An age key file (AGE-SECRET-KEY-…)
    #[arg(long, value_name = "FILE")]
    identity: Vec<PathBuf>,
    /// A private SSH key, for files that name the SSH key itself
    #[arg(long, value_name = "FILE")]
    ssh_identity: Vec<PathBuf>,
    /// A private ed25519 SSH key, for files that name its age form (ssh-to-age)
    #[arg(long, value_name = "FILE")]
    ssh_to_age_identity: Vec<PathBuf>,
}

/// The keys, and what was left out of them.
#[derive(Debug)]
pub(super) struct Keys {
    pub identities: Identities,
    /// Known keys that need a passphrase and were not named.
    skipped: Vec<PathBuf>,
}

impl Keys {
    /// Says of a file that no key opens what else could be tried.
    pub fn explain(&self, path: &Path) -> impl FnOnce(Error) -> Failure {
        let (path, skipped) = (path.to_owned(), self.skipped.clone());
        let none = self.identities.is_empty();
        move |source| {
            let Error::NoKey { reason } = source else {
                return Failure::Format { path, source };
            };
            let names: Vec<_> = skipped.iter().map(|p| p.display().to_string()).collect();
            let reason = if !names.is_empty() {
                format!(
                    "{reason}; not tried, since a passphrase is needed: {} (name it with --ssh-identity)",
                    names.join(", ")
                )
            } else if none {
                format!(
                    "{reason}; there is no private key: name one with --identity or --ssh-identity, or set SOPS_AGE_KEY_FILE"
                )
            } else {
                reason
            };
            Failure::Format {
                path,
                source: Error::NoKey { reason },
            }
        }
    }
}

impl IdentityArgs {
    /// Named keys alone, where any is named; else all that is found.
    pub fn load(&self) -> Result<Keys, Failure> {
        let named = self.identity.len() + self.ssh_identity.len() + self.ssh_to_age_identity.len();
        if named == 0 {
            return found();
        }
        let mut identities = Identities::new();
        for path in &self.identity {
            add_age(&mut identities, path)?;
        }
        for path in &self.ssh_identity {
            let (pem, passphrase) = ssh(path)?;
            let added = identities.add_ssh(&pem, passphrase.as_ref());
            added.map_err(Failure::format(path))?;
        }
        for path in &self.ssh_to_age_identity {
            let (pem, passphrase) = ssh(path)?;
            let added = identities.add_ssh_to_age(&pem, passphrase.as_ref());
            added.map_err(Failure::format(path))?;
        }
        Ok(Keys {
            identities,
            skipped: Vec::new(),
        })
    }
}

type Ssh = (zeroize::Zeroizing<Vec<u8>>, Option<secrecy::SecretString>);

fn ssh(path: &Path) -> Result<Ssh, Failure> {
    let pem = file::read(path)?;
    let passphrase = needs_passphrase(&pem)
        .then(|| passphrase(path))
        .transpose()?;
    Ok((pem, passphrase))
}

fn passphrase(path: &Path) -> Result<secrecy::SecretString, Failure> {
    ask::passphrase(&path.display().to_string()).ok_or_else(|| {
        Failure::Refused(format!(
            "{} needs a passphrase, and there is no terminal to ask on; give a key without one",
            path.display()
        ))
    })
}

fn add_age(identities: &mut Identities, path: &Path) -> Result<(), Failure> {
    let bytes = file::read(path)?;
    let fail = Failure::format(path);
    if is_sealed_key_file(&bytes) {
        let passphrase = passphrase(path)?;
        let text = open_key_file(&bytes, &passphrase);
        let added = text.and_then(|text| identities.add_age(text.expose_secret()));
        return added.map_err(fail);
    }
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Failure::Refused(format!("{} is not an age key file", path.display())))?;
    identities.add_age(text).map_err(fail)
}

/// Where sops and ssh keep keys. What is not there, or not ours to read, is passed over.
fn found() -> Result<Keys, Failure> {
    let mut keys = Keys {
        identities: Identities::new(),
        skipped: Vec::new(),
    };
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    if let Some(text) = std::env::var("SOPS_AGE_KEY").ok().filter(|t| !t.is_empty()) {
        let text = zeroize::Zeroizing::new(text);
        let added = keys.identities.add_age(&text);
        added.map_err(Failure::format(Path::new("$SOPS_AGE_KEY")))?;
    }
    if let Some(path) = var("SOPS_AGE_KEY_FILE") {
        add_age(&mut keys.identities, Path::new(&path))?;
    }
    let home = var("HOME").map(PathBuf::from);
    let config = var("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(home.as_ref()?.join(".config")));
    if let Some(path) = config
        .map(|c| c.join("sops/age/keys.txt"))
        .filter(|p| p.exists())
    {
        let sealed = file::read(&path).is_ok_and(|bytes| is_sealed_key_file(&bytes));
        if sealed {
            keys.skipped.push(path);
        } else {
            add_age(&mut keys.identities, &path)?;
        }
    }
    let mut ssh: Vec<PathBuf> = var("SOPS_AGE_SSH_PRIVATE_KEY_FILE")
        .map(PathBuf::from)
        .into_iter()
        .collect();
    for name in ["id_ed25519", "id_rsa"] {
        ssh.extend(home.as_ref().map(|h| h.join(".ssh").join(name)));
    }
    if rustix::process::geteuid().is_root() {
        for kind in ["ed25519", "rsa"] {
            ssh.push(format!("/etc/ssh/ssh_host_{kind}_key").into());
        }
    }
    for path in ssh.into_iter().filter(|p| p.exists()) {
        let Ok(pem) = file::read(&path) else { continue };
        if needs_passphrase(&pem) {
            keys.skipped.push(path);
        } else {
            // A key of a kind that age does not have is no reason to stop.
            let _unsuitable = keys.identities.add_host_key(&pem);
        }
    }
    Ok(keys)
}
