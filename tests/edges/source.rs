//! The trunk, from a repository on this machine.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use trueup::edge::source::{Bounds, Credentials, Desired, GitSource, ReadFile, SourceSettings};
use trueup_engine::ports::{Source, SourceError};
use trueup_fixtures::fleet::commit_all;
use trueup_schema::ErrorClass;

use crate::local;

fn source(repo: &Path, state: &Path, branch: &str) -> GitSource {
    GitSource::new(settings(repo, state, branch))
}

fn settings(repo: &Path, state: &Path, branch: &str) -> SourceSettings {
    SourceSettings {
        url: format!("file://{}", repo.display()),
        branch: branch.to_owned(),
        fleet: "fleet".to_owned(),
        state: state.to_owned(),
        credentials: Credentials::default(),
        bounds: Bounds::default(),
        read: |files, _| {
            Err(files
                .iter()
                .map(|(path, bytes)| format!("{path}: {}", bytes.len()))
                .collect())
        },
    }
}

/// Reads any manifests as a fleet of nothing.
fn taken(_: &[(String, Vec<u8>)], _: ReadFile<'_>) -> Result<Desired, Vec<String>> {
    let fleet = "apiVersion: trueup/v1alpha1\nkind: Fleet\nmetadata: {name: f}\nspec: {}\n";
    let files = [("fleet/fleet.yaml".to_owned(), fleet.as_bytes().to_vec())];
    let fleet = trueup_schema::manifest::resolve(&files);
    let fleet =
        fleet.map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    Ok(Desired {
        fleet,
        secrets: Default::default(),
    })
}

fn write(dir: &Path, file: &str, text: &str) {
    let path = dir.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_head_follows_what_was_accepted_unless_history_was_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let (repo, state) = (dir.path().join("repo"), dir.path().join("state"));
    write(&repo, "a", "1");
    let one = commit_all(&repo, "first\n\nbody").unwrap();
    local(async {
        let source = source(&repo, &state, "main");
        let first = source.fetch(None).await.unwrap();
        assert_eq!(
            (first.revision.sha1(), first.subject.as_str(), first.follows),
            (&*one, "first", true)
        );
        write(&repo, "a", "2");
        commit_all(&repo, "second").unwrap();
        let second = source.fetch(Some(&first.revision)).await.unwrap();
        assert!(second.follows);
        assert!(source.knows(&first.revision).await.unwrap());
        // Another history under the same name.
        std::fs::remove_dir_all(repo.join(".git")).unwrap();
        commit_all(&repo, "rewritten").unwrap();
        let other = source.fetch(Some(&second.revision)).await.unwrap();
        assert!(!other.follows);
        assert_eq!(other.subject, "rewritten");
    });
}

#[test]
fn a_branch_or_a_repository_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("repo");
    write(&repo, "a", "1");
    commit_all(&repo, "first").unwrap();
    local(async {
        let e = source(&repo, &dir.path().join("s1"), "trunk")
            .fetch(None)
            .await
            .unwrap_err();
        assert!(
            matches!(e, SourceError::NoBranch { ref branch, .. } if branch == "trunk"),
            "{e}"
        );
        let nowhere = dir.path().join("nowhere");
        let e = source(&nowhere, &dir.path().join("s2"), "main")
            .fetch(None)
            .await
            .unwrap_err();
        assert!(matches!(e, SourceError::Fetch { .. }), "{e}");
    });
}

