//! Where the flake is, and where the manifests go: inside it, and over nothing that is there.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use trueup_schema::manifest;

use super::super::{CliError, validate};

/// colmena takes a hive without a flake; a closure that everybody gets alike wants its inputs pinned.
const HIVE_ALONE: &str = "write a flake.nix beside hive.nix, with nixpkgs and colmena as inputs and the output `colmenaHive = \
     let hive = import ./hive.nix; in colmena.lib.makeHive (hive // { meta = hive.meta // { nixpkgs = import nixpkgs { system = \
     \"x86_64-linux\"; }; }; });` (colmena itself goes on with either), then run init again";

/// Nix splits at `#` and `?`.
pub fn flake_dir(given: &Path) -> Result<PathBuf, CliError> {
    let dir = given
        .canonicalize()
        .map_err(|e| CliError::usage(format!("{}: {e}", given.display())))?;
    if !dir.join("flake.nix").is_file() {
        let next = if dir.join("hive.nix").is_file() {
            HIVE_ALONE
        } else {
            "trueup init DIR, with DIR the flake's folder; without a flake: docs/guide.md, \"The manifests\""
        };
        return Err(CliError::usage(format!("{} has no flake.nix", dir.display())).next(next));
    }
    if dir.to_str().is_none_or(|d| d.contains(['#', '?', '\n'])) {
        return Err(CliError::usage(format!(
            "{}: Nix takes no `#` or `?` in a flake's path",
            dir.display()
        )));
    }
    Ok(dir)
}

pub fn folder(dir: &Path, path: &str) -> Result<PathBuf, CliError> {
    let inside = !path.is_empty()
        && Path::new(path)
            .components()
            .all(|c| matches!(c, std::path::Component::Normal(_)));
    if inside {
        Ok(dir.join(path))
    } else {
        Err(CliError::usage(format!(
            "--path {path}: a folder inside the flake's"
        )))
    }
}

pub fn nothing_there(folder: &Path) -> Result<(), CliError> {
    if folder.is_dir() && validate::files(folder).is_ok_and(|f| !f.is_empty()) {
        return Err(CliError::failed(format!(
            "{} has manifests already, and nothing is overwritten",
            folder.display()
        ))
        .next("trueup validate; what init would write: trueup init --dry-run"));
    }
    Ok(())
}

/// What is written is read first, as the controller would.
pub fn holds(files: &[(PathBuf, String)]) -> Result<(), CliError> {
    let read: Vec<(String, &[u8])> = files
        .iter()
        .map(|(path, text)| (path.display().to_string(), text.as_bytes()))
        .collect();
    match manifest::resolve(&read) {
        Ok(_) => Ok(()),
        Err(problems) => Err(CliError::failed(format!(
            "what init would write does not hold; nothing was written\n{}",
            manifest::render(&problems, manifest::Style::Plain).trim_end()
        ))
        .next("this is a mistake of trueup's: please report it, with what --dry-run of an older version or the flake says")),
    }
}

pub fn write(folder: &Path, files: &[(PathBuf, String)]) -> Result<(), CliError> {
    let fail = |path: &Path, e: std::io::Error| {
        CliError::failed(format!("writing {}: {e}", path.display()))
    };
    std::fs::create_dir_all(folder).map_err(|e| fail(folder, e))?;
    let mut made: Vec<&Path> = Vec::new();
    for (path, text) in files {
        let opened = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path);
        let written = opened.and_then(|mut file| {
            made.push(path);
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        if let Err(e) = written {
            // Half a fleet would be taken for a whole one.
            for path in made {
                let _best_effort = std::fs::remove_file(path);
            }
            return Err(fail(path, e));
        }
    }
    Ok(())
}
