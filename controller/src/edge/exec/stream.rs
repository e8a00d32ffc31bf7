//! A program that runs beside us: its lines are read one by one, and it may be told more.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt as _;

use rustix::process::Signal;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::process::ChildStdin;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{ExecError, ExecSpec, Exit, PIPE_GRACE, feed, start, supervise};

/// A line is cut here: a program that prints without newlines must not fill our memory.
pub const MAX_LINE: usize = 1 << 20;
/// Lines that wait to be read; then the program has to wait.
const LINES_WAITING: usize = 256;
/// Standard error of a streaming program, kept for its error message.
const ERR_TAIL_LINES: usize = 40;

/// A line of a running program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Of standard output.
    Out(String),
    /// Of standard error.
    Err(String),
}

/// A program whose lines are read while it runs. Dropping it kills the program.
#[derive(Debug)]
pub struct Running {
    lines: mpsc::Receiver<Line>,
    end: tokio::task::JoinHandle<Result<Exit, ExecError>>,
    /// Where more is said to it.
    input: Option<ChildStdin>,
    /// Dropped with us, which the supervisor sees.
    _alive: mpsc::Sender<()>,
}

/// Starts a program to read its lines one by one.
pub fn stream(spec: ExecSpec) -> Result<Running, ExecError> {
    begin(spec, false)
}

/// The same, for one that is told what it reads while it runs.
pub fn converse(spec: ExecSpec) -> Result<Running, ExecError> {
    begin(spec, true)
}

fn begin(spec: ExecSpec, is_told_later: bool) -> Result<Running, ExecError> {
    let (mut child, group) = start(&spec)?;
    let (tx, lines) = mpsc::channel(LINES_WAITING);
    let (alive, mut dropped) = mpsc::channel::<()>(1);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let input = if is_told_later {
        child.stdin.take()
    } else {
        feed(&mut child, spec.stdin.clone());
        None
    };
    let end = tokio::spawn(async move {
        let errors = tx.clone();
        let out = tokio::spawn(async move { read_lines(out, tx, Line::Out).await });
        let err = tokio::spawn(async move { read_lines(err, errors, Line::Err).await });
        let gone = async move {
            dropped.recv().await;
        };
        let ended = supervise(&spec, &mut child, &group, gone).await;
        group.signal(Signal::KILL);
        let finish = async { (out.await, err.await) };
        let tail = match timeout(PIPE_GRACE, finish).await {
            Ok((_, Ok(tail))) => tail.join("\n").into_bytes(),
            _ => Vec::new(),
        };
        let (status, usage) = ended?;
        Ok(Exit {
            code: status.code(),
            signal: status.signal(),
            stderr: tail,
            usage,
            ..Exit::default()
        })
    });
    Ok(Running {
        lines,
        end,
        input,
        _alive: alive,
    })
}

async fn read_lines(
    pipe: Option<impl AsyncRead + Unpin>,
    to: mpsc::Sender<Line>,
    wrap: fn(String) -> Line,
) -> Tail {
    let mut kept = Tail::default();
    let Some(pipe) = pipe else { return kept };
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut pipe)
            .take(MAX_LINE as u64)
            .read_until(b'\n', &mut line)
            .await
        {
            Ok(0) | Err(_) => return kept,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        kept.push(&text);
        // Nobody listens any more: go on reading, so that the program does not hang on a full pipe.
        let _unheard = to.send(wrap(text)).await;
    }
}

#[derive(Debug, Default)]
struct Tail(VecDeque<String>);

impl Tail {
    fn push(&mut self, line: &str) {
        if self.0.len() == ERR_TAIL_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.chars().take(2000).collect());
    }
    fn join(&self, by: &str) -> String {
        self.0
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(by)
    }
}

impl Running {
    /// The next line; `None`: both outputs ended.
    pub async fn next(&mut self) -> Option<Line> {
        self.lines.recv().await
    }
    /// Says this, and no more. An error: it reads no more.
    pub async fn say(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let input = self.input.take();
        let mut input = input.ok_or(std::io::ErrorKind::BrokenPipe)?;
        input.write_all(bytes).await?;
        input.shutdown().await
    }

    /// Waits for the end; lines that come until then are dropped.
    pub async fn finish(mut self) -> Result<Exit, ExecError> {
        self.input = None;
        while self.lines.recv().await.is_some() {}
        match self.end.await {
            Ok(exit) => exit,
            Err(e) => Err(ExecError::Wait {
                program: "a program".to_owned(),
                source: std::io::Error::other(e),
            }),
        }
    }
}
