//! Bundles on their way: made and waiting to be fetched, or arriving piece by piece. In memory, for a while.
//!
//! A bundle is larger than one message may be, and a reply is kept for a week; so a call answers where the bundle is,
//! and it is read from there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oa_nips::files::Code;

use super::BYTES_MAX;
use crate::namespace::Error;

/// How long something lies there after it was last touched, in milliseconds.
const KEPT_MS: u64 = 10 * 60 * 1000;
/// Bytes of all that lie there: two of the largest.
const ALL_BYTES_MAX: usize = 2 * BYTES_MAX;
/// Pieces of one: as small as 4 KiB each.
const PIECES_MAX: usize = BYTES_MAX / 4096;

/// What lies there, by name.
#[derive(Debug, Default)]
pub(crate) struct Shelf(Mutex<BTreeMap<String, Held>>);

#[derive(Debug)]
struct Held {
    /// By the offset of its first byte.
    pieces: BTreeMap<u64, Arc<Vec<u8>>>,
    touched_ms: u64,
}

impl Held {
    fn bytes(&self) -> usize {
        self.pieces.values().map(|piece| piece.len()).sum()
    }
}

impl Shelf {
    fn held(&self, now_ms: u64) -> MutexGuard<'_, BTreeMap<String, Held>> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, held| now_ms < held.touched_ms.saturating_add(KEPT_MS));
        held
    }

    /// Puts a piece down, in place of one that was at its offset.
    ///
    /// # Errors
    /// `rate_limited` when there is no room until others are fetched or forgotten, `too_large` for more than a bundle.
    pub(crate) fn put(&self, name: &str, offset: u64, piece: Vec<u8>, now_ms: u64) -> Result<(), Error> {
        let mut held = self.held(now_ms);
        let all: usize = held.values().map(Held::bytes).sum();
        let own = held.get(name).map_or(0, Held::bytes);
        if own + piece.len() > BYTES_MAX || held.get(name).is_some_and(|held| held.pieces.len() >= PIECES_MAX)
        {
            return Err(Error::too_large("/", BYTES_MAX));
        }
        if all + piece.len() > ALL_BYTES_MAX {
            let reason = "too many bundles are on their way: try again in some minutes";
            return Err(Error::new(Code::RateLimited, "/", reason));
        }
        let entry = held.entry(name.to_owned());
        let entry = entry.or_insert_with(|| Held { pieces: BTreeMap::new(), touched_ms: now_ms });
        entry.pieces.insert(offset, Arc::new(piece));
        entry.touched_ms = now_ms;
        Ok(())
    }

    /// All pieces put together; nothing if there are none.
    ///
    /// # Errors
    /// `invalid_input` when a piece is missing between others.
    pub(crate) fn whole(&self, name: &str, now_ms: u64) -> Result<Option<Arc<Vec<u8>>>, Error> {
        let mut held = self.held(now_ms);
        let Some(found) = held.get_mut(name) else { return Ok(None) };
        found.touched_ms = now_ms;
        if found.pieces.len() == 1
            && let Some(piece) = found.pieces.get(&0)
        {
            return Ok(Some(piece.clone()));
        }
        let mut whole = Vec::with_capacity(found.bytes());
        for (offset, piece) in &found.pieces {
            if *offset != whole.len() as u64 {
                let reason = format!("what was uploaded has a gap at byte {}", whole.len());
                return Err(Error::invalid("/", reason));
            }
            whole.extend_from_slice(piece);
        }
        Ok(Some(Arc::new(whole)))
    }

    /// Its bytes so far, if it is there.
    pub(crate) fn size(&self, name: &str, now_ms: u64) -> Option<u64> {
        self.held(now_ms).get(name).map(|held| held.bytes() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_in_any_order_and_twice() {
        let shelf = Shelf::default();
        shelf.put("a", 3, b"de".to_vec(), 0).unwrap();
        assert_eq!(shelf.whole("a", 0).unwrap_err().code, Code::InvalidInput, "the first is missing");
        shelf.put("a", 0, b"abc".to_vec(), 0).unwrap();
        shelf.put("a", 3, b"de".to_vec(), 0).unwrap();
        assert_eq!(*shelf.whole("a", 0).unwrap().unwrap(), b"abcde");
        assert_eq!(shelf.size("a", 0), Some(5));
        assert_eq!(shelf.whole("b", 0).unwrap(), None);
        shelf.put("a", 7, b"g".to_vec(), 0).unwrap();
        assert_eq!(shelf.whole("a", 0).unwrap_err().code, Code::InvalidInput, "a gap");
    }

    #[test]
    fn there_is_room_for_so_much_and_for_so_long() {
        let shelf = Shelf::default();
        let large = || vec![0; BYTES_MAX];
        shelf.put("a", 0, large(), 0).unwrap();
        assert_eq!(shelf.put("a", 1, vec![0], 0).unwrap_err().code, Code::TooLarge);
        shelf.put("b", 0, large(), 1).unwrap();
        assert_eq!(shelf.put("c", 0, vec![0], 2).unwrap_err().code, Code::RateLimited);
        // Reading keeps it; what nobody wants goes.
        assert!(shelf.whole("a", KEPT_MS - 1).unwrap().is_some());
        shelf.put("c", 0, vec![0], KEPT_MS + 1).unwrap();
        assert_eq!(shelf.size("b", KEPT_MS + 1), None);
        assert!(shelf.whole("a", KEPT_MS + 1).unwrap().is_some());
    }
}
