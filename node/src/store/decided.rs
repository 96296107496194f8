//! What is decided and not on disk yet: two layers over the backend, one that grows and one that is being flushed.
//!
//! The writer decides units here one after another and goes on at once; the flusher takes what was gathered and makes
//! it durable, all of it or none. A unit is gathered as a whole, so no flush has half of one. Flushes are in the order of
//! decisions: whoever waits for the flush of its unit waits for all that the unit was decided on. [`Decided`] is the
//! backend with both layers over it. When a flush fails nothing that was decided since counts, and nothing more is.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::store::backend::{Backend, BackendError, Change, Pair, Range, Table};
use crate::store::layer::Layer;
use crate::store::write::Verdict;

/// Units in one flush: enough to make the fsync cheap, few enough to answer soon. Beyond it the writer waits.
const FLUSH_UNITS: usize = 1024;
/// Bytes in one flush, but for its last unit. As much may be gathered while it is made.
const FLUSH_BYTES: usize = 16 * 1024 * 1024;

/// The verdicts of a unit.
pub(super) type Verdicts = Result<Vec<Verdict>, BackendError>;

/// Who waits for a unit to be durable, and what it is told then.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) to: oneshot::Sender<Verdicts>,
    pub(super) verdicts: Verdicts,
}

impl Answer {
    fn send(self, flushed: Result<(), BackendError>) {
        // Nobody has to wait for it.
        let _ = self.to.send(flushed.and(self.verdicts));
    }
}

/// What is gathered for the next flush, and what is in the one that is being made.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    state: Mutex<State>,
    /// Wakes the flusher.
    work: Condvar,
    /// Wakes the writer.
    room: Condvar,
}

#[derive(Debug, Default)]
struct State {
    gathering: Layer,
    answers: Vec<Answer>,
    flushing: Arc<Layer>,
    /// Set once: why nothing more is kept.
    failed: Option<BackendError>,
    /// The writer is gone.
    is_over: bool,
}

impl State {
    fn is_full(&self) -> bool {
        self.answers.len() >= FLUSH_UNITS || self.gathering.bytes() >= FLUSH_BYTES
    }

    /// Gives up what was gathered.
    fn fail(&mut self, error: BackendError) -> Vec<Answer> {
        self.failed.get_or_insert(error);
        (self.gathering, self.flushing) = Default::default();
        mem::take(&mut self.answers)
    }
}

impl Gathered {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of it is a move of owned values, none of which a panic can leave half made.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing more is kept.
    pub(super) fn failed(&self) -> Result<(), BackendError> {
        self.state().failed.as_ref().map_or(Ok(()), |error| Err(BackendError::Stopped(error.to_string())))
    }

    /// Whether [`Gathered::gather`] would not wait now.
    pub(super) fn has_room(&self) -> bool {
        let state = self.state();
        !state.is_full() && !state.is_over
    }

    /// Takes in what a unit changed; waits while the next flush is full. The answer is given when it is durable.
    pub(super) fn gather(&self, unit: Layer, answer: Answer) {
        let mut state = self.state();
        while state.is_full() && state.failed.is_none() {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(error) = &state.failed {
            let error = BackendError::Stopped(error.to_string());
            drop(state);
            return answer.send(Err(error));
        }
        state.gathering.lay(unit);
        state.answers.push(answer);
        if state.answers.len() == 1 {
            self.work.notify_one();
        }
    }

    /// No more will be gathered: the flusher ends after what is there.
    pub(super) fn end(&self) {
        self.state().is_over = true;
        self.work.notify_one();
    }

    /// Flushes what is gathered until there is no more, or a flush fails.
    ///
    /// # Errors
    /// Why it failed; then everybody who waits was told so, and who comes later is.
    pub(super) fn flush_all(&self, backend: &dyn Backend) -> Result<(), BackendError> {
        loop {
            let mut state = self.state();
            while state.answers.is_empty() {
                if state.is_over {
                    return Ok(());
                }
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.flushing = Arc::new(mem::take(&mut state.gathering));
            let (layer, answers) = (state.flushing.clone(), mem::take(&mut state.answers));
            drop(state);
            self.room.notify_one();
            let changes = layer.changes();
            let flushed = if changes.is_empty() { Ok(()) } else { backend.flush(&changes) };
            let given_up = match &flushed {
                Ok(()) => {
                    self.state().flushing = Arc::default();
                    Vec::new()
                }
                Err(error) => self.stop(error.clone()),
            };
            answers.into_iter().for_each(|answer| answer.send(flushed.clone()));
            if let Err(error) = flushed {
                let later = BackendError::Stopped(error.to_string());
                given_up.into_iter().for_each(|answer| answer.send(Err(later.clone())));
                return Err(error);
            }
        }
    }

    /// Nothing more is kept; answers those that wait for it in vain.
    pub(super) fn stop(&self, error: BackendError) -> Vec<Answer> {
        let given_up = self.state().fail(error);
        self.room.notify_one();
        given_up
    }
}

/// The backend as it is decided: it only reads.
#[derive(Debug)]
pub(super) struct Decided {
    gathered: Arc<Gathered>,
    backend: Arc<dyn Backend>,
}

impl Decided {
    pub(super) fn new(gathered: Arc<Gathered>, backend: Arc<dyn Backend>) -> Self {
        Self { gathered, backend }
    }

    /// What the layers say of a range, the newer over the older.
    fn changed(&self, table: Table, range: &Range) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        let state = self.gathered.state();
        let layers = state.flushing.range(table, range).chain(state.gathering.range(table, range));
        layers.map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))).collect()
    }
}

