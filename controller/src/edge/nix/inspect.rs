//! Questions about closures and derivations in the hub's store: what they are made of, how large, what a file says.
//! Everything is optional: what is not known is not guessed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use trueup_schema::{DrvPath, StorePath};

use super::info::full_name;
use super::{Nix, exec};
use crate::edge::exec::Limits;

/// A closure of thousands of paths, on a busy machine.
const WALL: Duration = Duration::from_secs(120);
/// Whether it works at all is told soon.
const CHECK_WALL: Duration = Duration::from_secs(10);
/// Names of a large system's derivations, or its paths with their sizes.
const OUTPUT_BYTES: usize = 64 << 20;
/// Derivations that are looked into at once.
const SHOWN_MAX: usize = 500;
/// Links that lead to links; more is a loop.
const LINKS_MAX: usize = 32;
/// A unit's file is short.
const FILE_MAX: u64 = 1 << 20;

/// What a derivation hands to its builder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Derivation {
    /// Its environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The builder's arguments.
    #[serde(default)]
    pub args: Vec<String>,
}

impl Nix {
    async fn answer(&self, args: Vec<OsString>) -> Option<Vec<u8>> {
        let limits = Limits {
            wall: WALL,
            output: OUTPUT_BYTES,
            rss: None,
        };
        let exit = exec::run(&self.spec(args, limits)).await.ok()?;
        (exit.ok() && !exit.truncated).then_some(exit.stdout)
    }

