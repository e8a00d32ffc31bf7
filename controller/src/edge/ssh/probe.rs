//! A look at a host that changes nothing there: is it reached, with which rights, what runs there, how much room is left,
//! what time is it. Each question is a plain program of any NixOS; nothing is brought.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::Value;
use trueup_engine::ports::{Target, TransportError, TransportFault};
use trueup_schema::wire::OTHER_MANAGERS;
use trueup_schema::{StorePath, Timestamp};

use super::config::Freshness;
use super::{SshHosts, error, fault};
use crate::edge::exec::Exit;

/// Where room is needed: closures, and kernels.
const PLACES: [&str; 3] = ["/nix/store", "/boot", "/boot/efi"];
/// Where the agent is rooted once it was brought.
const AGENT: &str = "/nix/var/nix/gcroots/trueup/agent/bin/trueup-agent";
/// What each loader leaves on the boot partition.
const LOADERS: [(&str, &str); 6] = [
    ("systemd-boot", "/boot/loader/loader.conf"),
    ("systemd-boot", "/boot/efi/loader/loader.conf"),
    ("systemd-boot", "/efi/loader/loader.conf"),
    ("grub", "/boot/grub/grub.cfg"),
    ("extlinux", "/boot/extlinux/extlinux.conf"),
    ("init-link", "/sbin/init"),
];
/// Questions over the one connection at once; sshd allows ten.
const QUESTIONS: usize = 4;

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probe {
    /// As whom commands run, after `become`.
    pub uid: Option<u32>,
    /// `uname -m`.
    pub machine: Option<String>,
    /// `/etc/machine-id`.
    pub machine_id: Option<String>,
    /// What runs; `None`: it is no NixOS, or none that was activated.
    pub running: Option<StorePath>,
    /// The version of Nix that a login finds; `None`: it finds none.
    pub nix: Option<String>,
    /// Keys whose paths its Nix takes; `None`: it did not say, or takes all.
    pub trusted_keys: Option<Vec<String>>,
    /// The agent's version; `None`: it was not brought yet.
    pub agent: Option<String>,
    /// The boot loader, as far as files tell.
    pub loader: Option<String>,
    /// Other tools that deploy to it, with the unit that runs.
    pub managers: Vec<(String, String)>,
    /// File systems by where they are mounted, with their free bytes.
    pub free: Vec<(String, u64)>,
    /// The host's clock.
    pub clock: Option<Timestamp>,
}

impl SshHosts {
    /// Asks; all questions together take no longer than `wall`.
    pub async fn probe(&self, target: &Target, wall: Duration) -> Result<Probe, TransportError> {
        let late = |_| {
            let what = format!("no answer within {} s", wall.as_secs());
            error(&target.host, TransportFault::Unreachable, what)
        };
        tokio::time::timeout(wall, self.look(target))
            .await
            .map_err(late)?
    }

    async fn look(&self, target: &Target) -> Result<Probe, TransportError> {
        let ask = async |words: Vec<&str>| {
            let spec = self.inner.spec(target, Freshness::Reuse, &words)?;
            self.inner.run(target, &spec).await
        };
        // It fails for a place that is not there, and tells of the others all the same. It opens the connection.
        let df = ask([&["df", "-Pk"][..], &PLACES[..]].concat()).await?;
        if df.stdout.is_empty() {
            return Err(fault::of(target, &df));
        }
        let units = OTHER_MANAGERS.map(|(_, unit)| unit);
        let loaders = LOADERS.map(|(_, file)| file);
        let questions: [(&str, Vec<&str>); 10] = [
            ("uid", vec!["id", "-u"]),
            ("machine", vec!["uname", "-m"]),
            ("machineId", vec!["cat", "/etc/machine-id"]),
            ("running", vec!["readlink", "-f", "/run/current-system"]),
            ("nix", vec!["nix-store", "--version"]),
            (
                "config",
                vec![
                    "nix",
                    "--extra-experimental-features",
                    "nix-command",
                    "config",
                    "show",
                ],
            ),
            ("agent", vec![AGENT, "version", "-o", "json"]),
            ("loader", [&["ls", "-d"][..], &loaders[..]].concat()),
            (
                "units",
                [&["systemctl", "is-active"][..], &units[..]].concat(),
            ),
            ("clock", vec!["date", "-u", "-Iseconds"]),
        ];
        let ask = &ask;
        let asked = questions
            .into_iter()
            .map(|(name, words)| async move { Ok((name, ask(words).await?)) });
        let answers: Vec<Result<(&str, Exit), TransportError>> = futures::stream::iter(asked)
            .buffered(QUESTIONS)
            .collect()
            .await;
        let answers: BTreeMap<&str, Exit> = answers.into_iter().collect::<Result<_, _>>()?;
        let text = |name: &str| answers.get(name).map(Exit::out_text).unwrap_or_default();
        let said = |name: &str| {
            let exit = answers.get(name)?;
            let text = exit.out_text();
            (exit.ok() && !text.is_empty()).then_some(text)
        };
        let agent: Option<Value> = serde_json::from_str(&text("agent")).ok();
        Ok(Probe {
            uid: said("uid").and_then(|t| t.parse().ok()),
            machine: said("machine"),
            machine_id: said("machineId"),
            running: said("running").and_then(|t| t.parse().ok()),
            nix: said("nix").map(|t| t.lines().next().unwrap_or_default().to_owned()),
            trusted_keys: said("config").and_then(|t| trusted(&t)),
            agent: agent.and_then(|v| v.get("version")?.as_str().map(str::to_owned)),
            loader: loader(&text("loader")),
            managers: managers(&text("units")),
            free: free(&df.out_text()),
            clock: said("clock").and_then(|t| t.parse().ok()),
        })
    }
}

