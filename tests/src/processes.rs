//! Processes by id and start time, so that nobody else's is ever taken for one of ours; signals; what a killed run left.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness;

/// A process that was told to end has this long.
const END_MAX: Duration = Duration::from_secs(10);
/// Folders of worlds, below the temporary folder.
pub const WORLD: &str = "trueup-world-";
/// Who made the world: it goes with that process.
pub const OWNER: &str = "owner";
/// The world's controller.
pub const CONTROLLER: &str = "controller.pid";

/// A process: its id may be given anew, its id and start time are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub pid: u32,
    started: u64,
}

impl Stamp {
    /// Of a process that runs.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold blanks; behind it come the state and, as the 20th, the start time.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        if fields.next()? == "Z" {
            return None;
        }
        let started = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, started })
    }

    pub fn runs(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    pub fn read(file: &Path) -> Option<Self> {
        let text = fs::read_to_string(file).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        Some(Self {
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
        })
    }

    pub fn write(self, file: &Path) -> std::io::Result<()> {
        fs::write(file, format!("{} {}\n", self.pid, self.started))
    }

    /// Sends a signal (`TERM`, `KILL`, `STOP`) if it still is that process.
    pub fn signal(self, name: &str) {
        if self.runs() {
            run("kill", &["-s", name, &self.pid.to_string()]);
        }
    }

    /// Tells it to end, and makes it.
    pub fn end(self) {
        self.signal("TERM");
        if harness::wait(END_MAX, || (!self.runs()).then_some(())).is_none() {
            self.signal("KILL");
            harness::wait(END_MAX, || (!self.runs()).then_some(()));
        }
    }
}

/// Command lines of the processes in whose arguments the text stands: our own test is none of them.
pub fn mentioning(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) && pid != std::process::id() && Stamp::of(pid).is_some() {
            found.push(format!("{pid} {}", line.trim()));
        }
    }
    found
}

/// Ends what worlds whose owner is gone left behind: controller, shared ssh connections, folder. Other worlds, and
/// folders that name no owner, are not touched.
pub fn reap() {
    reap_in(&std::env::temp_dir());
}

fn reap_in(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let dir = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(WORLD) {
            continue;
        }
        match Stamp::read(&dir.join(OWNER)) {
            Some(owner) if !owner.runs() => clear(&dir),
            _ => {}
        }
    }
}

/// Ends a world's processes and removes its folder.
pub fn clear(dir: &Path) {
    if let Some(controller) = Stamp::read(&dir.join(CONTROLLER)) {
        controller.end();
    }
    for socket in sockets(dir) {
        let path = format!("ControlPath={}", socket.display());
        run(
            "ssh",
            &["-F", "/dev/null", "-o", &path, "-O", "exit", "--", "master"],
        );
    }
    // Store paths are read-only folders, which nobody but root can empty.
    run("chmod", &["-R", "u+w", &dir.display().to_string()]);
    // What was told to end may still write there.
    let mut last = None;
    let gone = || match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            last = Some(error);
            None
        }
        _ => Some(()),
    };
    if harness::wait(END_MAX, gone).is_none()
        && let Some(error) = last
    {
        eprintln!("{} stays: {error}", dir.display());
    }
}

/// Sockets of a world's shared ssh connections.
pub fn sockets(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir.join("state/ssh"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "sock"))
        .collect()
}

#[allow(clippy::disallowed_methods, reason = "the tests' own programs")]
fn run(program: &str, args: &[&str]) {
    let _gone_already = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn world(folder: &Path, name: &str, owner: Option<Stamp>) -> PathBuf {
        let dir = folder.join(format!("{WORLD}{name}"));
        fs::create_dir(&dir).unwrap();
        if let Some(owner) = owner {
            owner.write(&dir.join(OWNER)).unwrap();
        }
        dir
    }

    #[test]
    fn what_a_killed_run_left_is_ended_and_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let me = Stamp::of(std::process::id()).unwrap();
        // The same id, given anew: its owner is gone.
        let gone = Stamp {
            started: me.started - 1,
            ..me
        };
        let (mut left, mut other) = (harness::sleeper(), harness::sleeper());
        let stamp = Stamp::of(left.id()).unwrap();
        let of_another = Stamp {
            started: stamp.started - 1,
            pid: other.id(),
        };

        let killed = world(folder.path(), "killed", Some(gone));
        stamp.write(&killed.join(CONTROLLER)).unwrap();
        let reused = world(folder.path(), "reused", Some(gone));
        of_another.write(&reused.join(CONTROLLER)).unwrap();
        let lives = world(folder.path(), "lives", Some(me));
        let nameless = world(folder.path(), "nameless", None);
        reap_in(folder.path());

        assert!(!stamp.runs() && !killed.exists() && !reused.exists());
        assert!(lives.exists() && nameless.exists());
        assert!(
            other.try_wait().unwrap().is_none(),
            "it was another process"
        );
        left.wait().unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
