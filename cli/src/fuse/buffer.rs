//! Bytes that opened files hold, within a bound for each and a bound for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fuser::Errno;
use oa_nips::files::MESSAGE_BYTES_MAX;

/// Bytes of one file: no message of the protocol carries more.
pub(super) const FILE_BYTES_MAX: usize = MESSAGE_BYTES_MAX;
/// Bytes of all opened files together: sixteen of the largest.
const HELD_BYTES_MAX: usize = 16 * FILE_BYTES_MAX;

/// What all buffers of a mount share.
#[derive(Debug, Clone, Default)]
pub(super) struct Budget(Arc<AtomicUsize>);

impl Budget {
    fn take(&self, bytes: usize) -> Result<(), Errno> {
        let more = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= HELD_BYTES_MAX);
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.map(drop).map_err(|_held| Errno::ENOMEM)
    }

    fn give(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The content of one opened file.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    budget: Budget,
}

impl Buffer {
    /// Holds nothing yet.
    pub(super) fn empty(budget: &Budget) -> Self {
        Self { bytes: Vec::new(), budget: budget.clone() }
    }

    /// Holds these.
    ///
    /// # Errors
    /// `ENOMEM` when the opened files hold too much already.
    pub(super) fn of(bytes: Vec<u8>, budget: &Budget) -> Result<Self, Errno> {
        budget.take(bytes.len())?;
        Ok(Self { bytes, budget: budget.clone() })
    }

    /// What it holds.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How much it holds.
    pub(super) fn len(&self) -> u64 {
        u64::try_from(self.bytes.len()).unwrap_or(u64::MAX)
    }

    /// The part from `offset`, at most `count` bytes; past the end nothing.
    pub(super) fn span(&self, offset: u64, count: u32) -> &[u8] {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.bytes.get(from..).unwrap_or_default();
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        rest.get(..count).unwrap_or(rest)
    }

    /// Puts bytes at an offset; a gap before it is zeros.
    ///
    /// # Errors
    /// `EFBIG` over [`FILE_BYTES_MAX`], `ENOMEM`; nothing is changed then.
    pub(super) fn put(&mut self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let from = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
        let end = from.checked_add(data.len()).ok_or(Errno::EFBIG)?;
        if !data.is_empty() && end > self.bytes.len() {
            self.resize(end)?;
        }
        if let Some(place) = self.bytes.get_mut(from..end) {
            place.copy_from_slice(data);
        }
        Ok(())
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// As [`Buffer::put`].
    pub(super) fn push(&mut self, data: &[u8]) -> Result<(), Errno> {
        self.put(self.len(), data)
    }

    /// Cuts it, or fills it up with zeros.
    ///
    /// # Errors
    /// As [`Buffer::put`].
    pub(super) fn resize(&mut self, len: usize) -> Result<(), Errno> {
        if len > FILE_BYTES_MAX {
            return Err(Errno::EFBIG);
        }
        match len.checked_sub(self.bytes.len()) {
            Some(more) => self.budget.take(more)?,
            None => self.budget.give(self.bytes.len() - len),
        }
        self.bytes.resize(len, 0);
        Ok(())
    }

    /// Takes all of it out.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.budget.give(self.bytes.len());
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.budget.give(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_land_where_they_belong() {
        let budget = Budget::default();
        let mut buffer = Buffer::of(b"hello".to_vec(), &budget).unwrap();
        buffer.put(7, b"x").unwrap();
        assert_eq!(buffer.bytes(), b"hello\0\0x");
        buffer.put(1, b"u").unwrap();
        buffer.put(20, b"").unwrap();
        buffer.resize(4).unwrap();
        buffer.push(b"!").unwrap();
        assert_eq!(buffer.bytes(), b"hull!");
        assert_eq!(
            (buffer.span(1, 2), buffer.span(4, 9), buffer.span(9, 1)),
            (&b"ul"[..], &b"!"[..], &b""[..])
        );
    }

    #[test]
    fn what_is_too_large_changes_nothing() {
        let budget = Budget::default();
        let mut buffer = Buffer::of(b"hello".to_vec(), &budget).unwrap();
        let end = u64::try_from(FILE_BYTES_MAX).unwrap();
        assert_eq!(buffer.put(end, b"x"), Err(Errno::EFBIG));
        assert_eq!(buffer.put(u64::MAX, b"x"), Err(Errno::EFBIG));
        assert_eq!(buffer.resize(FILE_BYTES_MAX + 1), Err(Errno::EFBIG));
        assert_eq!(buffer.bytes(), b"hello");
    }

    #[test]
    fn all_together_have_a_bound_and_give_back() {
        let budget = Budget::default();
        let full = |budget: &Budget| Buffer::of(vec![0; FILE_BYTES_MAX], budget);
        let mut held: Vec<Buffer> = (0..16).map(|_| full(&budget).unwrap()).collect();
        assert_eq!(Buffer::empty(&budget).push(b"x"), Err(Errno::ENOMEM));
        held[0].resize(10).unwrap();
        assert_eq!(held[0].take().len(), 10);
        drop(full(&budget).unwrap());
        drop(held);
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
    }
}
