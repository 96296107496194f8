//! What rules can tell about an envelope.

use oa_nips::filter;
use oa_nips::kind;
use oa_nips::mail::{Body, Mail, Protocol};
use oa_nips::nostr::{Event, PublicKey};
use serde::{Deserialize, Serialize};

/// Where something came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A direct message.
    Dm,
    /// A file's address by direct message.
    File,
    /// A reaction to a message.
    Reaction,
    /// An agent's envelope.
    Message,
    /// An event that a subscription heard and that names the agent; rules about events are about it too.
    Mention,
    /// Any other event that a subscription heard.
    Event,
    /// A job that somebody wants done.
    Job,
    /// Money came, or went.
    Payment,
    /// An alarm of the agent went off.
    Alarm,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Dm,
        Self::File,
        Self::Reaction,
        Self::Message,
        Self::Mention,
        Self::Event,
        Self::Job,
        Self::Payment,
        Self::Alarm,
    ];

    /// The rule that lets it in when no other matches.
    pub fn default_rule(self) -> &'static str {
        match self {
            Self::Dm => "default-dm",
            Self::File => "default-file",
            Self::Reaction => "default-reaction",
            Self::Message => "default-message",
            Self::Mention => "default-mention",
            Self::Event => "default-event",
            Self::Job => "default-job",
            Self::Payment => "default-payment",
            Self::Alarm => "default-alarm",
        }
    }

    /// Whether somebody sent it: an agent's own alarms and money are no other's business.
    pub fn is_from_outside(self) -> bool {
        !matches!(self, Self::Alarm | Self::Payment)
    }

    /// Whether a rule about `wanted` is about it.
    pub(super) fn is(self, wanted: Self) -> bool {
        self == wanted || (self == Self::Mention && wanted == Self::Event)
    }
}

/// An envelope to be.
#[derive(Debug, Clone)]
pub struct Item<'a> {
    /// Where it came from.
    pub source: Source,
    /// The event's kind, or the rumor's; nothing for what was no event.
    pub kind: Option<u16>,
    /// Tags whose names are one letter. Of a message: whom it is addressed to, and what it answers.
    pub tags: Vec<(char, String)>,
    /// Whose it is.
    pub sender: Option<PublicKey>,
    /// Whether that is an agent of this node.
    pub is_agents: bool,
    /// What it says.
    pub text: &'a str,
}

impl<'a> Item<'a> {
    /// A message.
    pub fn of_mail(mail: &'a Mail, is_agents: bool) -> Self {
        let (source, kind, text) = match &mail.body {
            Body::Text(text) if mail.protocol == Protocol::Nip04 => {
                (Source::Dm, kind::LEGACY_DM, text.as_str())
            }
            Body::Text(text) => (Source::Dm, kind::CHAT, text.as_str()),
            Body::File(url) => (Source::File, kind::FILE, url.as_str()),
            Body::Reaction(sign) => (Source::Reaction, kind::REACTION, sign.as_str()),
            Body::Envelope(_) => (Source::Message, kind::ENVELOPE, ""),
        };
        let mut tags: Vec<(char, String)> = mail.recipients.iter().map(|key| ('p', key.to_hex())).collect();
        tags.extend(mail.reply_to.map(|id| ('e', id.to_hex())));
        Self { source, kind: Some(kind.as_u16()), tags, sender: Some(mail.author), is_agents, text }
    }

    /// An event that a subscription of the agent `me` heard.
    pub fn of_event(event: &'a Event, me: &PublicKey, is_agents: bool) -> Self {
        let tags: Vec<(char, String)> =
            filter::letters(event).map(|(letter, value)| (letter, value.to_owned())).collect();
        let (kind, me) = (Some(event.kind.as_u16()), me.to_hex());
        let is_mention = tags.iter().any(|(letter, value)| *letter == 'p' && *value == me);
        let source = if is_mention { Source::Mention } else { Source::Event };
        Self { source, kind, tags, sender: Some(event.pubkey), is_agents, text: &event.content }
    }

    /// An alarm that goes off.
    pub fn of_alarm(text: &'a str) -> Self {
        Self { source: Source::Alarm, kind: None, tags: Vec::new(), sender: None, is_agents: false, text }
    }

    /// Money that came, or a payment that ended.
    pub fn of_payment() -> Self {
        Self { source: Source::Payment, ..Self::of_alarm("") }
    }
}
