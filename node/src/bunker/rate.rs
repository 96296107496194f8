//! How often clients of the bunker may ask.

use std::collections::HashMap;

use oa_nips::nostr::PublicKey;
use tokio::time::Instant;

/// Requests that a client may send at once, and a second on top of that. 200 and 10: one that opens a mailbox.
const CLIENT: (f64, f64) = (200.0, 10.0);
/// The same for all together who are not let in: who comes to be is one of a few.
const STRANGERS: (f64, f64) = (20.0, 1.0);
/// Clients remembered: more are never let in (64 agents with 64 clients each).
const CLIENTS_MAX: usize = 4096;

/// A bucket for each client, and one for everybody else.
#[derive(Debug, Default)]
pub(super) struct Rates(HashMap<Option<PublicKey>, (f64, Instant)>);

impl Rates {
    /// Whether one more request is all right, of a client that was let in, or of nobody.
    pub(super) fn admits(&mut self, client: Option<PublicKey>, now: Instant) -> bool {
        let (burst, per_second) = if client.is_some() { CLIENT } else { STRANGERS };
        if self.0.len() > CLIENTS_MAX {
            // Those who were shown out make room; the rest begin anew.
            self.0.clear();
        }
        let (left, at) = self.0.entry(client).or_insert((burst, now));
        let seconds = now.saturating_duration_since(*at).as_secs_f64();
        (*left, *at) = ((*left + seconds * per_second).min(burst), now);
        let admits = *left >= 1.0;
        if admits {
            *left -= 1.0;
        }
        admits
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use oa_nips::nostr::Keys;

    use super::*;

    #[test]
    fn clients_have_buckets_of_their_own_and_strangers_one() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        let client = Some(Keys::generate().public_key());
        let mut admitted = |client, at| (0..1_000).filter(|_| rates.admits(client, at)).count();
        assert_eq!((admitted(None, now), admitted(client, now)), (20, 200));
        assert_eq!(admitted(Some(Keys::generate().public_key()), now), 200);
        let later = now + Duration::from_secs(2);
        assert_eq!((admitted(None, later), admitted(client, later)), (2, 20));
    }
}
