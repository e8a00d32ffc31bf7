//! Wakes when a repository on this machine may have a new commit. Says nothing of what changed; misses are made good
//! by the poll.

use std::path::{Path, PathBuf};

use futures::stream::{LocalBoxStream, StreamExt as _};
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// The folder that holds `refs`: of a bare repository itself, else `.git`.
fn git_dir(path: &Path) -> PathBuf {
    let inner = path.join(".git");
    if inner.is_dir() {
        inner
    } else {
        path.to_owned()
    }
}

/// Does a change of this file tell of a branch that moved?
fn tells(path: &Path) -> bool {
    let lock = path.extension().is_some_and(|e| e == "lock");
    let refs = path.components().any(|c| c.as_os_str() == "refs");
    !lock && (refs || path.file_name().is_some_and(|n| n == "packed-refs"))
}

/// Opening and reading are no news: our own fetch reads the branch, and would wake itself for ever.
fn changes(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(what) => what == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

pub(super) fn local(path: &Path) -> LocalBoxStream<'static, ()> {
    let dir = git_dir(path);
    // One wake may wait: it tells of all that came before it.
    let (tx, rx) = mpsc::channel(1);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let wakes = event.map_or(true, |e| {
            e.need_rescan() || changes(e.kind) && e.paths.iter().any(|p| tells(p))
        });
        if wakes {
            let _one_waits_already = tx.try_send(());
        }
    });
    let watched = watcher.and_then(|mut watcher| {
        // packed-refs is replaced by rename, so its folder is watched, not the file.
        watcher.watch(&dir, RecursiveMode::NonRecursive)?;
        watcher.watch(&dir.join("refs"), RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    match watched {
        Ok(watcher) => futures::stream::unfold((watcher, rx), |(watcher, mut rx)| async {
            rx.recv().await.map(|()| ((), (watcher, rx)))
        })
        .boxed_local(),
        Err(e) => {
            tracing::warn!(repository = %dir.display(), error = %e, "not watched: new commits are seen at the next poll");
            futures::stream::pending().boxed_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_the_branch_is_no_news() {
        assert!(!changes(EventKind::Access(AccessKind::Open(
            AccessMode::Any
        ))));
        assert!(!changes(EventKind::Access(AccessKind::Close(
            AccessMode::Read
        ))));
        assert!(changes(EventKind::Access(AccessKind::Close(
            AccessMode::Write
        ))));
    }

    #[test]
    fn only_what_moves_a_branch_wakes() {
        assert!(tells(Path::new("/r/.git/refs/heads/main")));
        assert!(tells(Path::new("/r/.git/packed-refs")));
        assert!(!tells(Path::new("/r/.git/refs/heads/main.lock")));
        assert!(!tells(Path::new("/r/.git/index")));
    }
}
