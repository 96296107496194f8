//! Which ticks run right now, written where it outlives the process.
//!
//! A tick that takes the whole process down (out of memory, a bug below us) leaves no trace in the database: its
//! transaction never was. So each tick notes itself in a small file while it runs. The next start finds those that
//! were running when the process died, and can count crashes against their envelopes.
//!
//! Notes are written without fsync: the kernel keeps them when the process dies. A power cut may lose or resurrect
//! some, which costs an envelope one crash too few or too many on its count.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use oa_nips::hex::Hex;
use oa_nips::nostr::hashes::{Hash as _, sha256};

use crate::agent::AgentId;
use crate::agent::envelope::EnvelopeId;

/// Ticks that can be noted at once.
pub const SLOTS: usize = 64;

/// A note: generation (8 bytes, big endian), agent (4), envelope (32), zeros (12), the first 8 bytes of the SHA-256
/// of all before. The first of the file is a header: a note about nothing, whose generation is the file's.
const NOTE_BYTES: usize = 64;
const GENERATION: std::ops::Range<usize> = 0..8;
const AGENT: std::ops::Range<usize> = 8..12;
const ENVELOPE: std::ops::Range<usize> = 12..44;
const SUM: std::ops::Range<usize> = 56..64;

/// A tick that was running when the process before this one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Whose.
    pub agent: AgentId,
    /// For which envelope.
    pub envelope: EnvelopeId,
}

/// The notes of this process.
#[derive(Debug)]
pub struct Running {
    file: File,
    /// Grows by one with each opening: notes of an earlier one are void.
    generation: u64,
    /// A bit for each slot that is taken.
    taken: Mutex<u64>,
}

/// A note that stands until this is dropped.
#[derive(Debug)]
#[must_use = "the note is cleared when this is dropped"]
pub struct Guard<'a> {
    running: &'a Running,
    /// None when all slots were taken: then nothing was noted.
    slot: Option<usize>,
}

impl Running {
    /// Opens the file at `path`, or creates it, and answers the notes that nobody cleared. They are void from now on:
    /// they are told once.
    ///
    /// A file that is cut short, garbled or of another program is begun anew: it is worth no more than its notes.
    ///
    /// # Errors
    /// When the file cannot be created or written.
    pub fn open(path: &Path) -> io::Result<(Self, Vec<Slot>)> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut bytes = [0; NOTE_BYTES * (1 + SLOTS)];
        let whole = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => false,
            Err(error) => return Err(error),
        };
        let (notes, _) = bytes.as_chunks::<NOTE_BYTES>();
        let mut notes = notes.iter().map(decode);
        let found = if whole { notes.next().flatten() } else { None };
        let Some((old, _)) = found else {
            // Zeros are no notes, so that none of an unknown age can become valid as generations grow.
            let mut fresh = [0; NOTE_BYTES * (1 + SLOTS)];
            let running = Self { file, generation: 1, taken: Mutex::new(0) };
            for (byte, note) in fresh.iter_mut().zip(encode(1, AgentId(0), &[0; 32])) {
                *byte = note;
            }
            running.file.write_all_at(&fresh, 0)?;
            return Ok((running, Vec::new()));
        };
        let slots =
            notes.flatten().filter(|(generation, _)| *generation == old).map(|(_, slot)| slot).collect();
        // Taking the next generation voids all notes of the last with one write.
        let generation = old.wrapping_add(1);
        file.write_all_at(&encode(generation, AgentId(0), &[0; 32]), 0)?;
        Ok((Self { file, generation, taken: Mutex::new(0) }, slots))
    }

    /// Notes that a tick runs, until the guard is dropped. With [`SLOTS`] noted already, it is not.
    pub fn enter(&self, agent: AgentId, envelope: [u8; 32]) -> Guard<'_> {
        let slot = self.take();
        match slot {
            Some(slot) => self.write(slot, &encode(self.generation, agent, &envelope)),
            None => tracing::warn!(%agent, "more ticks at once than can be noted"),
        }
        Guard { running: self, slot }
    }

    /// A slot that is free.
    fn take(&self) -> Option<usize> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = taken.trailing_ones();
        *taken |= 1_u64.checked_shl(slot)?;
        usize::try_from(slot).ok()
    }

    fn release(&self, slot: usize) {
        // Cleared before it is free: the next tick in it must not be wiped by this one.
        self.write(slot, &[0; NOTE_BYTES]);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        *taken &= !(1 << slot);
    }

    /// Writes a slot. The file has its full length, so only a broken disk makes this fail; a tick goes on without.
    fn write(&self, slot: usize, note: &[u8; NOTE_BYTES]) {
        let at = NOTE_BYTES * (1 + slot);
        if let Err(error) = self.file.write_all_at(note, at as u64) {
            tracing::warn!(%error, "a running tick could not be noted");
        }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.running.release(slot);
        }
    }
}

