//! Who can open a file and who should: hosts that its secrets select, and the fleet's admins.

use std::collections::{BTreeMap, BTreeSet};

use trueup_schema::HostName;
use trueup_schema::kind::{FleetManifests, ResolvedHost, SecretFormat};
use trueup_secrets::{Encrypted, Recipient};

/// Every recipient that a host's keys stand for.
#[must_use]
pub fn host_recipients(host: &ResolvedHost) -> Vec<Recipient> {
    let own = host
        .secrets
        .age_keys
        .iter()
        .map(|key| key.as_str().to_owned());
    let ssh = host.ssh.host_keys.iter().map(ToString::to_string);
    own.chain(ssh)
        .filter_map(|key| Recipient::of_host_key(&key).ok())
        .flatten()
        .collect()
}

/// What one file's readers are to be.
#[derive(Debug, Clone)]
pub struct Readers<'a> {
    fleet: &'a FleetManifests,
    /// Hosts that a secret of the file selects.
    pub hosts: BTreeSet<HostName>,
    format: SecretFormat,
}

/// One who can, or should be able to, open a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// `host/web-1`, `admin`, several of them where a key is shared, or empty for somebody whom the manifests don't know.
    pub who: String,
    /// As the file names it, or as it would be named.
    pub recipient: String,
    /// The manifests want it.
    pub wanted: bool,
    /// The file has it.
    pub present: bool,
}

impl<'a> Readers<'a> {
    /// Of a file; `None` when no secret names it.
    #[must_use]
    pub fn of(fleet: &'a FleetManifests, source: &str) -> Option<Self> {
        let mut secrets = fleet
            .secrets
            .values()
            .filter(|s| s.source == source)
            .peekable();
        let format = secrets.peek()?.format;
        Some(Self {
            fleet,
            hosts: secrets.flat_map(|s| s.hosts.iter().cloned()).collect(),
            format,
        })
    }

    /// All files that secrets name, with their formats.
    #[must_use]
    pub fn files(fleet: &FleetManifests) -> BTreeMap<&str, SecretFormat> {
        let secrets = fleet.secrets.values();
        secrets.map(|s| (s.source.as_str(), s.format)).collect()
    }

    /// Hosts' keys that go into the file. A key that the file names in one form stays in it; a new ed25519 key goes into
    /// sops files in its age form and into age files as it is; RSA is used where there is nothing better.
    fn keys_of(&self, host: &ResolvedHost, present: &BTreeSet<String>) -> Vec<Recipient> {
        let mut chosen: Vec<Recipient> = host
            .secrets
            .age_keys
            .iter()
            .filter_map(|key| Recipient::parse(key.as_str()).ok())
            .collect();
        let ssh: Vec<_> = host.ssh.host_keys.iter().collect();
        let best = |kind| ssh.iter().filter(move |key| key.kind() == kind);
        let mut keys: Vec<_> = best("ssh-ed25519").collect();
        if keys.is_empty() && chosen.is_empty() {
            keys = best("ssh-rsa").collect();
        }
        for key in keys {
            let Ok(forms) = Recipient::of_host_key(&key.to_string()) else {
                continue;
            };
            let named: Vec<_> = forms
                .iter()
                .filter(|form| present.contains(form.as_str()))
                .cloned()
                .collect();
            let native = self.format == SecretFormat::Age;
            let fresh = if native { forms.last() } else { forms.first() };
            match named.is_empty() {
                true => chosen.extend(fresh.cloned()),
                false => chosen.extend(named),
            }
        }
        chosen
    }

    fn admins(&self) -> Vec<Recipient> {
        let keys = &self.fleet.fleet.admins;
        keys.iter()
            .filter_map(|key| Recipient::parse(key.as_str()).ok())
            .collect()
    }

    /// The groups that the file should have. One group is the selected hosts and the admins. Several groups are somebody's
    /// design: people in them stay, selected hosts come into each, other hosts of the fleet go.
    #[must_use]
    pub fn groups(&self, file: Option<&Encrypted>) -> Vec<Vec<Recipient>> {
        let now = file.map(groups_of).unwrap_or_default();
        let present: BTreeSet<String> = now.iter().flatten().cloned().collect();
        let selected = self
            .fleet
            .hosts
            .values()
            .filter(|h| self.hosts.contains(&h.name));
        let mut keys: Vec<Recipient> = selected.flat_map(|h| self.keys_of(h, &present)).collect();
        if now.len() <= 1 {
            keys.extend(self.admins());
            return vec![unique(keys)];
        }
        let wanted: BTreeSet<&str> = keys.iter().map(Recipient::as_str).collect();
        let of_hosts: BTreeSet<String> = self
            .fleet
            .hosts
            .values()
            .flat_map(host_recipients)
            .map(|r| r.to_string())
            .collect();
        let kept = |group: &Vec<String>| {
            let people = group
                .iter()
                .filter(|r| !of_hosts.contains(*r) || wanted.contains(r.as_str()))
                .filter_map(|r| Recipient::parse(r).ok());
            unique(people.chain(keys.iter().cloned()).collect())
        };
        now.iter().map(kept).collect()
    }

    /// Who can and who should, sorted.
    #[must_use]
    pub fn access(&self, file: Option<&Encrypted>) -> Vec<Access> {
        let present: BTreeSet<String> = file
            .map(groups_of)
            .unwrap_or_default()
            .into_iter()
            .flatten()
            .collect();
        let wanted: BTreeSet<String> = self
            .groups(file)
            .into_iter()
            .flatten()
            .map(|r| r.to_string())
            .collect();
        let names = self.names();
        let all: BTreeSet<&String> = present.union(&wanted).collect();
        let mut rows: Vec<Access> = all
            .into_iter()
            .map(|recipient| Access {
                who: names.get(recipient).cloned().unwrap_or_default(),
                recipient: recipient.clone(),
                wanted: wanted.contains(recipient),
                present: present.contains(recipient),
            })
            .collect();
        rows.sort();
        rows
    }

    /// Whose each known recipient is. Hosts that were made from one image may share a key, and then each can read.
    fn names(&self) -> BTreeMap<String, String> {
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        for admin in self.admins() {
            names.insert(admin.to_string(), "admin".to_owned());
        }
        for host in self.fleet.hosts.values() {
            let mine: BTreeSet<_> = host_recipients(host).into_iter().collect();
            for recipient in mine {
                let who = names.entry(recipient.to_string()).or_default();
                if !who.is_empty() {
                    who.push_str(", ");
                }
                who.push_str(&format!("host/{}", host.name));
            }
        }
        names
    }
}

/// A file's recipients as it names them, without comments.
fn groups_of(file: &Encrypted) -> Vec<Vec<String>> {
    let groups = file.metadata().groups.iter();
    groups
        .map(|group| {
            let names = group.age.iter().map(|key| key.recipient.as_str());
            names
                .map(|name| {
                    Recipient::parse(name).map_or(name.trim().to_owned(), |r| r.to_string())
                })
                .collect()
        })
        .collect()
}

fn unique(all: Vec<Recipient>) -> Vec<Recipient> {
    let mut seen = BTreeSet::new();
    all.into_iter()
        .filter(|r| seen.insert(r.to_string()))
        .collect()
}
