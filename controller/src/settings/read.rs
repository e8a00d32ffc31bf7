//! From a file to a fragment, and from the YAML reader's words to ours: file, line, excerpt, nearest key.

use std::fmt;
use std::path::{Path, PathBuf};

use super::{DEFAULT_FILE, Fragment, SettingsError};

/// A settings file is a page, not a book.
const FILE_MAX: u64 = 64 * 1024;

/// A problem with a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// In which file.
    pub path: PathBuf,
    /// One sentence.
    pub message: String,
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// The line itself.
    pub excerpt: String,
    /// What would be right.
    pub help: Option<String>,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let pad = " ".repeat(number.len());
        let caret = " ".repeat(
            usize::try_from(self.column.saturating_sub(1))
                .unwrap_or(0)
                .min(200),
        );
        writeln!(f, "{}", self.message)?;
        writeln!(
            f,
            "{pad} ╭─[{}:{}:{}]",
            self.path.display(),
            self.line,
            self.column
        )?;
        writeln!(f, "{number} │ {}", self.excerpt)?;
        write!(f, "{pad} · {caret}┬")?;
        match &self.help {
            Some(help) => write!(f, "\n{pad} · {caret}╰── {help}"),
            None => Ok(()),
        }
    }
}

/// The file as written.
pub fn read(asked: Option<&Path>) -> Result<Fragment, SettingsError> {
    let path = asked.unwrap_or(Path::new(DEFAULT_FILE));
    let fail = |why: String| SettingsError::Read {
        path: path.to_owned(),
        why,
    };
    match std::fs::metadata(path) {
        Err(e) if asked.is_none() && e.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Fragment::default());
        }
        Err(e) => return Err(fail(e.to_string())),
        Ok(meta) if !meta.is_file() => return Err(fail("not a file".to_owned())),
        Ok(meta) if meta.len() > FILE_MAX => {
            return Err(fail(format!("larger than {FILE_MAX} bytes")));
        }
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    parse(path, &text)
}

/// From text; `path` is for messages.
pub fn parse(path: &Path, text: &str) -> Result<Fragment, SettingsError> {
    if text
        .lines()
        .all(|l| l.trim().is_empty() || l.trim_start().starts_with('#'))
    {
        return Ok(Fragment::default());
    }
    serde_saphyr::from_str(text).map_err(|e| SettingsError::Wrong(Box::new(place(path, text, &e))))
}

/// What the YAML reader said, in our words.
fn place(path: &Path, text: &str, error: &serde_saphyr::Error) -> Wrong {
    use serde_saphyr::Error as E;
    let inner = error.without_snippet();
    let at = inner.location();
    let (line, column) = at.map_or((1, 1), |l| (l.line().max(1), l.column().max(1)));
    let (message, help) = match inner {
        E::SerdeUnknownField {
            field, expected, ..
        } => (
            format!("unknown key `{field}` in the settings"),
            Some(match nearest(field, expected) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", expected.join(", ")),
            }),
        ),
        E::DuplicateMappingKey { key, .. } => (
            match key {
                Some(key) => format!("`{key}` is given twice in the settings"),
                None => "a key is given twice in the settings".to_owned(),
            },
            None,
        ),
        other => {
            let said = other.render();
            let first = said.lines().next().unwrap_or("not YAML").to_owned();
            (
                format!("wrong settings: {}", first.trim_start_matches("error: ")),
                None,
            )
        }
    };
    let excerpt = usize::try_from(line)
        .ok()
        .and_then(|n| text.lines().nth(n.saturating_sub(1)))
        .unwrap_or_default();
    Wrong {
        path: path.to_owned(),
        message,
        line,
        column,
        excerpt: excerpt.chars().take(120).collect(),
        help,
    }
}

/// The known word that somebody probably meant.
#[must_use]
pub fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |s: &str| s.to_lowercase().replace(['_', '-'], "");
    let given = plain(given);
    known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(&given, &plain(word)), *word))
        .filter(|(distance, word)| *distance <= (word.len().max(given.len()) / 3).max(1))
        .min()
        .map(|(_, word)| word)
}