/// The bytes of a note.
fn encode(generation: u64, agent: AgentId, envelope: &[u8; 32]) -> [u8; NOTE_BYTES] {
    let body = [&generation.to_be_bytes()[..], &agent.0.to_be_bytes(), envelope, &[0; 12]].concat();
    let mut note = [0; NOTE_BYTES];
    let whole = body.iter().copied().chain(sum(&body));
    note.iter_mut().zip(whole).for_each(|(to, from)| *to = from);
    note
}

/// The generation and content of a note; nothing when it is cleared, torn or garbage.
fn decode(note: &[u8; NOTE_BYTES]) -> Option<(u64, Slot)> {
    if note.get(SUM)? != sum(note.get(..SUM.start)?) {
        return None;
    }
    let generation = u64::from_be_bytes(note.get(GENERATION)?.try_into().ok()?);
    let agent = AgentId(u32::from_be_bytes(note.get(AGENT)?.try_into().ok()?));
    let envelope = Hex(note.get(ENVELOPE)?.try_into().ok()?);
    Some((generation, Slot { agent, envelope }))
}

/// What shows that a note was written as a whole. Zeros do not sum up to zeros.
fn sum(body: &[u8]) -> [u8; 8] {
    sha256::Hash::hash(body).to_byte_array().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slot(agent: u32, byte: u8) -> Slot {
        Slot { agent: AgentId(agent), envelope: Hex([byte; 32]) }
    }

    /// Leaves the notes as a killed process does.
    fn leave(guard: Guard<'_>) {
        std::mem::forget(guard);
    }

    fn open(path: &Path) -> (Running, Vec<Slot>) {
        Running::open(path).unwrap()
    }

    #[test]
    fn what_was_running_is_told_at_the_next_start_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("running");
        let (running, found) = open(&path);
        assert_eq!(found, []);
        leave(running.enter(AgentId(7), [1; 32]));
        drop(running.enter(AgentId(8), [2; 32]));
        leave(running.enter(AgentId(u32::MAX), [0; 32]));
        drop(running);
        let (running, found) = open(&path);
        assert_eq!(found, [slot(7, 1), slot(u32::MAX, 0)]);
        drop(running);
        assert_eq!(open(&path).1, []);
    }

    #[test]
    fn slots_are_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("running");
        let (running, _) = open(&path);
        for n in 0..1_000 {
            drop(running.enter(AgentId(n), [3; 32]));
        }
        leave(running.enter(AgentId(1), [4; 32]));
        assert_eq!(open(&path).1, [slot(1, 4)]);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), (NOTE_BYTES * (1 + SLOTS)) as u64);
    }

    #[test]
    fn all_slots_can_be_taken_and_one_more_tick_runs_without() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("running");
        let (running, _) = open(&path);
        let all: Vec<_> = (0..SLOTS).map(|n| running.enter(AgentId(n as u32), [5; 32])).collect();
        let more = running.enter(AgentId(1_000), [6; 32]);
        drop(more);
        let again = |guards: Vec<Guard<'_>>| guards.into_iter().for_each(leave);
        again(all);
        let found = open(&path).1;
        assert_eq!(found.len(), SLOTS);
        assert!(found.iter().enumerate().all(|(n, found)| *found == slot(n as u32, 5)));
    }

    #[test]
    fn ticks_on_many_threads_do_not_meet() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("running");
        let (running, _) = open(&path);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let running = &running;
                scope.spawn(move || {
                    for _ in 0..500 {
                        drop(running.enter(AgentId(thread), [1; 32]));
                    }
                    leave(running.enter(AgentId(thread), [2; 32]));
                });
            }
        });
        let mut found = open(&path).1;
        found.sort_by_key(|slot| slot.agent);
        assert_eq!(found, (0..8).map(|thread| slot(thread, 2)).collect::<Vec<_>>());
    }

    #[test]
    fn a_torn_note_is_ignored_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("running");
        let (running, _) = open(&path);
        leave(running.enter(AgentId(1), [1; 32]));
        leave(running.enter(AgentId(2), [2; 32]));
        drop(running);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[NOTE_BYTES + 20] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(open(&path).1, [slot(2, 2)]);
    }

    #[test]
    fn notes_of_an_earlier_run_stay_void_when_the_header_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("running");
        let (running, _) = open(&path);
        leave(running.enter(AgentId(1), [1; 32]));
        drop(running);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[..NOTE_BYTES].fill(0xee);
        std::fs::write(&path, bytes).unwrap();
        for _ in 0..5 {
            assert_eq!(open(&path).1, []);
        }
    }

    proptest! {
        #[test]
        fn any_content_opens_and_works(bytes in prop::collection::vec(any::<u8>(), 0..NOTE_BYTES * (SLOTS + 3))) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("running");
            std::fs::write(&path, bytes).unwrap();
            let (running, found) = open(&path);
            prop_assert_eq!(found, []);
            leave(running.enter(AgentId(9), [9; 32]));
            drop(running);
            prop_assert_eq!(open(&path).1, [slot(9, 9)]);
        }
    }
}
