//! The client's side of NIP-46 as a machine: a call becomes an event, an event answers one call or none.

use std::collections::HashMap;
use std::fmt;

use oa_nips::nostr::{Event, PublicKey, Timestamp};
use oa_nips::port::SignerError;

use crate::bunker::event::carrying;
use crate::bunker::message::{Answer, Call, KIND, Response};
use crate::signer::LocalSigner;

/// Requests that wait for an answer at once. 64: what a person's or an agent's busiest second asks for.
pub(super) const IN_FLIGHT_MAX: usize = 64;

/// The requests that wait, each with its waiter.
pub(super) struct Machine<W> {
    client: LocalSigner,
    remote: PublicKey,
    waiting: HashMap<String, W>,
}

impl<W> Machine<W> {
    /// Nothing waits. `client` is the key that the bunker knows us by.
    pub(super) fn new(client: LocalSigner, remote: PublicKey) -> Self {
        Self { client, remote, waiting: HashMap::new() }
    }

    /// The event that asks; its answer will be `waiter`'s. `id` must be fresh, and nobody's guess.
    ///
    /// # Errors
    /// [`SignerError::Unavailable`] when too many wait, [`SignerError::Refused`] for what is too long.
    pub(super) fn request(
        &mut self,
        id: String,
        call: &Call,
        at: Timestamp,
        waiter: W,
    ) -> Result<Event, SignerError> {
        if self.waiting.len() >= IN_FLIGHT_MAX {
            return Err(SignerError::Unavailable(format!(
                "{IN_FLIGHT_MAX} requests wait for the bunker already"
            )));
        }
        let content = self.client.encrypt(&self.remote, &call.to_json(&id, &self.remote))?;
        let event =
            self.client.sign_now(carrying(self.client.keys.public_key(), self.remote, content, at))?;
        self.waiting.insert(id, waiter);
        Ok(event)
    }

    /// Who waits for this event, and what it says. Nothing for what is not from the bunker, not genuine, or no answer
    /// to what was asked. Who is told that the bunker asks its owner first waits on.
    pub(super) fn answer(&mut self, event: &Event) -> Option<(W, Answer)>
    where
        W: Clone,
    {
        if event.kind != KIND || event.pubkey != self.remote || self.waiting.is_empty() {
            return None;
        }
        event.verify().ok()?;
        let json = self.client.decrypt(&self.remote, &event.content).ok()?;
        let Response { id, answer } = Response::parse(&json)?;
        let waiter = match answer {
            Answer::AuthUrl(_) => self.waiting.get(&id)?.clone(),
            Answer::Result(_) | Answer::Error(_) => self.waiting.remove(&id)?,
        };
        Some((waiter, answer))
    }

    /// Nobody waits for that one any more.
    pub(super) fn forget(&mut self, id: &str) {
        self.waiting.remove(id);
    }

