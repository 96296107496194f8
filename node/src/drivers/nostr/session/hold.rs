//! Live mail that waits while a relay's catch-up runs, so that what is older goes first.

use std::time::Duration;

use oa_nips::nostr::Event;
use tokio::time::Instant;

/// Events held. Beyond it they are let go, and another sweep brings them.
const EVENTS_MAX: usize = 4_096;
/// How long a catch-up may hold up live mail (DESIGN section 3: "5 s at most").
const TIME_MAX: Duration = Duration::from_secs(5);

/// The hold.
#[derive(Debug)]
pub(super) struct Hold {
    events: Vec<Event>,
    until: Instant,
}

/// What became of an event.
#[derive(Debug)]
pub(super) enum Held {
    /// It waits.
    Kept,
    /// No room: another sweep must bring it.
    LetGo,
    /// No relay stores it, so no sweep could bring it: it goes on at once.
    Passed(Box<Event>),
}

impl Hold {
    /// Begins to hold.
    pub(super) fn new(now: Instant) -> Self {
        Self { events: Vec::new(), until: now + TIME_MAX }
    }

    /// Takes an event.
    pub(super) fn push(&mut self, event: Box<Event>) -> Held {
        if event.kind.is_ephemeral() {
            Held::Passed(event)
        } else if self.events.len() >= EVENTS_MAX {
            Held::LetGo
        } else {
            self.events.push(*event);
            Held::Kept
        }
    }

    /// Whether it has lasted long enough.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.until <= now
    }

    /// All that waited, in the order it came.
    pub(super) fn into_events(self) -> Vec<Event> {
        self.events
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::kind;
    use oa_nips::nostr::{EventBuilder, Keys, Kind};

    use super::*;

    fn event(kind: Kind) -> Box<Event> {
        Box::new(EventBuilder::new(kind, "").sign_with_keys(&Keys::generate()).unwrap())
    }

    #[test]
    fn mail_waits_and_what_cannot_be_swept_does_not() {
        let mut hold = Hold::new(Instant::now());
        assert!(matches!(hold.push(event(kind::WRAP)), Held::Kept));
        assert!(matches!(hold.push(event(kind::EPHEMERAL_WRAP)), Held::Passed(_)));
        assert_eq!(hold.into_events().len(), 1);
    }

    #[test]
    fn a_full_hold_lets_go() {
        let mut hold = Hold::new(Instant::now());
        let wrap = event(kind::WRAP);
        (0..EVENTS_MAX).for_each(|_| assert!(matches!(hold.push(wrap.clone()), Held::Kept)));
        assert!(matches!(hold.push(wrap), Held::LetGo));
    }

    #[test]
    fn it_ends_by_itself() {
        let now = Instant::now();
        assert!(!Hold::new(now).is_over(now));
        assert!(Hold::new(now).is_over(now + TIME_MAX));
    }
}
