//! `trueup validate [DIR]`: the manifests of a folder, as the controller would read them. Evaluates no Nix.

use std::path::{Path, PathBuf};

use trueup_schema::manifest::{self, Style};

use super::secrets::fleet::Fleet;
use super::{CliError, Ctx, Exit};

/// Folders below the manifests' folder; deeper than this is a loop or a mistake.
const DEPTH_MAX: usize = 16;
/// A manifest larger than this is refused before it is read; the reader's own limit is smaller.
const FILE_MAX: u64 = 16 << 20;

/// Check the manifests in a folder
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A fleet repository (its folder `fleet/` is taken) or the folder of manifests itself
    #[arg(default_value = ".")]
    dir: PathBuf,
}

pub(super) fn run(args: Args, ctx: &mut Ctx<'_>) -> Result<Exit, CliError> {
    let folder = folder(&args.dir);
    let files = files(&folder)?;
    let style = if ctx.screen.colour {
        Style::Coloured
    } else {
        Style::Plain
    };
    // Encrypted files are named from the repository's root, which is above `fleet/`.
    let repository = Fleet::above(&folder);
    let read = match &repository {
        Some(fleet) => fleet.check(&files),
        None => manifest::resolve(&files),
    };
    match read {
        Ok(fleet) => {
            let too_large = repository.map_or_else(Vec::new, |r| r.too_large(&fleet));
            if !too_large.is_empty() {
                return Err(CliError::failed(too_large.join("\n")));
            }
            let names = match fleet.hosts.len() {
                1 => "1 host".to_owned(),
                n => format!("{n} hosts"),
            };
            let read = match files.len() {
                1 => "1 file".to_owned(),
                n => format!("{n} files"),
            };
            ctx.say(format_args!("{read}, {names}: no problem found"));
            Ok(Exit::Done)
        }
        Err(problems) => {
            let text = manifest::render(&problems, style);
            ctx.note(text.trim_end());
            let error = CliError::failed(manifest::count(&problems));
            ctx.note(&error.message);
            Ok(error.exit)
        }
    }
}

/// `DIR/fleet` where it is there, else `DIR`.
fn folder(dir: &Path) -> PathBuf {
    let inner = dir.join("fleet");
    if inner.is_dir() {
        inner
    } else {
        dir.to_owned()
    }
}

/// All YAML files below, by their paths.
pub(super) fn files(dir: &Path) -> Result<Vec<(String, Vec<u8>)>, CliError> {
    let mut found = Vec::new();
    walk(dir, DEPTH_MAX, &mut found)?;
    found.sort();
    if found.is_empty() {
        let message = format!("no manifest (*.yaml) in {}", dir.display());
        return Err(
            CliError::usage(message).next("trueup validate DIR, with DIR the fleet's repository")
        );
    }
    found
        .into_iter()
        .map(|path| {
            let fail = |why: String| CliError::failed(format!("reading {}: {why}", path.display()));
            let len = std::fs::metadata(&path)
                .map_err(|e| fail(e.to_string()))?
                .len();
            if len > FILE_MAX {
                return Err(fail(format!("larger than {FILE_MAX} bytes")));
            }
            Ok((
                path.display().to_string(),
                std::fs::read(&path).map_err(|e| fail(e.to_string()))?,
            ))
        })
        .collect()
}

fn walk(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), CliError> {
    let fail = |e: std::io::Error| CliError::usage(format!("reading {}: {e}", dir.display()));
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let kind = entry.file_type().map_err(fail)?;
        let path = entry.path();
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if kind.is_dir() && !hidden && depth > 0 {
            walk(&path, depth - 1, found)?;
        } else if kind.is_file() && path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            found.push(path);
        }
    }
    Ok(())
}
