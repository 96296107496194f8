//! Reading all that a relay has since some time, newest first, from a relay that gives a page at a time.
//!
//! Pages are asked for by `until`, each including the second that the last one ended in, because a page may end
//! in the middle of a second. A page that brings nothing but that second again has exhausted it, unless the
//! relay's own cap cut it off: then the second must be asked for in parts, and the reading goes on below it.

use std::collections::HashSet;

use oa_nips::nostr::EventId;

/// Events asked for in one page; what strfry gives at most.
pub(super) const PAGE_EVENTS: usize = 500;
/// A page of fewer than this was not cut off: no relay is known to cap so low.
const CAP_MIN: usize = 20;

/// The place in the reading.
#[derive(Debug)]
pub(super) struct Pager {
    since_s: u64,
    until_s: Option<u64>,
    /// Ids already found in second `until_s`.
    boundary: HashSet<EventId>,
    /// The most events a page had so far: the relay's cap, as far as can be told.
    page_max: usize,
}

/// What a page brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// What was not in an earlier page, as (`created_at`, id).
    pub(super) new: Vec<(u64, EventId)>,
    /// What to do next.
    pub(super) next: Next,
}

/// What to do after a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Ask for the next page.
    Page,
    /// First ask for this second in parts, then for the next page, unless it was the last second.
    Split { second: u64, last: bool },
    /// That was all.
    Done,
}

impl Pager {
    /// Reads back to `since_s`.
    pub(super) fn new(since_s: u64) -> Self {
        Self { since_s, until_s: None, boundary: HashSet::new(), page_max: 0 }
    }

    /// The `until` of the next page.
    pub(super) fn until_s(&self) -> Option<u64> {
        self.until_s
    }

    /// Whether so many events look like an answer that the relay cut off.
    pub(super) fn is_cut(&self, events: usize, asked: usize) -> bool {
        events >= CAP_MIN && (events == self.page_max || events >= asked)
    }

    /// Takes a page, in any order.
    pub(super) fn page(&mut self, events: impl IntoIterator<Item = (u64, EventId)>) -> Page {
        let until = self.until_s.unwrap_or(u64::MAX);
        let events: HashSet<_> =
            events.into_iter().filter(|(at, _)| (self.since_s..=until).contains(at)).collect();
        let Some(oldest) = events.iter().map(|(at, _)| *at).min() else {
            return Page { new: Vec::new(), next: Next::Done };
        };
        self.page_max = self.page_max.max(events.len());
        let new: Vec<_> =
            events.iter().filter(|(at, id)| *at != until || !self.boundary.contains(id)).copied().collect();
        if new.is_empty() && oldest == until {
            let cut = self.is_cut(events.len(), PAGE_EVENTS);
            return Page { new, next: self.below(until, cut) };
        }
        if oldest != until {
            self.boundary.clear();
        }
        self.until_s = Some(oldest);
        self.boundary.extend(events.into_iter().filter(|(at, _)| *at == oldest).map(|(_, id)| id));
        Page { new, next: Next::Page }
    }

    /// Goes on below an exhausted second.
    fn below(&mut self, second: u64, cut: bool) -> Next {
        self.boundary.clear();
        let below = second.checked_sub(1).filter(|until| *until >= self.since_s);
        self.until_s = below.or(self.until_s);
        match (cut, below.is_none()) {
            (true, last) => Next::Split { second, last },
            (false, false) => Next::Page,
            (false, true) => Next::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: usize) -> EventId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        EventId::from_byte_array(bytes)
    }

    /// A relay's answer: newest first, then by id, at most `cap`.
    fn answer(stored: &[(u64, EventId)], since: u64, until: Option<u64>, cap: usize) -> Vec<(u64, EventId)> {
        let mut all: Vec<_> = stored
            .iter()
            .filter(|(at, _)| *at >= since && until.is_none_or(|until| *at <= until))
            .copied()
            .collect();
        all.sort_by_key(|(at, id)| (std::cmp::Reverse(*at), *id));
        all.truncate(cap);
        all
    }

    /// Reads everything; the seconds that had to be split are read by a query without a cap.
    fn read(stored: &[(u64, EventId)], since: u64, cap: usize) -> (HashSet<EventId>, Vec<u64>) {
        let (mut pager, mut found, mut split) = (Pager::new(since), HashSet::new(), Vec::new());
        for _ in 0..10_000 {
            let page = pager.page(answer(stored, since, pager.until_s(), cap.min(PAGE_EVENTS)));
            found.extend(page.new.iter().map(|(_, id)| *id));
            match page.next {
                Next::Page => {}
                Next::Done => return (found, split),
                Next::Split { second, last } => {
                    split.push(second);
                    let all = answer(stored, second, Some(second), usize::MAX);
                    found.extend(all.into_iter().map(|(_, id)| id));
                    if last {
                        return (found, split);
                    }
                }
            }
        }
        panic!("no end");
    }

    #[test]
    fn a_second_fuller_than_a_page_is_split() {
        let mut stored: Vec<_> = (0..1_200).map(|n| (1_000, id(n))).collect();
        stored.extend((1_200..1_900).map(|n| (990 + n as u64 % 7, id(n))));
        let (found, split) = read(&stored, 900, 500);
        assert_eq!(found.len(), stored.len());
        assert_eq!(split, [1_000]);
    }

    #[test]
    fn an_ordinary_history_needs_no_split() {
        let stored: Vec<_> = (0..2_345).map(|n| (1_000 + n as u64 / 3, id(n))).collect();
        let (found, split) = read(&stored, 0, 500);
        assert_eq!(found.len(), stored.len());
        assert!(split.is_empty(), "{split:?}");
    }

    #[test]
    fn a_full_second_at_the_very_end_is_split_too() {
        let stored: Vec<_> = (0..700).map(|n| (0, id(n))).collect();
        assert_eq!(read(&stored, 0, 500).0.len(), 700);
    }

    #[test]
    fn a_relay_that_ignores_until_comes_to_an_end() {
        let mut pager = Pager::new(0);
        let same: Vec<_> = (0..30).map(|n| (1_000 + n as u64, id(n))).collect();
        let next = (0..10).map(|_| pager.page(same.iter().copied()).next).find(|next| *next == Next::Done);
        assert_eq!(next, Some(Next::Done));
    }

    proptest! {
        #[test]
        fn nothing_is_left_out(seconds in prop::collection::vec(0_u64..60, 0..900), cap in 20_usize..120) {
            let stored: Vec<_> = seconds.into_iter().enumerate().map(|(n, at)| (at, id(n))).collect();
            let (found, _) = read(&stored, 5, cap);
            prop_assert_eq!(found.len(), stored.iter().filter(|(at, _)| *at >= 5).count());
        }
    }
}
