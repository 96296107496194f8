//! Requests that wait for their answers: which are sent again, and what counts as an answer. Pure.

use std::collections::HashMap;

use oa_nips::nostr::{Event, EventId, PublicKey};
use oa_nips::nwc;

/// The longest wait between two.
const RESEND_LAST_MS: u64 = 30_000;

/// One request under way.
#[derive(Debug)]
pub(super) struct Exchange<R> {
    event: Event,
    pub(super) method: String,
    resend_at_ms: u64,
    pause_ms: u64,
    resend_until_ms: u64,
    until_ms: u64,
    pub(super) reply: R,
}

/// All of a client's, with who waits for each.
#[derive(Debug)]
pub(super) struct Exchanges<R> {
    client: PublicKey,
    wallet: PublicKey,
    /// Between the first sending and the second; then twice as long each time.
    resend_after_ms: u64,
    open: HashMap<EventId, Exchange<R>>,
}

impl<R> Exchanges<R> {
    pub(super) fn new(client: PublicKey, wallet: PublicKey, resend_after_ms: u64) -> Self {
        Self { client, wallet, resend_after_ms, open: HashMap::new() }
    }

    /// Begins one, which is sent now by the caller and again by [`Exchanges::due`], the same bytes, until
    /// `resend_until_ms`. Its answer counts until `until_ms`.
    pub(super) fn begin(
        &mut self,
        event: Event,
        method: String,
        reply: R,
        now_ms: u64,
        (resend_until_ms, until_ms): (u64, u64),
    ) {
        let (pause_ms, resend_at_ms) = (self.resend_after_ms, now_ms.saturating_add(self.resend_after_ms));
        let exchange = Exchange { event, method, resend_at_ms, pause_ms, resend_until_ms, until_ms, reply };
        self.open.insert(exchange.event.id, exchange);
    }

    /// The exchange that an event answers by its outside: from this wallet, to this client, to a request that waits.
    pub(super) fn answered_by(&self, event: &Event) -> Option<&Exchange<R>> {
        let answer = nwc::Response::read(event).ok()?;
        let is_ours = answer.wallet == self.wallet && answer.client == self.client;
        self.open.get(&answer.request).filter(|_| is_ours)
    }

    /// Ends an exchange.
    pub(super) fn end(&mut self, request: &EventId) -> Option<Exchange<R>> {
        self.open.remove(request)
    }

    /// What is to be sent again. Exchanges whose time is over, or that nobody waits for, end.
    pub(super) fn due(&mut self, now_ms: u64, is_wanted: impl Fn(&R) -> bool) -> Vec<Event> {
        self.open.retain(|_, exchange| exchange.until_ms > now_ms && is_wanted(&exchange.reply));
        let mut again = Vec::new();
        for exchange in self.open.values_mut().filter(|exchange| exchange.resend_at_ms <= now_ms) {
            if exchange.resend_until_ms <= now_ms {
                exchange.resend_at_ms = u64::MAX;
                continue;
            }
            exchange.pause_ms = exchange.pause_ms.saturating_mul(2).min(RESEND_LAST_MS);
            exchange.resend_at_ms = now_ms.saturating_add(exchange.pause_ms);
            again.push(exchange.event.clone());
        }
        again
    }

    /// When [`Exchanges::due`] is wanted next.
    pub(super) fn next_at_ms(&self) -> Option<u64> {
        self.open.values().map(|exchange| exchange.resend_at_ms.min(exchange.until_ms)).min()
    }
}

impl<R> Exchange<R> {
    pub(super) fn id(&self) -> EventId {
        self.event.id
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::{Keys, Timestamp};
    use oa_nips::nwc::Encryption;

    use super::*;

    fn request(client: &Keys, wallet: &Keys) -> Event {
        let at = Timestamp::from_secs(1);
        let event = nwc::request(
            client.public_key(),
            wallet.public_key(),
            Encryption::Nip44,
            String::new(),
            at,
            None,
        );
        event.sign_with_keys(client).unwrap()
    }

    #[test]
    fn the_same_event_is_sent_again_and_then_no_more() {
        let (client, wallet) = (Keys::generate(), Keys::generate());
        let mut open = Exchanges::new(client.public_key(), wallet.public_key(), 3_000);
        let event = request(&client, &wallet);
        open.begin(event.clone(), String::new(), (), 0, (20_000, 30_000));
        assert_eq!(open.next_at_ms(), Some(3_000));
        assert_eq!(open.due(2_999, |()| true), []);
        assert_eq!(open.due(3_000, |()| true), std::slice::from_ref(&event));
        assert_eq!(open.due(8_999, |()| true), []);
        assert_eq!(open.due(9_000, |()| true), [event]);
        assert_eq!(open.due(21_000, |()| true), [], "it is void");
        assert_eq!(open.next_at_ms(), Some(30_000), "its answer still counts");
        assert_eq!(open.due(30_000, |()| true), []);
        assert_eq!(open.next_at_ms(), None);
    }

    #[test]
    fn only_the_wallet_answers_and_only_what_was_asked() {
        let (client, wallet, other) = (Keys::generate(), Keys::generate(), Keys::generate());
        let mut open = Exchanges::new(client.public_key(), wallet.public_key(), 3_000);
        let event = request(&client, &wallet);
        open.begin(event.clone(), String::new(), (), 0, (20_000, 30_000));
        let answer = |by: &Keys, to: &Keys, id| {
            let at = Timestamp::from_secs(1);
            let event = nwc::response(by.public_key(), to.public_key(), id, String::new(), at);
            event.sign_with_keys(by).unwrap()
        };
        assert!(open.answered_by(&answer(&wallet, &client, event.id)).is_some());
        assert!(open.answered_by(&answer(&other, &client, event.id)).is_none());
        assert!(open.answered_by(&answer(&wallet, &other, event.id)).is_none());
        assert!(open.answered_by(&answer(&wallet, &client, EventId::all_zeros())).is_none());
        assert!(open.answered_by(&event).is_none());
        open.end(&event.id);
        assert!(open.answered_by(&answer(&wallet, &client, event.id)).is_none(), "a duplicate");
    }
}
