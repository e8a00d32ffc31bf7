//! The fleet's keys: one that signs intents, one that signs store paths. Made at the first start, readable by us alone.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::SigningKey;
use trueup_engine::ports::Signer;
use trueup_schema::wire::{INTENT_PAYLOAD_TYPE, Intent, Signed, key_text};

/// The key for intents, below the folder of keys: base 64 of its 32 bytes.
pub const INTENT_KEY: &str = "intent.key";
/// The key for store paths, as `nix key generate-secret` writes it.
pub const STORE_KEY: &str = "store.key";
/// A key file is a line.
const KEY_FILE_MAX: u64 = 4096;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file can't be read, made or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others may read it.
    #[error(
        "{path} can be read by others (mode {mode:o}): chmod 600 it, and think about who has it"
    )]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not a key.
    #[error("{path} holds no key: {why}")]
    NotAKey {
        /// Which.
        path: PathBuf,
        /// What is wrong; never its content.
        why: &'static str,
    },
}

/// Signs intents.
pub struct FleetKey {
    key: SigningKey,
}

impl std::fmt::Debug for FleetKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FleetKey({})", key_text(&self.key.verifying_key()))
    }
}

impl FleetKey {
    /// Reads it from `folder`, or makes it there.
    pub fn load_or_make(folder: &Path) -> Result<Self, KeyError> {
        let path = folder.join(INTENT_KEY);
        let text = load_or_make(&path, || Ok(BASE64.encode(random::<32>(&path)?)))?;
        let bytes: Option<[u8; 32]> = BASE64
            .decode(text.trim())
            .ok()
            .and_then(|b| b.try_into().ok());
        let bytes = bytes.ok_or(KeyError::NotAKey {
            path,
            why: "it must be 32 bytes in base 64",
        })?;
        Ok(Self {
            key: SigningKey::from_bytes(&bytes),
        })
    }
}

impl Signer for FleetKey {
    fn cluster(&self) -> String {
        key_text(&self.key.verifying_key())
    }
    fn sign(&self, intent: &Intent) -> Signed {
        let payload = serde_json::to_vec(intent).expect("maps of an intent have text keys");
        Signed::new(INTENT_PAYLOAD_TYPE, &payload, &self.key)
    }
}

/// The key for store paths: its file, and its public half as hosts have to trust it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreKey {
    /// For `nix store sign -k`.
    pub file: PathBuf,
    /// For `trusted-public-keys`: `name:base64`.
    pub public: String,
}

impl StoreKey {
    /// A given key file.
    pub fn load(file: &Path) -> Result<Self, KeyError> {
        Self::parse(file.to_owned(), &read_private(file)?)
    }

    /// Reads it from `folder`, or makes it there. `name` stands before the colon; people see it in `nix.conf`.
    pub fn load_or_make(folder: &Path, name: &str) -> Result<Self, KeyError> {
        let file = folder.join(STORE_KEY);
        let text = load_or_make(&file, || {
            // Nix' format (libsodium's): seed, then public key.
            let key = SigningKey::from_bytes(&random::<32>(&file)?);
            Ok(format!("{name}:{}", BASE64.encode(key.to_keypair_bytes())))
        })?;
        Self::parse(file, &text)
    }

    fn parse(file: PathBuf, text: &str) -> Result<Self, KeyError> {
        let public = text.trim().split_once(':').and_then(|(name, secret)| {
            let bytes: [u8; 64] = BASE64.decode(secret).ok()?.try_into().ok()?;
            let key = SigningKey::from_keypair_bytes(&bytes).ok()?;
            Some(format!("{name}:{}", key_text(&key.verifying_key())))
        });
        match public {
            Some(public) => Ok(Self { file, public }),
            None => Err(KeyError::NotAKey {
                path: file,
                why: "it must be as `nix key generate-secret` writes it: NAME:BASE64",
            }),
        }
    }
}

fn load_or_make(
    path: &Path,
    make: impl FnOnce() -> Result<String, KeyError>,
) -> Result<String, KeyError> {
    if path.exists() {
        return read_private(path);
    }
    let text = make()?;
    let err = |source| KeyError::File {
        path: path.to_owned(),
        source,
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder).map_err(err)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).map_err(err)?;
    let new = path.with_extension("new");
    let _left_by_a_crash = std::fs::remove_file(&new);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .map_err(err)?;
    file.write_all(text.as_bytes()).map_err(err)?;
    file.sync_all().map_err(err)?;
    std::fs::rename(&new, path).map_err(err)?;
    std::fs::File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(err)?;
    Ok(text)
}

fn read_private(path: &Path) -> Result<String, KeyError> {
    let err = |source| KeyError::File {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(err)?;
    let meta = file.metadata().map_err(err)?;
    let mode = meta.permissions().mode() & 0o777;
    // A credential of systemd is root's, and an access list lets us alone read it: the group's bits are that list's mask
    // then and say nothing (as ssh has it). What is ours must be ours alone.
    let ours = meta.uid() == rustix::process::geteuid().as_raw();
    if mode & (if ours { 0o077 } else { 0o007 }) != 0 {
        return Err(KeyError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = String::new();
    file.take(KEY_FILE_MAX)
        .read_to_string(&mut text)
        .map_err(err)?;
    Ok(text)
}

fn random<const N: usize>(for_file: &Path) -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(|source| KeyError::File {
            path: for_file.to_owned(),
            source,
        })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_for_us_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("keys");
        let first = FleetKey::load_or_make(&folder).unwrap().cluster();
        assert_eq!(FleetKey::load_or_make(&folder).unwrap().cluster(), first);
        let store = StoreKey::load_or_make(&folder, "fleet-1").unwrap();
        assert_eq!(StoreKey::load(&store.file).unwrap(), store);
        assert!(store.public.starts_with("fleet-1:"));
        std::fs::set_permissions(&store.file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            StoreKey::load(&store.file),
            Err(KeyError::Exposed { .. })
        ));
    }
}
