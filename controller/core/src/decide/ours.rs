//! Whether a host is ours, and the machine that it was: if not, it is only observed.

use trueup_schema::status::{Phase, Reason};
use trueup_schema::wire::Identity;

use super::talk::Talk;
use super::{Decision, Step};
use crate::conditions::State;

/// Adoption and identity: a host that is not ours is only observed.
pub(super) fn ours(t: &Talk<'_, '_>) -> Option<Decision> {
    let view = t.view;
    let report = view.memory.report.as_ref()?;
    let Some(adoption) = view.adoption else {
        if view.adopt == trueup_schema::kind::Adopt::Auto {
            let verdict = t.working(Phase::Pending, "adopting");
            return Some(Decision {
                step: Step::Adopt,
                verdict,
            });
        }
        let name = &view.manifest.name;
        let message = format!("not adopted, so only observed: `trueup adopt host/{name}`");
        let verdict = t.say(
            Phase::Held,
            State::Stalled,
            Reason::AdoptionRequired,
            message,
        );
        return Some(t.look_or_wait(verdict));
    };
    let Some(pinned) = &adoption.identity else {
        return Some(Decision {
            step: Step::Adopt,
            verdict: t.working(Phase::Pending, "adopting"),
        });
    };
    let listed = view.manifest.ssh.host_keys.iter().map(ToString::to_string);
    if let Some(what) = differs(pinned, &report.identity, listed) {
        let message = format!(
            "another machine answers: {what}; if that is meant, `trueup adopt host/{}`",
            view.manifest.name
        );
        let verdict = t.say(
            Phase::Stalled,
            State::Stalled,
            Reason::IdentityMismatch,
            message,
        );
        return Some(t.look_or_wait(verdict));
    }
    None
}

/// What says that this is another machine than the adopted one: another machine-id, or nothing but keys of others. A key
/// that the manifest lists is this machine's, so that one can be rotated where there is but one.
fn differs(
    pinned: &Identity,
    seen: &Identity,
    listed: impl Iterator<Item = String>,
) -> Option<String> {
    if pinned.machine_id != seen.machine_id {
        return Some(format!(
            "machine-id {} instead of {}",
            seen.machine_id, pinned.machine_id
        ));
    }
    let known = pinned
        .host_keys
        .iter()
        .cloned()
        .chain(listed)
        .any(|key| seen.host_keys.contains(&key));
    (!known && !pinned.host_keys.is_empty()).then(|| {
        "it has none of the host keys that it was adopted with, nor one of `spec.ssh.hostKeys`"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(id: &str, keys: &[&str]) -> Identity {
        Identity {
            machine_id: id.to_owned(),
            host_keys: keys.iter().map(|k| (*k).to_owned()).collect(),
        }
    }

    #[test]
    fn a_machine_is_known_by_its_id_and_a_key_of_before_or_of_its_manifest() {
        let pinned = machine("a", &["ssh-ed25519 OLD", "ssh-rsa OLD"]);
        let of = |id: &str, keys: &[&str], listed: &[&str]| {
            let listed = listed.iter().map(|k| (*k).to_owned());
            differs(&pinned, &machine(id, keys), listed)
        };
        assert_eq!(of("a", &["ssh-rsa OLD", "ssh-ed25519 NEW"], &[]), None);
        // Its only key is rotated: the manifest knows the next one.
        assert_eq!(of("a", &["ssh-ed25519 NEW"], &["ssh-ed25519 NEW"]), None);
        let keys = of("a", &["ssh-ed25519 NEW"], &["ssh-ed25519 OLD"]).expect("another");
        assert!(keys.contains("none of the host keys"), "{keys}");
        let id = of("b", &["ssh-ed25519 OLD"], &["ssh-ed25519 OLD"]).expect("another");
        assert_eq!(id, "machine-id b instead of a");
    }
}
