//! A generation: its files, and the record of them that lies beside them, in memory and for root alone. Digests of plain
//! text are in that record and nowhere else.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown,
};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use trueup_schema::Digest;
use trueup_schema::kind::Owner;

use super::people::{People, Who};
use super::units::Changes;
use super::{Opened, Places, SecretsError};
use crate::files;

/// The record's name in a generation.
const RECORD: &str = ".trueup.json";
/// The folder of secrets for users in a generation.
pub(super) const USERS: &str = ".users";
/// Of folders: to pass through, not to list.
const FOLDER: u32 = 0o751;

/// One file of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Below the generation.
    pub name: PathBuf,
    sha256: String,
    uid: u32,
    gid: u32,
    mode: u32,
    /// Where a link to it is.
    pub path: Option<PathBuf>,
    /// Of folders that are made for the link.
    pub folders: u32,
    /// Units that restart when it changed.
    pub restart: Vec<String>,
    /// Units that reload then.
    pub reload: Vec<String>,
    pending: Option<(Owner, Option<Owner>)>,
}

impl Entry {
    pub(super) fn new(
        name: PathBuf,
        content: &[u8],
        who: &Who,
        mode: u32,
        path: Option<PathBuf>,
        (restart, reload): (&[String], &[String]),
    ) -> Self {
        Self {
            name,
            sha256: digest(content),
            uid: who.uid,
            gid: who.gid,
            mode,
            path,
            folders: FOLDER,
            restart: restart.to_vec(),
            reload: reload.to_vec(),
            pending: who.pending.clone(),
        }
    }

    pub(super) fn with_folders(self, folders: u32) -> Self {
        Self { folders, ..self }
    }

    /// Do units see any difference?
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let seen = |e: &Self| (e.sha256.clone(), e.uid, e.gid, e.mode);
        seen(self) == seen(other)
    }

    /// A secret that users' passwords come from.
    pub(super) fn is_for_users(&self) -> bool {
        self.name.starts_with(USERS)
    }
}

fn digest(content: &[u8]) -> String {
    use std::fmt::Write as _;
    let hash = Sha256::digest(content);
    hash.iter().fold(String::new(), |mut out, b| {
        let _fits = write!(out, "{b:02x}");
        out
    })
}

/// A whole set of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Generation {
    /// Its folder's name.
    pub number: u64,
    /// The goal that it is of.
    pub digest: Digest,
    /// Its files.
    pub entries: Vec<Entry>,
}

impl Generation {
    /// Its record; `None` when there is none of that number.
    pub fn read(places: &Places, number: u64) -> Result<Option<Self>, SecretsError> {
        let path = places.generations().join(number.to_string()).join(RECORD);
        Ok(files::read_json(&path)?)
    }

    /// The one that holds.
    pub fn current(places: &Places) -> Result<Option<Self>, SecretsError> {
        match super::memory::current(places) {
            Some(number) => Self::read(places, number),
            None => Ok(None),
        }
    }

    /// Where links to its files are.
    pub(super) fn links(&self) -> Vec<PathBuf> {
        self.entries.iter().filter_map(|e| e.path.clone()).collect()
    }

    /// Owners that were not there when it was written.
    pub(super) fn has_pending(&self) -> bool {
        self.entries.iter().any(|e| e.pending.is_some())
    }

    fn folder(&self, places: &Places) -> PathBuf {
        places.generations().join(self.number.to_string())
    }

    /// Where a file of it is for everybody: through the link.
    pub(super) fn through_link(places: &Places, entry: &Entry) -> PathBuf {
        places.link().join(&entry.name)
    }

    /// What is not as it was written, by name. Compared here, on the host.
    #[must_use]
    pub fn differences(&self, places: &Places) -> Vec<String> {
        let folder = self.folder(places);
        let mut found = Vec::new();
        for entry in &self.entries {
            let shown = entry.name.display();
            let path = folder.join(&entry.name);
            match fs::symlink_metadata(&path) {
                Err(_) => found.push(format!("{shown} is gone")),
                Ok(meta) if !meta.is_file() => found.push(format!("{shown} is no file")),
                Ok(meta) if (meta.uid(), meta.gid()) != (entry.uid, entry.gid) => {
                    found.push(format!("{shown} is somebody else's"));
                }
                Ok(meta) if meta.mode() & 0o7777 != entry.mode => {
                    found.push(format!("{shown} has another mode"));
                }
                Ok(_) => {
                    let bytes = fs::read(&path).map(zeroize::Zeroizing::new);
                    if !bytes.is_ok_and(|b| digest(&b) == entry.sha256) {
                        found.push(format!("{shown} was changed"));
                    }
                }
            }
            if let Some(link) = &entry.path
                && fs::read_link(link).ok() != Some(Self::through_link(places, entry))
            {
                found.push(format!("{} is not the link to {shown}", link.display()));
            }
        }
        found
    }

    /// Gives files to owners that were not there when it was written. `Some`: what changed by that.
    pub(super) fn own(&self, places: &Places) -> Result<Option<Changes>, SecretsError> {
        if !self.has_pending() {
            return Ok(None);
        }
        let people = People::read();
        let mut owned = self.clone();
        let folder = self.folder(places);
        for entry in &mut owned.entries {
            let Some((owner, group)) = entry.pending.take() else {
                continue;
            };
            let of = entry.name.display().to_string();
            let who = people.find(&of, &owner, group.as_ref(), false)?;
            let path = folder.join(&entry.name);
            chown(&path, Some(who.uid), Some(who.gid))
                .map_err(SecretsError::file("giving away", &path))?;
            (entry.uid, entry.gid) = (who.uid, who.gid);
        }
        write_record(&folder, &owned)?;
        Ok(Some(super::units::changes(Some(self), &owned)))
    }
}

impl Opened {
    /// Writes a generation that nobody looks at yet. One of an interrupted attempt at the same goal is made anew.
    pub(super) fn write(self, places: &Places) -> Result<Generation, SecretsError> {
        let number = super::memory::next(places)?;
        let generation = Generation {
            number,
            digest: self.digest.clone(),
            entries: self.items.iter().map(|i| i.entry.clone()).collect(),
        };
        let folder = generation.folder(places);
        make_folder(&folder, FOLDER)?;
        for item in &self.items {
            let path = folder.join(&item.entry.name);
            if let Some(parent) = path.parent().filter(|p| !p.is_dir()) {
                make_folder(parent, FOLDER)?;
            }
            write(&path, item)?;
        }
        write_record(&folder, &generation)?;
        Ok(generation)
    }
}

/// With exactly this mode: the umask has no say.
pub(super) fn make_folder(path: &Path, mode: u32) -> Result<(), SecretsError> {
    let made = fs::DirBuilder::new().mode(0o700).create(path);
    made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(SecretsError::file("making", path))
}

/// Root's alone until it is whole; then its owner's, then its mode: the umask has no say.
fn write(path: &Path, item: &super::open::Item) -> Result<(), SecretsError> {
    let fail = SecretsError::file("writing", path);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(&fail)?;
    file.write_all(&item.content).map_err(&fail)?;
    let entry = &item.entry;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::fchown(&file, Some(entry.uid), Some(entry.gid)).map_err(&fail)?;
    }
    file.set_permissions(fs::Permissions::from_mode(entry.mode))
        .map_err(&fail)
}

fn write_record(folder: &Path, generation: &Generation) -> Result<(), SecretsError> {
    Ok(files::write_json(&folder.join(RECORD), generation)?)
}
