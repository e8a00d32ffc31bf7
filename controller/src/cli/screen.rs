//! Where results and progress go, and how wide and colourful that place is. A pipe gets plain text, always.

use std::io::{IsTerminal as _, Write};
use std::path::PathBuf;

use super::CliError;
use super::client::Client;

/// What is at the other end of the two outputs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Screen {
    /// Somebody looks at the results.
    pub out: bool,
    /// Somebody looks at the progress.
    pub err: bool,
    /// And wants colours.
    pub colour: bool,
    /// Columns, where known.
    pub width: Option<usize>,
}

impl Screen {
    /// Of this process. `NO_COLOR` and `TERM=dumb` are heard.
    #[must_use]
    pub fn of_process() -> Self {
        let out = std::io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        let width = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        Self {
            out,
            err: std::io::stderr().is_terminal(),
            colour: out && !plain,
            width: width.map(|w| usize::from(w.ws_col)).filter(|w| *w > 0),
        }
    }
}

/// What a verb may use: where it writes, and how wide the world is.
pub(super) struct Ctx<'a> {
    pub out: &'a mut dyn Write,
    pub err: &'a mut dyn Write,
    pub screen: Screen,
    pub socket: Option<PathBuf>,
    /// A line of [`Ctx::status`] stands on the screen.
    pub standing: bool,
}

impl std::fmt::Debug for Ctx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ctx")
            .field("screen", &self.screen)
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl Ctx<'_> {
    pub fn client(&self) -> Result<Client, CliError> {
        Client::new(self.socket.as_deref())
    }
    /// A line of result. A reader that has gone away (`| head`) is no failure of ours.
    pub fn say(&mut self, line: impl std::fmt::Display) {
        self.status("");
        let _ = writeln!(self.out, "{line}");
    }
    /// A line of progress.
    pub fn note(&mut self, line: impl std::fmt::Display) {
        self.status("");
        let _ = writeln!(self.err, "{line}");
    }
    /// What goes on just now, on a terminal only: one line, written over by whatever comes next.
    pub fn status(&mut self, line: &str) {
        if self.standing {
            let _ = write!(self.err, "\r\x1b[2K");
        }
        self.standing = self.screen.err && !line.is_empty();
        if self.standing {
            let room = self.screen.width.unwrap_or(80).saturating_sub(1);
            let line: String = line.chars().take(room).collect();
            let _ = write!(self.err, "{line}");
            let _ = self.err.flush();
        }
    }
}
