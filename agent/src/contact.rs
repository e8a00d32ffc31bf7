//! Can somebody get in after the way back? The process that went back waits for it; whoever comes over SSH leaves a note.
//! It says nothing about who came: a confirmation is another thing.

use std::fs;
use std::thread;
use std::time::Duration;

use trueup_core::agent::State;
use trueup_schema::wire::Order;

use crate::files::{self, Layout};
use crate::{journal, session};

/// There while contact is waited for.
const WANTED: &str = "contact-wanted";
/// There when it came.
const CAME: &str = "contact";
/// How often the note is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// What a follower said has left this host after so long, or it does not leave.
const ON_ITS_WAY: Duration = Duration::from_millis(300);

/// Waits until somebody came, at the longest as long as the journal says. Nobody is waited for when the offer did not come
/// over SSH, or nothing was touched.
#[must_use]
pub fn wait(layout: &Layout, state: &State) -> bool {
    let Some(until) = &state.contact_until else {
        return true;
    };
    let order = state.accepted.order;
    if state.accepted.session.is_none() {
        return true;
    }
    if read(layout, CAME) != Some(order) {
        put(layout, WANTED, order);
    }
    loop {
        if read(layout, CAME) == Some(order) {
            return true;
        }
        if journal::boottime() >= until.at || journal::boot_id() != until.boot_id {
            return false;
        }
        thread::sleep(LOOK);
    }
}

/// Is contact waited for by this attempt?
#[must_use]
pub fn is_wanted(layout: &Layout, order: Order) -> bool {
    read(layout, WANTED) == Some(order) && read(layout, CAME) != Some(order)
}

/// Of a verb that began just now: it came over SSH, so somebody can get in.
pub fn note(layout: &Layout) {
    if let Some(order) = read(layout, WANTED)
        && session::own().is_some()
    {
        put(layout, CAME, order);
    }
}

/// Of a follower, whose connection may be dead without its knowing: it said something, and the other side's kernel took it.
pub fn note_if_heard(layout: &Layout, order: Order) {
    let Some(own) = session::own() else {
        return;
    };
    thread::sleep(ON_ITS_WAY);
    if session::is_acknowledged(own.pid) {
        put(layout, CAME, order);
    }
}

/// The attempt ended.
pub fn forget(layout: &Layout) {
    for name in [WANTED, CAME] {
        let _gone = fs::remove_file(layout.file(name));
    }
}

fn read(layout: &Layout, name: &str) -> Option<Order> {
    files::noted(&layout.file(name))
}

fn put(layout: &Layout, name: &str, order: Order) {
    // A note for this boot only: nothing depends on it after a power cut.
    if let Err(e) = files::note(&layout.file(name), &order) {
        eprintln!("trueup-agent: {e}");
    }
}
