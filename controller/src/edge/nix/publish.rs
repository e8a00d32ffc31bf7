//! Signs what was built for us, and copies closures to caches. Never vouches for what came from elsewhere unless a key
//! that the hub trusts has signed it: with our signature, hosts would take it from anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::time::Duration;

use async_trait::async_trait;
use trueup_engine::ports::{PublishError, Publisher};
use trueup_schema::StorePath;
use trueup_schema::kind::ResolvedCache;

use super::info::{self, PathInfo};
use super::{Nix, built, exec};
use crate::edge::exec::Limits;

/// Signing a closure of thousands of paths takes seconds.
const SIGN_WALL: Duration = Duration::from_secs(600);
/// What Nix knows of a closure: 1 KiB a path.
const INFO_BYTES: usize = 64 << 20;
/// Paths named in an error.
const NAMED: usize = 5;

#[async_trait(?Send)]
impl Publisher for Nix {
    async fn sign(&self, path: &StorePath) -> Result<(), PublishError> {
        self.sign_closure(path)
            .await
            .map_err(|why| PublishError::Sign {
                path: path.clone(),
                why,
            })
    }

    async fn push(&self, path: &StorePath, cache: &ResolvedCache) -> Result<(), PublishError> {
        self.push_now(path, cache)
            .await
            .map_err(|why| PublishError::Cache {
                path: path.clone(),
                cache: cache.url.clone(),
                why,
            })
    }
}

/// What to do with each path of a closure.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sorted {
    /// Built here, or on one of our builders: ours to sign.
    ours: Vec<StorePath>,
    /// Signed by others: Nix has to say whether it trusts them.
    foreign: Vec<StorePath>,
    /// From nobody knows where.
    unknown: Vec<StorePath>,
}

fn sort(closure: Vec<PathInfo>, our_key: &str, built: impl Fn(&str) -> bool) -> Sorted {
    let mut sorted = Sorted::default();
    for info in closure {
        // What names its own content needs no signature, and what has ours needs no second one.
        if info.content_addressed || info.signers.iter().any(|s| s == our_key) {
            continue;
        }
        if info.ultimate || info.deriver.as_deref().is_some_and(&built) {
            sorted.ours.push(info.path);
        } else if info.signers.is_empty() {
            sorted.unknown.push(info.path);
        } else {
            sorted.foreign.push(info.path);
        }
    }
    sorted
}

impl Nix {
    /// What the hub's store knows of all that these need.
    pub(super) async fn closures(&self, paths: &[&StorePath]) -> Result<Vec<PathInfo>, String> {
        let mut args: Vec<OsString> = ["path-info", "--recursive", "--json"]
            .map(OsString::from)
            .into();
        args.extend(paths.iter().map(|p| p.as_str().into()));
        let told = self.must(args, SIGN_WALL, Vec::new()).await?;
        info::parse(&told).map_err(|e| format!("`nix path-info` printed {e}"))
    }

    async fn sign_closure(&self, path: &StorePath) -> Result<(), String> {
        let closure = match self.joint.take_known(path) {
            Some(closure) => closure,
            None => self.closures(&[path]).await?,
        };
        let unknown = self.sign_jointly(closure).await?;
        if unknown.is_empty() {
            return Ok(());
        }
        let named: Vec<&str> = unknown.iter().take(NAMED).map(StorePath::as_str).collect();
        Err(format!(
            "{} of its paths were neither built here nor signed by anybody, so no host would take them: {}. Somebody \
             put them into the hub's store unsigned (`nix copy --no-check-sigs`?): delete them there (`nix store \
             delete`) and they are built again",
            unknown.len(),
            named.join(" ")
        ))
    }

    /// Signs all of these that are ours to sign, with each of our keys; what nobody vouches for comes back.
    pub(super) async fn sign_all(&self, closure: Vec<PathInfo>) -> Result<Vec<StorePath>, String> {
        let mut unknown = Vec::new();
        let keys = self.signing_keys();
        let ours: Vec<&str> = keys.iter().filter_map(|(_, p)| p.as_deref()).collect();
        for (file, _) in &keys {
            unknown = self
                .sign_with(file, &ours.join(" "), closure.clone())
                .await?;
        }
        Ok(unknown)
    }

    /// Signs what of a closure is ours to sign and lacks this key's signature; what nobody vouches for comes back. `ours`:
    /// our keys' public halves, whose signatures the others of them may repeat.
    async fn sign_with(
        &self,
        file: &std::path::Path,
        ours: &str,
        closure: Vec<PathInfo>,
    ) -> Result<Vec<StorePath>, String> {
        let key = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        let name = key.split(':').next().unwrap_or_default().to_owned();
        drop(key);
        let records = self.settings.state.join(built::FOLDER);
        let Sorted {
            ours: mut to_sign,
            foreign,
            unknown,
        } = sort(closure, &name, |drv| built::is_recorded(&records, drv));
        to_sign.extend(self.trusted(foreign, ours).await?);
        if !to_sign.is_empty() {
            let mut args: Vec<OsString> = ["store", "sign", "--stdin", "--key-file"]
                .map(OsString::from)
                .into();
            args.push(file.as_os_str().to_owned());
            self.must(args, SIGN_WALL, lines(&to_sign)).await?;
        }
        Ok(unknown)
    }