impl Backend for Decided {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        {
            let state = self.gathered.state();
            if let Some(value) = state.gathering.get(table, key).or_else(|| state.flushing.get(table, key)) {
                return Ok(value.map(<[u8]>::to_vec));
            }
        }
        // What is flushed meanwhile is found on disk: a layer is let go of after its flush.
        self.backend.get(table, key)
    }

    fn scan(&self, table: Table, range: &Range) -> Result<Vec<Pair>, BackendError> {
        let mut changed = self.changed(table, range);
        if changed.is_empty() {
            return self.backend.scan(table, range);
        }
        let removed = changed.values().filter(|value| value.is_none()).count();
        let stored = Range { limit: range.limit.saturating_add(removed), ..range.clone() };
        for (key, value) in self.backend.scan(table, &stored)? {
            changed.entry(key).or_insert(Some(value));
        }
        let pairs = changed.into_iter().filter_map(|(key, value)| Some((key, value?)));
        Ok(if range.reverse {
            pairs.rev().take(range.limit).collect()
        } else {
            pairs.take(range.limit).collect()
        })
    }

    /// Only the flusher writes.
    fn flush(&self, _: &[Change]) -> Result<(), BackendError> {
        Err(BackendError::Stopped("what is decided is flushed by the writer".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::store::conformance::backend_suite;
    use crate::store::memory::MemoryBackend;

    /// Puts each flush into another place: gathered, being flushed, on disk.
    #[derive(Debug)]
    struct Spread {
        decided: Decided,
        flushes: AtomicUsize,
    }

    impl Spread {
        fn new(first: usize) -> Self {
            let decided = Decided::new(Arc::default(), Arc::new(MemoryBackend::default()));
            Self { decided, flushes: AtomicUsize::new(first) }
        }

        /// What an earlier flush left in the layers goes where it would be by now.
        fn sink(&self) {
            let mut state = self.decided.gathered.state();
            self.decided.backend.flush(&state.flushing.changes()).unwrap();
            state.flushing = Arc::new(mem::take(&mut state.gathering));
        }
    }

    impl Backend for Spread {
        fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
            self.decided.get(table, key)
        }

        fn scan(&self, table: Table, range: &Range) -> Result<Vec<Pair>, BackendError> {
            self.decided.scan(table, range)
        }

        fn flush(&self, changes: &[Change]) -> Result<(), BackendError> {
            let mut unit = Layer::default();
            for Change { table, key, value } in changes.iter().cloned() {
                unit.set(table, key, value);
            }
            self.decided.gathered.state().gathering.lay(unit);
            for _ in 0..self.flushes.fetch_add(1, Ordering::Relaxed) % 3 {
                self.sink();
            }
            Ok(())
        }
    }

    #[test]
    fn it_reads_like_any_backend_wherever_the_changes_are() {
        for first in 0..3 {
            backend_suite(|| Box::new(Spread::new(first)));
        }
    }

    #[test]
    fn a_limited_range_is_filled_up_past_what_is_removed() {
        let spread = Spread::new(2);
        let put = |n: u8| Change { table: Table::Files, key: vec![n], value: Some(vec![n]) };
        spread.flush(&(0..10).map(put).collect::<Vec<_>>()).unwrap();
        let remove = |n: u8| Change { table: Table::Files, key: vec![n], value: None };
        spread.flush(&[remove(0), remove(2), put(20), remove(9)]).unwrap();
        let keys = |range: Range| -> Vec<u8> {
            spread.scan(Table::Files, &range).unwrap().into_iter().flat_map(|(key, _)| key).collect()
        };
        assert_eq!(keys(Range::prefix([]).limit(3)), [1, 3, 4]);
        assert_eq!(keys(Range::prefix([]).limit(3).reversed()), [20, 8, 7]);
    }
}
