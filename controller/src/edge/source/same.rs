//! Whether two commits can differ in what they evaluate to: not, if they differ in encrypted files only and no Nix file
//! reads those. A doubt is a difference: then everything is evaluated, as for any other commit.

use std::collections::BTreeSet;

use git2::{ObjectType, Oid, Repository, TreeWalkMode, TreeWalkResult};
use trueup_schema::Revision;

/// A Nix file larger than this is not searched, and counts as a doubt.
const NIX_BYTES_MAX: usize = 1 << 20;
/// What makes a result depend on more than the files that are named: folders that are listed, the tree as a whole, its
/// commit and time, paths that are put together.
const DOUBTS: [&str; 14] = [
    "readDir",
    "lastModified",
    "\"/..",
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
    let names: Vec<Mention> = sources.iter().flat_map(|s| mentions(s)).collect();
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
        if name.ends_with(".nix") && reads(repo, entry.id(), &names, folder, sources) {
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

/// How a Nix file would name a source.
enum Mention {
    /// By its own name, wherever that stands.
    File(String),
    /// By the folder that it is in: `/secrets` of `/a/secrets`.
    Folder { last: String, whole: String },
}

fn mentions(source: &str) -> Vec<Mention> {
    let mut found = vec![Mention::File(
        source.rsplit('/').next().unwrap_or(source).to_owned(),
    )];
    if let Some((folder, _)) = source.rsplit_once('/') {
        let last = folder.rsplit('/').next().unwrap_or(folder);
        found.push(Mention::Folder {
            last: format!("/{last}"),
            whole: format!("/{folder}"),
        });
    }
    found
}

impl Mention {
    fn is_in(&self, text: &str) -> bool {
        match self {
            Self::File(name) => text.contains(name.as_str()),
            Self::Folder { last, whole } => text.match_indices(last.as_str()).any(|(at, _)| {
                let (before, after) = (&text[..at], &text[at + last.len()..]);
                !goes_on(after) && !is_elsewhere(before, last, whole)
            }),
        }
    }
}

/// `/secrets.conf` is another name than that of the folder `/secrets`.
fn goes_on(after: &str) -> bool {
    let of_a_name = |c: char| c.is_ascii_alphanumeric() || "._-+~".contains(c);
    after.starts_with(of_a_name)
}

/// `/run/trueup/secrets` is a place on hosts, which no pure evaluation reads: an absolute path that is not a part of the
/// folder's own, which might be put behind a path of the repository.
fn is_elsewhere(before: &str, last: &str, whole: &str) -> bool {
    let is_path = |c: char| c.is_ascii_alphanumeric() || "/._-+~".contains(c);
    let start = before.rfind(|c| !is_path(c)).map_or(0, |n| {
        n + before[n..].chars().next().map_or(1, char::len_utf8)
    });
    let (around, path) = before.split_at(start);
    path.starts_with('/')
        && !around.ends_with('}')
        && !path.contains("..")
        && !whole.ends_with(&format!("{path}{last}"))
}

/// Whether a path like `./.` or `../..` stands for a folder that has one of the sources in it. `folder`: the file's own.
fn holds_one(text: &str, folder: &str, sources: &BTreeSet<&str>) -> bool {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "./_-+".contains(c)));
    let folders = words.filter(|w| w.contains('/') && w.starts_with('.') && is_dots(w));
    folders.into_iter().any(|word| {
        let mut at: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
        for _ in word.split('/').filter(|part| *part == "..") {
            at.pop();
        }
        let prefix: String = at.iter().map(|part| format!("{part}/")).collect();
        sources.iter().any(|source| source.starts_with(&prefix))
    })
}

fn is_dots(word: &str) -> bool {
    word.chars().all(|c| c == '.' || c == '/')
}

fn reads(
    repo: &Repository,
    id: Oid,
    names: &[Mention],
    folder: &str,
    sources: &BTreeSet<&str>,
) -> bool {
    let Ok(blob) = repo.find_blob(id) else {
        return true;
    };
    if blob.size() > NIX_BYTES_MAX {
        return true;
    }
    let text = String::from_utf8_lossy(blob.content());
    DOUBTS.iter().any(|word| text.contains(word))
        || names.iter().any(|name| name.is_in(&text))
        || holds_one(&text, folder, sources)
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

    #[test]
    fn a_place_on_hosts_is_no_folder_of_the_repository() {
        let reads = |source: &str, text: &str| mentions(source).iter().any(|m| m.is_in(text));
        let root = "secrets/web.yaml";
        for text in [
            "x = \"/run/secrets/db\";",
            "cat /run/trueup/secrets/token",
            "ConditionPathExists=/nix/var/trueup/secrets.json",
            "\"ssh/sshd_config.d/secrets.conf\"",
        ] {
            assert!(!reads(root, text), "{text}");
        }
        for text in [
            "./secrets",
            "./secrets${name}",
            "../../secrets/other.yaml",
            "${root}/secrets",
            "${root}/a/secrets",
            "root + \"/secrets\"",
            "./hosts + \"/../secrets\"",
            "\"web.yaml\"",
            "/run/secrets/web.yaml",
            "/run/secrets and ./secrets",
        ] {
            assert!(reads(root, text), "{text}");
        }
        let nested = "infra/secrets/db.yaml";
        assert!(reads(nested, "root + \"/infra/secrets\"") && reads(nested, "./infra/secrets"));
        assert!(reads(nested, "infra/secrets") && !reads(nested, "/run/secrets"));
    }

    #[test]
    fn a_folder_as_a_whole_matters_if_a_source_is_in_it() {
        let sources = BTreeSet::from(["secrets/web.yaml"]);
        let holds = |folder: &str, text: &str| holds_one(text, folder, &sources);
        assert!(holds("", "src = ./.;") && holds("secrets/", "import (./. + \"/x.nix\")"));
        assert!(holds("hosts/", "src = ../.;") && holds("hosts/web/", "x = ../..;"));
        assert!(!holds("hosts/", "import (./. + \"/${name}.nix\")"));
        assert!(!holds(
            "hosts/web/",
            "imports = [ ../../modules/base.nix ../. ]; # a/b"
        ));
    }
}
