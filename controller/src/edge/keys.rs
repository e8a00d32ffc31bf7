//! The fleet's keys: one that signs intents, one that signs store paths. Made at the first start, readable by us alone.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::SigningKey;
use trueup_engine::ports::Signer;
use trueup_schema::wire::{
    FORMAT, INTENT_PAYLOAD_TYPE, Intent, KEYS_PAYLOAD_TYPE, KeyList, KeysReport, Signed,
    WATCH_PAYLOAD_TYPE, Watch, key_text,
};

/// The key for intents, below the folder of keys: base 64 of its 32 bytes.
pub const INTENT_KEY: &str = "intent.key";
/// The key for store paths, as `nix key generate-secret` writes it.
pub const STORE_KEY: &str = "store.key";
/// The next keys, while a rotation is under way.
pub const NEXT_INTENT_KEY: &str = "intent.next.key";
/// See [`NEXT_INTENT_KEY`].
pub const NEXT_STORE_KEY: &str = "store.next.key";
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

/// Signs intents, and tells hosts whom to obey. One value behind all its clones, so that a rotation reaches them while the
/// controller runs.
#[derive(Clone)]
pub struct FleetKey {
    ring: Arc<RwLock<Ring>>,
}

struct Ring {
    current: SigningKey,
    /// Comes after it: until the rotation is finished both sign, and hosts obey both.
    next: Option<SigningKey>,
}

impl std::fmt::Debug for FleetKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FleetKey({})", self.public().0)
    }
}

fn intent_key(path: PathBuf, text: &str) -> Result<SigningKey, KeyError> {
    let bytes: Option<[u8; 32]> = BASE64
        .decode(text.trim())
        .ok()
        .and_then(|b| b.try_into().ok());
    let bytes = bytes.ok_or(KeyError::NotAKey {
        path,
        why: "it must be 32 bytes in base 64",
    })?;
    Ok(SigningKey::from_bytes(&bytes))
}

impl FleetKey {
    /// Reads it from `folder`, or makes it there.
    pub fn load_or_make(folder: &Path) -> Result<Self, KeyError> {
        let path = folder.join(INTENT_KEY);
        let text = load_or_make(&path, || Ok(BASE64.encode(random::<32>(&path)?)))?;
        let next = folder.join(NEXT_INTENT_KEY);
        let next = match next.exists() {
            true => Some(intent_key(next.clone(), &read_private(&next)?)?),
            false => None,
        };
        Ok(Self::of(intent_key(path, &text)?, next))
    }

    /// Keys that a person gave.
    pub fn load(file: &Path, next: Option<&Path>) -> Result<Self, KeyError> {
        let read = |file: &Path| intent_key(file.to_owned(), &read_private(file)?);
        Ok(Self::of(read(file)?, next.map(read).transpose()?))
    }

    fn of(current: SigningKey, next: Option<SigningKey>) -> Self {
        let ring = Arc::new(RwLock::new(Ring { current, next }));
        Self { ring }
    }

    fn ring(&self) -> std::sync::RwLockReadGuard<'_, Ring> {
        // Nothing panics while it is written.
        self.ring
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The public halves: of the one in use, and of the next.
    #[must_use]
    pub fn public(&self) -> (String, Option<String>) {
        let ring = self.ring();
        let text = |k: &SigningKey| key_text(&k.verifying_key());
        (text(&ring.current), ring.next.as_ref().map(text))
    }

    /// Makes the next key in `folder`, or finds it there: from now on both sign. On the disk before it signs.
    pub fn begin(&self, folder: &Path) -> Result<(), KeyError> {
        let path = folder.join(NEXT_INTENT_KEY);
        let text = load_or_make(&path, || Ok(BASE64.encode(random::<32>(&path)?)))?;
        let next = intent_key(path, &text)?;
        let mut ring = self
            .ring
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        ring.next = Some(next);
        Ok(())
    }

