//! Reading manifests: from the files of a fleet repository to what holds, or to every problem in them at once.
//!
//! Opens no file and asks nobody: bytes in, values or problems out. A wrong manifest stops its revision, never the
//! controller, so nothing here panics on any input, and all of it is bounded (see `limits`).
//!
//! *Flow*: bytes → text → one tree a document (`tree`) → kind first, then that kind's fields (`read`, `kinds`) →
//! documents against each other (`cross`).

mod activations;
mod checks;
mod circles;
mod cross;
mod decode;
mod forms;
mod health;
mod kinds;
pub mod limits;
mod problem;
mod read;
mod render;
mod rules;
mod secrets;
mod settled;
mod sinks;
mod source;
mod sources;
mod tree;

pub use problem::{Problem, ProblemKind, SchemaSees};
pub use render::{Style, count, render};
pub use sources::{SecretSources, SourceFault};

use crate::kind::FleetManifests;

/// All manifests of a revision: `(path, bytes)` of each file.
///
/// # Errors
/// Every problem of every file, in the order of files and lines.
pub fn resolve<P: AsRef<str>, B: AsRef<[u8]>>(
    files: &[(P, B)],
) -> Result<FleetManifests, Vec<Problem>> {
    resolve_with(files, None)
}

/// The same, with secrets held against the repository's encrypted files.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_with<P: AsRef<str>, B: AsRef<[u8]>>(
    files: &[(P, B)],
    sources: Option<&dyn SecretSources>,
) -> Result<FleetManifests, Vec<Problem>> {
    if files.len() > limits::FILES_MAX {
        let text = format!(
            "there are {} files, and at most {} are read",
            files.len(),
            limits::FILES_MAX
        );
        return Err(vec![
            Problem::of_file(ProblemKind::TooManyFiles, "", text)
                .help("several documents may share a file"),
        ]);
    }
    let mut problems = Vec::new();
    let read: Vec<_> = files
        .iter()
        .enumerate()
        .map(|(n, (path, bytes))| read::file(n, path.as_ref(), bytes.as_ref(), &mut problems))
        .collect();
    let (manifests, mut more) = cross::Cross::new(&read).run(sources);
    problems.append(&mut more);
    if problems.is_empty() {
        return Ok(manifests);
    }
    let order: std::collections::BTreeMap<&str, usize> = files
        .iter()
        .enumerate()
        .map(|(n, (path, _))| (path.as_ref(), n))
        .collect();
    problems.sort_by_key(|p| {
        (
            order.get(p.file.as_str()).copied().unwrap_or(usize::MAX),
            p.line,
            p.column,
            p.kind,
        )
    });
    // A value behind an anchor is read once for each alias, and is wrong once.
    problems.dedup();
    Err(problems)
}

/// Each document of a file as JSON, for a check by JSON Schema; `None` when the file is not even YAML.
#[must_use]
pub fn documents_as_json(bytes: &[u8]) -> Option<Vec<serde_json::Value>> {
    let text = std::str::from_utf8(bytes)
        .ok()
        .filter(|t| t.len() <= limits::FILE_BYTES_MAX)?;
    let source = source::Source::new("", text);
    let mut problems = Vec::new();
    let mut documents = Vec::new();
    for chunk in source.chunks() {
        match tree::parse(&source, &chunk, &mut problems) {
            tree::Parsed::Document(node) => documents.push(node.to_json()),
            tree::Parsed::Nothing => {}
            tree::Parsed::Broken => return None,
        }
    }
    // What the reader could not know, a schema can't judge.
    problems.is_empty().then_some(documents)
}
