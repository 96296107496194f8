//! Envelopes: the items of an inbox, each of which makes one tick.

use oa_nips::hex::Hash;
use oa_nips::mail::{Body, Mail, Protocol};
use oa_nips::nostr::hashes::{Hash as _, sha256};
use oa_nips::nostr::{Event, EventId, PublicKey, RelayUrl, ToBech32};
use oa_nips::template;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::agent::AgentId;

/// The name of an envelope, and the key of its dedup: a rumor's id, or a hash of what made it.
pub type EnvelopeId = Hash;

/// What arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A direct message.
    Dm,
    /// A file's address by direct message.
    File,
    /// A reaction to a message.
    Reaction,
    /// Another agent's envelope (rumor 9910), in `data`.
    Message,
    /// An alarm went off.
    Alarm,
    /// The agent was created.
    Created,
    /// Its operator asked for a tick.
    Poke,
    /// Nothing came for a while: the agent's last tick before it is dormant.
    Sleep,
    /// An envelope was given up; `text` says why.
    Error,
    /// What became of a change that needed consent, in `data`.
    Approval,
    /// Money came for the agent, or a payment ended that it was told to wait for, in `data`.
    Payment,
    /// A message of a websocket that the agent keeps open, in `data`. Nobody is answered.
    Ws,
    /// Files in a mounted folder of the host have changed: `data` names them. Nobody is answered.
    Workspace,
    /// A public event that a subscription of the agent heard, in `data`. It has no origin: nobody is answered.
    Event,
}

/// Who is answered, and how: the sender of the mail that an envelope goes back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Whose mail it was.
    pub peer: PublicKey,
    /// How it travelled.
    pub protocol: Protocol,
    /// Where it was found; answered there when the peer names no relays.
    pub relay: Option<RelayUrl>,
    /// The message itself.
    pub mail: Option<EventId>,
    /// Its hop count.
    pub auto_hop: u8,
}

/// What an alarm that went off tells its tick.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlarmFired {
    /// Which.
    pub id: String,
    /// When it should have, in seconds since 1970.
    pub due: u64,
    /// Recurrences before this one that were slept through.
    pub missed: u64,
}

/// How an event came to the agent. Kept by the alarms of its tick, so that they are trusted no further than it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// Whose event it is.
    pub author: PublicKey,
    /// The subscriptions that it matches.
    pub subscriptions: Vec<String>,
    /// The automatic messages and events that led to it.
    pub auto_hop: u8,
}

/// Which rule of the plumber let an envelope in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plumbed {
    /// Its name.
    pub rule: String,
    /// The agent it was addressed to, where it was handed on to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<(AgentId, PublicKey)>,
}

/// One item of an inbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Unique for its agent, for ever.
    pub id: EnvelopeId,
    /// What arrived.
    pub kind: Kind,
    /// Who is answered.
    pub origin: Option<Origin>,
    /// What it says.
    pub text: String,
    /// The JSON of a [`Kind::Message`] or a [`Kind::Event`], or what a reaction refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// The sender's claim of when, in milliseconds since 1970.
    pub sent_at_ms: u64,
    /// When the node took it in: the clock of its tick.
    pub accepted_at_ms: u64,
    /// Set for [`Kind::Alarm`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarm: Option<AlarmFired>,
    /// Set for [`Kind::Event`] and what else nobody said to the agent, and for alarms that the tick of one has set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<Heard>,
    /// Set for what the plumber let in: all that comes from outside, and alarms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plumbed: Option<Plumbed>,
    /// The message that it answers, by its author's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_reply_to: Option<EventId>,
}

/// How far an agent trusts who woke it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Whom the agent obeys.
    Owner,
    /// Let in by owner or manifest.
    Allowed,
    /// Anybody else.
    Stranger,
    /// The node itself: creation, a poke.
    Node,
}

impl Envelope {
    /// The envelope of a message that was opened.
    pub fn from_mail(mail: &Mail, relay: Option<RelayUrl>, accepted_at_ms: u64) -> Self {
        let (kind, text, data) = match &mail.body {
            Body::Text(text) => (Kind::Dm, text.clone(), None),
            Body::File(url) => (Kind::File, url.clone(), None),
            Body::Reaction(sign) => {
                (Kind::Reaction, sign.clone(), mail.reply_to.map(|id| json!(id.to_hex())))
            }
            Body::Envelope(envelope) => (Kind::Message, String::new(), serde_json::to_value(envelope).ok()),
        };
        let (protocol, auto_hop) = (mail.protocol, mail.auto_hop);
        let origin = Origin { peer: mail.author, protocol, relay, mail: Some(mail.id), auto_hop };
        let id = oa_nips::hex::Hex(mail.id.to_bytes());
        let sent_at_ms = mail.sent_at_ms;
        Self {
            id,
            kind,
            origin: Some(origin),
            text,
            data,
            sent_at_ms,
            accepted_at_ms,
            alarm: None,
            heard: None,
            plumbed: None,
            in_reply_to: mail.reply_to,
        }
    }