    /// The next key takes the place of the one in use, in one rename: a crash leaves the rotation as it was, or finished.
    pub fn finish(&self, folder: &Path) -> Result<(), KeyError> {
        let mut ring = self
            .ring
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(next) = ring.next.clone() {
            let (from, to) = (folder.join(NEXT_INTENT_KEY), folder.join(INTENT_KEY));
            replace(folder, &from, &to)?;
            (ring.current, ring.next) = (next, None);
        }
        Ok(())
    }

    /// What a host is told, that says that it obeys others than those that we sign with. `None`: nothing, or it would not
    /// believe us.
    #[must_use]
    pub fn list_for(&self, host: &KeysReport) -> Option<Signed> {
        let (current, next) = self.public();
        let wanted: Vec<String> = next.into_iter().chain([current]).collect();
        let obeys = |k: &String| host.pinned.contains(k) || host.module.contains(k);
        let told = match host.pinned.is_empty() {
            // At first contact it pins by itself; one that has its keys from its configuration lacks none of them.
            true => host.module.is_empty() || wanted.iter().all(obeys),
            false => {
                host.pinned.len() == wanted.len() && wanted.iter().all(|k| host.pinned.contains(k))
            }
        };
        if told || !wanted.iter().any(obeys) {
            return None;
        }
        let list = KeyList {
            format: FORMAT,
            serial: host.serial.checked_add(1)?,
            keys: wanted,
        };
        let payload = serde_json::to_vec(&list).ok()?;
        Some(self.signed(KEYS_PAYLOAD_TYPE, &payload))
    }

    fn signed(&self, payload_type: &str, payload: &[u8]) -> Signed {
        let ring = self.ring();
        let mut signed = Signed::new(payload_type, payload, &ring.current);
        if let Some(next) = &ring.next {
            let more = Signed::new(payload_type, payload, next);
            signed.signatures.extend(more.signatures);
        }
        signed
    }
}

impl Signer for FleetKey {
    fn cluster(&self) -> String {
        self.public().0
    }
    fn sign(&self, intent: &Intent) -> Signed {
        let payload = serde_json::to_vec(intent).expect("maps of an intent have text keys");
        self.signed(INTENT_PAYLOAD_TYPE, &payload)
    }
    fn sign_watch(&self, watch: &Watch) -> Signed {
        let payload = serde_json::to_vec(watch).expect("a watch has no maps");
        self.signed(WATCH_PAYLOAD_TYPE, &payload)
    }
}

