//! The controller's keys as its parts see them: one room that the engine signs with, hosts are told from, and people rotate
//! over the API. Each step is on the disk before it takes effect; a crash leaves a rotation begun, or not, and no third state.

use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use async_trait::async_trait;
use trueup_schema::StorePath;
use trueup_schema::wire::{KeysReport, Signed};

use crate::api::{Keys, KeysNow, Which};
use crate::edge::keys::{FleetKey, KeyError, StoreKey};
use crate::edge::nix::{Nix, SigningRing};
use crate::edge::ssh::KeyBook;
use crate::run::{RunError, STORE_KEY_NAME};
use crate::settings::Settings;

/// Both kinds of keys. Clones are one room.
#[derive(Debug, Clone)]
pub(crate) struct KeyRoom {
    folder: PathBuf,
    intent: FleetKey,
    /// The file of a key is a person's: settings rotate it, and we do not.
    intent_given: bool,
    store: Arc<RwLock<Vec<StoreKey>>>,
    store_given: bool,
    ring: SigningRing,
}

impl KeyRoom {
    /// Reads the keys that the settings name, and makes those that they leave to us.
    pub fn open(settings: &Settings) -> Result<Self, RunError> {
        let folder = settings.state_dir.join("keys");
        let intent = match &settings.intent_key_file {
            Some(file) => FleetKey::load(file, settings.next_intent_key_file.as_deref())?,
            None => FleetKey::load_or_make(&folder)?,
        };
        let (store, next) = match &settings.signing_key_file {
            Some(file) if !file.exists() => {
                return Err(RunError::NoSigningKey { path: file.clone() });
            }
            Some(file) => {
                let next = settings.next_signing_key_file.as_deref();
                (StoreKey::load(file)?, next.map(StoreKey::load).transpose()?)
            }
            None => (
                StoreKey::load_or_make(&folder, STORE_KEY_NAME)?,
                StoreKey::next(&folder)?,
            ),
        };
        let room = Self {
            folder,
            intent,
            intent_given: settings.intent_key_file.is_some(),
            store: Arc::default(),
            store_given: settings.signing_key_file.is_some(),
            ring: SigningRing::default(),
        };
        room.sign_with(std::iter::once(store).chain(next).collect());
        Ok(room)
    }

    fn sign_with(&self, keys: Vec<StoreKey>) {
        let pairs = keys.iter().map(|k| (k.file.clone(), k.public.clone()));
        *self.ring.write().unwrap_or_else(|e| e.into_inner()) = pairs.collect();
        *self.store.write().unwrap_or_else(|e| e.into_inner()) = keys;
    }

    fn store_keys(&self) -> Vec<StoreKey> {
        self.store.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// The one in use.
    pub fn store_key(&self) -> StoreKey {
        let keys = self.store_keys();
        keys.into_iter()
            .next()
            .expect("there is one from the start")
    }

    pub fn fleet_key(&self) -> &FleetKey {
        &self.intent
    }

    pub fn ring(&self) -> SigningRing {
        self.ring.clone()
    }

    /// As the API has it, which signs and looks into the hub's store.
    pub fn with(&self, nix: Nix) -> ApiKeys {
        let room = self.clone();
        ApiKeys { room, nix }
    }

    fn begin(&self, which: Which) -> Result<(), KeyError> {
        match which {
            Which::Intent => self.intent.begin(&self.folder),
            Which::Store => {
                let current = self.store_key();
                let next = current.make_next(&self.folder)?;
                self.sign_with(vec![current, next]);
                Ok(())
            }
        }
    }

    fn finish(&self, which: Which) -> Result<(), KeyError> {
        match which {
            Which::Intent => self.intent.finish(&self.folder),
            Which::Store if self.store_keys().len() > 1 => {
                StoreKey::finish(&self.folder)?;
                let key = StoreKey::load_or_make(&self.folder, STORE_KEY_NAME)?;
                self.sign_with(vec![key]);
                Ok(())
            }
            Which::Store => Ok(()),
        }
    }

    fn given(&self, which: Which) -> bool {
        match which {
            Which::Intent => self.intent_given,
            Which::Store => self.store_given,
        }
    }
}

impl KeyBook for KeyRoom {
    fn store_key(&self) -> String {
        let newest = self.store_keys().pop();
        newest.map(|k| k.public).unwrap_or_default()
    }
    fn pin(&self) -> String {
        self.intent.public().0
    }
    fn list_for(&self, host: &KeysReport) -> Option<Signed> {
        self.intent.list_for(host)
    }
}

/// The room, behind the API.
pub(crate) struct ApiKeys {
    room: KeyRoom,
    nix: Nix,
}

#[async_trait(?Send)]
impl Keys for ApiKeys {
    fn now(&self, which: Which) -> KeysNow {
        let (current, next) = match which {
            Which::Intent => self.room.intent.public(),
            Which::Store => {
                let mut keys = self.room.store_keys().into_iter().map(|k| k.public);
                (keys.next().unwrap_or_default(), keys.next())
            }
        };
        KeysNow {
            current,
            next,
            given: self.room.given(which),
        }
    }

    fn begin(&self, which: Which) -> Result<(), String> {
        self.room.begin(which).map_err(|e| e.to_string())
    }

    fn finish(&self, which: Which) -> Result<(), String> {
        self.room.finish(which).map_err(|e| e.to_string())
    }

    async fn signers(
        &self,
        paths: &[StorePath],
    ) -> std::collections::BTreeMap<StorePath, Vec<String>> {
        self.nix.signers(paths).await
    }

    async fn sign(&self, path: &StorePath) -> Result<(), String> {
        use trueup_engine::ports::Publisher as _;
        self.nix.sign(path).await.map_err(|e| e.to_string())
    }
}
