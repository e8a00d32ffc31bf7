//! The work queue: which key is worked on next, and when. Pure; the runtime sleeps until [`Queue::next_due`].
//!
//! A key is in it once; an earlier due time wins; a key that is added while it is worked on goes again afterwards;
//! nudged keys come first among those that are due. Bounded by the number of distinct keys, which is the fleet's size.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The queue. Times are monotonic, since an arbitrary start.
#[derive(Debug, Clone)]
pub struct Queue<K: Ord + Clone> {
    due: BTreeMap<K, Entry>,
    order: BTreeSet<(Duration, K)>,
    running: BTreeMap<K, Option<Entry>>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    at: Duration,
    first: bool,
}

impl<K: Ord + Clone> Default for Queue<K> {
    fn default() -> Self {
        Self {
            due: BTreeMap::new(),
            order: BTreeSet::new(),
            running: BTreeMap::new(),
        }
    }
}

fn merge(a: Entry, b: Entry) -> Entry {
    Entry {
        at: a.at.min(b.at),
        first: a.first || b.first,
    }
}

impl<K: Ord + Clone> Queue<K> {
    /// Adds a key, due at `at`. `first`: before others that are due (a person waits).
    pub fn add(&mut self, key: K, at: Duration, first: bool) {
        let entry = Entry { at, first };
        if let Some(dirty) = self.running.get_mut(&key) {
            *dirty = Some(dirty.map_or(entry, |d| merge(d, entry)));
            return;
        }
        let entry = match self.due.get(&key) {
            Some(old) => {
                self.order.remove(&(old.at, key.clone()));
                merge(*old, entry)
            }
            None => entry,
        };
        self.order.insert((entry.at, key.clone()));
        self.due.insert(key, entry);
    }

    /// Takes the next key that is due at `now`: nudged ones first, then the longest due. It counts as worked on until
    /// [`Queue::done`].
    pub fn take(&mut self, now: Duration) -> Option<K> {
        let mut best: Option<&(Duration, K)> = None;
        for item in self.order.iter().take_while(|(at, _)| *at <= now) {
            if self.due.get(&item.1).is_some_and(|e| e.first) {
                best = Some(item);
                break;
            }
            best = best.or(Some(item));
        }
        let (at, key) = best?.clone();
        self.order.remove(&(at, key.clone()));
        self.due.remove(&key);
        self.running.insert(key.clone(), None);
        Some(key)
    }

    /// The work on a key ended; it is due again at `again`, or earlier if it was added meanwhile.
    pub fn done(&mut self, key: &K, again: Option<Duration>) {
        let dirty = self.running.remove(key).flatten();
        if let Some(entry) = dirty {
            self.add(key.clone(), entry.at, entry.first);
        }
        if let Some(at) = again {
            self.add(key.clone(), at, false);
        }
    }

    /// Was a key added while it was worked on, and is it due?
    #[must_use]
    pub fn is_dirty(&self, key: &K, now: Duration) -> bool {
        matches!(self.running.get(key), Some(Some(e)) if e.at <= now)
    }

    /// Forgets a key that is not worked on.
    pub fn remove(&mut self, key: &K) {
        if let Some(old) = self.due.remove(key) {
            self.order.remove(&(old.at, key.clone()));
        }
    }

    /// When the next key is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Keys that are worked on.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Keys that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.due.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn an_earlier_due_time_wins() {
        let mut q = Queue::default();
        q.add("a", s(300), false);
        q.add("a", s(0), true);
        q.add("a", s(100), false);
        assert_eq!(q.take(s(1)), Some("a"));
        assert_eq!(q.take(s(1000)), None);
    }

    #[test]
    fn a_key_added_while_it_is_worked_on_goes_again_afterwards() {
        let mut q = Queue::default();
        q.add("a", s(0), false);
        assert_eq!(q.take(s(0)), Some("a"));
        q.add("a", s(0), false);
        assert_eq!(q.take(s(0)), None);
        assert!(q.is_dirty(&"a", s(0)));
        q.done(&"a", Some(s(300)));
        assert_eq!(q.take(s(0)), Some("a"));
        q.done(&"a", None);
        assert_eq!(q.next_due(), None);
    }

    #[test]
    fn nudged_keys_come_first() {
        let mut q = Queue::default();
        q.add("a", s(0), false);
        q.add("b", s(1), true);
        assert_eq!(q.take(s(2)), Some("b"));
        assert_eq!(q.take(s(2)), Some("a"));
    }

    proptest! {
        #[test]
        fn no_key_is_worked_on_twice_and_none_is_lost(ops in proptest::collection::vec((0u8..3, 0u8..5, 0u64..50), 0..200)) {
            let mut q: Queue<u8> = Queue::default();
            let mut running = BTreeSet::new();
            let mut wanted = BTreeSet::new();
            for (op, key, t) in ops {
                match op {
                    0 => { q.add(key, s(t), t % 7 == 0); wanted.insert(key); }
                    1 => if let Some(k) = q.take(s(t)) {
                        prop_assert!(running.insert(k));
                        wanted.remove(&k);
                    },
                    _ => if running.remove(&key) { q.done(&key, None); }
                }
            }
            for k in std::mem::take(&mut running) { q.done(&k, None); }
            while let Some(k) = q.take(s(100)) { wanted.remove(&k); q.done(&k, None); }
            prop_assert!(wanted.is_empty());
        }
    }
}
