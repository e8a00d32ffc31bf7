//! Answers that are kept as files: compared word for word, and written anew with `TRUEUP_ACCEPT=1`. It judges no answer.

use std::fs;
use std::path::Path;

/// What is said now is to be written down.
#[must_use]
pub fn accepting() -> bool {
    std::env::var_os("TRUEUP_ACCEPT").is_some()
}

/// How the file and what was found differ; `None`: they don't, or the file was written.
#[must_use]
pub fn difference(path: &Path, found: &str) -> Option<String> {
    if accepting() {
        fs::write(path, found).expect("an accepted answer can be written");
        return None;
    }
    let wanted = fs::read_to_string(path).unwrap_or_default();
    (wanted != found).then(|| format!("{}\n--- wanted\n{wanted}--- found\n{found}", path.display()))
}

/// Fails with the difference.
pub fn same(path: &Path, found: &str) {
    if let Some(difference) = difference(path, found) {
        panic!("{difference}");
    }
}
