//! The contract of the `Db` port, and what only a file can be tested for: crashes, damage, a second controller.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use futures::StreamExt as _;
use trueup::edge::db::{self, OpenError, SqliteDb};
use trueup_engine::ports::{Db, DbError, DbRev, Fence, Guard, Key, MAX_OPS, MAX_VALUE, Op, Txn};
use trueup_schema::status::{Actor, Event, Reason, Severity, Subject};

use trueup_fixtures::sim::MemDb;

use crate::local;

fn key(name: &str) -> Key {
    Key::new(&["things", name]).unwrap()
}

fn put(fence: Fence, name: &str, value: &[u8]) -> Txn {
    Txn {
        fence,
        then: vec![Op::Put(key(name), value.to_vec())],
        ..Txn::default()
    }
}

fn event() -> Event {
    Event {
        id: String::new(),
        at: trueup_schema::Timestamp::now(),
        severity: Severity::Info,
        reason: Reason::ControllerStarted,
        subject: Subject::Controller("test".to_owned()),
        revision: None,
        goal: None,
        message: "m".to_owned(),
        fields: Default::default(),
        cause: None,
        by: Actor::controller(),
    }
}

/// What every `Db` promises, whatever lies below it.
async fn contract(db: &dyn Db, fence: Fence) {
    // One revision a commit, reads see it, an entry knows who wrote it.
    let first = db.commit(put(fence, "a", b"1")).await.unwrap();
    let second = db.commit(put(fence, "b", b"2")).await.unwrap();
    assert_eq!(second.0, first.0 + 1);
    let a = db.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((a.value.as_slice(), a.rev), (&b"1"[..], first));
    let (at, all) = db.list("/things/").await.unwrap();
    assert_eq!(at, second);
    assert_eq!(
        all.iter().map(|e| e.key.name()).collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert!(db.list("/thing/").await.unwrap().1.is_empty());

    // Guards: all or nothing.
    for guard in [
        Guard::Absent(key("a")),
        Guard::At(key("a"), second),
        Guard::At(key("none"), first),
    ] {
        let mut txn = put(fence, "c", b"3");
        txn.when.push(guard);
        assert!(matches!(
            db.commit(txn).await,
            Err(DbError::Conflict { .. })
        ));
    }
    assert!(db.get(&key("c")).await.unwrap().is_none());
    let mut txn = put(fence, "a", b"1b");
    txn.when = vec![Guard::At(key("a"), first), Guard::Absent(key("c"))];
    txn.then.push(Op::Delete(key("b")));
    txn.events = vec![event(), event()];
    let third = db.commit(txn).await.unwrap();

    // Events are stored with their ids, in the same commit, in order.
    let (_, events) = db.list("/events/").await.unwrap();
    assert_eq!(events.len(), 2);
    for (n, stored) in events.iter().enumerate() {
        assert_eq!(stored.rev, third);
        let read: Event = serde_json::from_slice(&stored.value).unwrap();
        assert_eq!(read.id, format!("{}-{n}", third.0));
    }

    // A watch tells each change once, in order, past and future ones, below its prefix only.
    let mut watch = db.watch("/things/", first);
    let mut told = Vec::new();
    for _ in 0..3 {
        let change = watch.next().await.unwrap().unwrap();
        told.push((change.rev, change.key.name().to_owned(), change.value));
    }
    assert_eq!(told[0], (second, "b".to_owned(), Some(b"2".to_vec())));
    assert_eq!(told[1], (third, "a".to_owned(), Some(b"1b".to_vec())));
    assert_eq!(told[2], (third, "b".to_owned(), None));
    let (later, fourth) = futures::join!(watch.next(), db.commit(put(fence, "d", b"4")));
    assert_eq!(later.unwrap().unwrap().rev, fourth.unwrap());

    // Who does not lead does not write: an old term, and one that never was.
    for other in [Fence(fence.0 - 1), Fence(fence.0 + 1)] {
        let told = db.commit(put(other, "e", b"5")).await;
        assert!(matches!(told, Err(DbError::Fenced { .. })), "{told:?}");
    }
    assert!(db.get(&key("e")).await.unwrap().is_none());

    // A delete of what is not there is a commit without a change.
    let nothing = Txn {
        fence,
        then: vec![Op::Delete(key("never"))],
        ..Txn::default()
    };
    let fifth = db.commit(nothing).await.unwrap();
    let mut watch = db.watch("/things/", DbRev(fifth.0 - 1));
    let sixth = db.commit(put(fence, "f", b"6")).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().rev, sixth);

    // A revision that is not there yet is of another database.
    let told = db.watch("/things/", DbRev(sixth.0 + 50)).next().await;
    assert!(matches!(told, Some(Err(_))), "{told:?}");

    // Limits, etcd's: a value, a transaction's operations, its guards, all of it.
    let whole = db.commit(put(fence, "a", &vec![0; MAX_VALUE])).await;
    assert!(whole.is_ok(), "{whole:?}");
    let before = db.list("/").await.unwrap();
    let two = Txn {
        fence,
        then: ["g", "h"]
            .map(|k| Op::Put(key(k), vec![0; MAX_VALUE]))
            .into(),
        ..Txn::default()
    };
    assert!(matches!(
        db.commit(two).await,
        Err(DbError::TooLarge { .. })
    ));
    let guards = Txn {
        fence,
        when: vec![Guard::Absent(key("z")); MAX_OPS + 1],
        ..Txn::default()
    };
    assert!(matches!(
        db.commit(guards).await,
        Err(DbError::TooLarge { .. })
    ));
    let events = Txn {
        fence,
        then: vec![Op::Delete(key("z")); MAX_OPS],
        events: vec![event(); MAX_OPS],
        ..Txn::default()
    };
    assert!(matches!(
        db.commit(events).await,
        Err(DbError::TooLarge { .. })
    ));
    let large = put(fence, "a", &vec![0; MAX_VALUE + 1]);
    assert!(matches!(
        db.commit(large).await,
        Err(DbError::TooLarge { .. })
    ));
    let mut many = put(fence, "a", b"");
    many.then
        .extend(std::iter::repeat_n(Op::Delete(key("z")), MAX_OPS));
    assert!(matches!(
        db.commit(many).await,
        Err(DbError::TooLarge { .. })
    ));
    assert_eq!(
        db.list("/").await.unwrap(),
        before,
        "none of them left a trace"
    );
}

