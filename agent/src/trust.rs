//! Which controller this host obeys: public keys pinned at first contact, told anew by a list that one of them signed, or
//! put there by its NixOS module. And whose store paths its Nix takes, as `nix.conf` says.

use std::path::{Path, PathBuf};

use trueup_schema::wire::{
    FORMAT, INTENT_PAYLOAD_TYPE, Intent, KEYS_MAX, KEYS_PAYLOAD_TYPE, KeyList, Keys, KeysReport,
    Signed, WATCH_PAYLOAD_TYPE, Watch,
};

use crate::files::{self, FileError, Layout};

const PINNED: &str = "keys/controller.pub";
const MODULE: &str = "/etc/trueup/controller.pub";
const NIX_CONF: &str = "/etc/nix/nix.conf";
/// Files that a `nix.conf` includes, one in another.
const INCLUDES_MAX: usize = 8;
/// Keys of store paths that are told.
const STORE_KEYS_MAX: usize = 64;
/// Stands before the serial of the list in the file of pinned keys.
const SERIAL: &str = "# serial ";

/// Why an intent, or a list of keys, is not believed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// No key is pinned and none came along.
    #[error("no controller's key is pinned here, and the offer brought none")]
    NoKey,
    /// The signature.
    #[error(transparent)]
    Signature(#[from] trueup_schema::wire::SignedError),
    /// What was signed is no intent.
    #[error("the signed bytes are no intent: {0}")]
    Parse(serde_json::Error),
    /// What was signed does not say whom to watch.
    #[error("the signed bytes say no watch: {0}")]
    Watch(serde_json::Error),
    /// What was signed is no list of keys.
    #[error("the signed bytes are no list of keys: {0}")]
    List(String),
    /// An older list would bring back a key that was taken away.
    #[error("this list of keys is number {told}, and number {had} was taken here before")]
    OldList {
        /// Of the list that came.
        told: u64,
        /// Of the one that was taken.
        had: u64,
    },
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
}

fn lines(text: &str) -> Vec<String> {
    text.lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .take(KEYS_MAX)
        .map(str::to_owned)
        .collect()
}

/// The keys that are trusted here.
#[must_use]
pub fn pinned(layout: &Layout) -> Vec<String> {
    let mut keys = lines(&files::text(layout.file(PINNED)));
    keys.extend(lines(&files::text(MODULE)));
    keys.dedup();
    keys
}

/// For the report.
#[must_use]
pub fn report(layout: &Layout) -> KeysReport {
    let text = files::text(layout.file(PINNED));
    KeysReport {
        serial: serial(&text),
        pinned: lines(&text),
        module: lines(&files::text(MODULE)),
        store: store_keys(Path::new(NIX_CONF)),
    }
}

fn serial(text: &str) -> u64 {
    text.lines()
        .find_map(|l| l.strip_prefix(SERIAL)?.trim().parse().ok())
        .unwrap_or(0)
}

/// The intent, if a pinned key signed it. At first contact `pin` is pinned, once it is seen to have signed.
pub fn verify(layout: &Layout, signed: &Signed, pin: Option<&str>) -> Result<Intent, TrustError> {
    let mut trusted = pinned(layout);
    let first = trusted.is_empty();
    if first {
        trusted.push(pin.ok_or(TrustError::NoKey)?.to_owned());
    }
    let keys = Keys::parse(trusted.iter().map(String::as_str))?;
    let payload = signed.verify(INTENT_PAYLOAD_TYPE, &keys)?;
    let intent = serde_json::from_slice(&payload).map_err(TrustError::Parse)?;
    if first {
        files::write_atomic(&layout.file(PINNED), format!("{}\n", trusted[0]).as_bytes())?;
    }
    Ok(intent)
}

/// Whom to be a witness of, if a key that is obeyed signed it. Nothing is pinned by it.
pub fn watch(layout: &Layout, signed: &Signed) -> Result<Watch, TrustError> {
    let trusted = pinned(layout);
    if trusted.is_empty() {
        return Err(TrustError::NoKey);
    }
    let keys = Keys::parse(trusted.iter().map(String::as_str))?;
    let payload = signed.verify(WATCH_PAYLOAD_TYPE, &keys)?;
    serde_json::from_slice(&payload).map_err(TrustError::Watch)
}

/// The verb `keys`: the keys of this list are obeyed from now on, in place of the pinned ones, if one of those that are
/// obeyed now signed it. One file, written whole: a power cut leaves the old list or the new one.
pub fn take_list(layout: &Layout, signed: &Signed) -> Result<(), TrustError> {
    let trusted = pinned(layout);
    if trusted.is_empty() {
        return Err(TrustError::NoKey);
    }
    let keys = Keys::parse(trusted.iter().map(String::as_str))?;
    let payload = signed.verify(KEYS_PAYLOAD_TYPE, &keys)?;
    let list: KeyList =
        serde_json::from_slice(&payload).map_err(|e| TrustError::List(e.to_string()))?;
    if list.format != FORMAT || !(1..=KEYS_MAX).contains(&list.keys.len()) {
        let what = format!("format {}, {} keys", list.format, list.keys.len());
        return Err(TrustError::List(what));
    }
    Keys::parse(list.keys.iter().map(String::as_str))?;
    let had = serial(&files::text(layout.file(PINNED)));
    if list.serial <= had {
        let told = list.serial;
        return Err(TrustError::OldList { told, had });
    }
    let keys: Vec<&str> = list.keys.iter().map(|k| k.trim()).collect();
    let text = format!("{SERIAL}{}\n{}\n", list.serial, keys.join("\n"));
    Ok(files::write_atomic(&layout.file(PINNED), text.as_bytes())?)
}