/// `NAME = VALUE` lines. `None`: unknown, or signatures are not asked for.
fn trusted(config: &str) -> Option<Vec<String>> {
    let value = |name: &str| {
        let mut lines = config.lines().filter_map(|l| l.split_once(" = "));
        lines.find(|(n, _)| *n == name).map(|(_, v)| v.trim())
    };
    if value("require-sigs") == Some("false") {
        return None;
    }
    let keys = value("trusted-public-keys")?;
    Some(keys.split_whitespace().map(str::to_owned).collect())
}

/// The first that is there: NixOS' own loaders come before what any machine has.
fn loader(listed: &str) -> Option<String> {
    let there: Vec<&str> = listed.lines().collect();
    let found = LOADERS.iter().find(|(_, file)| there.contains(file));
    found.map(|(name, _)| (*name).to_owned())
}

/// A state for each unit, in the order in which they were asked for.
fn managers(states: &str) -> Vec<(String, String)> {
    OTHER_MANAGERS
        .iter()
        .zip(states.lines())
        .filter(|(_, state)| *state == "active" || *state == "activating")
        .map(|((name, unit), _)| ((*name).to_owned(), (*unit).to_owned()))
        .collect()
}

/// `Filesystem 1024-blocks Used Available Capacity Mounted on`, each file system once.
fn free(df: &str) -> Vec<(String, u64)> {
    let mut found: Vec<(String, u64)> = Vec::new();
    for line in df.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some(available), Some(mounted)) = (words.get(3), words.get(5)) else {
            continue;
        };
        let Ok(kib) = available.parse::<u64>() else {
            continue;
        };
        if !found.iter().any(|(at, _)| at == mounted) {
            found.push(((*mounted).to_owned(), kib.saturating_mul(1 << 10)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_system_is_told_once() {
        let df = "Filesystem 1024-blocks Used Available Capacity Mounted on\n\
                  /dev/vda2 100 40 60 40% /\n/dev/vda2 100 40 60 40% /\n/dev/vda1 50 40 10 80% /boot\nbroken\n";
        let want = [("/".to_owned(), 60 << 10), ("/boot".to_owned(), 10 << 10)];
        assert_eq!(free(df), want);
        assert!(free("").is_empty());
    }

    #[test]
    fn a_host_that_asks_for_no_signature_trusts_everybody() {
        let config = "cores = 2\nrequire-sigs = true\ntrusted-public-keys = a-1:x= b-1:y=\n";
        assert_eq!(trusted(config).unwrap(), ["a-1:x=", "b-1:y="]);
        assert_eq!(trusted(&config.replace("true", "false")), None);
        assert_eq!(trusted(""), None);
    }

    #[test]
    fn managers_and_loaders_are_told_by_what_is_there() {
        let mut states = vec!["inactive"; OTHER_MANAGERS.len()];
        states[1] = "active";
        let found = managers(&states.join("\n"));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, OTHER_MANAGERS[1].0);
        assert_eq!(
            loader("/sbin/init\n/boot/grub/grub.cfg\n").as_deref(),
            Some("grub")
        );
        assert_eq!(loader("rubbish"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_answer_of_a_host_panics(text: String) {
            let _any = (free(&text), trusted(&text), loader(&text), managers(&text));
        }
    }
}
