//! Signs closures in the hub's store and copies them to caches.

use std::ffi::OsString;
use std::time::Duration;

use async_trait::async_trait;
use trueup_engine::ports::{PublishError, Publisher};
use trueup_schema::StorePath;

use super::{Nix, exec};
use crate::edge::exec::Limits;

/// Signing a closure of thousands of paths takes seconds.
const SIGN_WALL: Duration = Duration::from_secs(600);
/// Copying a first closure over a thin line takes long.
const PUSH_WALL: Duration = Duration::from_secs(4 * 3600);

#[async_trait(?Send)]
impl Publisher for Nix {
    async fn sign(&self, path: &StorePath) -> Result<(), PublishError> {
        // Of the whole closure: what came signed by another key keeps that signature beside ours. Signing only what
        // was built here or came with a trusted signature is not yet told apart.
        let key = self.settings.signing_key.clone().into_os_string();
        let args = [
            "store".into(),
            "sign".into(),
            "-r".into(),
            "-k".into(),
            key,
            path.as_str().into(),
        ];
        self.must(args.into(), SIGN_WALL)
            .await
            .map_err(|why| PublishError::Sign {
                path: path.clone(),
                why,
            })
    }

    async fn push(&self, path: &StorePath, cache: &str) -> Result<(), PublishError> {
        let err = |why| PublishError::Cache {
            path: path.clone(),
            cache: cache.to_owned(),
            why,
        };
        if !cache.starts_with("file://") {
            return Err(err("only file:// caches are pushed to yet".to_owned()));
        }
        let args = ["copy", "--to", cache, path.as_str()];
        self.must(args.iter().map(OsString::from).collect(), PUSH_WALL)
            .await
            .map_err(err)
    }
}

impl Nix {
    async fn must(&self, args: Vec<OsString>, wall: Duration) -> Result<(), String> {
        let limits = Limits {
            wall,
            ..Limits::default()
        };
        match exec::run(&self.spec(args, limits)).await {
            Ok(exit) if exit.ok() => Ok(()),
            Ok(exit) => {
                let text = super::log::plain(&exit.err_text());
                let last = text
                    .lines()
                    .rfind(|l| l.contains("error:"))
                    .unwrap_or(&text);
                Err(last.trim().chars().take(500).collect())
            }
            Err(e) => Err(e.to_string()),
        }
    }
}
