//! A raw Nostr client: one websocket, no library's retries and guesses, quick enough to load a node with.
//!
//! It sends and opens mail with code of its own, so that what the node says is read by somebody else's eyes. What
//! no client should send is made by [`forge`]. It connects once; [`Client::reconnect`] is the caller's decision,
//! and what was received before is then still known.

pub mod forge;
mod socket;

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use oa_nips::kind;
use oa_nips::mail::{Draft, Mail, Protocol};
use oa_nips::nostr::Timestamp;
use oa_nips::nostr::{Alphabet, Event, EventId, Filter, Keys, PublicKey, RelayUrl, SingleLetterTag};
use oa_nips::profile::{self, Profile};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::client::forge::{now_ms, now_s};
use crate::client::socket::Socket;
use crate::world::eventually;

pub use crate::client::socket::Answer;

/// Mails that wait to be looked at; the socket waits when it is full.
const MAILS: usize = 16 * 1024;
/// How far back mail is asked for: wraps are dated up to two days back.
const SINCE_S: u64 = 49 * 3600;

/// Somebody with a key, connected to one relay.
#[derive(Debug)]
pub struct Client {
    keys: Keys,
    relay: String,
    socket: Socket,
    mails: mpsc::Receiver<Mail>,
    seen: HashSet<EventId>,
    aside: VecDeque<Mail>,
    copies: u64,
}

/// A message as bytes that can be sent again.
#[derive(Debug, Clone)]
pub struct Letter {
    /// What its answer will refer to: the rumor's id, for kind 4 the event's.
    pub id: EventId,
    /// What is published.
    pub event: Event,
}

impl Letter {
    /// Signs, seals and wraps a draft.
    ///
    /// # Errors
    /// When it is too long to be encrypted.
    pub fn new(author: &Keys, draft: &Draft, protocol: Protocol) -> Result<Self> {
        match protocol {
            Protocol::Nip17 => {
                let rumor = draft.rumor(author.public_key());
                let id = rumor.id.context("a rumor has its id")?;
                Ok(Self { id, event: forge::wrap_rumor(author, &draft.recipient, &rumor)? })
            }
            Protocol::Nip04 => {
                let event = forge::legacy(author, draft)?;
                Ok(Self { id: event.id, event })
            }
        }
    }

    /// A person's text, written now.
    ///
    /// # Errors
    /// As [`Letter::new`].
    pub fn text(author: &Keys, to: PublicKey, text: &str, protocol: Protocol) -> Result<Self> {
        Self::new(author, &Draft::text(to, text, now_ms()), protocol)
    }
}

impl Client {
    /// Connects, trying again until `within` is over, and listens to its own mail.
    ///
    /// # Errors
    /// The last attempt's.
    pub async fn connect(relay: &str, keys: Keys, within: Duration) -> Result<Self> {
        let (sender, mails) = mpsc::channel(MAILS);
        let socket = eventually(within, || Socket::connect(relay, keys.clone(), sender.clone())).await?;
        let relay = relay.to_owned();
        let mut client =
            Self { keys, relay, socket, mails, seen: HashSet::new(), aside: VecDeque::new(), copies: 0 };
        client.listen(within).await?;
        Ok(client)
    }

