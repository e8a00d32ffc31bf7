//! The shared connections: ssh keeps them in processes of its own, which would outlive us by their idle time.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;

use super::config::SOCKET;
use crate::edge::exec::{self, ExecSpec, Limits};

/// Ended at once; each is a short program.
const AT_ONCE: usize = 16;
/// One that does not answer has no connection worth waiting for.
const END_WALL: Duration = Duration::from_secs(5);

/// What is needed to end shared connections when the rest of this edge is gone already.
#[derive(Debug, Clone)]
pub struct Masters {
    pub(super) ssh: PathBuf,
    pub(super) env: BTreeMap<String, OsString>,
    pub(super) run_dir: PathBuf,
}

impl Masters {
    /// Ends all of them. Called when nobody uses them any more: sessions over them are cut.
    pub async fn end_all(&self) {
        let Ok(entries) = std::fs::read_dir(&self.run_dir) else {
            return;
        };
        let sockets: Vec<PathBuf> = entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.to_string_lossy().ends_with(SOCKET))
            .collect();
        futures::stream::iter(sockets)
            .for_each_concurrent(AT_ONCE, |socket| async move { self.end(&socket).await })
            .await;
    }

    /// Ends one: also after it was seen not to answer, so that it does not hold up the next try.
    pub(super) async fn end(&self, socket: &Path) {
        let mut path = OsString::from("ControlPath=");
        path.push(socket);
        // The name is not looked at: the path has no place for it.
        let args: Vec<OsString> = ["-F", "/dev/null", "-o"]
            .map(OsString::from)
            .into_iter()
            .chain([path])
            .chain(["-O", "exit", "--", "master"].map(OsString::from))
            .collect();
        let mut spec = ExecSpec::new(self.ssh.clone(), args);
        spec.env = self.env.clone();
        spec.limits = Limits {
            wall: END_WALL,
            ..Limits::default()
        };
        let _gone_already = exec::run(&spec).await;
        // Left by one that was killed.
        let _none = std::fs::remove_file(socket);
    }
}
