//! What the pool listens for, whatever the relays: agents' keys in shards, and standing filters.
//!
//! Written by the pool's handles, read by each connection, which compares versions and asks its relay only for
//! what changed. So adding an agent costs one REQ a relay however many there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use oa_nips::nostr::{Event, Filter, PublicKey};

/// Keys in one filter. 500: well under what relays cap a filter at (strfry about 2,047), and 33 KiB of text,
/// under the message limit of all of them.
pub(super) const SHARD_KEYS_MAX: usize = 500;

/// Everything listened for.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    version: u64,
    shards: Vec<Shard>,
    /// Which shard holds a key.
    places: HashMap<PublicKey, usize>,
    /// Shards with room, so that what left is filled up first.
    roomy: BTreeSet<usize>,
    stands: BTreeMap<String, Stand>,
    sweeps: u64,
}

/// Some agents' keys, asked for in one filter.
#[derive(Debug, Clone, Default)]
pub(super) struct Shard {
    /// Grows with each change.
    pub(super) version: u64,
    /// At most [`SHARD_KEYS_MAX`].
    pub(super) keys: Arc<BTreeSet<PublicKey>>,
}

/// A subscription of the pool's user.
#[derive(Debug, Clone)]
pub(super) struct Stand {
    /// Grows with each change.
    pub(super) version: u64,
    /// What is asked for.
    pub(super) filter: Filter,
}

impl Wanted {
    /// Grows with each change of anything.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Grows each time a sweep is asked for before its time.
    pub(super) fn sweeps(&self) -> u64 {
        self.sweeps
    }

    /// Asks for a sweep on all own relays, soon.
    pub(super) fn sweep(&mut self) {
        self.sweeps += 1;
    }

    /// All shards; an empty one has nobody left.
    pub(super) fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The standing filters by name.
    pub(super) fn stands(&self) -> &BTreeMap<String, Stand> {
        &self.stands
    }

    /// How many keys are listened for.
    pub(super) fn keys(&self) -> usize {
        self.places.len()
    }

    fn listens(&self, key: &PublicKey) -> bool {
        self.places.contains_key(key)
    }

    /// Whether an event is mail for anybody who is listened for.
    pub(super) fn is_for_us(&self, event: &Event) -> bool {
        event.tags.public_keys().any(|key| self.listens(key))
    }

    /// Adds keys; whether any was new.
    pub(super) fn listen(&mut self, keys: impl IntoIterator<Item = PublicKey>) -> bool {
        self.version += 1;
        let mut grew = false;
        for key in keys {
            if self.places.contains_key(&key) {
                continue;
            }
            let index = self.roomy.first().copied().unwrap_or(self.shards.len());
            if index == self.shards.len() {
                self.shards.push(Shard::default());
                self.roomy.insert(index);
            }
            let Some(shard) = self.shards.get_mut(index) else { continue };
            Arc::make_mut(&mut shard.keys).insert(key);
            shard.version = self.version;
            if shard.keys.len() >= SHARD_KEYS_MAX {
                self.roomy.remove(&index);
            }
            self.places.insert(key, index);
            grew = true;
        }
        grew
    }

    /// Removes a key; whether it was there.
    pub(super) fn unlisten(&mut self, key: &PublicKey) -> bool {
        let Some(index) = self.places.remove(key) else { return false };
        self.version += 1;
        if let Some(shard) = self.shards.get_mut(index) {
            Arc::make_mut(&mut shard.keys).remove(key);
            shard.version = self.version;
            self.roomy.insert(index);
        }
        true
    }

    /// Sets a standing filter; whether that changed anything.
    pub(super) fn stand(&mut self, name: &str, filter: Filter) -> bool {
        if self.stands.get(name).is_some_and(|stand| stand.filter == filter) {
            return false;
        }
        self.version += 1;
        self.stands.insert(name.to_owned(), Stand { version: self.version, filter });
        true
    }

    /// Removes a standing filter; whether it was there.
    pub(super) fn unstand(&mut self, name: &str) -> bool {
        let there = self.stands.remove(name).is_some();
        self.version += u64::from(there);
        there
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::{Keys, Kind};

    use super::*;

    fn keys(n: usize) -> Vec<PublicKey> {
        let mut bytes = [7_u8; 32];
        (0..n)
            .map(|i| {
                bytes[..8].copy_from_slice(&(i as u64 + 1).to_be_bytes());
                PublicKey::from_byte_array(bytes)
            })
            .collect()
    }

    fn changed(wanted: &Wanted, before: &[u64]) -> usize {
        let old = |i: usize| before.get(i).copied().unwrap_or(0);
        wanted.shards().iter().enumerate().filter(|(i, shard)| shard.version != old(*i)).count()
    }

    fn versions(wanted: &Wanted) -> Vec<u64> {
        wanted.shards().iter().map(|shard| shard.version).collect()
    }

    #[test]
    fn keys_are_spread_over_full_shards() {
        let mut wanted = Wanted::default();
        assert!(wanted.listen(keys(1_250)));
        let sizes: Vec<_> = wanted.shards().iter().map(|shard| shard.keys.len()).collect();
        assert_eq!(sizes, [500, 500, 250]);
        assert_eq!(wanted.keys(), 1_250);
    }

    #[test]
    fn one_more_agent_changes_one_shard() {
        let mut wanted = Wanted::default();
        wanted.listen(keys(1_250));
        let before = versions(&wanted);
        assert!(wanted.listen([Keys::generate().public_key()]));
        assert_eq!(changed(&wanted, &before), 1);
    }

    #[test]
    fn a_key_twice_changes_nothing() {
        let mut wanted = Wanted::default();
        wanted.listen(keys(3));
        let before = versions(&wanted);
        assert!(!wanted.listen(keys(3)));
        assert_eq!(changed(&wanted, &before), 0);
    }

    #[test]
    fn what_left_makes_room_for_the_next() {
        let mut wanted = Wanted::default();
        let all = keys(1_000);
        wanted.listen(all.iter().copied());
        assert!(wanted.unlisten(&all[3]));
        assert!(!wanted.unlisten(&all[3]));
        assert!(!wanted.listens(&all[3]));
        wanted.listen([Keys::generate().public_key()]);
        let sizes: Vec<_> = wanted.shards().iter().map(|shard| shard.keys.len()).collect();
        assert_eq!(sizes, [500, 500]);
    }

    #[test]
    fn the_same_standing_filter_again_is_no_change() {
        let mut wanted = Wanted::default();
        assert!(wanted.stand("requests", Filter::new().kind(Kind::TextNote)));
        let version = wanted.version();
        assert!(!wanted.stand("requests", Filter::new().kind(Kind::TextNote)));
        assert_eq!(wanted.version(), version);
        assert!(wanted.unstand("requests"));
        assert!(!wanted.unstand("requests"));
    }
}
