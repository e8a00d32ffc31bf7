//! Which way leads to a host now. A commit may move its sshd: until it is activated, only the way by which the host was
//! reached last leads there. The keys are those of the manifest on each way; a confirmation never goes by the old one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use trueup_engine::ports::{Target, TransportFault};
use trueup_schema::{Address, HostName};

use super::config::Freshness;
use super::{Inner, fault};

/// Without keys and platform: those are the manifest's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Way {
    address: Address,
    port: u16,
    user: String,
    #[serde(rename = "become")]
    become_root: bool,
    jump: Vec<String>,
}

impl Way {
    fn of(target: &Target) -> Self {
        Self {
            address: target.address.clone(),
            port: target.port,
            user: target.user.clone(),
            become_root: target.become_root,
            jump: target.jump.clone(),
        }
    }
    fn to(&self, target: &Target) -> Target {
        Target {
            address: self.address.clone(),
            port: self.port,
            user: self.user.clone(),
            become_root: self.become_root,
            jump: self.jump.clone(),
            host: target.host.clone(),
            system: target.system.clone(),
            host_keys: target.host_keys.clone(),
        }
    }
}

/// The ways by which hosts answered last, in files too: a controller may start anew between commit and activation.
#[derive(Debug, Default)]
pub(super) struct Ways(RefCell<BTreeMap<HostName, Option<Way>>>);

fn file(dir: &Path, host: &HostName) -> PathBuf {
    dir.join(format!("{host}.way"))
}

impl Ways {
    fn last(&self, dir: &Path, host: &HostName) -> Option<Way> {
        let mut known = self.0.borrow_mut();
        known
            .entry(host.clone())
            .or_insert_with(|| {
                let text = std::fs::read(file(dir, host)).ok()?;
                serde_json::from_slice(&text).ok()
            })
            .clone()
    }

    /// The host answered there.
    pub(super) fn answered(&self, dir: &Path, target: &Target) {
        let way = Way::of(target);
        if self.last(dir, &target.host).as_ref() == Some(&way) {
            return;
        }
        let path = file(dir, &target.host);
        let new = path.with_extension("way.new");
        let written = serde_json::to_vec(&way)
            .map_err(std::io::Error::other)
            .and_then(|text| std::fs::write(&new, text))
            .and_then(|()| std::fs::rename(&new, &path));
        if let Err(e) = written {
            tracing::warn!(host = %target.host, "the way to it is not remembered: {e}");
        }
        self.0.borrow_mut().insert(target.host.clone(), Some(way));
    }
}

impl Inner {
    /// The manifest's way, unless nothing answers there and another was the last that led to the host.
    pub(super) async fn way(&self, target: &Target) -> Target {
        let last = self.ways.last(&self.run_dir, &target.host);
        let Some(older) = last.filter(|way| *way != Way::of(target)) else {
            return target.clone();
        };
        let Ok(spec) = self.spec(target, Freshness::Reuse, &["true"]) else {
            return target.clone();
        };
        let silent = match self.run(target, &spec).await {
            Ok(exit) => !exit.ok() && fault::of(target, &exit).fault == TransportFault::Unreachable,
            Err(e) => e.fault == TransportFault::Unreachable,
        };
        if silent {
            tracing::debug!(
                host = %target.host, address = %older.address, port = older.port,
                "does not answer where its manifest says; it did here"
            );
            older.to(target)
        } else {
            target.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_way_outlives_the_controller_and_keys_are_the_manifests() {
        let dir = tempfile::tempdir().unwrap();
        let old = Target {
            host: "web-1".parse().unwrap(),
            system: "x86_64-linux".parse().unwrap(),
            address: "10.0.0.1".parse().unwrap(),
            port: 22,
            user: "root".to_owned(),
            become_root: false,
            host_keys: vec!["ssh-ed25519 OLD".to_owned()],
            jump: Vec::new(),
        };
        Ways::default().answered(dir.path(), &old);
        let new = Target {
            port: 2222,
            host_keys: vec!["ssh-ed25519 NEW".to_owned()],
            ..old.clone()
        };
        let way = Ways::default().last(dir.path(), &old.host).unwrap();
        assert_ne!(way, Way::of(&new));
        let target = way.to(&new);
        assert_eq!((target.port, &target.host_keys), (22, &new.host_keys));
        let nobody = "web-2".parse().unwrap();
        assert_eq!(Ways::default().last(dir.path(), &nobody), None);
    }
}
