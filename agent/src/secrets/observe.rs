//! What this host has, compared here: a goal's digest if every file of it is as it was written, else what differs.

use trueup_schema::Digest;
use trueup_schema::wire::{SecretsGoal, secrets_digest};

use super::{Generation, Places, hold_nothing_back, kept};
use crate::files::Layout;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looked {
    /// The goal that is in effect, whole.
    pub digest: Option<Digest>,
    /// A reboot would bring it back.
    pub lasting: bool,
    /// What is not as it should be, by name.
    pub differs: Vec<String>,
}

/// Looks. `confirmed`: what was committed last.
#[must_use]
pub fn look(layout: &Layout, places: &Places, confirmed: Option<&Digest>) -> Looked {
    let now = Generation::current(places).ok().flatten();
    let Some(now) = now else {
        // Without any secret there is nothing in memory, and nothing missing.
        let none = secrets_digest(&SecretsGoal::default());
        let whole = confirmed == Some(&none);
        let differs = match confirmed {
            Some(digest) if *digest != none => vec!["no secret is in place".to_owned()],
            _ => Vec::new(),
        };
        return Looked {
            digest: whole.then_some(none),
            lasting: whole,
            differs,
        };
    };
    hold_nothing_back();
    let differs = now.differences(places);
    let lasting = kept::digest(layout).as_ref() == Some(&now.digest);
    Looked {
        digest: differs.is_empty().then(|| now.digest.clone()),
        lasting: lasting && differs.is_empty(),
        differs,
    }
}
