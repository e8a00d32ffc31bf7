use super::*;
use trueup_core::agent::{Accepted, Step};

fn begun() -> (tempfile::TempDir, Layout, Order) {
    let dir = tempfile::tempdir().expect("a folder");
    let layout = Layout {
        root: dir.path().to_owned(),
    };
    layout.create().expect("folders");
    let order = Order { term: 1, serial: 2 };
    let accepted = Event::Accepted(Accepted {
        order,
        revision: format!("main@sha1:{}", "a".repeat(40))
            .parse()
            .expect("a revision"),
        goals: vec![(
            "system".parse().expect("a name"),
            trueup_schema::Digest::of(b"goal"),
        )],
        unattended: false,
        session: None,
    });
    let mut j = Journal::create(&layout, order, accepted).expect("created");
    j.append(&layout, Event::Staged).expect("written");
    (dir, layout, order)
}

#[test]
fn a_torn_tail_is_ignored_at_every_length() {
    let (_dir, layout, order) = begun();
    let path = layout.journal(order);
    let whole = fs::read(&path).expect("read");
    let first = HEAD + word(&whole, 0).expect("a length") as usize;
    for cut in first..whole.len() {
        let got = parse(&path, &whole[..cut])
            .expect("not corrupt")
            .expect("one record");
        assert_eq!(got.state.next(), Step::Stage, "cut at {cut}");
    }
}

#[test]
fn a_bad_record_before_the_last_is_corrupt() {
    let (_dir, layout, order) = begun();
    let path = layout.journal(order);
    let mut bytes = fs::read(&path).expect("read");
    bytes[HEAD + 3] ^= 1;
    assert!(matches!(
        parse(&path, &bytes),
        Err(JournalError::Corrupt { record: 0, .. })
    ));
}

#[test]
fn writing_goes_on_after_a_torn_tail() {
    let (_dir, layout, order) = begun();
    let path = layout.journal(order);
    let whole = fs::read(&path).expect("read");
    fs::write(&path, &whole[..whole.len() - 3]).expect("torn");
    let mut j = Journal::open(&layout, order).expect("opened");
    j.append(&layout, Event::Staged).expect("written");
    // Not by length: a record's time may have a digit more or less.
    let now = fs::read(&path).expect("read");
    let got = parse(&path, &now).expect("not corrupt").expect("records");
    assert_eq!(got.state.next(), Step::Record);
}

#[test]
fn two_processes_never_write_one_attempt() {
    let (_dir, layout, order) = begun();
    let _held = Journal::open(&layout, order).expect("opened");
    assert!(matches!(
        Journal::open(&layout, order),
        Err(JournalError::Locked(_))
    ));
}