/// `trusted-public-keys` and `extra-trusted-public-keys` of this file and of those that it includes: the last wins, extra
/// ones add up.
fn store_keys(conf: &Path) -> Vec<String> {
    let (mut keys, mut extra) = (Vec::new(), Vec::new());
    let mut files = vec![conf.to_owned()];
    for _ in 0..INCLUDES_MAX {
        let Some(file) = files.pop() else { break };
        for line in files::text(&file).lines().map(str::trim) {
            let mut includes = ["include ", "!include "].iter();
            if let Some(other) = includes.find_map(|w| line.strip_prefix(w)) {
                let folder = file.parent().unwrap_or(Path::new("/"));
                files.push(folder.join(PathBuf::from(other.trim())));
                continue;
            }
            let Some((name, value)) = line.split_once('=') else {
                continue;
            };
            let words = || value.split_whitespace().map(str::to_owned);
            match name.trim() {
                "trusted-public-keys" => keys = words().collect(),
                "extra-trusted-public-keys" => extra.extend(words()),
                _ => {}
            }
        }
        files.truncate(INCLUDES_MAX);
        extra.truncate(STORE_KEYS_MAX);
    }
    keys.append(&mut extra);
    keys.truncate(STORE_KEYS_MAX);
    keys
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ed25519_dalek::SigningKey;
    use trueup_schema::wire::key_text;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn text(key: &SigningKey) -> String {
        key_text(&key.verifying_key())
    }

    fn list(serial: u64, keys: &[&SigningKey], by: &SigningKey) -> Signed {
        let list = KeyList {
            format: FORMAT,
            serial,
            keys: keys.iter().map(|k| text(k)).collect(),
        };
        Signed::new(KEYS_PAYLOAD_TYPE, &serde_json::to_vec(&list).unwrap(), by)
    }

    #[test]
    fn only_a_newer_list_by_an_obeyed_key_changes_who_is_obeyed() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            root: dir.path().to_owned(),
        };
        std::fs::create_dir(dir.path().join("keys")).unwrap();
        let (old, new, thief) = (key(1), key(2), key(3));
        let none = take_list(&layout, &list(1, &[&old], &old));
        assert!(
            matches!(none, Err(TrustError::NoKey)),
            "the first comes with an intent"
        );
        files::write_atomic(&layout.file(PINNED), text(&old).as_bytes()).unwrap();

        let forged = take_list(&layout, &list(1, &[&thief], &thief));
        assert!(matches!(forged, Err(TrustError::Signature(_))));
        let intent = Signed::new(INTENT_PAYLOAD_TYPE, b"{}", &old);
        let as_list = take_list(&layout, &intent);
        assert!(matches!(as_list, Err(TrustError::Signature(_))));

        take_list(&layout, &list(1, &[&new, &old], &old)).unwrap();
        assert_eq!(pinned(&layout), [text(&new), text(&old)]);
        take_list(&layout, &list(2, &[&new], &new)).unwrap();
        assert_eq!(pinned(&layout), [text(&new)]);
        assert_eq!(report(&layout).serial, 2);
        // Played again by who kept it, the list of the middle of the rotation does not bring the old key back.
        let again = take_list(&layout, &list(1, &[&new, &old], &new));
        assert!(matches!(
            again,
            Err(TrustError::OldList { told: 1, had: 2 })
        ));
        let by_old = take_list(&layout, &list(3, &[&old], &old));
        assert!(matches!(by_old, Err(TrustError::Signature(_))));
        for bad in [list(3, &[], &new), list(3, &[&new; KEYS_MAX + 1], &new)] {
            assert!(matches!(take_list(&layout, &bad), Err(TrustError::List(_))));
        }
        assert_eq!(pinned(&layout), [text(&new)]);
    }

    #[test]
    fn keys_for_store_paths_are_read_as_nix_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("nix.conf");
        let text = "trusted-public-keys = a:1 b:2\nextra-trusted-public-keys = c:3\n!include more.conf\ninclude nix.conf\n";
        std::fs::write(&conf, text).unwrap();
        let more = "extra-trusted-public-keys = d:4\n";
        std::fs::write(dir.path().join("more.conf"), more).unwrap();
        let found = store_keys(&conf);
        for key in ["a:1", "b:2", "c:3"] {
            assert!(found.iter().any(|k| k == key), "{found:?}");
        }
        assert!(found.len() <= STORE_KEYS_MAX, "an endless include ends");
        std::fs::write(&conf, text.replace("include nix.conf\n", "")).unwrap();
        assert!(store_keys(&conf).contains(&"d:4".to_owned()));
        assert!(store_keys(Path::new("/nonexistent")).is_empty());
    }
}
