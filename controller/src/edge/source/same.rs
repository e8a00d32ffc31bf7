//! Whether two commits can differ in what they evaluate to: not, if they differ in encrypted files only and no Nix file
//! reads those. A doubt is a difference: then everything is evaluated, as for any other commit.

use std::collections::BTreeSet;

use git2::{ObjectType, Oid, Repository, TreeWalkMode, TreeWalkResult};
use trueup_schema::Revision;

/// A Nix file larger than this is not searched, and counts as a doubt.
const NIX_BYTES_MAX: usize = 1 << 20;
/// What makes a result depend on more than the files that are named: folders that are listed, the tree as a whole, its
/// commit and time.
const DOUBTS: [&str; 14] = [
    "readDir",
    "lastModified",
    "./.",
    "${self}",
    "self +",
    "self.outPath",
    "self.rev",
    "inputs.self",
    "sourceInfo",
    "narHash",
    "fetchGit",
    "fileset",
    "cleanSource",
    "builtins.path",
];

/// A value that is equal where evaluations are; `None` in doubt, or without encrypted files.
pub(super) fn closures(
    repo: &Repository,
    revision: &Revision,
    sources: &BTreeSet<&str>,
) -> Option<String> {
    if sources.is_empty() {
        return None;
    }
    let (tree, _) = super::export::root(repo, revision).ok()?;
    let names: Vec<String> = sources.iter().flat_map(|s| mentions(s)).collect();
    let (mut text, mut doubt) = (String::new(), false);
    let walked = tree.walk(TreeWalkMode::PreOrder, |folder, entry| {
        let Ok(name) = std::str::from_utf8(entry.name_bytes()) else {
            doubt = true;
            return TreeWalkResult::Abort;
        };
        let path = format!("{folder}{name}");
        if entry.kind() == Some(ObjectType::Tree) || sources.contains(path.as_str()) {
            return TreeWalkResult::Ok;
        }
        if name.ends_with(".nix") && reads(repo, entry.id(), &names) {
            doubt = true;
            return TreeWalkResult::Abort;
        }
        text.push_str(&format!("{:o} {} {path}\n", entry.filemode(), entry.id()));
        TreeWalkResult::Ok
    });
    if doubt || walked.is_err() {
        return None;
    }
    Some(trueup_schema::Digest::of(text.as_bytes()).to_string())
}

/// Words by which a Nix file would name a source, or the folder that it is in.
fn mentions(source: &str) -> Vec<String> {
    let mut words: Vec<String> = source.rsplit('/').take(1).map(str::to_owned).collect();
    if let Some((folder, _)) = source.rsplit_once('/') {
        let last = folder.rsplit('/').next().unwrap_or(folder);
        words.push(format!("/{last}"));
    }
    words
}

fn reads(repo: &Repository, id: Oid, names: &[String]) -> bool {
    let Ok(blob) = repo.find_blob(id) else {
        return true;
    };
    if blob.size() > NIX_BYTES_MAX {
        return true;
    }
    let text = String::from_utf8_lossy(blob.content());
    let doubts = DOUBTS.iter().copied();
    doubts
        .chain(names.iter().map(String::as_str))
        .any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(repo: &Repository, files: &[(&str, &str)]) -> Revision {
        let mut index = git2::Index::new().unwrap();
        for (path, text) in files {
            let id = repo.blob(text.as_bytes()).unwrap();
            let entry = git2::IndexEntry {
                ctime: git2::IndexTime::new(0, 0),
                mtime: git2::IndexTime::new(0, 0),
                dev: 0,
                ino: 0,
                mode: 0o100_644,
                uid: 0,
                gid: 0,
                file_size: 0,
                id,
                flags: 0,
                flags_extended: 0,
                path: path.as_bytes().to_vec(),
            };
            index.add(&entry).unwrap();
        }
        let tree = repo.find_tree(index.write_tree_to(repo).unwrap()).unwrap();
        let who = git2::Signature::now("a", "a@b").unwrap();
        let id = repo.commit(None, &who, &who, "x", &tree, &[]).unwrap();
        Revision::new("main", &id.to_string()).unwrap()
    }

    #[test]
    fn only_a_change_of_encrypted_files_that_nix_does_not_read_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(dir.path()).unwrap();
        let sources = BTreeSet::from(["secrets/web.yaml"]);
        let key = |files: &[(&str, &str)]| closures(&repo, &commit(&repo, files), &sources);
        let base = key(&[("flake.nix", "{ }"), ("secrets/web.yaml", "1")]);
        assert!(base.is_some());
        let rotated = key(&[("flake.nix", "{ }"), ("secrets/web.yaml", "2")]);
        assert_eq!(rotated, base);
        let other = key(&[("flake.nix", "{ a = 1; }"), ("secrets/web.yaml", "1")]);
        assert!(other.is_some() && other != base);
        for nix in [
            "sops.defaultSopsFile = ./secrets/web.yaml;",
            "builtins.readDir ./x",
            "src = ./.;",
            "{ self }: \"${self}\"",
            "./secrets",
        ] {
            let found = key(&[("flake.nix", nix), ("secrets/web.yaml", "1")]);
            assert_eq!(found, None, "{nix}");
        }
    }
}
