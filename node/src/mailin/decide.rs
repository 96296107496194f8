//! What becomes of an opened message: the inbox, an answer by the node itself, or the log of refusals.

use oa_nips::envelope::Envelope as Message;
use oa_nips::hex::Hex;
use oa_nips::kind;
use oa_nips::mail::{AUTO_HOPS_MAX, Body, Draft, Mail, Protocol};
use oa_nips::nostr::{EventId, PublicKey, RelayUrl, ToBech32};
use oa_nips::record::canonical;

use crate::agent::AgentId;
use crate::agent::envelope::{Envelope, Trust};
use crate::agent::mailbox::{self, Bucket, Hearing, Refusal};
use crate::agent::manifest::{Manifest, Overflow, Replies};
use crate::agent::task::asks_for_work;
use crate::codes;
use crate::engine::shared::Shared;
use crate::mailin::node;
use crate::mailin::open::{EventRef, Opened};
use crate::notice::Notice;
use crate::plumber::{Item, Place, Route};
use crate::store::backend::BackendError;
use crate::store::row::{AgentRow, Outgoing};
use crate::store::write::{Answer, Delivery, Settled, Write};

/// Strangers looked through for a pairing code.
const PEERS_LOOKED_AT: usize = 10_000;

/// A decision on its way to disk, and what to tell once it is there.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) agent: AgentId,
    pub(super) name: String,
    pub(super) from: Option<PublicKey>,
    pub(super) write: Write,
    /// What lands with it.
    pub(super) also: Vec<Write>,
    /// Whose next message must not be judged before this is on disk.
    pub(super) binds: Binds,
    id: Option<EventId>,
    protocol: Protocol,
}

/// Whose next message a decision matters to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binds {
    /// Nobody's: what lands is right in any order. A stranger's code is one of these, of which the store keeps the first,
    /// so that a flood of strangers costs a flush for all of them and not one for each.
    Nobody,
    /// The sender's to the same agent.
    Sender,
    /// Everybody's: it changes who is heard.
    All,
}

impl Decided {
    /// Whether a message from there must wait until this is on disk.
    pub(super) fn holds_up(&self, agent: AgentId, author: &PublicKey) -> bool {
        self.binds == Binds::Sender && self.agent == agent && self.from.as_ref() == Some(author)
    }

    pub(super) fn mail_in(&self) -> Notice {
        Notice::MailIn {
            agent: self.name.clone(),
            from: self.from.and_then(|key| key.to_bech32().ok()).unwrap_or_default(),
            protocol: self.protocol,
            id: self.id.map(|id| id.to_hex()).unwrap_or_default(),
        }
    }

    /// Whether something is said or decided in the name of agent or node.
    pub(super) fn answers(&self) -> bool {
        match &self.write {
            Write::Settle(settled) => !matches!(settled.answer, Answer::Refuse { .. } | Answer::Own),
            _ => false,
        }
    }

    pub(super) fn refused(&self, reason: &str) -> Notice {
        let from = self.from.and_then(|key| key.to_bech32().ok());
        Notice::MailRefused { agent: self.name.clone(), from, reason: reason.to_owned() }
    }
}

/// Decides; nothing for what leaves no trace.
pub(super) fn decide(
    shared: &Shared,
    opened: Opened,
    relay: Option<&RelayUrl>,
) -> Result<Option<Decided>, BackendError> {
    let now_ms = shared.time.now_ms();
    let (agent, mail, event, pow_bits) = match opened {
        // Commands go another way.
        Opened::Nothing | Opened::Later | Opened::Command { .. } => return Ok(None),
        Opened::Foreign(event) => return Ok(Some(Decided::quiet(Write::Handled(vec![event])))),
        Opened::Unreadable { agent, event, reason } => {
            let Some(row) = shared.store.agent(agent)? else { return Ok(None) };
            let answer = Answer::Refuse { from: None, reason: Refusal::Unreadable, detail: cut(&reason) };
            let settled = Settled { agent, event, envelope: None, at_ms: now_ms, answer };
            return Ok(Some(Decided::about(&row, None, Write::Settle(Box::new(settled)))));
        }
        Opened::Mail { agent, mail, event, pow_bits } => (agent, mail, event, pow_bits),
    };
    let Some(row) = shared.store.agent(agent)? else { return Ok(None) };
    if agent == AgentId::NODE {
        return node::decide(&Case { shared, row: &row, mail: &mail, event, relay, now_ms }).map(Some);
    }
    let manifest = shared.manifests.get(&shared.store, agent, row.version)?;
    let case = Case { shared, row: &row, mail: &mail, event, relay, now_ms };
    if mail.author == row.pubkey {
        return Ok(Some(case.settle(Answer::Own)));
    }
    if mail.is_room(&row.pubkey) && !manifest.dm.rooms {
        return Ok(Some(case.refuse(Refusal::Room)));
    }
    if let Some(stopped) = node::stop_code(&case)? {
        return Ok(Some(stopped));
    }
    if let Some(answered) = case.command()? {
        return Ok(Some(answered));
    }
    let item = Item::of_mail(&mail, shared.plumber.is_agents(&mail.author));
    let Route { rule, place } = shared.plumber.place(&item, &row)?;
    match place {
        Place::Inbox => {}
        Place::Nowhere => return Ok(Some(case.refuse_by(&rule, Refusal::Dropped))),
        Place::Agent((to, manifest)) => return case.hand_on(&rule, &to, &manifest, pow_bits).map(Some),
    }
    let peer = shared.store.peer(agent, &mail.author)?.unwrap_or_default();
    let hearing = mailbox::hearing(&manifest, row.owner.as_ref(), &peer, &mail.author, pow_bits);
    Ok(Some(match hearing {
        Hearing::Heard(trust) => match &mail.body {
            Body::Envelope(Message::Ping { nonce }) => case.pong(nonce, peer.bucket, &manifest.replies),
            _ => case.deliver(&row, rule, trust, manifest.overflow),
        },
        Hearing::Refused(reason) => case.refuse(reason),
        // A machine is not asked to pair: two of them would go on for ever.
        Hearing::Pair if mail.auto_hop > 0 => case.refuse(Refusal::Pairing),
        Hearing::Pair => case.pair(),
    }))
}