/// Remembers what it was asked, and what was in the journal's file at each answer.
#[derive(Debug, Clone, Default)]
struct Recorder(std::rc::Rc<std::cell::RefCell<Vec<&'static str>>>);

impl Medium for Recorder {
    fn add(&mut self, _bytes: &[u8]) -> std::io::Result<()> {
        self.0.borrow_mut().push("add");
        Ok(())
    }
    fn sync(&mut self) -> std::io::Result<()> {
        self.0.borrow_mut().push("sync");
        Ok(())
    }
}

/// The claim: when `append` of a record returns that something follows which a power cut does not undo, it and all before
/// it have been synced.
fn each_record_is_synced_before_the_effect() -> Result<(), String> {
    let (_dir, layout, order) = begun();
    let mut journal = Journal::open(&layout, order).expect("opened");
    let recorder = Recorder::default();
    journal.file = Box::new(recorder.clone());
    let component: trueup_schema::ComponentName = "system".parse().expect("a name");
    for (event, is_followed_by_an_effect) in [
        (
            Event::Recorded(trueup_core::agent::Recorded::default()),
            false,
        ),
        (Event::Armed { deadline: now() }, false),
        (
            Event::Applying {
                component: component.clone(),
            },
            true,
        ),
        (
            Event::Applied {
                component,
                activation: trueup_schema::wire::Activation::Complete,
            },
            false,
        ),
        (
            Event::Awaiting {
                nonce: "0".to_owned(),
                since: now(),
                deadline: now(),
            },
            true,
        ),
        (Event::JudgedGood, false),
        (Event::Confirmed, false),
        (Event::Committing, true),
        (Event::ProfileSet, false),
        (Event::BootAsked, true),
    ] {
        let name = event.name();
        journal.append(&layout, event).expect("written");
        let asked = recorder.0.borrow();
        if is_followed_by_an_effect && asked.last() != Some(&"sync") {
            return Err(format!("what {name} announces follows after {asked:?}"));
        }
    }
    Ok(())
}

#[test]
fn no_effect_comes_before_its_record_is_synced() {
    each_record_is_synced_before_the_effect().expect("synced");
}

#[test]
fn the_planted_bug_skip_fsync_is_noticed() {
    let found = crate::plant::with(
        crate::plant::Bug::SkipFsync,
        each_record_is_synced_before_the_effect,
    );
    assert!(found.is_err(), "the claim above could not fail");
}

/// What trueup-agent 0.1.0 wrote on a lab host: one attempt from the offer to its end. Never edited.
const GOLDEN: &[u8] = include_bytes!("golden/journal-1");

#[test]
fn the_journal_of_the_release_before_is_read_to_its_end() {
    let read = parse(Path::new("golden"), GOLDEN)
        .expect("read")
        .expect("records");
    assert_eq!(read.state.next(), Step::Done);
    let end = read.state.end.expect("an end");
    assert_eq!(end.outcome, trueup_schema::status::Outcome::Succeeded);
    assert_eq!(read.good, GOLDEN.len() as u64);
    assert!(
        !String::from_utf8_lossy(GOLDEN).contains("\"agent\""),
        "it is of before"
    );
}

/// As 0.1.0 reads it: with `deny_unknown_fields` nowhere, and the format that it knows.
#[test]
fn the_release_before_reads_what_is_written_now() {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Before {
        format: u32,
        seq: u64,
        #[allow(dead_code, reason = "it must be there")]
        boot_id: String,
        #[allow(dead_code, reason = "it must be there")]
        boottime: u64,
        #[allow(dead_code, reason = "it must be there")]
        at: Timestamp,
        event: Event,
    }
    let (_dir, layout, order) = begun();
    let bytes = fs::read(layout.journal(order)).expect("read");
    let (mut rest, mut state, mut seq) = (&bytes[..], None, 0);
    while let Some(len) = word(rest, 0) {
        let (body, next) = rest[HEAD..].split_at(len as usize);
        assert_eq!(word(rest, 4), Some(crc32c::crc32c(body)));
        let record: Before = serde_json::from_slice(body).expect("as it was");
        assert_eq!((record.format, record.seq), (1, seq));
        state = Some(apply(state, record.event).expect("legal"));
        (rest, seq) = (next, seq + 1);
    }
    assert_eq!((seq, state.map(|s| s.next())), (2, Some(Step::Record)));
}

fn with(record: &serde_json::Value) -> Vec<u8> {
    let body = serde_json::to_vec(record).expect("JSON");
    let mut out = u32::try_from(body.len())
        .expect("short")
        .to_le_bytes()
        .to_vec();
    out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    out.extend_from_slice(&body);
    out
}

#[test]
fn what_a_newer_agent_wrote_is_told_from_what_is_damaged() {
    let record = |format: u32, agent: &str| {
        serde_json::json!({
            "format": format, "seq": 0, "bootId": "b", "boottime": 1, "at": "2026-11-21T10:00:00Z",
            "event": {"somethingNew": {}}, "agent": agent,
        })
    };
    let read = |bytes: &[u8]| parse(Path::new("x"), bytes).expect_err("not understood");
    for newer in [record(1, "9.0.0"), record(2, "9.0.0"), record(2, "")] {
        assert!(
            matches!(read(&with(&newer)), JournalError::Newer { .. }),
            "{newer}"
        );
    }
    for damaged in [record(1, ""), record(1, VERSION), record(0, "9.0.0")] {
        assert!(
            matches!(read(&with(&damaged)), JournalError::Corrupt { .. }),
            "{damaged}"
        );
    }
}
