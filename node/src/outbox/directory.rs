//! Where people take their mail, and whether they are bots: kinds 10050 and 0, looked up and remembered a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oa_nips::nostr::{Filter, PublicKey, RelayUrl};
use oa_nips::port::Subscribe;
use oa_nips::{kind, profile};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

/// People remembered.
const REMEMBERED: usize = 10_000;
/// How long, when something was found.
const FOUND_FOR: Duration = Duration::from_secs(3600);
/// How long, when nothing was: somebody may just be setting up.
const MISSED_FOR: Duration = Duration::from_secs(300);
/// How long a look-up may take; after that mail goes where it came from.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(3);

/// What somebody published about themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Contact {
    /// Their DM relays, at most five; none when they have no list.
    pub(crate) relays: Vec<RelayUrl>,
    /// Whether their profile says `bot: true`.
    pub(crate) is_bot: bool,
}

#[derive(Debug)]
struct Known {
    contact: Contact,
    until: Instant,
}

/// Looks people up.
#[derive(Debug)]
pub(crate) struct Directory {
    subscribe: Arc<dyn Subscribe>,
    own: Vec<RelayUrl>,
    known: Mutex<HashMap<PublicKey, Known>>,
    asking: Mutex<HashMap<PublicKey, Arc<AsyncMutex<()>>>>,
}

impl Directory {
    pub(crate) fn new(subscribe: Arc<dyn Subscribe>, own: Vec<RelayUrl>) -> Self {
        Self { subscribe, own, known: Mutex::default(), asking: Mutex::default() }
    }

    /// What is remembered, without asking anybody.
    pub(crate) fn remembered(&self, who: &PublicKey) -> Option<Contact> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(who).filter(|known| known.until > Instant::now()).map(|known| known.contact.clone())
    }

    /// What somebody published, asking the node's relays once at a time for each person.
    pub(crate) async fn contact(&self, who: &PublicKey) -> Contact {
        if let Some(contact) = self.remembered(who) {
            return contact;
        }
        let gate = {
            let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
            if asking.len() > REMEMBERED {
                asking.clear();
            }
            asking.entry(*who).or_default().clone()
        };
        let _turn = gate.lock().await;
        if let Some(contact) = self.remembered(who) {
            return contact;
        }
        let (contact, answered) = self.ask(who).await;
        // Relays that are all away say nothing about the person: ask again next time.
        if answered {
            self.remember(*who, contact.clone());
        }
        self.asking.lock().unwrap_or_else(PoisonError::into_inner).remove(who);
        contact
    }

    async fn ask(&self, who: &PublicKey) -> (Contact, bool) {
        let filter = Filter::new().author(*who).kinds([kind::METADATA, kind::DM_RELAYS]);
        let asked = self.own.iter().map(|relay| self.subscribe.fetch(relay, filter.clone(), LOOKUP_DEADLINE));
        let answers = futures_util::future::join_all(asked).await;
        let answered = answers.iter().any(Result::is_ok);
        let mut newest: HashMap<u16, oa_nips::nostr::Event> = HashMap::new();
        for event in answers.into_iter().flatten().flatten().filter(|event| event.pubkey == *who) {
            let slot = newest.entry(event.kind.as_u16());
            slot.and_modify(|old| {
                if (event.created_at, std::cmp::Reverse(event.id))
                    > (old.created_at, std::cmp::Reverse(old.id))
                {
                    *old = event.clone();
                }
            })
            .or_insert(event);
        }
        let relays = newest.get(&kind::DM_RELAYS.as_u16()).map(profile::read_dm_relays).unwrap_or_default();
        let is_bot = newest.get(&kind::METADATA.as_u16()).is_some_and(profile::is_bot);
        (Contact { relays, is_bot }, answered)
    }

    fn remember(&self, who: PublicKey, contact: Contact) {
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.retain(|_, known| known.until > now);
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        let for_long = if contact.relays.is_empty() { MISSED_FOR } else { FOUND_FOR };
        known.insert(who, Known { contact, until: now + for_long });
    }
}
