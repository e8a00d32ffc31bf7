//! The only place that starts a program: no shell, a cleared environment, bounded output, a wall limit, and the whole
//! process group killed when any of it is exceeded or the caller loses interest. It knows nothing of what it runs.

mod stream;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, sleep_until, timeout};

pub use stream::{Line, MAX_LINE, Running, converse, stream};

/// After the program ended, a daemon that it left may hold its pipes open: not longer than this.
const PIPE_GRACE: Duration = Duration::from_secs(1);
/// Between `TERM` and `KILL`.
const TERM_GRACE: Duration = Duration::from_millis(300);
/// How often memory and time of a program are looked at: soon at first, since most end soon.
const SAMPLE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));
/// `USER_HZ`: what `/proc` counts in on every Linux that we know.
const MS_PER_TICK: u64 = 10;

/// What a program may use up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Time on the clock.
    pub wall: Duration,
    /// Bytes kept of each of the two outputs; what is over it is read and dropped, and said.
    pub output: usize,
    /// Resident bytes of the program itself; killed above it.
    pub rss: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wall: Duration::from_secs(60),
            output: 4 << 20,
            rss: None,
        }
    }
}

/// What to start, and how.
#[derive(Debug, Clone, Default)]
pub struct ExecSpec {
    /// Absolute, or a name looked up in `env`'s PATH.
    pub program: PathBuf,
    /// Its arguments: no shell sees them.
    pub args: Vec<OsString>,
    /// All of its environment: nothing is inherited.
    pub env: BTreeMap<String, OsString>,
    /// Where it runs.
    pub cwd: Option<PathBuf>,
    /// What it reads.
    pub stdin: Vec<u8>,
    /// What it may use up.
    pub limits: Limits,
}

fn not_started(why: &std::io::Error) -> String {
    match why.kind() {
        std::io::ErrorKind::NotFound => {
            "there is no such program: install it, or put it into PATH".to_owned()
        }
        _ => why.to_string(),
    }
}

impl ExecSpec {
    /// A program with arguments.
    pub fn new<A: Into<OsString>>(
        program: impl Into<PathBuf>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
    fn name(&self) -> String {
        self.program.display().to_string()
    }
}

/// Why a program has no result.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It is not there, or not executable.
    #[error("starting {program}: {}", not_started(.source))]
    Start {
        /// Which.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// It took too long and was killed.
    #[error("{program} was killed after {secs} s{}", tail(.stderr))]
    TimedOut {
        /// Which.
        program: String,
        /// Its limit.
        secs: u64,
        /// What it had said.
        stderr: String,
    },
    /// It took too much memory and was killed.
    #[error("{program} was killed at {rss} bytes of memory, its limit is {limit}")]
    TooMuchMemory {
        /// Which.
        program: String,
        /// How much it had.
        rss: u64,
        /// How much it may have.
        limit: u64,
    },
    /// The system did not tell how it ended.
    #[error("waiting for {program}: {source}")]
    Wait {
        /// Which.
        program: String,
        /// Why.
        source: std::io::Error,
    },
}

fn tail(stderr: &str) -> String {
    match stderr.trim().lines().last() {
        Some(line) => format!(": {}", line.chars().take(300).collect::<String>()),
        None => String::new(),
    }
}

/// What a program used, as far as it was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Greatest resident set, bytes.
    pub peak_rss: u64,
    /// User time, milliseconds.
    pub user_ms: u64,
}

/// How a program ended.
#[derive(Debug, Clone, Default)]
pub struct Exit {
    /// Its code; `None`: a signal.
    pub code: Option<i32>,
    /// The signal.
    pub signal: Option<i32>,
    /// All it printed, bounded; empty where lines were streamed.
    pub stdout: Vec<u8>,
    /// All it complained of, bounded; where lines were streamed, the last of them.
    pub stderr: Vec<u8>,
    /// Some output was dropped.
    pub truncated: bool,
    /// What it used.
    pub usage: Usage,
}

impl Exit {
    /// It ended with 0.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }
    /// Standard error as text.
    #[must_use]
    pub fn err_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }
    /// Standard output as text.
    #[must_use]
    pub fn out_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

/// Kills the process group when dropped, so that no path out of here leaves a program behind.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0 {
            let _gone_already = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

#[allow(clippy::disallowed_methods)] // this is the room that the ban points to
fn start(spec: &ExecSpec) -> Result<(Child, Group), ExecError> {
    let mut command = Command::new(&spec.program);
    command
        .args(&spec.args)
        .env_clear()
        .envs(&spec.env)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(cwd) = &spec.cwd {
        command.current_dir(cwd);
    }
    let child = command.spawn().map_err(|source| ExecError::Start {
        program: spec.name(),
        source,
    })?;
    let group = Group(
        child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)),
    );
    Ok((child, group))
}

/// A program for the person at the terminal (an editor): it has the terminal, our environment and as long as it likes.
/// Keys that interrupt are the program's: we stay to clean up behind it. `None` is a signal.
#[allow(clippy::disallowed_methods)] // this is the room that the ban points to
pub fn interactive(program: &std::ffi::OsStr, args: &[OsString]) -> Result<Option<i32>, ExecError> {
    use tokio::signal::unix::{SignalKind, signal};
    let name = program.to_string_lossy().into_owned();
    let fail = |source| ExecError::Start {
        program: name.clone(),
        source,
    };
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(fail)?;
    rt.block_on(async {
        // Listened to and not acted on, which is how a process survives them.
        let mut kept = Vec::new();
        for kind in [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ] {
            kept.push(signal(kind).map_err(fail)?);
        }
        let mut child = Command::new(program).args(args).spawn().map_err(fail)?;
        let status = child.wait().await.map_err(|source| ExecError::Wait {
            program: name.clone(),
            source,
        })?;
        Ok(status.code())
    })
}