    /// Connects anew; mail that was received is not received again.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn reconnect(&mut self, within: Duration) -> Result<()> {
        let (sender, mails) = mpsc::channel(MAILS);
        let keys = &self.keys;
        let relay = &self.relay;
        self.socket = eventually(within, || Socket::connect(relay, keys.clone(), sender.clone())).await?;
        while let Ok(mail) = self.mails.try_recv() {
            if self.is_new(&mail) {
                self.aside.push_back(mail);
            }
        }
        self.mails = mails;
        self.listen(within).await
    }

    async fn listen(&mut self, within: Duration) -> Result<()> {
        let since = Timestamp::from_secs(now_s().saturating_sub(SINCE_S));
        let filter =
            Filter::new().kinds([kind::WRAP, kind::LEGACY_DM]).pubkey(self.keys.public_key()).since(since);
        self.socket.listen(&filter, within).await
    }

    /// Whether the relay is still there.
    pub fn is_connected(&self) -> bool {
        self.socket.is_connected()
    }

    /// Its keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Its address.
    pub fn public_key(&self) -> PublicKey {
        self.keys.public_key()
    }

    /// Its relay.
    pub fn relay(&self) -> &str {
        &self.relay
    }

    /// How many messages came again, which a relay also does to who reconnects. Two answers to one question are not
    /// copies but two messages.
    pub fn copies(&self) -> u64 {
        self.copies
    }

    /// Publishes and waits for the relay's OK.
    ///
    /// # Errors
    /// When none comes within `within` or the connection ends.
    pub async fn publish(&self, event: &Event, within: Duration) -> Result<Answer> {
        self.socket.publish(event, within).await
    }

    /// Publishes without waiting: the answer comes when it is awaited.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn send(&self, event: &Event) -> Result<()> {
        self.socket.send(event).await
    }

    /// Publishes and checks that it was taken.
    ///
    /// # Errors
    /// As [`Client::publish`]; the relay's refusal.
    pub async fn put(&self, event: &Event, within: Duration) -> Result<()> {
        let answer = self.publish(event, within).await?;
        ensure!(answer.accepted, "the relay refused it: {}", answer.message);
        Ok(())
    }

    /// Writes a message; answers the id its reply will refer to.
    ///
    /// # Errors
    /// When it cannot be made, or the relay does not take it.
    pub async fn dm(
        &self,
        to: PublicKey,
        text: &str,
        protocol: Protocol,
        within: Duration,
    ) -> Result<EventId> {
        let letter = Letter::text(&self.keys, to, text, protocol)?;
        self.put(&letter.event, within).await?;
        Ok(letter.id)
    }

    /// Writes a message and waits for its answer.
    ///
    /// # Errors
    /// When it is not taken, or not answered within `within`.
    pub async fn ask(
        &mut self,
        to: PublicKey,
        text: &str,
        protocol: Protocol,
        within: Duration,
    ) -> Result<Mail> {
        let id = self.dm(to, text, protocol, within).await?;
        self.answer(id, within).await.with_context(|| format!("{text:?} was not answered"))
    }

    /// The next message to it, in the order they came; each once.
    ///
    /// # Errors
    /// When none comes within `within`, or the connection ends before.
    pub async fn next(&mut self, within: Duration) -> Result<Mail> {
        if let Some(mail) = self.aside.pop_front() {
            return Ok(mail);
        }
        self.receive(Instant::now() + within).await
    }

    /// The next message that answers `id`; others are kept for later.
    ///
    /// # Errors
    /// As [`Client::next`].
    pub async fn answer(&mut self, id: EventId, within: Duration) -> Result<Mail> {
        if let Some(at) = self.aside.iter().position(|mail| mail.reply_to == Some(id)) {
            return self.aside.remove(at).context("it was found there");
        }
        let deadline = Instant::now() + within;
        loop {
            let mail = self.receive(deadline).await?;
            if mail.reply_to == Some(id) {
                return Ok(mail);
            }
            self.aside.push_back(mail);
        }
    }

    /// A message nobody has seen yet.
    async fn receive(&mut self, deadline: Instant) -> Result<Mail> {
        loop {
            let next = tokio::time::timeout_at(deadline, self.mails.recv()).await;
            let mail = next.context("no mail came in time")?.context("the connection has ended")?;
            if self.is_new(&mail) {
                return Ok(mail);
            }
        }
    }

    /// Whether somebody else wrote it and it was not received before, which it is from now on.
    fn is_new(&mut self, mail: &Mail) -> bool {
        if mail.author == self.keys.public_key() {
            return false;
        }
        let is_new = self.seen.insert(mail.id);
        self.copies += u64::from(!is_new);
        is_new
    }

    /// The stored events that match.
    ///
    /// # Errors
    /// When the relay does not finish within `within`.
    pub async fn fetch(&self, filter: &Filter, within: Duration) -> Result<Vec<Event>> {
        self.socket.fetch(filter, within).await
    }

    /// How many wraps the relay stores for somebody.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub async fn wraps_of(&self, whose: PublicKey, within: Duration) -> Result<usize> {
        let p = SingleLetterTag::lowercase(Alphabet::P);
        let filter = Filter::new().kind(kind::WRAP).custom_tag(p, whose.to_hex());
        Ok(self.fetch(&filter, within).await?.len())
    }

    /// Publishes a profile (kind 0) that says it is a machine.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn say_bot(&self, name: &str, within: Duration) -> Result<()> {
        let profile = Profile { name: name.to_owned(), about: String::new(), nip05: None };
        let event = profile.event(self.public_key(), Timestamp::from_secs(now_s()));
        self.put(&event.sign_with_keys(&self.keys)?, within).await
    }

    /// Publishes where it takes mail (kind 10050).
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn say_dm_relays(&self, relays: &[&str], within: Duration) -> Result<()> {
        let relays = relays.iter().map(|url| RelayUrl::parse(url)).collect::<Result<Vec<_>, _>>()?;
        let event = profile::dm_relays(self.public_key(), &relays, Timestamp::from_secs(now_s()));
        self.put(&event.sign_with_keys(&self.keys)?, within).await
    }
}

