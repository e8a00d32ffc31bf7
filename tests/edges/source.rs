//! The trunk, from a repository on this machine.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use trueup::edge::source::{Credentials, GitSource, SourceSettings};
use trueup_engine::ports::{Source, SourceError};
use trueup_fixtures::fleet::commit_all;

use crate::local;

fn source(repo: &Path, state: &Path, branch: &str) -> GitSource {
    GitSource::new(SourceSettings {
        url: format!("file://{}", repo.display()),
        branch: branch.to_owned(),
        fleet: "fleet".to_owned(),
        state: state.to_owned(),
        credentials: Credentials::default(),
        read: |files| {
            Err(files
                .iter()
                .map(|(path, bytes)| format!("{path}: {}", bytes.len()))
                .collect())
        },
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