    /// Names of the keys that signed each of these, for those that the hub has.
    pub async fn signers(&self, paths: &[StorePath]) -> BTreeMap<StorePath, Vec<String>> {
        let mut found = BTreeMap::new();
        // One by one: a path that is not there fails the whole question.
        for path in paths {
            let args = ["path-info", "--offline", "--json", path.as_str()];
            let args = args.iter().map(OsString::from).collect();
            let Ok(told) = self.must(args, SIGN_WALL, Vec::new()).await else {
                continue;
            };
            for info in info::parse(&told).unwrap_or_default() {
                found.insert(info.path, info.signers);
            }
        }
        found
    }

    /// Those of `paths` that carry a signature that the hub trusts, or one by a key of ours, by Nix' own verdict.
    async fn trusted(&self, paths: Vec<StorePath>, ours: &str) -> Result<Vec<StorePath>, String> {
        if paths.is_empty() {
            return Ok(paths);
        }
        let args = ["store", "verify", "--no-contents", "--stdin"];
        let limits = Limits {
            wall: SIGN_WALL,
            output: INFO_BYTES,
            ..Limits::default()
        };
        let mut spec = self.spec(args.iter().map(OsString::from).collect(), limits);
        spec.stdin = lines(&paths);
        if !ours.is_empty() {
            let config = format!("{}\nextra-trusted-public-keys = {ours}\n", self.config());
            spec.env.insert("NIX_CONFIG".to_owned(), config.into());
        }
        let exit = exec::run(&spec).await.map_err(|e| e.to_string())?;
        let said = super::log::plain(&exit.err_text());
        // 2: some are untrusted, which it names. Without a name for each, nothing is believed.
        if !matches!(exit.code, Some(0 | 2)) || exit.truncated {
            return Err(format!(
                "asking who signed the closure: {}",
                last_error(&said)
            ));
        }
        let untrusted = untrusted(&said);
        if exit.code == Some(2) && untrusted.is_empty() {
            return Err(
                "`nix store verify` found untrusted paths and did not name them".to_owned(),
            );
        }
        Ok(paths
            .into_iter()
            .filter(|p| !untrusted.contains(p.as_str()))
            .collect())
    }

    pub(super) async fn must(
        &self,
        args: Vec<OsString>,
        wall: Duration,
        stdin: Vec<u8>,
    ) -> Result<Vec<u8>, String> {
        let limits = Limits {
            wall,
            output: INFO_BYTES,
            ..Limits::default()
        };
        let mut spec = self.spec(args, limits);
        spec.stdin = stdin;
        match exec::run(&spec).await {
            Ok(exit) if exit.ok() && !exit.truncated => Ok(exit.stdout),
            Ok(exit) if exit.ok() => Err(format!("it printed more than {INFO_BYTES} bytes")),
            Ok(exit) => Err(last_error(&super::log::plain(&exit.err_text()))),
            Err(e) => Err(e.to_string()),
        }
    }
}

fn lines(paths: &[StorePath]) -> Vec<u8> {
    let mut text = String::new();
    for path in paths {
        text.push_str(path.as_str());
        text.push('\n');
    }
    text.into_bytes()
}

pub(super) fn last_error(said: &str) -> String {
    let last = said.lines().rfind(|l| l.contains("error:"));
    let text = last.or(said.lines().last()).unwrap_or("nix gave no reason");
    text.trim().chars().take(500).collect()
}

fn untrusted(said: &str) -> BTreeSet<&str> {
    said.lines()
        .filter_map(|l| {
            l.trim()
                .strip_prefix("path '")?
                .strip_suffix("' is untrusted")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_built_for_us_is_ours_to_sign() {
        let path = |n: u8| -> StorePath {
            format!(
                "/nix/store/{}-x",
                char::from(b'a' + n).to_string().repeat(32)
            )
            .parse()
            .unwrap()
        };
        let info = |n: u8| PathInfo {
            path: path(n),
            deriver: None,
            ultimate: false,
            content_addressed: false,
            references: Vec::new(),
            signers: Vec::new(),
        };
        let signed = |n: u8, by: &str| PathInfo {
            signers: vec![by.to_owned()],
            ..info(n)
        };
        let closure = vec![
            PathInfo {
                ultimate: true,
                ..info(0)
            },
            PathInfo {
                content_addressed: true,
                ..info(1)
            },
            signed(2, "ours-1"),
            signed(3, "cache.example.org-1"),
            info(5),
            PathInfo {
                deriver: Some("built".to_owned()),
                ..info(6)
            },
            PathInfo {
                deriver: Some("not built".to_owned()),
                ..info(7)
            },
        ];
        let sorted = sort(closure, "ours-1", |drv| drv == "built");
        let wanted = Sorted {
            ours: vec![path(0), path(6)],
            foreign: vec![path(3)],
            unknown: vec![path(5), path(7)],
        };
        assert_eq!(sorted, wanted);
    }

    #[test]
    fn untrusted_paths_are_read_from_what_nix_says() {
        let said = "checking '/nix/store/a'...\npath '/nix/store/b' is untrusted\n";
        assert_eq!(untrusted(said), BTreeSet::from(["/nix/store/b"]));
    }
}
