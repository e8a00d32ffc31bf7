//! Wakes when something is written in a folder of ours, so that nobody has to look every few milliseconds. Says nothing
//! of what was written; where the kernel gives no such word it looks at intervals.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// How often one looks who is not woken.
const LOOK: Duration = Duration::from_millis(20);
/// Words that wait are read away in pieces of this.
const PIECE: usize = 4096;

/// A watched folder. Made before the first look, so that nothing can come between look and wait.
#[derive(Debug)]
pub struct Changes(Option<OwnedFd>);

impl Changes {
    /// Of files made, renamed or written in `folder`.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        let watch = inotify::init(flags).and_then(|fd| {
            let what = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::MODIFY;
            inotify::add_watch(&fd, folder, what)?;
            Ok(fd)
        });
        Self(watch.ok())
    }

    /// Returns soon after a change since the last call, and after `limit` at the latest.
    pub fn wait(&self, limit: Duration) {
        let Some(fd) = &self.0 else {
            thread::sleep(LOOK.min(limit));
            return;
        };
        let timeout = Timespec::try_from(limit).ok();
        let _woken = poll(&mut [PollFd::new(fd, PollFlags::IN)], timeout.as_ref());
        let mut piece = [0_u8; PIECE];
        while rustix::io::read(fd, &mut piece).is_ok_and(|n| n > 0) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_before_the_wait_is_not_lost() {
        let dir = tempfile::tempdir().expect("a folder");
        let changes = Changes::of(dir.path());
        assert!(changes.0.is_some(), "this kernel has inotify");
        std::fs::write(dir.path().join("x"), "y").expect("written");
        // Would hang the test if the change were lost.
        changes.wait(Duration::from_secs(3600));
    }
}
