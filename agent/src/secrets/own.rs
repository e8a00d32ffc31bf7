//! Secrets of users whom the same activation makes: root's until the users are there, and theirs from then on. Looked for
//! whenever `/etc` changes, so that files are given away before the activation starts the units that read them; the NixOS
//! module's snippet behind `users` makes it certain.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::{Generation, Places, SecretsError};
use crate::changes::Changes;

/// Where users are written down.
const ETC: &str = "/etc";
/// No activation makes its users later than this.
const WATCH_MAX: Duration = Duration::from_secs(1800);
/// A look without a sign, for hosts where `/etc` is not what changes.
const LOOK: Duration = Duration::from_secs(2);

/// Gives files to owners that are known by now. An owner that is not is an error, and the others' files wait with it.
pub fn own(places: &Places) -> Result<(), SecretsError> {
    match Generation::current(places)? {
        Some(now) => now.own(places).map(|_| ()),
        None => Ok(()),
    }
}

/// The same as soon as all owners are there, beside whoever makes them. It ends with this process, at the latest.
pub(super) fn watch(places: &Places, generation: &Generation) {
    if !generation.has_pending() {
        return;
    }
    let (places, number) = (places.clone(), generation.number);
    thread::spawn(move || {
        let changes = Changes::of(Path::new(ETC));
        let begun = Instant::now();
        while begun.elapsed() < WATCH_MAX {
            match Generation::current(&places) {
                // A name that is not known yet is what is waited for.
                Ok(Some(now)) if now.number == number => match now.own(&places) {
                    Ok(_) => return,
                    Err(_) => changes.wait(LOOK),
                },
                // Gone back, or another set holds.
                _ => return,
            }
        }
    });
}