#[test]
fn the_twin_in_memory_keeps_the_contract() {
    local(async {
        let db = MemDb::default();
        let term = db.begin_term();
        contract(&db, term).await;
        db.compact(DbRev(3));
        let told = db.watch("/", DbRev(2)).next().await.unwrap();
        assert!(
            matches!(told, Err(DbError::Compacted { oldest: 3 })),
            "{told:?}"
        );
        let first = db.watch("/", DbRev(3)).next().await.unwrap();
        assert_eq!(first.unwrap().rev, DbRev(4));
    });
}

#[test]
fn sqlite_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let db = SqliteDb::open(dir.path()).unwrap();
        contract(&db, db.term()).await;
        // Who led before does not write any more.
        let newer = db.raise_term(40).await.unwrap();
        assert_eq!(newer.term(), Fence(41));
        let late = db.commit(put(db.term(), "x", b"")).await;
        assert!(matches!(
            late,
            Err(DbError::Fenced {
                current: 41,
                ours: 1
            })
        ));
        newer.commit(put(newer.term(), "x", b"")).await.unwrap();
    });
}

#[test]
fn a_watch_from_before_the_history_must_list_again() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let db = SqliteDb::open(dir.path()).unwrap();
        for n in 0..5_u8 {
            db.commit(put(db.term(), "a", &[n])).await.unwrap();
        }
        db.compact(DbRev(3)).await.unwrap();
        let told = db.watch("/", DbRev(2)).next().await.unwrap();
        assert!(
            matches!(told, Err(DbError::Compacted { oldest: 3 })),
            "{told:?}"
        );
        assert_eq!(
            db.watch("/", DbRev(3)).next().await.unwrap().unwrap().rev,
            DbRev(4)
        );
        // A revision that is not there yet is of another database.
        assert!(db.watch("/", DbRev(99)).next().await.unwrap().is_err());
    });
}

#[test]
fn a_second_controller_is_refused_by_name_and_each_start_is_a_new_term() {
    let dir = tempfile::tempdir().unwrap();
    let first = SqliteDb::open(dir.path()).unwrap();
    match SqliteDb::open(dir.path()) {
        Err(OpenError::Locked { holder, .. }) => assert_eq!(holder, std::process::id().to_string()),
        other => panic!("{other:?}"),
    }
    assert_eq!(first.term(), Fence(1));
    drop(first);
    // The thread gives the lock back when the last handle is gone, a moment later.
    let second = (0..200)
        .find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            SqliteDb::open(dir.path()).ok()
        })
        .unwrap();
    assert_eq!(second.term(), Fence(2));
}

#[test]
fn a_damaged_value_is_named_and_never_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(db::FILE);
    let copy = dir.path().join("copy");
    local(async {
        let db = SqliteDb::open(dir.path()).unwrap();
        db.commit(put(db.term(), "a", b"a value that is easily found"))
            .await
            .unwrap();
        db.backup(&copy).await.unwrap();
    });
    assert_eq!(db::check(&copy).unwrap().entries, 1);
    assert_eq!(db::check(&file).unwrap().rev, DbRev(1));
    let mut out = Vec::new();
    assert_eq!(db::export(&copy, &mut out).unwrap(), 1);
    assert!(db::backup(&file, &copy).is_err(), "nothing is overwritten");
    let mut bytes = std::fs::read(&copy).unwrap();
    let needle = b"easily found";
    let places: Vec<_> = (0..bytes.len() - needle.len())
        .filter(|i| bytes[*i..].starts_with(needle))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at] ^= 1;
    }
    std::fs::write(&copy, bytes).unwrap();
    match db::check(&copy) {
        Err(DbError::Corrupt { key, .. }) => assert_eq!(key, "/things/a"),
        other => panic!("{other:?}"),
    }
}

