//! A look at a host that changes nothing there: is it reached, who speaks, how much room is left, what time is it.

use std::time::Duration;

use serde_json::Value;
use trueup_engine::ports::{Target, TransportError, TransportFault};
use trueup_schema::Timestamp;

use super::config::Freshness;
use super::{SshHosts, error, fault};

/// Where room is needed: closures, and kernels.
const PLACES: [&str; 3] = ["/nix/store", "/boot", "/boot/efi"];
/// Where the agent is rooted once it was brought.
const AGENT: &str = "/nix/var/nix/gcroots/trueup/agent/bin/trueup-agent";

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probe {
    /// The agent's version; `None`: it was not brought yet.
    pub agent: Option<String>,
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
        let ask = async |words: &[&str]| {
            let spec = self.inner.spec(target, Freshness::Reuse, words)?;
            self.inner.run(target, &spec).await
        };
        // It fails for a place that is not there, and tells of the others all the same.
        let df = ask(&[&["df", "-Pk"][..], &PLACES[..]].concat()).await?;
        if df.stdout.is_empty() {
            return Err(fault::of(target, &df));
        }
        let agent = ask(&[AGENT, "version", "-o", "json"]).await?;
        let said: Option<Value> = serde_json::from_slice(&agent.stdout).ok();
        let date = ask(&["date", "-u", "-Iseconds"]).await?;
        Ok(Probe {
            agent: said.and_then(|v| v.get("version")?.as_str().map(str::to_owned)),
            free: free(&df.out_text()),
            clock: date.out_text().parse().ok(),
        })
    }
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
            found.push(((*mounted).to_owned(), kib << 10));
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
}