#[test]
fn manifests_are_all_yaml_below_the_folder_and_their_problems_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("repo");
    write(&repo, "fleet/b.yaml", "12345");
    write(&repo, "fleet/deep/a.yml", "1");
    write(&repo, "fleet/readme.md", "no");
    write(&repo, "other.yaml", "no");
    commit_all(&repo, "first").unwrap();
    local(async {
        let source = source(&repo, &dir.path().join("state"), "main");
        let head = source.fetch(None).await.unwrap();
        match source.open(&head.revision).await {
            Err(SourceError::BadManifests { problems, .. }) => {
                assert_eq!(problems, ["fleet/b.yaml: 5", "fleet/deep/a.yml: 1"]);
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_commit_in_a_local_repository_wakes() {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("repo");
    write(&repo, "a", "1");
    commit_all(&repo, "first").unwrap();
    local(async {
        let mut wakes = source(&repo, &dir.path().join("state"), "main").wakes();
        write(&repo, "a", "2");
        commit_all(&repo, "second").unwrap();
        let woken = tokio::time::timeout(Duration::from_secs(10), wakes.next()).await;
        assert_eq!(woken.unwrap(), Some(()));
    });
}

/// Commits what `make` put there, opens it, and tells what was wrong with its files.
fn refused(bounds: Bounds, make: impl FnOnce(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (repo, state) = (dir.path().join("repo"), dir.path().join("state"));
    write(&repo, "fleet/fleet.yaml", "x");
    make(&repo);
    commit_all(&repo, "first").unwrap();
    local(async {
        let mut settings = settings(&repo, &state, "main");
        settings.read = taken;
        settings.bounds = bounds;
        let source = GitSource::new(settings);
        let head = source.fetch(None).await.unwrap();
        let e = source.open(&head.revision).await.unwrap_err();
        // A commit mends it: nothing is tried again before one comes, and nothing is left half written.
        assert_eq!(e.class(), ErrorClass::Desired, "{e}");
        let boots = std::fs::read_dir(state.join("trees")).into_iter().flatten();
        let trees = boots
            .flatten()
            .filter_map(|boot| std::fs::read_dir(boot.path()).ok());
        assert_eq!(trees.flatten().count(), 0);
        match e {
            SourceError::BadTree { why, .. } => why,
            other => panic!("{other:?}"),
        }
    })
}

#[test]
fn files_that_would_not_be_what_they_seem_are_named() {
    use std::os::unix::fs::symlink;
    let whole = Bounds::default();
    let why = refused(whole, |repo| {
        symlink("/etc/shadow", repo.join("link")).unwrap()
    });
    assert!(why.contains("link is a link to `/etc/shadow`"), "{why}");
    let why = refused(whole, |repo| {
        symlink("../../x", repo.join("fleet/up")).unwrap();
    });
    assert!(why.contains("fleet/up is a link to `../../x`"), "{why}");
    let pointer = format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 9\n",
        "0".repeat(64)
    );
    let why = refused(whole, |repo| write(repo, "big.iso", &pointer));
    assert!(why.contains("big.iso is kept in Git LFS"), "{why}");
    let why = refused(whole, |repo| {
        write(repo, "inner/file", "x");
        commit_all(&repo.join("inner"), "inner").unwrap();
    });
    assert!(why.contains("inner is a submodule"), "{why}");
}

#[test]
fn a_revision_has_bounds() {
    let whole = Bounds::default();
    let why = refused(Bounds { files: 5, ..whole }, |repo| {
        for n in 0..5 {
            write(repo, &format!("f{n}"), "x");
        }
    });
    assert!(why.contains("more than 5 files"), "{why}");
    let why = refused(
        Bounds {
            bytes: 1000,
            ..whole
        },
        |repo| {
            write(repo, "big", &"x".repeat(2000));
        },
    );
    assert!(why.contains("larger than 1000 bytes, at big"), "{why}");
    let deep = |top: &str| format!("{top}{}f.yaml", "d/".repeat(70));
    let why = refused(whole, |repo| write(repo, &deep(""), "x"));
    assert!(why.contains("nested deeper than 64"), "{why}");
    let why = refused(whole, |repo| write(repo, &deep("fleet/"), "x"));
    assert!(why.contains("nested too deep"), "{why}");
}

#[test]
fn a_fetch_that_brings_too_much_is_cut_off_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let (repo, state) = (dir.path().join("repo"), dir.path().join("state"));
    // Not compressible, so that it must be sent.
    let mut x = 1_u64;
    let noise: String = (0..400_000)
        .map(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'a' + u8::try_from(x >> 60).unwrap())
        })
        .collect();
    write(&repo, "noise", &noise);
    commit_all(&repo, "first").unwrap();
    local(async {
        let mut settings = settings(&repo, &state, "main");
        settings.bounds.fetch = 10_000;
        let e = GitSource::new(settings.clone())
            .fetch(None)
            .await
            .unwrap_err();
        assert!(e.to_string().contains("sends more than 10000 bytes"), "{e}");
        settings.bounds = Bounds::default();
        GitSource::new(settings).fetch(None).await.unwrap();
    });
}

#[test]
fn a_tree_is_exported_as_it_is_and_its_time_is_the_commits() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let dir = tempfile::tempdir().unwrap();
    let (repo, state) = (dir.path().join("repo"), dir.path().join("state"));
    write(&repo, "fleet/fleet.yaml", "x");
    write(&repo, "bin/run", "#!/bin/sh\r\n");
    // Filters of the repository have no say.
    write(&repo, ".gitattributes", "* text eol=lf filter=evil\n");
    let exec = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(repo.join("bin/run"), exec).unwrap();
    symlink("../bin/run", repo.join("fleet/link")).unwrap();
    commit_all(&repo, "first").unwrap();
    local(async {
        let mut settings = settings(&repo, &state, "main");
        settings.read = taken;
        let source = GitSource::new(settings);
        let head = source.fetch(None).await.unwrap();
        let tree = source.open(&head.revision).await.unwrap().tree.path;
        let meta = std::fs::metadata(tree.join("bin/run")).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o555);
        let target = std::fs::read_link(tree.join("fleet/link")).unwrap();
        assert_eq!(target, Path::new("../bin/run"));
        let at = std::fs::metadata(&tree).unwrap().modified().unwrap();
        let at = at.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(i64::try_from(at).unwrap(), head.at.as_second());
        source.forget(&head.revision).await;
        assert!(!tree.exists());
        source.open(&head.revision).await.unwrap();
        assert!(tree.exists(), "and it can be had again");
    });
}