fn cut(text: &str) -> String {
    text.chars().take(200).collect()
}

impl Decided {
    fn quiet(write: Write) -> Self {
        let (agent, name, protocol) = (AgentId(u32::MAX), String::new(), Protocol::Nip17);
        Self { agent, name, from: None, write, also: Vec::new(), binds: Binds::Nobody, id: None, protocol }
    }

    fn about(row: &AgentRow, mail: Option<&Mail>, write: Write) -> Self {
        let is_policy = matches!(
            &write,
            Write::Settle(settled)
                if matches!(settled.answer, Answer::Claimed { .. } | Answer::WrongClaim { .. } | Answer::Allow { .. })
        );
        Self {
            agent: row.id,
            name: row.name.clone(),
            from: mail.map(|mail| mail.author),
            write,
            also: Vec::new(),
            binds: if is_policy { Binds::All } else { Binds::Nobody },
            id: mail.map(|mail| mail.id),
            protocol: mail.map_or(Protocol::Nip17, |mail| mail.protocol),
        }
    }
}

/// One message about to be decided.
pub(super) struct Case<'a> {
    pub(super) shared: &'a Shared,
    pub(super) row: &'a AgentRow,
    pub(super) mail: &'a Mail,
    pub(super) event: EventRef,
    pub(super) relay: Option<&'a RelayUrl>,
    pub(super) now_ms: u64,
}

