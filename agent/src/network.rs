//! Which links of the network are up, so that the way back can say which one it did not bring back. Reads only.

use std::collections::BTreeMap;
use std::fs;

use crate::files;

/// More links are not looked at.
const MAX_LINKS: usize = 256;

/// Name and `operstate` of each link.
pub type Links = BTreeMap<String, String>;

/// Looks at all but the loopback.
#[must_use]
pub fn look() -> Links {
    fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
        .take(MAX_LINKS)
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|name| name != "lo")
        .map(|name| {
            let state = files::text(format!("/sys/class/net/{name}/operstate"));
            (name, state)
        })
        .collect()
}

/// Links that were up and are not. Links of containers and sessions come and go: one that is gone says nothing.
#[must_use]
pub fn lost(before: &Links, now: &Links) -> Vec<String> {
    before
        .iter()
        .filter(|(_, state)| *state == "up")
        .filter_map(|(name, _)| {
            let state = now.get(name)?;
            (state == "down").then(|| format!("the link {name} was up and is down"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_link_that_went_down_is_named() {
        let links = |states: [&str; 2]| -> Links {
            [
                ("eth0".to_owned(), states[0].to_owned()),
                ("eth1".to_owned(), states[1].to_owned()),
            ]
            .into()
        };
        let before = links(["up", "down"]);
        assert_eq!(lost(&before, &links(["down", "down"])).len(), 1);
        assert!(lost(&before, &before).is_empty());
        assert!(lost(&before, &Links::new()).is_empty());
    }
}