    /// Does it run, with flakes, and does it open its store? Its version, or what it complains of.
    pub async fn works(&self) -> Result<String, String> {
        let mut spec = self.spec(vec!["--version".into()], Limits::default());
        spec.args.truncate(1);
        let version = exec::run(&spec)
            .await
            .map_err(|e| e.to_string())?
            .out_text();
        let args = ["eval", "--expr", "builtins.currentSystem", "--impure"];
        let args = args.iter().map(OsString::from).collect();
        let limits = Limits {
            wall: CHECK_WALL,
            ..Limits::default()
        };
        match exec::run(&self.spec(args, limits)).await {
            Ok(exit) if exit.ok() => Ok(version),
            Ok(exit) => Err(exit
                .err_text()
                .lines()
                .last()
                .unwrap_or_default()
                .to_owned()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// All paths of a closure with their sizes in bytes; `None` where it is not (wholly) in the store.
    pub async fn contents(&self, out: &StorePath) -> Option<BTreeMap<StorePath, u64>> {
        let args = [
            "path-info",
            "--offline",
            "--recursive",
            "--json",
            out.as_str(),
        ];
        let text = self
            .answer(args.iter().map(OsString::from).collect())
            .await?;
        contents(&serde_json::from_slice(&text).ok()?)
    }

    /// All derivations that one needs, itself included.
    pub async fn requisites(&self, drv: &DrvPath) -> Option<Vec<DrvPath>> {
        let args = [
            "path-info",
            "--offline",
            "--recursive",
            "--derivation",
            drv.as_str(),
        ];
        let text = self
            .answer(args.iter().map(OsString::from).collect())
            .await?;
        let text = String::from_utf8(text).ok()?;
        Some(text.lines().filter_map(|l| l.trim().parse().ok()).collect())
    }

    /// What these derivations say; of too many, nothing.
    pub async fn derivations(&self, drvs: &[DrvPath]) -> Option<BTreeMap<DrvPath, Derivation>> {
        if drvs.is_empty() || drvs.len() > SHOWN_MAX {
            return drvs.is_empty().then(BTreeMap::new);
        }
        let mut args: Vec<OsString> = vec!["derivation".into(), "show".into()];
        args.extend(drvs.iter().map(|d| d.as_str().into()));
        let text = self.answer(args).await?;
        derivations(&serde_json::from_slice(&text).ok()?)
    }

    /// Where the store's files lie on this machine's disk; `None`: elsewhere.
    fn disk(&self) -> Option<PathBuf> {
        match self.settings.store.as_deref() {
            None | Some("auto" | "daemon" | "local") => Some(PathBuf::from("/")),
            Some(folder) if folder.starts_with('/') => Some(PathBuf::from(folder)),
            Some(_) => None,
        }
    }

    /// What a link in the store leads to in the end, as a path of the store.
    #[must_use]
    pub fn target(&self, path: &Path) -> Option<PathBuf> {
        follow(&self.disk()?, path)
    }

    /// A short text in the store.
    #[must_use]
    pub fn text(&self, path: &Path) -> Option<String> {
        let disk = self.disk()?;
        let place = below(&disk, &follow(&disk, path)?);
        let meta = std::fs::metadata(&place).ok()?;
        if !meta.is_file() || meta.len() > FILE_MAX {
            return None;
        }
        String::from_utf8(std::fs::read(place).ok()?).ok()
    }

    /// Names in a folder of the store.
    #[must_use]
    pub fn names(&self, path: &Path) -> Option<Vec<String>> {
        let disk = self.disk()?;
        let entries = std::fs::read_dir(below(&disk, &follow(&disk, path)?)).ok()?;
        let names = entries.flatten().map(|e| e.file_name().into_string());
        let mut names: Vec<String> = names.collect::<Result<_, _>>().ok()?;
        names.sort();
        Some(names)
    }
}

fn below(disk: &Path, path: &Path) -> PathBuf {
    disk.join(path.strip_prefix("/").unwrap_or(path))
}

/// Links are followed by us, each below `disk`: a store in a folder has links that say `/nix/store`.
fn follow(disk: &Path, path: &Path) -> Option<PathBuf> {
    let (mut done, mut links) = (PathBuf::from("/"), 0);
    let parts = |p: &Path| -> Vec<OsString> {
        let parts = p.components().filter_map(|c| match c {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        });
        parts.rev().collect()
    };
    let mut todo = parts(path);
    while let Some(part) = todo.pop() {
        if part == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&part);
        match std::fs::read_link(below(disk, &next)) {
            Ok(to) => {
                links += 1;
                if links > LINKS_MAX {
                    return None;
                }
                if to.is_absolute() {
                    done = PathBuf::from("/");
                }
                todo.extend(parts(&to));
            }
            Err(_) => done = next,
        }
    }
    below(disk, &done).exists().then_some(done)
}

/// A list of objects with `path` until Nix 2.18, an object by path since, below `info` since 2.33.
fn contents(json: &Value) -> Option<BTreeMap<StorePath, u64>> {
    let one = |path: &str, info: &Value| {
        let path = full_name(path).parse().ok()?;
        Some((path, info.get("narSize")?.as_u64()?))
    };
    match json.get("info").unwrap_or(json) {
        Value::Array(list) => list
            .iter()
            .map(|info| one(info.get("path")?.as_str()?, info))
            .collect(),
        Value::Object(map) => map.iter().map(|(path, info)| one(path, info)).collect(),
        _ => None,
    }
}

/// By path, or since Nix 2.32 by name below `derivations`.
fn derivations(json: &Value) -> Option<BTreeMap<DrvPath, Derivation>> {
    let map = json.get("derivations").unwrap_or(json).as_object()?;
    let one = |(path, drv): (&String, &Value)| {
        let path = if path.starts_with('/') {
            path.clone()
        } else {
            format!("/nix/store/{path}")
        };
        Some((
            path.parse().ok()?,
            serde_json::from_value(drv.clone()).ok()?,
        ))
    };
    map.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PATH: &str = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60";

    #[test]
    fn both_forms_of_nix_are_read() {
        let old = contents(&json!([{"path": PATH, "narSize": 7}])).unwrap();
        let new = contents(&json!({PATH: {"narSize": 7}})).unwrap();
        assert_eq!(old, new);
        assert_eq!(old.values().sum::<u64>(), 7);
        assert_eq!(contents(&json!({PATH: null})), None);
        let drv = format!("{PATH}.drv");
        let old = derivations(&json!({&drv: {"env": {"a": "b"}, "args": []}})).unwrap();
        let name = drv.trim_start_matches("/nix/store/");
        let new = derivations(&json!({"version": 4, "derivations": {name: {"env": {"a": "b"}}}}));
        assert_eq!(Some(old), new);
    }

    #[test]
    fn links_are_followed_within_the_store_that_lies_in_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        std::fs::create_dir_all(at("nix/store/a/sub")).unwrap();
        std::fs::create_dir_all(at("nix/store/b")).unwrap();
        std::fs::write(at("nix/store/a/sub/file"), "x").unwrap();
        std::os::unix::fs::symlink("/nix/store/a/sub", at("nix/store/b/etc")).unwrap();
        std::os::unix::fs::symlink("../b/etc/file", at("nix/store/a/link")).unwrap();
        std::os::unix::fs::symlink("loop", at("nix/store/a/loop")).unwrap();
        let found = |p: &str| follow(dir.path(), Path::new(p));
        let file = Some(PathBuf::from("/nix/store/a/sub/file"));
        assert_eq!(found("/nix/store/b/etc/file"), file);
        assert_eq!(found("/nix/store/a/link"), file);
        assert_eq!(found("/nix/store/a/loop"), None);
        assert_eq!(found("/nix/store/none"), None);
    }
}