    /// The envelope of an event that these subscriptions heard. Its text is empty: an event is nothing that anybody
    /// said to the agent.
    pub fn from_event(event: &Event, subscriptions: Vec<String>, accepted_at_ms: u64) -> Self {
        let heard = Heard { author: event.pubkey, subscriptions, auto_hop: template::auto_hop(event) };
        Self {
            id: oa_nips::hex::Hex(event.id.to_bytes()),
            data: serde_json::to_value(event).ok(),
            sent_at_ms: event.created_at.as_secs().saturating_mul(1000),
            heard: Some(heard),
            ..Self::from_node(Kind::Event, "", accepted_at_ms)
        }
    }

    /// The envelope of an alarm: its id is `alarm:<id>:<due>`, so one firing is one envelope.
    pub fn from_alarm(
        agent: AgentId,
        fired: AlarmFired,
        text: String,
        origin: Option<Origin>,
        now_ms: u64,
    ) -> Self {
        let id = hash(&format!("alarm:{agent}:{}:{}", fired.id, fired.due));
        let sent_at_ms = fired.due.saturating_mul(1000);
        let alarm = Some(fired);
        Self { id, origin, text, sent_at_ms, alarm, ..Self::from_node(Kind::Alarm, "", now_ms) }
    }

    /// An envelope of the node's own making, unique by `name`.
    pub fn from_node(kind: Kind, name: &str, now_ms: u64) -> Self {
        let (origin, text) = (None, String::new());
        let id = hash(name);
        Self {
            id,
            kind,
            origin,
            text,
            data: None,
            sent_at_ms: now_ms,
            accepted_at_ms: now_ms,
            alarm: None,
            heard: None,
            plumbed: None,
            in_reply_to: None,
        }
    }

    /// The same, caused by another: it is answered where that one was, and trusted no further. Whatever an agent, or the
    /// node for it, makes out of a tick must say so, or a stranger's words would come back as the node's.
    #[must_use]
    pub fn because_of(self, cause: Option<&Self>) -> Self {
        let origin = cause.and_then(|cause| cause.origin.clone());
        Self { origin, heard: cause.and_then(|cause| cause.heard.clone()), ..self }
    }

    /// The same, let in by a rule; `via` whom it was addressed to, where that is another agent.
    #[must_use]
    pub fn by_rule(self, rule: impl Into<String>, via: Option<(AgentId, PublicKey)>) -> Self {
        Self { plumbed: Some(Plumbed { rule: rule.into(), via }), ..self }
    }

    /// The rule that let it in.
    pub fn rule(&self) -> Option<&str> {
        self.plumbed.as_ref().map(|plumbed| plumbed.rule.as_str())
    }

    /// Who sent it; nobody for alarms and the node's own.
    pub fn sender(&self) -> Option<PublicKey> {
        if self.kind == Kind::Event {
            return self.heard.as_ref().map(|heard| heard.author);
        }
        let is_mail = matches!(self.kind, Kind::Dm | Kind::File | Kind::Reaction | Kind::Message);
        self.origin.as_ref().filter(|_| is_mail).map(|origin| origin.peer)
    }

    /// The automatic messages and events that led to it: what its tick sends counts one more.
    pub fn auto_hop(&self) -> u8 {
        let heard = self.heard.as_ref().map(|heard| heard.auto_hop);
        self.origin.as_ref().map(|origin| origin.auto_hop).or(heard).unwrap_or(0)
    }

    /// The content of `/trigger`.
    pub fn trigger(&self, trust: Trust) -> Vec<u8> {
        let npub = |key: PublicKey| key.to_bech32().unwrap_or_default();
        let origin = self.origin.as_ref().map(|origin| {
            json!({
                "from": npub(origin.peer),
                "protocol": origin.protocol,
                "mail": origin.mail.map(|id| id.to_hex()),
                "auto_hop": origin.auto_hop,
            })
        });
        let alarm = self.alarm.as_ref().map(
            |alarm| json!({ "id": alarm.id, "due": alarm.due, "missed": alarm.missed, "text": self.text }),
        );
        json!({
            "id": self.id,
            "kind": self.kind,
            "from": self.sender().map(npub),
            "trust": trust,
            "text": self.text,
            "protocol": self.origin.as_ref().map(|origin| origin.protocol),
            "sent_at": self.sent_at_ms / 1000,
            "accepted_at": self.accepted_at_ms / 1000,
            "data": self.data,
            "origin": origin,
            "alarm": alarm,
            "subscriptions": self.heard.as_ref().map(|heard| &heard.subscriptions),
            "in_reply_to": self.in_reply_to.map(|id| id.to_hex()),
            "rule": self.rule(),
            "addressed_to": self.plumbed.as_ref().and_then(|plumbed| plumbed.via).map(|(_, key)| npub(key)),
        })
        .to_string()
        .into_bytes()
    }
}

fn hash(text: &str) -> EnvelopeId {
    oa_nips::hex::Hex(sha256::Hash::hash(text.as_bytes()).to_byte_array())
}
