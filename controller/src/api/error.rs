//! What the API answers when it can't: a class for programs, a sentence for people, and the next step.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use trueup_engine::ports::DbError;

/// Who has to act, as far as a client can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Class {
    /// The request can't be understood.
    Usage,
    /// There is no such thing.
    NotFound,
    /// Understood, and refused for a reason.
    Refused,
    /// Somebody else changed it meanwhile: ask again.
    Conflict,
    /// A watch's history is gone: list again.
    Compacted,
    /// The controller can't do it now.
    Unavailable,
    /// The controller is wrong.
    Bug,
}

/// How an error travels: `{"error": {…}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ApiError,
}

/// What went wrong.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, thiserror::Error,
)]
#[error("{message}")]
pub struct ApiError {
    /// For programs.
    pub class: Class,
    /// For people.
    pub message: String,
    /// What to do now.
    pub next: Option<String>,
}

impl ApiError {
    /// Without a next step.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self {
            class,
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
    /// The status of HTTP.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self.class {
            Class::Usage => StatusCode::BAD_REQUEST,
            Class::NotFound => StatusCode::NOT_FOUND,
            Class::Refused => StatusCode::FORBIDDEN,
            Class::Conflict => StatusCode::CONFLICT,
            Class::Compacted => StatusCode::GONE,
            Class::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Class::Bug => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<DbError> for ApiError {
    fn from(e: DbError) -> Self {
        let class = match &e {
            DbError::Conflict { .. } => Class::Conflict,
            DbError::Compacted { .. } => Class::Compacted,
            DbError::Fenced { .. } | DbError::Storage { .. } => Class::Unavailable,
            DbError::BadKey { .. } => Class::Usage,
            DbError::TooLarge { .. } => Class::Refused,
            DbError::Corrupt { .. } => Class::Bug,
        };
        let next = match &e {
            DbError::Corrupt { .. } => Some("trueup db check".to_owned()),
            DbError::Conflict { .. } => Some("ask again".to_owned()),
            _ => None,
        };
        Self {
            class,
            message: e.to_string(),
            next,
        }
    }
}
