//! `/nostr/dm/<npub>`: direct messages. What is written through one handle is one message. From outside a tick
//! a name at a domain will do in place of the npub (NIP-05).

use std::collections::BTreeSet;
use std::sync::Arc;

use oa_nips::files::Code;
use oa_nips::mail::{Draft, Protocol, TEXT_BYTES_MAX, fits_one_message};
use oa_nips::nip05::Found;
use oa_nips::nostr::{PublicKey, RelayUrl, ToBech32};

use super::next_hop;
use crate::agent::mailbox::{Bucket, Peer};
use crate::discovery::{Finder, Reach};
use crate::namespace::blocks::Rows;
use crate::namespace::error::Error;
use crate::namespace::path::Path;
use crate::namespace::service::{
    Answer, Change, Context, Effect, FileService, FileType, Span, Stat, Wake, file, not_taken,
};
use crate::outbox::Directory;
use crate::serve::Parts;
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::row::Outgoing;

/// Names listed at once.
const LISTED_MAX: usize = 1000;
/// People that one tick may write to, other than by answering.
const RECIPIENTS_MAX: usize = 20;

pub(super) fn folder(parts: &Parts) -> Arc<dyn FileService> {
    let (store, listed) = (parts.store.clone(), parts.store.clone());
    let directory = parts.directory.clone();
    let list = move |cx: &Context<'_>| list(&listed, cx);
    // Messages are not kept here to be read again.
    let rows = Rows::new(list, |_, _| Ok(None)).build();
    Arc::new(Folder { rows, store, directory, finder: parts.finder.clone() })
}

/// The folder. Only writing to a name takes a while.
#[derive(Debug)]
struct Folder {
    rows: Arc<dyn FileService>,
    store: Store,
    directory: Arc<Directory>,
    finder: Arc<Finder>,
}

impl FileService for Folder {
    fn stat<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        self.rows.stat(cx, path)
    }

    fn list<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        self.rows.list(cx, path)
    }

    fn read<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, span: Span) -> Answer<'a, Vec<u8>> {
        self.rows.read(cx, path, span)
    }

    fn change<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Effect> {
        Box::pin(async move {
            let mut parts = path.components();
            let (Some(name), None) = (parts.next(), parts.next()) else {
                return Err(not_taken(path, change));
            };
            let Change::Append(body) = change else { return Err(not_taken(path, change)) };
            let to = self.recipient(cx, path, name).await?;
            send(&self.store, &self.directory, cx, path, to, body)
        })
    }
}

/// Who gets a message, and where the domain of their name says that they may be found.
type Recipient = (PublicKey, Option<RelayUrl>);

impl Folder {
    async fn recipient(&self, cx: &Context<'_>, path: &Path, name: &str) -> Result<Recipient, Error> {
        if name.contains('@') {
            // A tick that runs again must write to the same person: what was asked outside is a call's answer.
            if cx.wake.is_some() {
                let reason = "a tick writes to an npub; /peers/find tells whose a name is";
                return Err(Error::invalid(path, reason));
            }
            let found = self.finder.who(path.as_str(), name, Reach::of(cx)).await?;
            let (_, Found { pubkey, relays }) = found;
            return Ok((pubkey, relays.into_iter().next()));
        }
        let is_key = name.starts_with("npub1") || name.len() == 64;
        let to = PublicKey::parse(name).ok().filter(|_| is_key);
        let to =
            to.ok_or_else(|| Error::invalid(path, "the name is the recipient's npub, or name@domain"))?;
        Ok((to, None))
    }
}

fn io(error: BackendError) -> Error {
    Error::io("/", error.to_string())
}

/// Those the agent has had to do with; others can be written to as well.
fn list(store: &Store, cx: &Context<'_>) -> Result<Vec<Stat>, Error> {
    let is_known = |peer: &Peer| peer.allowed || peer.first_seen_ms > 0 || peer.bucket.is_some();
    let peers = store.peers(cx.subject()?.row.id, LISTED_MAX).map_err(io)?;
    let known = peers.into_iter().filter(|(_, peer)| is_known(peer));
    Ok(known.filter_map(|(key, _)| Some(file(key.to_bech32().ok()?, FileType::Append, 0))).collect())
}

fn send(
    store: &Store,
    directory: &Directory,
    cx: &Context<'_>,
    path: &Path,
    (to, relay): Recipient,
    body: &[u8],
) -> Result<Effect, Error> {
    let subject = cx.subject()?;
    if to == subject.row.pubkey {
        return Err(Error::invalid(path, "an agent does not write to itself"));
    }
    let text = std::str::from_utf8(body).map_err(|_| Error::invalid(path, "not UTF-8"))?;
    if text.trim().is_empty() {
        return Err(Error::invalid(path, "an empty message"));
    }
    if !fits_one_message(text) {
        return Err(Error::too_large(path, TEXT_BYTES_MAX));
    }
    let auto_hop = next_hop(path.as_str(), cx.wake)?;
    let before = match cx.wake {
        Some(wake) => check_rates(store, directory, cx, &wake, &to).map_err(|error| error.at(path))?,
        None => 0,
    };
    // Equal texts of one tick are still two messages, and in order.
    let at_ms = cx.now_ms.saturating_add(before);
    let draft = Draft { auto_hop, ..Draft::text(to, text, at_ms) };
    let mail = Outgoing::Mail { draft, protocol: Protocol::Nip17, relay };
    Ok(Effect { out: vec![mail], ..Effect::default() })
}

/// The rules that answers follow: a bucket for each correspondent, a smaller one for machines; the commit draws on it.
/// Answers the messages to this one in this tick so far.
pub(in crate::serve) fn check_rates(
    store: &Store,
    directory: &Directory,
    cx: &Context<'_>,
    wake: &Wake<'_>,
    to: &PublicKey,
) -> Result<u64, Error> {
    let limited = |reason: String| Error::new(Code::RateLimited, "/", reason);
    let subject = cx.subject()?;
    let recipient = |outgoing: &Outgoing| match outgoing {
        Outgoing::Mail { draft, .. } => Some(draft.recipient),
        Outgoing::Event { .. } => None,
    };
    let mut recipients: BTreeSet<PublicKey> = wake.sent.iter().filter_map(recipient).collect();
    recipients.insert(*to);
    if recipients.len() > RECIPIENTS_MAX {
        return Err(limited(format!("{RECIPIENTS_MAX} people are written to in this tick already")));
    }
    let before = wake.sent.iter().filter(|outgoing| recipient(outgoing) == Some(*to)).count();
    let is_bot =
        wake.envelope.auto_hop() > 0 || directory.remembered(to).is_some_and(|contact| contact.is_bot);
    let peer = store.peer(subject.row.id, to).map_err(io)?.unwrap_or_default();
    let mut bucket = peer.bucket;
    for _ in 0..=before {
        bucket = Bucket::take(bucket, &subject.manifest.replies, is_bot, cx.now_ms);
        if bucket.is_none() {
            return Err(limited("too many messages to this one lately".to_owned()));
        }
    }
    Ok(before as u64)
}
