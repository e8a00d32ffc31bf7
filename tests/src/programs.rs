//! The programs under test, as cargo builds them: built once a run, which takes a moment when they are fresh.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::harness::command;

/// `trueup` as it is shipped. `TRUEUP_TEST_TRUEUP` names another one.
pub fn trueup() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| match std::env::var_os("TRUEUP_TEST_TRUEUP") {
        Some(given) => given.into(),
        None => built("default", &[]),
    })
}

/// `trueup` that dies at `TRUEUP_CRASH_AT`.
pub fn trueup_with_crash_points() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| built("crash-points", &["--features", "trueup/crash-points"]))
}

/// The same packages as `cargo xtask demo` builds, so that nothing but trueup itself is compiled anew. Cargo puts each
/// kind at the same place, so ours is set aside.
fn built(kind: &str, features: &[&str]) -> PathBuf {
    let out = command(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args([
            "build",
            "--quiet",
            "--package",
            "trueup",
            "--package",
            "trueup-tests",
        ])
        .args(["--bins", "--message-format", "json"])
        .args(features)
        .output()
        .expect("cargo runs");
    assert!(
        out.status.success(),
        "building trueup: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let at = String::from_utf8_lossy(&out.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "trueup")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo says where it put trueup");
    let folder = at.with_file_name(format!("trueup-{kind}"));
    let ours = folder.join("trueup");
    std::fs::create_dir_all(&folder).expect("a folder beside it");
    // Another test run may execute the one that is there: replaced, not written over.
    let new = folder.join(format!("new-{}", std::process::id()));
    std::fs::copy(&at, &new).expect("copied");
    std::fs::rename(&new, &ours).expect("renamed");
    ours
}
