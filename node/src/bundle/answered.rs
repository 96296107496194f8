//! What an agent answered while nobody here knew of it, as its relays tell: every reply has a copy to its author,
//! which names the message it answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use oa_nips::hex::Hex;
use oa_nips::kind;
use oa_nips::mail::{self, BACKDATE_S_MAX, Mail, UnwrapError};
use oa_nips::nostr::{Event, EventId, Filter, RelayUrl, Timestamp};
use oa_nips::port::{FetchError, Signer, SignerError, Subscribe};

use crate::agent::envelope::EnvelopeId;

/// How long a relay may take for one page.
const PAGE_DEADLINE: Duration = Duration::from_secs(20);
/// Events of a page; relays answer at most about so many.
const PAGE: usize = 500;
/// Events read from one relay: beyond it nobody can say what was answered.
const EVENTS_MAX: usize = 200_000;
/// Clocks differ, in seconds.
const SLACK_S: u64 = 15 * 60;

/// What relays have of an agent's mail.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The messages that it answered.
    pub(crate) answered: BTreeSet<EnvelopeId>,
    /// What others wrote to it, by the relay that has it.
    pub(crate) mail: BTreeMap<RelayUrl, Vec<Event>>,
}

/// Why it is not known what an agent answered. Asking again may help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    #[error("what it answered is not known")]
    Fetch(#[from] FetchError),
    #[error("{0} has over {EVENTS_MAX} of its events")]
    TooMany(RelayUrl),
    #[error("its mail cannot be opened")]
    Signer(#[from] SignerError),
}

/// Looks through the mail of the agent that `signer` signs for, on each of these relays, as far as it was written at
/// `since_s` or later, in seconds since 1970.
///
/// # Errors
/// When one of the relays does not answer, or the signer is away: then it is not known.
pub(crate) async fn look(
    subscribe: &dyn Subscribe,
    relays: &[RelayUrl],
    signer: &dyn Signer,
    since_s: u64,
) -> Result<Found, LookError> {
    // Wraps are dated back. What the agent sent by the legacy protocol is addressed to others.
    let me = signer.public_key();
    let since = Timestamp::from_secs(since_s.saturating_sub(BACKDATE_S_MAX + SLACK_S));
    let to_it = Filter::new().kinds([kind::WRAP, kind::LEGACY_DM]).pubkey(me).since(since);
    let by_it = Filter::new().kind(kind::LEGACY_DM).author(me).since(since);
    let mut found = Found::default();
    let mut known = BTreeSet::new();
    for relay in relays {
        let mut events = fetch(subscribe, relay, &to_it).await?;
        events.extend(fetch(subscribe, relay, &by_it).await?);
        for event in events.into_iter().filter(|event| known.insert(event.id)) {
            match sort(&event, signer).await? {
                Sort::Own(Some(answers)) => drop(found.answered.insert(answers)),
                Sort::Own(None) => {}
                Sort::Others => found.mail.entry(relay.clone()).or_default().push(event),
            }
        }
    }
    Ok(found)
}

enum Sort {
    /// By the agent itself: what it answers.
    Own(Option<EnvelopeId>),
    Others,
}

async fn sort(event: &Event, signer: &dyn Signer) -> Result<Sort, SignerError> {
    let me = signer.public_key();
    let answers = |mail: Mail| Sort::Own(mail.reply_to.map(|id: EventId| Hex(id.to_bytes())));
    if event.kind == kind::LEGACY_DM {
        // What it says is between two others; its tags are enough.
        let is_own = event.pubkey == me;
        let mail = mail::read_legacy(event, String::new()).ok().filter(|_| is_own);
        return Ok(mail.map_or(Sort::Others, answers));
    }
    match mail::unwrap(event, signer).await {
        Ok(mail) if mail.author == me => Ok(answers(mail)),
        // Whatever it is, it is dealt with like all mail.
        Ok(_) | Err(UnwrapError::Open(_) | UnwrapError::Signer(SignerError::Refused(_))) => Ok(Sort::Others),
        Err(UnwrapError::Signer(away)) => Err(away),
    }
}

/// All events of a filter, page by page from the newest on.
async fn fetch(
    subscribe: &dyn Subscribe,
    relay: &RelayUrl,
    filter: &Filter,
) -> Result<Vec<Event>, LookError> {
    let (mut all, mut known) = (Vec::new(), BTreeSet::new());
    let mut until: Option<Timestamp> = None;
    loop {
        let mut page = filter.clone().limit(PAGE);
        page.until = until;
        let events = subscribe.fetch(relay, page, PAGE_DEADLINE).await?;
        let oldest = events.iter().map(|event| event.created_at).min();
        let before = all.len();
        all.extend(events.into_iter().filter(|event| known.insert(event.id)));
        if all.len() > EVENTS_MAX {
            return Err(LookError::TooMany(relay.clone()));
        }
        // The oldest second is asked for again: the page may have ended in its midst.
        match oldest {
            Some(oldest) if all.len() > before => until = Some(oldest),
            _ => return Ok(all),
        }
    }
}
