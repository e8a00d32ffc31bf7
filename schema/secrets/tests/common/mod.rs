//! The corpus of files that the real tools made, where it lies beside the workspace; for the tests of this crate and for
//! those of the program. It knows no case.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

/// Its folder. A test without it says so and passes.
pub fn corpus() -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .filter_map(Path::parent)
        .map(|parent| parent.join("shared/corpus/secrets"))
        .find(|path| path.join("manifest.json").is_file());
    if found.is_none() {
        eprintln!("SKIPPED: there is no ../shared/corpus/secrets beside the workspace");
    }
    found
}

/// A JSON file of it.
pub fn json(path: &Path) -> Json {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
