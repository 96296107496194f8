//! Direct messages: NIP-17 (sealed and wrapped) and NIP-04 (legacy) as one type.
//!
//! Opening is a chain of pure steps, because the keys are elsewhere: whoever holds the signer decrypts between
//! them. A wrap gives `(peer, ciphertext)`; its plaintext goes to [`open_seal`]; the seal's plaintext to
//! [`open_rumor`]. A kind 4 event needs one step, [`read_legacy`]. Composing is the same chain backwards:
//! [`Draft::rumor`], [`seal`], [`wrap`]. Times and nonces are arguments.

use nostr::{Event, EventId, JsonUtil, PublicKey, Tag, Timestamp, UnsignedEvent};
use serde::{Deserialize, Serialize};

use crate::envelope::Envelope;
use crate::port::{Signer, SignerError};
use crate::{kind, tags};

/// The longest text taken in or sent out, in bytes. Two NIP-44 layers around it stay under 64 KiB of event; a text
/// of control characters, six bytes each in JSON, would not fit even one.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;
/// The longest text sent out, in bytes of JSON: control characters and quotes grow there, and two NIP-44 layers
/// around the rumor must stay under 64 KiB of event, which is all that many relays take.
pub const ESCAPED_BYTES_MAX: usize = 27 * 1024;
/// The largest wrap or legacy message that is decrypted at all, in bytes of content.
pub const CONTENT_BYTES_MAX: usize = 128 * 1024;
/// Seals and wraps are dated up to this many seconds back (NIP-59: two days).
pub const BACKDATE_S_MAX: u64 = 2 * 24 * 3600;
/// No automatic reply is sent to a message that has come through this many.
pub const AUTO_HOPS_MAX: u8 = 4;
/// Tags of an event, seal or rumor that is opened. Each tag costs many times its bytes of JSON in memory.
pub const TAGS_MAX: usize = 500;

/// How a message travelled, and how it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Sealed and gift-wrapped (NIP-17, NIP-59).
    Nip17,
    /// Kind 4; can never approve or command.
    Nip04,
}

impl Protocol {
    /// The name used in files, logs and databases.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nip17 => "nip17",
            Self::Nip04 => "nip04",
        }
    }
}

