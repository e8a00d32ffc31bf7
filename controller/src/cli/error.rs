//! How a command ends: an exit code that scripts may rely on, a sentence, and the next step.

use crate::api::{ApiError, Class};
use crate::settings::SettingsError;

/// The exit codes; what each means is promised to scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, or nothing to do; also a plan with changes.
    Done = 0,
    /// Failed, rolled back or refused.
    Failed = 1,
    /// Wrong call or wrong settings.
    Usage = 2,
    /// A difference was found, where that was the question.
    Difference = 3,
    /// `--wait` ran out of time; the work goes on.
    TimedOut = 4,
    /// No controller answers.
    NoController = 5,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An end that needs words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    /// For scripts.
    pub exit: Exit,
    /// What happened, and where.
    pub message: String,
    /// What to do now.
    pub next: Option<String>,
}

impl CliError {
    /// Without a next step.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            next: None,
        }
    }
    /// With one.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
    /// It worked for long enough to fail.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }
    /// The call is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }
    /// Something of ours that is not built.
    pub fn not_yet(what: &str) -> Self {
        Self::new(
            Exit::Usage,
            format!("not yet: {what} is not built in this version"),
        )
    }
}

impl From<ApiError> for CliError {
    fn from(e: ApiError) -> Self {
        let exit = match e.class {
            Class::Usage => Exit::Usage,
            Class::NotFound | Class::Refused | Class::Conflict | Class::Compacted | Class::Bug => {
                Exit::Failed
            }
            Class::Unavailable => Exit::NoController,
        };
        Self {
            exit,
            message: super::output::local_times(&e.message, trueup_schema::Timestamp::now()),
            next: e.next,
        }
    }
}

impl From<SettingsError> for CliError {
    fn from(e: SettingsError) -> Self {
        Self::new(Exit::Usage, e.to_string()).next("docs/guide.md, \"The settings\"")
    }
}
