//! The only caller of `Command::new`: no shell, cleared environment, bounded output, the process group killed at its
//! wall limit. It does not know what it runs.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};

/// More output than this is not kept.
pub const MAX_OUTPUT: usize = 8 << 20;
/// How often a child is looked at on kernels that can't wake us at its end (before 5.3).
const POLL: Duration = Duration::from_millis(4);
/// Where tools are looked for: NixOS, any Nix, other distributions.
const TOOL_DIRS: [&str; 6] = [
    "/run/current-system/sw/bin",
    "/run/current-system/systemd/bin",
    "/nix/var/nix/profiles/default/bin",
    "/usr/bin",
    "/usr/sbin",
    "/bin",
];
/// `PATH` of children: fixed, whatever the caller's was.
pub const PATH: &str =
    "/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:/usr/bin:/usr/sbin:/bin:/sbin";

/// What could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// Not in any of the fixed places.
    #[error("`{0}` is in none of the fixed places where it is looked for")]
    Find(String),
    /// The kernel refused.
    #[error("can't start {program}: {source}")]
    Start {
        /// Which.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It did not end in time.
    #[error("{program} did not end within {limit:?}")]
    Limit {
        /// Which.
        program: PathBuf,
        /// How long it had.
        limit: Duration,
    },
    /// It ended badly.
    #[error("{program} ended with {code}: {stderr}")]
    Failed {
        /// Which.
        program: PathBuf,
        /// Its exit code; -1 for a signal.
        code: i32,
        /// The end of what it said.
        stderr: String,
    },
}

/// What a program did.
#[derive(Debug)]
pub struct Output {
    /// Exit code; -1 for a signal.
    pub code: i32,
    /// Standard output, bounded.
    pub stdout: String,
    /// Standard error, bounded.
    pub stderr: String,
}

/// A tool by name, from the fixed places.
pub fn tool(name: &str) -> Result<PathBuf, ExecError> {
    TOOL_DIRS
        .iter()
        .map(|d| Path::new(d).join(name))
        .find(|p| p.exists())
        .ok_or_else(|| ExecError::Find(name.to_owned()))
}

#[allow(clippy::disallowed_methods, reason = "this is the agent's exec room")]
fn bare(program: &Path, args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut c = Command::new(program);
    c.args(args)
        .env_clear()
        .env("PATH", PATH)
        .envs(env.iter().copied())
        .current_dir("/");
    c
}

fn command(program: &Path, args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut c = bare(program, args, env);
    c.stdin(Stdio::null()).process_group(0);
    c
}

/// Waits for the end of a child, woken by the kernel; `None`: it still runs after `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed());
    let end = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = limit.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        match &end {
            Some(end) => {
                let timeout = Timespec::try_from(left).ok();
                // Interrupted or timed out: the loop looks again.
                let _woken = poll(&mut [PollFd::new(end, PollFlags::IN)], timeout.as_ref());
            }
            None => thread::sleep(POLL.min(left)),
        }
    }
}

fn kill_group(child: &mut Child) {
    if let Some(pid) = rustix::process::Pid::from_raw(child.id().cast_signed()) {
        let _gone = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
    let _reaped = child.wait();
}

fn collect(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut kept = Vec::new();
        let Some(mut stream) = stream else {
            return String::new();
        };
        let mut buffer = [0_u8; 16 << 10];
        while let Ok(n) = stream.read(&mut buffer) {
            if n == 0 {
                break;
            }
            // Read on beyond the limit: a full pipe would stop the child.
            let room = MAX_OUTPUT.saturating_sub(kept.len()).min(n);
            kept.extend_from_slice(&buffer[..room]);
        }
        String::from_utf8_lossy(&kept).into_owned()
    })
}

/// Runs a program and keeps what it says.
pub fn run(program: &Path, args: &[&str], limit: Duration) -> Result<Output, ExecError> {
    let mut child = command(program, args, &[])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| ExecError::Start {
            program: program.to_owned(),
            source,
        })?;
    let out = collect(child.stdout.take());
    let err = collect(child.stderr.take());
    let Ok(Some(status)) = wait(&mut child, limit) else {
        kill_group(&mut child);
        return Err(ExecError::Limit {
            program: program.to_owned(),
            limit,
        });
    };
    Ok(Output {
        code: status.code().unwrap_or(-1),
        stdout: out.join().unwrap_or_default(),
        stderr: err.join().unwrap_or_default(),
    })
}

/// Runs a tool by name; anything but exit 0 is an error that carries what it said.
pub fn tool_ok(name: &str, args: &[&str], limit: Duration) -> Result<String, ExecError> {
    let program = tool(name)?;
    let out = run(&program, args, limit)?;
    if out.code == 0 {
        return Ok(out.stdout);
    }
    let tail: String = out.stderr.trim().chars().take(600).collect();
    Err(ExecError::Failed {
        program,
        code: out.code,
        stderr: tail,
    })
}

/// Becomes a program, with this one's streams: returns only when that failed. For what must answer to whoever is at the
/// other end of the SSH connection. Of the environment it gets what names the user and Nix' certificates.
pub fn replace(program: &Path, args: &[&str]) -> ExecError {
    const PASSED_ON: [&str; 6] = [
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "NIX_SSL_CERT_FILE",
        "SSL_CERT_FILE",
    ];
    // In the process group that it has: a session's leader, which sshd makes of what it starts, may not change it.
    let mut c = bare(program, args, &[]);
    c.stdin(Stdio::inherit())
        .stdout(Stdio::inherit())
        .stderr(Stdio::inherit());
    for name in PASSED_ON {
        if let Some(value) = std::env::var_os(name) {
            c.env(name, value);
        }
    }
    ExecError::Start {
        program: program.to_owned(),
        source: c.exec(),
    }
}

/// Starts a program with both streams in a file: it must survive whoever reads.
pub fn start(
    program: &Path,
    args: &[&str],
    env: &[(&str, &str)],
    log: &File,
) -> Result<Child, ExecError> {
    let fail = |source| ExecError::Start {
        program: program.to_owned(),
        source,
    };
    command(program, args, env)
        .stdout(log.try_clone().map_err(fail)?)
        .stderr(log.try_clone().map_err(fail)?)
        .spawn()
        .map_err(fail)
}

/// Runs a program with its streams in a file, within a limit; `None` when it had to be killed.
pub fn run_logged(
    program: &Path,
    args: &[&str],
    env: &[(&str, &str)],
    log: &File,
    limit: Duration,
) -> Result<Option<i32>, ExecError> {
    let mut child = start(program, args, env, log)?;
    if let Ok(Some(status)) = wait(&mut child, limit) {
        return Ok(Some(status.code().unwrap_or(-1)));
    }
    kill_group(&mut child);
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_killed_at_its_limit() {
        let sleep = tool("sleep").expect("sleep");
        let begun = Instant::now();
        let got = run(&sleep, &["30"], Duration::from_millis(50));
        assert!(matches!(got, Err(ExecError::Limit { .. })));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn the_environment_is_not_inherited() {
        let env = tool("env").expect("env");
        let out = run(&env, &[], Duration::from_secs(5)).expect("runs");
        assert_eq!(out.stdout.trim(), format!("PATH={PATH}"));
    }
}