/// One message, opened and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The rumor's id, recomputed; for kind 4 the event's. The key of all dedup.
    pub id: EventId,
    /// The way it came.
    pub protocol: Protocol,
    /// Who wrote it: author of rumor and seal, or of the kind 4 event.
    pub author: PublicKey,
    /// The `p` tags: everybody it was addressed to.
    pub recipients: Vec<PublicKey>,
    /// The author's claim of when, in milliseconds since 1970 (`created_at`, refined by an `ms` tag).
    pub sent_at_ms: u64,
    /// Hops of an automatic message, at most [`AUTO_HOPS_MAX`]; 0 for one that a person wrote.
    pub auto_hop: u8,
    /// The message it answers.
    pub reply_to: Option<EventId>,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Plain text (kind 14 or 4).
    Text(String),
    /// A file elsewhere (kind 15): its address.
    File(String),
    /// A reaction (kind 7) to [`Mail::reply_to`].
    Reaction(String),
    /// An agent's envelope (kind 9910).
    Envelope(Envelope),
}

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("content of {0} bytes is over the limit of {CONTENT_BYTES_MAX}")]
    TooLarge(usize),
    #[error("text of {0} bytes is over the limit of {TEXT_BYTES_MAX}")]
    TextTooLong(usize),
    #[error("{0} tags are over the limit of {TAGS_MAX}")]
    TooManyTags(usize),
    #[error("kind {0} is no mail")]
    Kind(u16),
    #[error("no recipient in its p tags")]
    NoRecipient,
    #[error("the seal is no event")]
    SealSyntax(#[source] nostr::event::Error),
    #[error("the seal's id or signature is wrong")]
    SealSignature(#[source] nostr::event::Error),
    #[error("the rumor is no event")]
    RumorSyntax(#[source] nostr::event::Error),
    #[error("the rumor's id is not the hash of its content")]
    RumorId,
    #[error("sealed by {seal} but written in the name of {rumor}")]
    AuthorMismatch { seal: PublicKey, rumor: PublicKey },
    #[error("the envelope is not valid")]
    Envelope(#[source] serde_json::Error),
}

impl Mail {
    /// The text, for a message that is one.
    pub fn text(&self) -> Option<&str> {
        match &self.body {
            Body::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether anybody but `author` and `me` was addressed.
    pub fn is_room(&self, me: &PublicKey) -> bool {
        self.recipients.iter().any(|key| key != me && *key != self.author)
    }

    /// The place of a message among others found at once: time as claimed, then id.
    pub fn order(&self) -> (u64, EventId) {
        (self.sent_at_ms, self.id)
    }
}

/// Whom a wrap or a kind 4 event is for: its first well-formed `p` tag.
pub fn recipient(event: &Event) -> Option<PublicKey> {
    tags::people(&event.tags).next()
}

/// Checks that an event may be decrypted as mail: its kind and its size. The signature is the caller's to verify.
///
/// # Errors
/// [`OpenError::Kind`], [`OpenError::TooLarge`], [`OpenError::TooManyTags`], [`OpenError::NoRecipient`]
pub fn check_outer(event: &Event) -> Result<PublicKey, OpenError> {
    if ![kind::WRAP, kind::EPHEMERAL_WRAP, kind::LEGACY_DM].contains(&event.kind) {
        return Err(OpenError::Kind(event.kind.as_u16()));
    }
    if event.content.len() > CONTENT_BYTES_MAX {
        return Err(OpenError::TooLarge(event.content.len()));
    }
    few_tags(event.tags.len())?;
    recipient(event).ok_or(OpenError::NoRecipient)
}

/// The middle layer of a wrap: who signed, and what is to be decrypted next.
#[derive(Debug, Clone)]
pub struct Seal {
    /// Who sealed, by a verified signature.
    pub author: PublicKey,
    /// NIP-44 between the recipient and [`Seal::author`].
    pub ciphertext: String,
}

/// Reads a wrap's plaintext (NIP-59).
///
/// # Errors
/// When it is not an event of kind 13 with a valid id and signature.
pub fn open_seal(plaintext: &str) -> Result<Seal, OpenError> {
    few_tags(tags::count(plaintext).map_err(|error| OpenError::SealSyntax(error.into()))?)?;
    let event = Event::from_json(plaintext).map_err(OpenError::SealSyntax)?;
    if event.kind != kind::SEAL {
        return Err(OpenError::Kind(event.kind.as_u16()));
    }
    event.verify().map_err(OpenError::SealSignature)?;
    Ok(Seal { author: event.pubkey, ciphertext: event.content })
}

/// Reads a seal's plaintext, the rumor.
///
/// # Errors
/// When author, id, kind or size are not as NIP-17 and our limits want them.
pub fn open_rumor(seal: &Seal, plaintext: &str) -> Result<Mail, OpenError> {
    read_rumor(&seal.author, plaintext)
}

/// Reads a rumor that `sealed_by` vouches for.
///
/// # Errors
/// As [`open_rumor`].
pub fn read_rumor(sealed_by: &PublicKey, plaintext: &str) -> Result<Mail, OpenError> {
    let rumor = rumor_of(sealed_by, plaintext)?;
    let content = bounded(rumor.content)?;
    let body = match rumor.kind {
        kind if kind == kind::CHAT => Body::Text(content),
        kind if kind == kind::FILE => Body::File(content),
        kind if kind == kind::REACTION => Body::Reaction(content),
        kind if kind == kind::ENVELOPE => {
            Body::Envelope(Envelope::parse(&content).map_err(OpenError::Envelope)?)
        }
        other => return Err(OpenError::Kind(other.as_u16())),
    };
    let id = rumor.id.ok_or(OpenError::RumorId)?;
    Ok(read(id, Protocol::Nip17, rumor.pubkey, rumor.created_at, &rumor.tags, body))
}

/// Parses a rumor of any kind and checks what every rumor must hold: author as sealed, id recomputed.
///
/// # Errors
/// [`OpenError::RumorSyntax`], [`OpenError::TooManyTags`], [`OpenError::AuthorMismatch`], [`OpenError::RumorId`]
pub fn rumor_of(sealed_by: &PublicKey, plaintext: &str) -> Result<UnsignedEvent, OpenError> {
    few_tags(tags::count(plaintext).map_err(|error| OpenError::RumorSyntax(error.into()))?)?;
    let mut rumor = UnsignedEvent::from_json(plaintext).map_err(OpenError::RumorSyntax)?;
    if rumor.pubkey != *sealed_by {
        return Err(OpenError::AuthorMismatch { seal: *sealed_by, rumor: rumor.pubkey });
    }
    let claimed = rumor.id.take();
    rumor.ensure_id();
    if claimed.is_some() && claimed != rumor.id {
        return Err(OpenError::RumorId);
    }
    Ok(rumor)
}

/// Reads a kind 4 event whose content has been decrypted to `plaintext`.
///
/// # Errors
/// [`OpenError::TextTooLong`]
pub fn read_legacy(event: &Event, plaintext: String) -> Result<Mail, OpenError> {
    let body = Body::Text(bounded(plaintext)?);
    Ok(read(event.id, Protocol::Nip04, event.pubkey, event.created_at, &event.tags, body))
}

fn few_tags(count: usize) -> Result<(), OpenError> {
    if count > TAGS_MAX { Err(OpenError::TooManyTags(count)) } else { Ok(()) }
}

fn bounded(text: String) -> Result<String, OpenError> {
    if text.len() > TEXT_BYTES_MAX { Err(OpenError::TextTooLong(text.len())) } else { Ok(text) }
}

fn read(
    id: EventId,
    protocol: Protocol,
    author: PublicKey,
    at: Timestamp,
    tags: &nostr::Tags,
    body: Body,
) -> Mail {
    Mail {
        id,
        protocol,
        author,
        recipients: tags::people(tags).collect(),
        sent_at_ms: at.as_secs().saturating_mul(1000).saturating_add(tags::milliseconds(tags)),
        auto_hop: tags::hops(tags),
        reply_to: tags::parent(tags),
        body,
    }
}

/// Whether a text can go out as one message: by [`TEXT_BYTES_MAX`] and [`ESCAPED_BYTES_MAX`].
pub fn fits_one_message(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX
        && serde_json::to_string(text).is_ok_and(|escaped| escaped.len() <= ESCAPED_BYTES_MAX)
}

/// Why an event could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum UnwrapError {
    /// It never will be.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The signer's words; where it was only away, the same event may open later.
    #[error(transparent)]
    Signer(#[from] SignerError),
}

/// Opens an event with the recipient's signer. The event's own signature is the caller's to verify.
///
/// # Errors
/// What the event lacks, or what the signer said.
pub async fn unwrap(event: &Event, signer: &dyn Signer) -> Result<Mail, UnwrapError> {
    check_outer(event)?;
    if event.kind == kind::LEGACY_DM {
        let text = signer.nip04_decrypt(&event.pubkey, &event.content).await?;
        return Ok(read_legacy(event, text)?);
    }
    let seal = open_seal(&signer.nip44_decrypt(&event.pubkey, &event.content).await?)?;
    let rumor = signer.nip44_decrypt(&seal.author, &seal.ciphertext).await?;
    Ok(open_rumor(&seal, &rumor)?)
}

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draft {
    /// To whom.
    pub recipient: PublicKey,
    /// The kind of rumor: 14, or 9910 for an agent's envelope.
    pub kind: u16,
    /// Text or JSON.
    pub content: String,
    /// When it was decided, in milliseconds since 1970.
    pub at_ms: u64,
    /// The message it answers.
    pub reply_to: Option<EventId>,
    /// Hop count of an automatic message; 0 for a person's.
    pub auto_hop: u8,
}

impl Draft {
    /// A text of kind 14.
    pub fn text(recipient: PublicKey, text: impl Into<String>, at_ms: u64) -> Self {
        let kind = kind::CHAT.as_u16();
        Self { recipient, kind, content: text.into(), at_ms, reply_to: None, auto_hop: 0 }
    }

    /// The rumor (NIP-17), with its id. The same draft gives the same rumor.
    pub fn rumor(&self, author: PublicKey) -> UnsignedEvent {
        let (at, tags) = (self.created_at(), self.tags());
        let mut rumor = UnsignedEvent::new(author, at, self.kind.into(), tags, self.content.clone());
        rumor.ensure_id();
        rumor
    }

    /// The kind 4 event (NIP-04) around `ciphertext`.
    pub fn legacy(&self, author: PublicKey, ciphertext: String) -> UnsignedEvent {
        UnsignedEvent::new(author, self.created_at(), kind::LEGACY_DM, self.tags(), ciphertext)
    }

    fn created_at(&self) -> Timestamp {
        Timestamp::from_secs(self.at_ms / 1000)
    }

    fn tags(&self) -> Vec<Tag> {
        let mut out = vec![Tag::public_key(self.recipient)];
        out.extend(self.reply_to.map(Tag::event));
        out.push(tags::custom(tags::MS, [(self.at_ms % 1000).to_string()]));
        if self.auto_hop > 0 {
            out.push(tags::custom(tags::AUTO, [self.auto_hop.to_string()]));
        }
        out
    }
}

/// The seal around a rumor's ciphertext, to be signed by the author (NIP-59).
pub fn seal(author: PublicKey, ciphertext: String, at: Timestamp) -> UnsignedEvent {
    UnsignedEvent::new(author, at, kind::SEAL, Vec::<Tag>::new(), ciphertext)
}

/// The wrap around a seal's ciphertext, to be signed by a key made for this wrap alone (NIP-59).
pub fn wrap(one_time: PublicKey, recipient: PublicKey, ciphertext: String, at: Timestamp) -> UnsignedEvent {
    UnsignedEvent::new(one_time, at, kind::WRAP, vec![Tag::public_key(recipient)], ciphertext)
}

/// A time up to [`BACKDATE_S_MAX`] before `now`, chosen by `entropy` (NIP-59).
pub fn backdate(now: Timestamp, entropy: u32) -> Timestamp {
    let back = u64::from(entropy) % BACKDATE_S_MAX;
    Timestamp::from_secs(now.as_secs().saturating_sub(back))
}

/// The JSON of a rumor, as it is sealed.
pub fn to_json(rumor: &UnsignedEvent) -> String {
    rumor.as_json()
}

#[cfg(test)]
mod tests;
