//! Copies closures to caches of every kind that Nix can write to. No host waits for it; still a cache that is away must
//! cost seconds and not minutes, and be named.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use trueup_schema::StorePath;
use trueup_schema::kind::ResolvedCache;

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
    pub(super) async fn push_now(
        &self,
        path: &StorePath,
        cache: &ResolvedCache,
    ) -> Result<(), String> {
        let url = cache.url.as_str();
        let turn = self.caches.with(url, |c| c.turn.clone());
        let _turn = turn.lock().await;
        let dead = self.caches.with(url, |c| c.dead_until.clone());
        if let Some((until, why)) = dead
            && Instant::now() < until
        {
            return Err(format!("left out since it did not answer: {why}"));
        }
        let result = match self.cache_answers(cache).await {
            Ok(()) => self.copy_to(path, cache).await,
            Err(why) => Err((why, true)),
        };
        match result {
            Ok(()) => {
                self.caches.with(url, |c| c.dead_until = None);
                Ok(())
            }
            Err((why, dead)) => {
                let why = explained(&why.replace(url, &shown(url)));
                if dead {
                    let until = Instant::now() + DEAD_FOR;
                    self.caches
                        .with(url, |c| c.dead_until = Some((until, why.clone())));
                }
                Err(why)
            }
        }
    }

    /// Does it answer, and to our login? A folder needs no question.
    pub async fn cache_answers(&self, cache: &ResolvedCache) -> Result<(), String> {
        if cache.url.starts_with("file://") {
            return Ok(());
        }
        let mut spec = self.question(&cache.url, &[]);
        give_login(&mut spec, cache)?;
        // Nix remembers for a week that a web server was there, and would say so without asking it.
        let forgetful = self.settings.state.join("ask").join(format!(
            "{}-{}",
            std::process::id(),
            trueup_schema::Digest::of(cache.url.as_bytes()).short()
        ));
        let home = forgetful.as_os_str().to_owned();
        spec.env.insert("XDG_CACHE_HOME".to_owned(), home);
        let answer = said_yes(spec).await;
        let _none_was_made = std::fs::remove_dir_all(&forgetful);
        answer.map_err(|why| explained(&why))
    }

    /// Nix asks another store for its version.
    pub async fn answers(&self, store: &str) -> Result<(), String> {
        said_yes(self.question(store, &[])).await
    }

    pub(super) fn question(&self, store: &str, more: &[&str]) -> ExecSpec {
        let args = ["store", "info", "--store", store];
        let args = args.iter().chain(more);
        let mut spec = ExecSpec::new(self.settings.program.clone(), args);
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
        spec
    }

    /// The copy itself; with an error, whether the cache is to be left alone for a while.
    async fn copy_to(&self, path: &StorePath, cache: &ResolvedCache) -> Result<(), (String, bool)> {
        let args = [
            "copy",
            "--log-format",
            "internal-json",
            "-v",
            "--to",
            &cache.url,
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
        give_login(&mut spec, cache).map_err(|why| (why, false))?;
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

async fn said_yes(spec: ExecSpec) -> Result<(), String> {
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

/// Tells Nix in which file the login is. Nobody sees more of it than its name, and we don't read it ourselves.
fn give_login(spec: &mut ExecSpec, cache: &ResolvedCache) -> Result<(), String> {
    let Some(file) = &cache.credentials_file else {
        return Ok(());
    };
    // Nix says nothing of a file that it can't read, and comes without a login.
    let meta = std::fs::File::open(file).and_then(|f| f.metadata());
    let meta = meta.map_err(|e| format!("its credentialsFile {file}: {e}"))?;
    if meta.permissions().mode() & 0o007 != 0 {
        return Err(format!(
            "its credentialsFile {file} may be read by everybody: chmod 600 {file}"
        ));
    }
    if cache.url.starts_with("s3://") {
        spec.env
            .insert("AWS_SHARED_CREDENTIALS_FILE".to_owned(), file.into());
        // What the machine's own cloud would lend is not asked for.
        spec.env
            .insert("AWS_EC2_METADATA_DISABLED".to_owned(), "true".into());
        return Ok(());
    }
    let config = spec.env.entry("NIX_CONFIG".to_owned()).or_default();
    config.push(format!("\nnetrc-file = {file}\n"));
    Ok(())
}

/// With what a person can do about it, where Nix leaves that out.
fn explained(why: &str) -> String {
    let has = |words: &[&str]| words.iter().any(|w| why.contains(w));
    let next = if why.contains("know how to open Nix store") && why.contains("s3") {
        "this Nix was built without S3: name one that has it as `nix.program` in trueup.yaml (those of nixos.org do), or give \
         the cache an `http(s)://` URL that takes uploads, or `file://`"
    } else if has(&["HTTP error 401", "HTTP error 403"]) {
        "it wants a login that may write: `credentialsFile` in the Cache names a file with one (and for `s3://` Nix must be \
         built with AWS' logins)"
    } else if has(&["certificate", "SSL peer"]) {
        "the file that NIX_SSL_CERT_FILE names in the controller's environment (or `ssl-cert-file` in nix.conf) has to have its CA"
    } else {
        return why.to_owned();
    };
    format!("{why}; {next}")
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
