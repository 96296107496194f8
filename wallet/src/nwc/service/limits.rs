//! How much the service takes on: buckets against floods, and turns so that nobody waits for another's flood.

use std::collections::{HashMap, VecDeque};

use oa_nips::nostr::{EventId, PublicKey};

/// Bounds of a service, each with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Requests of one connection at once, before they are refused. 200: a node that catches up for all its agents.
    pub burst: u32,
    /// Requests of one connection in a second, lastingly. 50: twice what one Lightning node settles.
    pub per_second: u32,
    /// Refusals sent to one connection, or to all strangers, in a second. 5: enough to be noticed.
    pub refusals_per_second: u32,
    /// Requests of one connection that are worked on at once. 24: payments take part of a second each.
    pub running: usize,
    /// Requests of one connection that wait for that. 200: the burst.
    pub waiting: usize,
    /// Requests of all connections that are worked on at once. 96: what one Lightning node can have under way.
    pub running_all: usize,
    /// Requests older than this, in seconds, are passed over: whoever sent them has given up. 1 h, since clocks differ.
    pub age_max_s: u64,
    /// Requests dated ahead by more are passed over. 15 min: what relays allow.
    pub ahead_max_s: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            burst: 200,
            per_second: 50,
            refusals_per_second: 5,
            running: 24,
            waiting: 200,
            running_all: 96,
            age_max_s: 3600,
            ahead_max_s: 900,
        }
    }
}

/// Tokens that come back with time.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    /// In thousandths.
    tokens: u64,
    size: u64,
    /// Thousandths of a token in a millisecond: tokens in a second.
    rate: u64,
    at_ms: u64,
}

impl Bucket {
    pub(super) fn new(size: u32, per_second: u32, now_ms: u64) -> Self {
        let size = u64::from(size) * 1000;
        Self { tokens: size, size, rate: u64::from(per_second), at_ms: now_ms }
    }

    fn filled(&self, now_ms: u64) -> u64 {
        let passed = now_ms.saturating_sub(self.at_ms);
        self.tokens.saturating_add(passed.saturating_mul(self.rate)).min(self.size)
    }

    /// Whether there is a token.
    pub(super) fn has(&self, now_ms: u64) -> bool {
        self.filled(now_ms) >= 1000
    }

    /// Takes a token if there is one. A clock that goes back gives nothing.
    pub(super) fn take(&mut self, now_ms: u64) -> bool {
        self.tokens = self.filled(now_ms);
        self.at_ms = self.at_ms.max(now_ms);
        let is_enough = self.tokens >= 1000;
        if is_enough {
            self.tokens -= 1000;
        }
        is_enough
    }
}

/// What becomes of a request that wants to be worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Now.
    Run,
    /// Later: [`Turns::next`] will name it.
    Wait,
    /// Not at all.
    Full,
}

/// Who is worked on: connections take turns, and each has its bound.
#[derive(Debug)]
pub(super) struct Turns {
    running_max: usize,
    waiting_max: usize,
    all_max: usize,
    running: HashMap<PublicKey, usize>,
    all: usize,
    waiting: HashMap<PublicKey, VecDeque<EventId>>,
    /// The connections with requests that wait, each once.
    order: VecDeque<PublicKey>,
}

impl Turns {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            running_max: limits.running,
            waiting_max: limits.waiting,
            all_max: limits.running_all,
            running: HashMap::new(),
            all: 0,
            waiting: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    fn has_room(&self, client: &PublicKey) -> bool {
        self.all < self.all_max && self.running.get(client).copied().unwrap_or(0) < self.running_max
    }

    fn begin(&mut self, client: PublicKey) {
        *self.running.entry(client).or_default() += 1;
        self.all += 1;
    }

    pub(super) fn offer(&mut self, client: PublicKey, request: EventId) -> Turn {
        let queue = self.waiting.get(&client).map_or(0, VecDeque::len);
        if queue == 0 && self.has_room(&client) {
            self.begin(client);
            return Turn::Run;
        }
        if queue >= self.waiting_max {
            return Turn::Full;
        }
        self.queue(client, request);
        Turn::Wait
    }

    /// Puts a request in line whatever the bounds: it was taken before a crash.
    pub(super) fn queue(&mut self, client: PublicKey, request: EventId) {
        let queue = self.waiting.entry(client).or_default();
        if queue.is_empty() {
            self.order.push_back(client);
        }
        queue.push_back(request);
    }

    /// A request of `client` is done with, or waits for something that may take hours.
    pub(super) fn release(&mut self, client: &PublicKey) {
        let Some(count) = self.running.get_mut(client) else { return };
        *count -= 1;
        self.all = self.all.saturating_sub(1);
        if *count == 0 {
            self.running.remove(client);
        }
    }

    /// The next request that may run, from the connection whose turn it is.
    pub(super) fn next(&mut self) -> Option<EventId> {
        for _ in 0..self.order.len() {
            let client = self.order.pop_front()?;
            if !self.has_room(&client) {
                self.order.push_back(client);
                continue;
            }
            let queue = self.waiting.get_mut(&client);
            let request = queue.and_then(|queue| Some((queue.pop_front()?, queue.is_empty())));
            let Some((request, is_empty)) = request else { continue };
            if is_empty {
                self.waiting.remove(&client);
            } else {
                self.order.push_back(client);
            }
            self.begin(client);
            return Some(request);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::Keys;

    use super::*;

    fn id(n: u8) -> EventId {
        EventId::from_byte_array([n; 32])
    }

    #[test]
    fn a_bucket_empties_and_fills_with_time() {
        let mut bucket = Bucket::new(2, 10, 1000);
        assert_eq!([bucket.take(1000), bucket.take(1000), bucket.take(1000)], [true, true, false]);
        assert!(!bucket.take(1099));
        assert!(bucket.take(1100), "a tenth of a second is a token");
        assert!(!bucket.take(500), "a clock that goes back gives nothing");
        assert!(!bucket.take(1101));
        bucket.take(u64::MAX);
        assert!(bucket.take(u64::MAX) && !bucket.take(u64::MAX), "never more than its size");
    }

    #[test]
    fn a_flood_of_one_delays_no_other() {
        let limits = Limits { running: 2, waiting: 3, running_all: 3, ..Limits::default() };
        let mut turns = Turns::new(&limits);
        let (flood, shop, late) =
            (Keys::generate().public_key(), Keys::generate().public_key(), Keys::generate().public_key());
        let offered: Vec<_> = (0..6).map(|n| turns.offer(flood, id(n))).collect();
        use Turn::*;
        assert_eq!(offered, [Run, Run, Wait, Wait, Wait, Full]);
        assert_eq!(turns.offer(shop, id(10)), Run, "the flood does not take all");
        assert_eq!(turns.offer(late, id(20)), Wait, "all are busy");
        assert_eq!(turns.next(), None);
        turns.release(&flood);
        assert_eq!(turns.next(), Some(id(2)));
        turns.release(&flood);
        assert_eq!(turns.next(), Some(id(20)), "not the flood's second before another's first");
        turns.release(&late);
        assert_eq!(turns.next(), Some(id(3)));
        for _ in 0..2 {
            turns.release(&flood);
        }
        assert_eq!((turns.next(), turns.next()), (Some(id(4)), None));
    }
}