    /// Whether nobody waits at all.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl<W> fmt::Debug for Machine<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("client", &self.client)
            .field("remote", &self.remote)
            .field("waiting", &self.waiting.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::Keys;

    use super::*;
    use crate::bunker::message::Request;
    use crate::signer::Conversations;

    fn signer() -> LocalSigner {
        LocalSigner::new(Keys::generate(), Conversations::default())
    }

    fn at() -> Timestamp {
        Timestamp::from_secs(1_790_000_000)
    }

    /// What `from` says to `to`.
    fn event(from: &LocalSigner, to: PublicKey, response: &Response) -> Event {
        let content = from.encrypt(&to, &response.to_json()).unwrap();
        from.sign_now(carrying(from.keys.public_key(), to, content, at())).unwrap()
    }

    struct Two {
        machine: Machine<u32>,
        bunker: LocalSigner,
        client: PublicKey,
    }

    fn two() -> Two {
        let (client, bunker) = (signer(), signer());
        let key = client.keys.public_key();
        Two { machine: Machine::new(client, bunker.keys.public_key()), bunker, client: key }
    }

    #[test]
    fn a_request_is_for_the_bunker_alone() {
        let Two { mut machine, bunker, client } = two();
        let event = machine.request("a".to_owned(), &Call::Ping, at(), 1).unwrap();
        event.verify().unwrap();
        assert_eq!((event.kind, event.pubkey), (KIND, client));
        assert_eq!(event.tags.public_keys().collect::<Vec<_>>(), [&bunker.keys.public_key()]);
        let request = Request::parse(&bunker.decrypt(&client, &event.content).unwrap()).unwrap();
        assert_eq!(request, Request { id: "a".to_owned(), call: Call::Ping });
    }

    #[test]
    fn answers_find_their_waiters_in_any_order_and_once() {
        let Two { mut machine, bunker, client } = two();
        for (id, waiter) in [("a", 1), ("b", 2)] {
            machine.request(id.to_owned(), &Call::Ping, at(), waiter).unwrap();
        }
        let b = event(&bunker, client, &Response::result("b", "pong"));
        assert_eq!(machine.answer(&b), Some((2, Answer::Result("pong".to_owned()))));
        assert_eq!(machine.answer(&b), None, "a relay repeats");
        let a = event(&bunker, client, &Response::error("a", "no"));
        assert_eq!(machine.answer(&a), Some((1, Answer::Error("no".to_owned()))));
        assert!(machine.is_idle());
    }

    #[test]
    fn who_is_told_that_the_owner_is_asked_waits_on() {
        let Two { mut machine, bunker, client } = two();
        machine.request("a".to_owned(), &Call::Ping, at(), 1).unwrap();
        let asks = Answer::AuthUrl("https://a.example".to_owned());
        let first = event(&bunker, client, &Response { id: "a".to_owned(), answer: asks.clone() });
        assert_eq!(machine.answer(&first), Some((1, asks)));
        let then = event(&bunker, client, &Response::result("a", "pong"));
        assert_eq!(machine.answer(&then), Some((1, Answer::Result("pong".to_owned()))));
        assert!(machine.is_idle());
    }

    #[test]
    fn what_others_say_is_ignored() {
        let Two { mut machine, bunker, client } = two();
        let other = signer();
        machine.request("a".to_owned(), &Call::Ping, at(), 1).unwrap();
        let response = Response::result("a", "pong");
        // Somebody else, somebody else in the bunker's name, the bunker to somebody else, an id that was not asked.
        let mut forged = event(&other, client, &response);
        let stranger = forged.clone();
        forged.pubkey = bunker.keys.public_key();
        let mut changed = event(&bunker, client, &response);
        changed.content = event(&bunker, client, &Response::result("a", "other")).content;
        let elsewhere = event(&bunker, other.keys.public_key(), &response);
        let unasked = event(&bunker, client, &Response::result("b", "pong"));
        for (n, event) in [stranger, forged, changed, elsewhere, unasked].iter().enumerate() {
            assert_eq!(machine.answer(event), None, "case {n}");
        }
        assert!(machine.answer(&event(&bunker, client, &response)).is_some(), "and the waiter still waits");
    }

    #[test]
    fn who_was_forgotten_is_not_answered() {
        let Two { mut machine, bunker, client } = two();
        machine.request("a".to_owned(), &Call::Ping, at(), 1).unwrap();
        machine.request("b".to_owned(), &Call::Ping, at(), 2).unwrap();
        machine.forget("a");
        assert_eq!(machine.answer(&event(&bunker, client, &Response::result("a", "pong"))), None);
        assert!(!machine.is_idle());
    }

    #[test]
    fn waiting_requests_are_bounded_and_what_is_too_long_does_not_wait() {
        let Two { mut machine, bunker, .. } = two();
        let text = "x".repeat(70_000);
        let long = Call::Convert {
            cipher: crate::bunker::message::Cipher::Nip44,
            way: crate::bunker::message::Way::Encrypt,
            peer: bunker.keys.public_key(),
            text,
        };
        assert!(matches!(machine.request("a".to_owned(), &long, at(), 0), Err(SignerError::Refused(_))));
        assert!(machine.is_idle());
        for n in 0..IN_FLIGHT_MAX {
            machine.request(n.to_string(), &Call::Ping, at(), 0).unwrap();
        }
        let error = machine.request("more".to_owned(), &Call::Ping, at(), 0).unwrap_err();
        assert!(matches!(error, SignerError::Unavailable(_)), "{error:?}");
        machine.forget("0");
        machine.request("more".to_owned(), &Call::Ping, at(), 0).unwrap();
    }
}
