use super::*;
use crate::edge::db::{FILE, OpenError, SqliteDb, check};
use trueup_engine::ports::{Key, Op, Txn};

/// What the release before wrote: a controller with three hosts, as SQL.
const GOLDEN: &str = include_str!("golden/layout-1.sql");

fn golden(folder: &Path) -> PathBuf {
    let path = folder.join(FILE);
    Connection::open(&path)
        .unwrap()
        .execute_batch(GOLDEN)
        .unwrap();
    path
}

fn layout(path: &Path) -> Option<i64> {
    layout_of(&Connection::open(path).unwrap()).unwrap()
}

fn key(name: &str) -> Key {
    Key::new(&["hosts", name]).unwrap()
}

async fn put(db: &SqliteDb, name: &str) {
    let txn = Txn {
        fence: db.term(),
        when: Vec::new(),
        then: vec![Op::Put(key(name), b"{}".to_vec())],
        events: Vec::new(),
    };
    db.commit(txn).await.unwrap();
}

async fn has(db: &SqliteDb, name: &str) -> bool {
    db.get(&key(name)).await.unwrap().is_some()
}

/// The thread gives the lock back a moment after the last handle is gone.
async fn open_as(folder: &Path, layout: i64) -> SqliteDb {
    for _ in 0..6000 {
        match SqliteDb::open_as(folder, layout) {
            Ok(db) => return db,
            Err(OpenError::Locked { .. }) => {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            Err(e) => panic!("{e}"),
        }
    }
    panic!("never unlocked");
}

#[tokio::test]
async fn the_database_of_the_release_before_is_read_whole_and_kept_beside() {
    let folder = tempfile::tempdir().unwrap();
    let path = golden(folder.path());
    let before = check(&path).unwrap();
    assert!(before.entries > 5, "{before:?}");
    let db = SqliteDb::open(folder.path()).unwrap();
    assert_eq!(db.told(), None);
    assert_eq!(db.term().0, before.term.0 + 1);
    let (_, hosts) = db.list("/hosts/").await.unwrap();
    assert!(!hosts.is_empty());
    for host in hosts {
        let record: trueup_engine::record::HostRecord =
            serde_json::from_slice(&host.value).unwrap();
        assert_eq!(
            host.key.as_str(),
            format!("/hosts/{}", record.manifest.name)
        );
    }
    drop(db);
    let after = check(&path).unwrap();
    assert_eq!((after.entries, after.rev), (before.entries, before.rev));
    assert_eq!(after.led_by.unwrap().0, env!("CARGO_PKG_VERSION"));
    assert_eq!(
        (layout(&path), layout(&kept(&path, 1))),
        (Some(LAYOUT), Some(1))
    );
    assert_eq!(check(&kept(&path, 1)).unwrap(), before);
}

#[tokio::test]
async fn the_older_release_takes_the_backup_that_was_made_and_the_newer_one_goes_on_from_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = golden(folder.path());
    let db = open_as(folder.path(), 2).await;
    put(&db, "made-by-the-newer").await;
    let newer = db.term();
    drop(db);

    let db = open_as(folder.path(), 1).await;
    let told = db.told().unwrap().to_owned();
    assert!(
        told.contains("layout 2") && told.contains("backup"),
        "{told}"
    );
    assert!(!has(&db, "made-by-the-newer").await && has(&db, "web-1").await);
    put(&db, "made-by-the-older").await;
    assert_eq!((layout(&path), layout(&kept(&path, 2))), (Some(1), Some(2)));
    assert_eq!(
        check(&kept(&path, 2)).unwrap().term,
        newer,
        "with all that was in its log"
    );
    drop(db);

    // Started again, it is its own database.
    let db = open_as(folder.path(), 1).await;
    assert_eq!(db.told(), None);
    assert!(has(&db, "made-by-the-older").await);
    drop(db);

    let db = open_as(folder.path(), 2).await;
    assert_eq!(db.told(), None);
    assert!(has(&db, "made-by-the-older").await && !has(&db, "made-by-the-newer").await);
}

#[tokio::test]
async fn without_a_backup_an_older_release_refuses_and_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let db = open_as(folder.path(), 2).await;
    put(&db, "web-1").await;
    drop(db);
    let path = folder.path().join(FILE);
    let said = loop {
        match SqliteDb::open_as(folder.path(), 1) {
            Ok(_) => panic!("opened"),
            Err(OpenError::Locked { .. }) => tokio::task::yield_now().await,
            Err(e) => break e.to_string(),
        }
    };
    assert!(said.contains("use a newer trueup"), "{said}");
    assert_eq!(layout(&path), Some(2));
    assert!(has(&open_as(folder.path(), 2).await, "web-1").await);
}

/// Wherever it is cut: one of the two databases is there, whole, and the next start ends what was begun.
#[test]
fn a_crash_in_the_middle_of_going_back_loses_neither() {
    let folder = tempfile::tempdir().unwrap();
    let path = golden(folder.path());
    prepare(&path, 2).unwrap();
    // After the copy, before anything is moved.
    std::fs::copy(kept(&path, 1), beside(&path, RESTORING)).unwrap();
    assert!(prepare(&path, 1).unwrap().is_some());
    assert_eq!((layout(&path), layout(&kept(&path, 2))), (Some(1), Some(2)));
    // After the move, before the backup is in its place.
    prepare(&path, 2).unwrap();
    std::fs::copy(kept(&path, 1), beside(&path, RESTORING)).unwrap();
    std::fs::rename(&path, kept(&path, 2)).unwrap();
    assert_eq!(
        prepare(&path, 1).unwrap(),
        None,
        "nothing is left to be told"
    );
    assert_eq!((layout(&path), layout(&kept(&path, 2))), (Some(1), Some(2)));
    assert!(!beside(&path, RESTORING).exists());
}