impl Case<'_> {
    /// Into an inbox: that of the agent it is addressed to, or another's to whom a rule hands it on.
    fn deliver(&self, to: &AgentRow, rule: String, trust: Trust, overflow: Overflow) -> Decided {
        let is_work = matches!(&self.mail.body, Body::Envelope(message) if asks_for_work(message));
        if is_work && trust == Trust::Stranger {
            return self.refuse_by(&rule, Refusal::NotAllowed);
        }
        let via = (to.id != self.row.id).then_some((self.row.id, self.row.pubkey));
        let envelope = Envelope::from_mail(self.mail, self.relay.cloned(), self.now_ms).by_rule(rule, via);
        let delivery = Delivery { agent: to.id, envelope, trust, overflow, event: self.event };
        Decided::about(to, Some(self.mail), Write::Deliver(Box::new(delivery)))
    }

    /// The node answers a ping itself, as often as the agent would answer a machine.
    fn pong(&self, nonce: &str, bucket: Option<Bucket>, limits: &Replies) -> Decided {
        let peer = self.mail.author;
        let drawn = Bucket::take(bucket, limits, true, self.now_ms);
        let Some(drawn) = drawn.filter(|_| self.mail.auto_hop < AUTO_HOPS_MAX) else {
            return self.refuse(Refusal::TooOften);
        };
        let pong = Message::Pong { nonce: nonce.to_owned() }.to_json();
        let Outgoing::Mail { mut draft, protocol, relay } = self.reply(pong) else {
            return self.refuse(Refusal::TooOften);
        };
        draft.kind = kind::ENVELOPE.as_u16();
        let mut settled = self.settle(Answer::Say { reply: Outgoing::Mail { draft, protocol, relay } });
        settled.also.push(Write::Draw(self.row.id, peer, drawn));
        // The next ping is judged by what this one left.
        settled.binds = Binds::Sender;
        settled
    }

    /// To another agent, if that one hears the sender. It does not ask strangers to pair: they did not write to it.
    fn hand_on(
        &self,
        rule: &str,
        to: &AgentRow,
        manifest: &Manifest,
        pow_bits: u8,
    ) -> Result<Decided, BackendError> {
        let peer = self.shared.store.peer(to.id, &self.mail.author)?.unwrap_or_default();
        let hearing = mailbox::hearing(manifest, to.owner.as_ref(), &peer, &self.mail.author, pow_bits);
        let refuse = |reason| self.refuse_by(&format!("{rule}, to {}", to.name), reason);
        Ok(match hearing {
            Hearing::Heard(trust) => self.deliver(to, rule.to_owned(), trust, manifest.overflow),
            Hearing::Refused(reason) => refuse(reason),
            Hearing::Pair => refuse(Refusal::NotAllowed),
        })
    }

    /// Refused on the way that a rule shows.
    fn refuse_by(&self, rule: &str, reason: Refusal) -> Decided {
        tracing::info!(agent = self.row.name, rule, %reason, "mail goes nowhere");
        let detail = format!("rule {rule}");
        self.settle(Answer::Refuse { from: Some(self.mail.author), reason, detail })
    }

    pub(super) fn settle(&self, answer: Answer) -> Decided {
        let settled = Settled {
            agent: self.row.id,
            event: self.event,
            envelope: Some((Hex(self.mail.id.to_bytes()), self.mail.sent_at_ms)),
            at_ms: self.now_ms,
            answer,
        };
        Decided::about(self.row, Some(self.mail), Write::Settle(Box::new(settled)))
    }

    pub(super) fn refuse(&self, reason: Refusal) -> Decided {
        self.settle(Answer::Refuse { from: Some(self.mail.author), reason, detail: String::new() })
    }

    pub(super) fn reply(&self, text: impl Into<String>) -> Outgoing {
        let mut draft = Draft::text(self.mail.author, text, self.now_ms);
        draft.reply_to = Some(self.mail.id);
        draft.auto_hop = (self.mail.auto_hop + 1).min(AUTO_HOPS_MAX);
        Outgoing::Mail { draft, protocol: self.mail.protocol, relay: self.relay.cloned() }
    }

    /// What the node itself answers, whatever the program: `claim CODE`, and the owner's `allow CODE`.
    fn command(&self) -> Result<Option<Decided>, BackendError> {
        let text = self.mail.text().unwrap_or_default().trim();
        let Some((verb, code)) = text.split_once(char::is_whitespace) else { return Ok(None) };
        let has_claim = self.row.claim.as_ref().is_some_and(|claim| claim.expires_at_ms > self.now_ms);
        let is_sealed = self.mail.protocol == Protocol::Nip17 && self.mail.auto_hop == 0;
        match verb.to_ascii_lowercase().as_str() {
            "claim" if has_claim && is_sealed => Ok(Some(self.claim(code.trim()))),
            "allow" if self.row.owner == Some(self.mail.author) && is_sealed => {
                self.allow(code.trim()).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn claim(&self, code: &str) -> Decided {
        let by = self.mail.author;
        if self.row.claim.as_ref().is_none_or(|claim| codes::digest(code) != claim.digest) {
            let reply = self.reply("That is not the code. Please look at it again.");
            return self.settle(Answer::WrongClaim { reply });
        }
        let reply = self.reply(format!(
            "Welcome. You are now the owner of {}, and I obey you alone. Say help to see what I can do.",
            self.row.name
        ));
        self.settle(Answer::Claimed { by, reply })
    }

    fn pair(&self) -> Decided {
        let known = self.shared.store.peer(self.row.id, &self.mail.author).ok().flatten();
        let code = known.and_then(|peer| peer.pairing).unwrap_or_else(codes::code);
        let reply = self.reply(format!(
            "I only talk to people my owner has let in. Ask my owner to send me: allow {code}"
        ));
        self.settle(Answer::Pair { with: self.mail.author, code, reply })
    }

    fn allow(&self, wanted: &str) -> Result<Decided, BackendError> {
        let peers = self.shared.store.peers(self.row.id, PEERS_LOOKED_AT)?;
        let by_code = |(key, peer): (PublicKey, mailbox::Peer)| {
            peer.pairing.filter(|code| codes::digest(code) == codes::digest(wanted)).map(|_| key)
        };
        let found = peers.into_iter().find_map(by_code).or_else(|| PublicKey::parse(wanted).ok());
        let Some(peer) = found else {
            let text = format!("Nobody waits with the code {}. An npub works too.", canonical(&cut(wanted)));
            return Ok(self.settle(Answer::Say { reply: self.reply(text) }));
        };
        let npub = peer.to_bech32().unwrap_or_default();
        let reply = self.reply(format!("From now on I talk to {npub}."));
        Ok(self.settle(Answer::Allow { peer, reply }))
    }
}
