//! Copies closures to caches of every kind that Nix can write to. No host waits for it; still a cache that is away must
//! cost seconds and not minutes, and be named.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use trueup_schema::StorePath;

use super::hub::SSH_OPTIONS;
use super::{Nix, exec};
use crate::edge::exec::{ExecSpec, Limits, Line};

/// Does it answer at all?
const PROBE_WALL: Duration = Duration::from_secs(8);
/// After it did not, it is left alone for so long.
const DEAD_FOR: Duration = Duration::from_secs(60);
/// Copying a first closure over a thin line takes long.
const PUSH_WALL: Duration = Duration::from_secs(4 * 3600);
/// A copy that says nothing for so long stands still: one large path may take its time over a thin line.
const STALL: Duration = Duration::from_secs(300);
/// Caches that are remembered.
const CACHES_MAX: usize = 256;

/// One cache: who copies to it, and since when it is away.
#[derive(Debug, Default)]
struct Cache {
    /// One copy at a time: what two closures share is then there for the second, and sent once.
    turn: Arc<tokio::sync::Mutex<()>>,
    dead_until: Option<(Instant, String)>,
}

/// All caches that were pushed to.
#[derive(Debug, Default)]
pub(super) struct Caches(Mutex<BTreeMap<String, Cache>>);

impl Caches {
    fn with<T>(&self, url: &str, look: impl FnOnce(&mut Cache) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if all.len() >= CACHES_MAX && !all.contains_key(url) {
            all.clear(); // manifests changed hundreds of times: begin anew
        }
        look(all.entry(url.to_owned()).or_default())
    }
}

/// Without a password, which has no place in it but may be there.
fn shown(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => match rest.split('/').next().and_then(|a| a.rsplit_once('@')) {
            Some((user, _)) if scheme != "ssh-ng" => {
                format!("{scheme}://{}", &rest[user.len() + 1..])
            }
            _ => url.to_owned(),
        },
        None => url.to_owned(),
    }
}

impl Nix {
    /// Copies what is not there yet. An error names the cache.
    pub(super) async fn push_now(&self, path: &StorePath, cache: &str) -> Result<(), String> {
        let turn = self.caches.with(cache, |c| c.turn.clone());
        let _turn = turn.lock().await;
        let dead = self.caches.with(cache, |c| c.dead_until.clone());
        if let Some((until, why)) = dead
            && Instant::now() < until
        {
            return Err(format!("left out since it did not answer: {why}"));
        }
        let result = match self.answers(cache).await {
            Ok(()) => self.copy_to(path, cache).await,
            Err(why) => Err((why, true)),
        };
        match result {
            Ok(()) => {
                self.caches.with(cache, |c| c.dead_until = None);
                Ok(())
            }
            Err((why, dead)) => {
                let why = why.replace(cache, &shown(cache));
                if dead {
                    let until = Instant::now() + DEAD_FOR;
                    self.caches
                        .with(cache, |c| c.dead_until = Some((until, why.clone())));
                }
                Err(why)
            }
        }
    }

    /// A folder needs no question. Nix asks a web server for its `nix-cache-info`, and another store for its version.
    pub async fn answers(&self, cache: &str) -> Result<(), String> {
        if cache.starts_with("file://") {
            return Ok(());
        }
        let mut spec = ExecSpec::new(
            self.settings.program.clone(),
            ["store", "info", "--store", cache],
        );
        spec.env.clone_from(&self.settings.env);
        spec.env
            .insert("NIX_CONFIG".to_owned(), self.config().into());
        spec.env
            .insert("NIX_SSHOPTS".to_owned(), SSH_OPTIONS.into());
        spec.limits = Limits {
            wall: PROBE_WALL,
            output: 64 << 10,
            rss: None,
        };
        match exec::run(&spec).await {
            Ok(exit) if exit.ok() => Ok(()),
            Ok(exit) => Err(super::publish::last_error(&super::log::plain(
                &exit.err_text(),
            ))),
            Err(exec::ExecError::TimedOut { secs, .. }) => {
                Err(format!("it did not answer within {secs} s"))
            }
            Err(e) => Err(e.to_string()),
        }
    }

    /// The copy itself; with an error, whether the cache is to be left alone for a while.
    async fn copy_to(&self, path: &StorePath, cache: &str) -> Result<(), (String, bool)> {
        let args = [
            "copy",
            "--log-format",
            "internal-json",
            "-v",
            "--to",
            cache,
            path.as_str(),
        ];
        let limits = Limits {
            wall: PUSH_WALL,
            ..Limits::default()
        };
        // `--from` where others have `--store`: a copy begins in the hub and must not go through this machine's store.
        let mut spec = self.spec(args.iter().map(OsString::from).collect(), limits);
        if let Some(store) = spec.args.iter_mut().find(|a| *a == "--store") {
            *store = "--from".into();
        }
        let failed = |e: exec::ExecError| (e.to_string(), true);
        let mut running = exec::stream(spec).map_err(failed)?;
        let mut error = None;
        loop {
            match tokio::time::timeout(STALL, running.next()).await {
                Err(_) => {
                    return Err((format!("it took nothing for {} s", STALL.as_secs()), true));
                }
                Ok(None) => break,
                Ok(Some(Line::Out(text) | Line::Err(text))) => {
                    error = said(&text).or(error);
                }
            }
        }
        let exit = running.finish().await.map_err(failed)?;
        if exit.ok() {
            return Ok(());
        }
        let why = error.unwrap_or_else(|| super::publish::last_error(&exit.err_text()));
        let away = ["unable to", "Couldn't", "timed out", "SSH", "disconnected"];
        let dead = away.iter().any(|w| why.contains(w));
        Err((why, dead))
    }
}

/// The error in a line of Nix' log, if it is one.
fn said(line: &str) -> Option<String> {
    let json = line.strip_prefix("@nix ")?;
    let v: serde_json::Value = serde_json::from_str(json).ok()?;
    let error = v["action"] == "msg" && v["level"].as_u64() == Some(0);
    let text = super::log::plain(v["msg"].as_str().filter(|_| error)?);
    Some(
        text.trim_start_matches("error:")
            .trim()
            .chars()
            .take(500)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_cache_has_no_password() {
        assert_eq!(shown("https://u:secret@h/x"), "https://h/x");
        assert_eq!(shown("https://h/x@y"), "https://h/x@y");
        assert_eq!(shown("ssh-ng://root@h"), "ssh-ng://root@h");
        assert_eq!(shown("file:///x"), "file:///x");
    }

    #[test]
    fn the_error_of_a_copy_is_found_in_the_log() {
        let line =
            r#"@nix {"action":"msg","level":0,"msg":"\u001b[31;1merror:\u001b[0m no such host"}"#;
        assert_eq!(said(line).as_deref(), Some("no such host"));
        assert_eq!(
            said(r#"@nix {"action":"msg","level":3,"msg":"copying"}"#),
            None
        );
        assert_eq!(said("text"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_line_panics(line: String) {
            let _any = (said(&line), said(&format!("@nix {line}")), shown(&line));
        }
    }
}
