//! The programs under test, as cargo builds them: built once a run, which takes a moment when they are fresh.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::harness::cargo;

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

/// What only the program with crash points has in it.
pub const CRASH_AT: &[u8] = b"TRUEUP_CRASH_AT";

/// Whether the program dies where it is told to.
pub fn has_crash_points(program: &Path) -> bool {
    let bytes = std::fs::read(program).expect("a program can be read");
    bytes.windows(CRASH_AT.len()).any(|part| part == CRASH_AT)
}

/// The same packages as `cargo xtask demo` builds, so that nothing but trueup itself is compiled anew. Cargo puts each
/// kind at the same place, so ours is set aside; another process may have put its own there before that, and then ours is
/// put there again.
fn built(kind: &str, features: &[&str]) -> PathBuf {
    const TRIES: u32 = 5;
    let mut ours = build_once(kind, features);
    for _ in 1..TRIES {
        if has_crash_points(&ours) == features.is_empty() {
            ours = build_once(kind, features);
        }
    }
    ours
}

fn build_once(kind: &str, features: &[&str]) -> PathBuf {
    let out = cargo()
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