#[cfg(test)]
mod tests {
    use oa_relay::{Config, Relay, StoreConfig};

    use super::*;
    use crate::world::DEADLINE;

    async fn pair() -> (Relay, Client, Client) {
        let config = Config::new("127.0.0.1:0".parse().unwrap(), StoreConfig::Memory);
        let relay = Relay::start(config).await.unwrap();
        let alice = Client::connect(&relay.url(), Keys::generate(), DEADLINE).await.unwrap();
        let bob = Client::connect(&relay.url(), Keys::generate(), DEADLINE).await.unwrap();
        (relay, alice, bob)
    }

    #[tokio::test]
    async fn two_clients_write_to_each_other_in_both_protocols() {
        let (relay, alice, mut bob) = pair().await;
        for protocol in [Protocol::Nip17, Protocol::Nip04] {
            let id = alice.dm(bob.public_key(), "hello", protocol, DEADLINE).await.unwrap();
            let mail = bob.next(DEADLINE).await.unwrap();
            assert_eq!((mail.id, mail.text(), mail.protocol), (id, Some("hello"), protocol));
            assert_eq!(mail.author, alice.public_key());
        }
        relay.shutdown().await;
    }

    #[tokio::test]
    async fn a_message_wrapped_twice_is_received_once() {
        let (relay, alice, mut bob) = pair().await;
        let draft = Draft::text(bob.public_key(), "again", now_ms());
        for _ in 0..2 {
            let letter = Letter::new(alice.keys(), &draft, Protocol::Nip17).unwrap();
            alice.put(&letter.event, DEADLINE).await.unwrap();
        }
        let last = alice.dm(bob.public_key(), "last", Protocol::Nip17, DEADLINE).await.unwrap();
        assert_eq!(bob.next(DEADLINE).await.unwrap().text(), Some("again"));
        assert_eq!(bob.next(DEADLINE).await.unwrap().id, last);
        assert_eq!(bob.copies(), 1);
        relay.shutdown().await;
    }

    #[tokio::test]
    async fn a_client_that_reconnects_finds_what_came_meanwhile_and_nothing_twice() {
        let (relay, alice, mut bob) = pair().await;
        alice.dm(bob.public_key(), "one", Protocol::Nip17, DEADLINE).await.unwrap();
        assert_eq!(bob.next(DEADLINE).await.unwrap().text(), Some("one"));
        // One that has come but was not looked at, and one that comes while nobody listens.
        alice.dm(bob.public_key(), "two", Protocol::Nip17, DEADLINE).await.unwrap();
        bob.wraps_of(bob.public_key(), DEADLINE).await.unwrap();
        bob.reconnect(DEADLINE).await.unwrap();
        assert_eq!(bob.next(DEADLINE).await.unwrap().text(), Some("two"));
        assert_eq!(bob.wraps_of(bob.public_key(), DEADLINE).await.unwrap(), 2);
        assert!(bob.next(Duration::ZERO).await.is_err());
        relay.shutdown().await;
    }
}