const WRITER: &str = "TRUEUP_TEST_DB_WRITER";

/// Not a test of its own: what the next one starts and kills.
#[test]
fn writer_that_is_killed() {
    let Some(dir) = std::env::var_os(WRITER) else {
        return;
    };
    local(async {
        let db = SqliteDb::open(dir.as_ref()).unwrap();
        let mut out = std::io::stdout();
        for n in 0..1_000_000_u64 {
            let mut txn = put(db.term(), "a", &n.to_le_bytes());
            txn.then.push(Op::Put(key("b"), n.to_le_bytes().to_vec()));
            txn.events.push(event());
            let rev = db.commit(txn).await.unwrap();
            writeln!(out, "\nacked {}", rev.0).unwrap();
            out.flush().unwrap();
        }
    });
}

#[test]
#[allow(clippy::disallowed_methods)] // the test's own child, to be killed
fn what_was_acknowledged_survives_kill_9_whole() {
    const KILLS: usize = 5;
    let dir = tempfile::tempdir().unwrap();
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "db::writer_that_is_killed", "--nocapture"])
            .env(WRITER, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acked = 0;
        let mut seen = 0;
        for line in lines.map_while(Result::ok) {
            if let Some(rev) = line.strip_prefix("acked ") {
                acked = rev.parse().unwrap();
                seen += 1;
                if seen == 20 + round * 7 {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        assert!(acked > 0);
        local(async {
            let db = SqliteDb::open(dir.path()).unwrap();
            assert!(db.newest().0 >= acked, "{} < {acked}", db.newest().0);
            let a = db.get(&key("a")).await.unwrap().unwrap();
            let b = db.get(&key("b")).await.unwrap().unwrap();
            assert_eq!((a.value, a.rev), (b.value, b.rev), "one transaction, whole");
            assert_eq!(
                db.list("/events/").await.unwrap().1.len() as u64,
                db.newest().0
            );
        });
        wait_for_lock(dir.path());
    }
}

/// The lock is the thread's, which ends a moment after the last handle.
fn wait_for_lock(dir: &std::path::Path) {
    let lock = std::fs::File::open(dir.join(db::LOCK)).unwrap();
    lock.lock().unwrap();
}

#[test]
fn a_backup_while_commits_go_on_is_whole_and_holds_no_half_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    local(async {
        let db = SqliteDb::open(&dir.path().join("db")).unwrap();
        let stop = std::cell::Cell::new(false);
        let write = async {
            let mut n = 0_u64;
            while !stop.get() {
                let mut txn = put(db.term(), "a", &n.to_le_bytes());
                txn.then.push(Op::Put(key("b"), n.to_le_bytes().to_vec()));
                db.commit(txn).await.unwrap();
                n += 1;
                tokio::task::yield_now().await;
            }
            n
        };
        let back_up = async {
            for n in 0..5_u64 {
                // By the running controller, and by a command beside it.
                let copy = copies.path().join(format!("{n}"));
                let before = db.newest();
                if n % 2 == 0 {
                    db.backup(&copy).await.unwrap();
                } else {
                    let from = dir.path().join("db").join(db::FILE);
                    let to = copy.clone();
                    let copied = tokio::task::spawn_blocking(move || db::backup(&from, &to));
                    copied.await.unwrap().unwrap();
                }
                let checked = db::check(&copy).unwrap();
                assert!(checked.rev >= before, "what was there before is in it");
                while db.newest().0 < before.0 + 10 {
                    tokio::task::yield_now().await;
                }
            }
            stop.set(true);
        };
        let (written, ()) = futures::join!(write, back_up);
        assert!(written >= 40, "{written}");
    });
    for n in 0..5 {
        let place = tempfile::tempdir().unwrap();
        std::fs::copy(
            copies.path().join(format!("{n}")),
            place.path().join(db::FILE),
        )
        .unwrap();
        local(async {
            let db = SqliteDb::open(place.path()).unwrap();
            let a = db.get(&key("a")).await.unwrap();
            let b = db.get(&key("b")).await.unwrap();
            assert_eq!(a.map(|e| (e.value, e.rev)), b.map(|e| (e.value, e.rev)));
        });
    }
}

#[test]
fn damage_in_the_history_that_watches_read_is_found_too() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    local(async {
        let db = SqliteDb::open(dir.path()).unwrap();
        db.commit(put(db.term(), "a", b"an old value, in the history"))
            .await
            .unwrap();
        db.commit(put(db.term(), "a", b"newer")).await.unwrap();
        db.backup(&copy).await.unwrap();
    });
    db::check(&copy).unwrap();
    let mut bytes = std::fs::read(&copy).unwrap();
    let needle = b"in the history";
    let at = bytes
        .windows(needle.len())
        .position(|w| w == needle)
        .unwrap();
    bytes[at] ^= 1;
    std::fs::write(&copy, bytes).unwrap();
    match db::check(&copy) {
        Err(DbError::Corrupt { key, .. }) => assert_eq!(key, "/things/a"),
        other => panic!("{other:?}"),
    }
}
