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
        goals: Vec::new(),
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

/// The claim: when `append` returns, so that the effect may follow, the record has been synced.
fn each_record_is_synced_before_the_effect() -> Result<(), String> {
    let (_dir, layout, order) = begun();
    let mut journal = Journal::open(&layout, order).expect("opened");
    let recorder = Recorder::default();
    journal.file = Box::new(recorder.clone());
    for event in [
        Event::Recorded(trueup_core::agent::Recorded::default()),
        Event::Armed { deadline: now() },
    ] {
        journal.append(&layout, event).expect("written");
        let asked = recorder.0.borrow();
        if asked.last() != Some(&"sync") {
            return Err(format!("the effect follows after {asked:?}"));
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
