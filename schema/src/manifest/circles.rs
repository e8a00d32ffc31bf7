//! Circles of `dependsOn`: hosts that would wait for each other for ever. Reports nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::{HostName, kind::ResolvedHost};

/// Circles of `dependsOn`, each beginning with its least name. Depth first without recursion: a chain may be as long
/// as the fleet.
pub(super) fn circles(hosts: &BTreeMap<HostName, ResolvedHost>) -> BTreeSet<Vec<HostName>> {
    let mut circles = BTreeSet::new();
    let mut done: BTreeSet<&HostName> = BTreeSet::new();
    for start in hosts.keys() {
        let mut way: Vec<(&HostName, usize)> = vec![(start, 0)];
        while let Some((name, next)) = way.last_mut() {
            let name: &HostName = name;
            let below = hosts.get(name).and_then(|h| h.depends_on.get(*next));
            *next += 1;
            match below {
                None => {
                    done.insert(name);
                    way.pop();
                }
                Some(below) if done.contains(below) => {}
                Some(below) => match way.iter().position(|(on_way, _)| *on_way == below) {
                    Some(n) => {
                        circles.insert(from_least(
                            way[n..].iter().map(|(h, _)| (*h).clone()).collect(),
                        ));
                    }
                    None => way.push((below, 0)),
                },
            }
        }
    }
    circles
}

fn from_least(mut circle: Vec<HostName>) -> Vec<HostName> {
    let least = circle
        .iter()
        .enumerate()
        .min_by_key(|(_, name)| (*name).clone())
        .map_or(0, |(n, _)| n);
    circle.rotate_left(least);
    circle
}