/// Runs to the end.
pub async fn run(spec: &ExecSpec) -> Result<Exit, ExecError> {
    let (mut child, group) = start(spec)?;
    let out = child.stdout.take();
    let err = child.stderr.take();
    let limit = spec.limits.output;
    let out = tokio::spawn(async move { read_bounded(out, limit).await });
    let err = tokio::spawn(async move { read_bounded(err, limit).await });
    feed(&mut child, spec.stdin.clone());
    let ended = supervise(spec, &mut child, &group, std::future::pending()).await;
    group.signal(Signal::KILL); // whatever it left in its group
    let (stdout, cut) = joined(out).await;
    let (stderr, cut2) = joined(err).await;
    match ended {
        Ok((status, usage)) => Ok(Exit {
            code: status.code(),
            signal: status.signal(),
            stdout,
            stderr,
            truncated: cut || cut2,
            usage,
        }),
        Err(ExecError::TimedOut { program, secs, .. }) => Err(ExecError::TimedOut {
            program,
            secs,
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }),
        Err(e) => Err(e),
    }
}

async fn joined(mut task: tokio::task::JoinHandle<(Vec<u8>, bool)>) -> (Vec<u8>, bool) {
    match timeout(PIPE_GRACE, &mut task).await {
        Ok(Ok(read)) => read,
        _ => {
            task.abort();
            (Vec::new(), true)
        }
    }
}

fn feed(child: &mut Child, bytes: Vec<u8>) {
    if let Some(mut pipe) = child.stdin.take() {
        // Its own task: a program may print before it reads. It may also not read at all, which is no error of ours.
        tokio::spawn(async move {
            let _not_read = pipe.write_all(&bytes).await;
        });
    }
}

async fn read_bounded(pipe: Option<impl AsyncRead + Unpin>, limit: usize) -> (Vec<u8>, bool) {
    let (mut kept, mut cut) = (Vec::new(), false);
    let Some(mut pipe) = pipe else {
        return (kept, cut);
    };
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n) = pipe.read(&mut buffer).await {
        if n == 0 {
            break;
        }
        let room = limit.saturating_sub(kept.len()).min(n);
        kept.extend_from_slice(&buffer[..room]);
        cut |= room < n;
    }
    (kept, cut)
}

/// Waits for the end, the limits, or the caller's `cancel`.
async fn supervise(
    spec: &ExecSpec,
    child: &mut Child,
    group: &Group,
    cancel: impl Future<Output = ()>,
) -> Result<(std::process::ExitStatus, Usage), ExecError> {
    let program = spec.name();
    let deadline = Instant::now() + spec.limits.wall;
    let pid = child.id();
    let mut usage = Usage::default();
    let mut every = SAMPLE.0;
    let mut cancelled = false;
    tokio::pin!(cancel);
    loop {
        tokio::select! {
            ended = child.wait() => {
                return match ended {
                    Ok(status) => Ok((status, usage)),
                    Err(source) => Err(ExecError::Wait { program, source }),
                };
            }
            () = sleep_until(deadline) => {
                end(child, group).await;
                return Err(ExecError::TimedOut { program, secs: spec.limits.wall.as_secs(), stderr: String::new() });
            }
            () = &mut cancel, if !cancelled => {
                cancelled = true;
                end(child, group).await;
            }
            () = sleep(every) => {
                every = (every * 2).min(SAMPLE.1);
                let now = pid.map(sample).unwrap_or_default();
                usage.peak_rss = usage.peak_rss.max(now.peak_rss);
                usage.user_ms = usage.user_ms.max(now.user_ms);
                if let Some(limit) = spec.limits.rss && now.peak_rss > limit {
                    end(child, group).await;
                    return Err(ExecError::TooMuchMemory { program, rss: now.peak_rss, limit });
                }
            }
        }
    }
}

async fn end(child: &mut Child, group: &Group) {
    group.signal(Signal::TERM);
    if timeout(TERM_GRACE, child.wait()).await.is_err() {
        group.signal(Signal::KILL);
        let _reaped = timeout(TERM_GRACE, child.wait()).await;
    }
}

fn sample(pid: u32) -> Usage {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .and_then(|l| l.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold blanks; user time is the 12th field behind it.
    let ticks = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(11)?.parse::<u64>().ok());
    Usage {
        peak_rss: kib.unwrap_or_default() * 1024,
        user_ms: ticks.unwrap_or_default() * MS_PER_TICK,
    }
}

/// Runs `task` beside the caller, on the engine's thread: for edges that follow a program.
pub fn beside(task: impl Future<Output = ()> + 'static) -> tokio::task::AbortHandle {
    tokio::task::spawn_local(task).abort_handle()
}

/// The same on any thread, for what nobody waits for.
pub fn detached(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

/// Waits: for edges that try again.
pub async fn wait(time: Duration) {
    sleep(time).await;
}