/// One rename, and the folder to the disk.
fn replace(folder: &Path, from: &Path, to: &Path) -> Result<(), KeyError> {
    let err = |source| KeyError::File {
        path: to.to_owned(),
        source,
    };
    std::fs::rename(from, to).map_err(err)?;
    std::fs::File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(err)
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
        Self::load_or_make_at(folder.join(STORE_KEY), name)
    }

    fn load_or_make_at(file: PathBuf, name: &str) -> Result<Self, KeyError> {
        let text = load_or_make(&file, || {
            // Nix' format (libsodium's): seed, then public key.
            let key = SigningKey::from_bytes(&random::<32>(&file)?);
            Ok(format!("{name}:{}", BASE64.encode(key.to_keypair_bytes())))
        })?;
        Self::parse(file, &text)
    }

    /// The next one in `folder`, if a rotation is under way.
    pub fn next(folder: &Path) -> Result<Option<Self>, KeyError> {
        let file = folder.join(NEXT_STORE_KEY);
        match file.exists() {
            true => Self::load(&file).map(Some),
            false => Ok(None),
        }
    }

    /// Makes the next one, named one higher, or finds it there.
    pub fn make_next(&self, folder: &Path) -> Result<Self, KeyError> {
        let file = folder.join(NEXT_STORE_KEY);
        let name = next_name(self.public.split(':').next().unwrap_or_default());
        Self::load_or_make_at(file, &name)
    }

    /// The next one takes the place of the one in use.
    pub fn finish(folder: &Path) -> Result<(), KeyError> {
        let (next, current) = (folder.join(NEXT_STORE_KEY), folder.join(STORE_KEY));
        replace(folder, &next, &current)
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

/// `trueup-1` to `trueup-2`; a name without a number gets one.
fn next_name(name: &str) -> String {
    match name.rsplit_once('-') {
        Some((stem, n)) => match n.parse::<u32>().ok().and_then(|n| n.checked_add(1)) {
            Some(n) => format!("{stem}-{n}"),
            None => format!("{name}-2"),
        },
        None => format!("{name}-2"),
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
    replace(folder, &new, path)?;
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
    fn a_rotation_that_can_not_be_finished_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let key = FleetKey::load_or_make(dir.path()).unwrap();
        key.begin(dir.path()).unwrap();
        let both = key.public();
        std::fs::rename(dir.path().join(NEXT_INTENT_KEY), dir.path().join("away")).unwrap();
        key.finish(dir.path()).unwrap_err();
        assert_eq!(key.public(), both);
    }

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

    #[test]
    fn a_rotation_goes_over_both_keys_and_outlives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        let key = FleetKey::load_or_make(folder).unwrap();
        let old = key.cluster();
        let clone = key.clone();
        let obeying = |keys: &[&String]| KeysReport {
            serial: 4,
            pinned: keys.iter().map(|k| (*k).clone()).collect(),
            ..KeysReport::default()
        };
        assert_eq!(key.list_for(&obeying(&[&old])), None);
        assert_eq!(key.list_for(&obeying(&[])), None, "pinned at first contact");

        key.begin(folder).unwrap();
        let new = clone.public().1.expect("every clone knows");
        key.begin(folder).unwrap();
        assert_eq!(key.public(), (old.clone(), Some(new.clone())), "begun once");
        assert_eq!(
            FleetKey::load_or_make(folder).unwrap().public(),
            key.public()
        );
        let list = key.list_for(&obeying(&[&old])).unwrap();
        let trusts = |k: &String| trueup_schema::wire::Keys::parse([k.as_str()]).unwrap();
        for one in [&old, &new] {
            let payload = list.verify(KEYS_PAYLOAD_TYPE, &trusts(one)).unwrap();
            let list: KeyList = serde_json::from_slice(&payload).unwrap();
            assert_eq!(
                (list.serial, list.keys),
                (5, vec![new.clone(), old.clone()])
            );
        }
        assert_eq!(key.list_for(&obeying(&[&new, &old])), None);
        let strangers = "AAAA".to_owned();
        assert_eq!(
            key.list_for(&obeying(&[&strangers])),
            None,
            "it would not believe us"
        );

        key.finish(folder).unwrap();
        key.finish(folder).unwrap();
        assert_eq!(clone.public(), (new.clone(), None));
        assert_eq!(
            FleetKey::load_or_make(folder).unwrap().public(),
            (new.clone(), None)
        );
        let list = key.list_for(&obeying(&[&new, &old])).unwrap();
        assert!(list.verify(KEYS_PAYLOAD_TYPE, &trusts(&old)).is_err());
        assert_eq!(key.list_for(&obeying(&[&new])), None);
    }

    #[test]
    fn the_next_store_key_is_named_one_higher() {
        let dir = tempfile::tempdir().unwrap();
        let key = StoreKey::load_or_make(dir.path(), "fleet-1").unwrap();
        assert_eq!(StoreKey::next(dir.path()).unwrap(), None);
        let next = key.make_next(dir.path()).unwrap();
        assert!(next.public.starts_with("fleet-2:"));
        assert_eq!(key.make_next(dir.path()).unwrap(), next, "made once");
        StoreKey::finish(dir.path()).unwrap();
        assert_eq!(
            StoreKey::load_or_make(dir.path(), "x").unwrap().public,
            next.public
        );
        for (name, after) in [
            ("trueup-9", "trueup-10"),
            ("key", "key-2"),
            ("a-b", "a-b-2"),
            ("", "-2"),
        ] {
            assert_eq!(next_name(name), after);
        }
    }
}
