//! Consent: changes that somebody must agree to before they are made (DESIGN section 7).
//!
//! A tick that asks for such a change is refused with `approval_required`, and the change is *frozen*: a row with
//! everything needed to make it later, which lands with the tick. The node, in its own name, sends the approvers a
//! message with a code that the agent cannot read. An approver answers the node (`answer`); on a yes the node makes
//! the frozen change once, under its original key (`perform`), and the agent finds the reply in an envelope.

mod answer;
#[cfg(test)]
pub(crate) mod fixture;
mod index;
mod perform;
mod words;

use std::sync::Arc;

use oa_nips::files::Code;
use oa_nips::hex::{Hash, Hex};
use oa_nips::mail::{Draft, Protocol};
use oa_nips::nostr::{EventId, PublicKey};
use oa_nips::port::RowWrite;
use oa_wallet::msat::Msat;
use serde::{Deserialize, Serialize};

pub(crate) use answer::{Answered, Said, answer, decided, read, words};
pub(crate) use index::Index;
pub(crate) use perform::start;
pub(crate) use words::{base64, deed, digest, line};

use crate::agent::AgentId;
use crate::agent::envelope::{EnvelopeId, Heard, Origin};
use crate::agent::manifest::{Category, Manifest};
use crate::codes;
use crate::discovery::asks_a_domain;
use crate::keyring::Keyring;
use crate::money::{Money, PayAsked, holder};
use crate::namespace::service::{Change, Context, Subject};
use crate::namespace::{Consent, Error, Path};
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::row::{AgentRow, Blob, Outgoing};
use crate::store::write::Write;

/// The space of approvals among the store's rows.
pub(crate) const SPACE: &str = "approvals";
/// How long an approver has, in milliseconds.
pub const VALID_MS: u64 = 24 * 3600 * 1000;
/// How long an approval is remembered, and its code not used again, in milliseconds.
pub const KEPT_MS: u64 = 30 * 24 * 3600 * 1000;
/// Approvals of one agent that wait at once.
pub const WAITING_MAX: usize = 20;
/// Bytes of a change that is frozen: it is kept for a day, and somebody is to read it.
pub const FROZEN_BYTES_MAX: usize = 64 * 1024;
/// Approvals of a node that are remembered.
pub const REMEMBERED_MAX: usize = 10_000;

/// A frozen change, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Approval {
    /// Eight hexadecimal digits.
    pub(crate) id: String,
    /// Who wants it.
    pub(crate) agent: AgentId,
    /// The envelope in whose tick it was asked for, and who is answered.
    pub(crate) envelope: EnvelopeId,
    pub(crate) origin: Option<Origin>,
    /// The event of that envelope, if it was one: what is told of the wish is trusted no further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) heard: Option<Heard>,
    /// Names the change: the key it would have had in the tick.
    pub(crate) key: Hash,
    /// Where, in the agent's tree.
    pub(crate) path: String,
    /// What.
    pub(crate) change: Frozen,
    pub(crate) category: Category,
    /// Milliseconds since 1970.
    pub(crate) asked_at_ms: u64,
    pub(crate) expires_at_ms: u64,
    /// SHA-256 of the code.
    pub(crate) code: Hash,
    /// The messages that asked, to which a reaction is an answer.
    pub(crate) messages: Vec<EventId>,
    pub(crate) state: Stage,
}

/// How far an approval is, named by what it waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// Waits for an approver.
    Waiting,
    /// Waits for the node to make the change.
    Granted { by: PublicKey },
    /// Waits for the change to end: it may have been made.
    Doing { by: PublicKey },
    /// Waits for nothing.
    Done,
    /// Waits for nothing: somebody said no.
    Denied { by: PublicKey },
    /// Waits for nothing: nobody said anything.
    Expired,
}

impl Stage {
    /// The word for it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Granted { .. } => "granted",
            Self::Doing { .. } => "doing",
            Self::Done => "done",
            Self::Denied { .. } => "denied",
            Self::Expired => "expired",
        }
    }
}

/// A change at rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Frozen {
    pub(crate) verb: String,
    #[serde(default)]
    pub(crate) body: Blob,
    /// Where it is moved to, in the agent's tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<String>,
}

impl Frozen {
    fn of(change: &Change) -> Self {
        let to = match change {
            Change::Rename(to) => Some(to.to_string()),
            _ => None,
        };
        Self { verb: change.verb().to_owned(), body: Blob(change.body().to_vec()), to }
    }

    /// The change again; nothing if the row is of a later release.
    pub(crate) fn thaw(&self) -> Option<Change> {
        let body = self.body.0.clone();
        Some(match self.verb.as_str() {
            "write" => Change::Write(body),
            "append" => Change::Append(body),
            "call" => Change::Call(body),
            "mkdir" => Change::Mkdir,
            "remove" => Change::Remove,
            "rename" => Change::Rename(self.to.as_deref()?.parse().ok()?),
            _ => return None,
        })
    }
}

/// An approval with the version of its row.
pub(crate) type Versioned = (u64, Approval);

/// Every approval that is remembered.
pub(crate) fn all(store: &Store) -> Result<Vec<Versioned>, BackendError> {
    let rows = store.rows(SPACE, "", REMEMBERED_MAX)?;
    let parse = |(_, row): (String, oa_nips::port::Row)| {
        Some((row.version, serde_json::from_slice(&row.value).ok()?))
    };
    Ok(rows.into_iter().filter_map(parse).collect())
}

/// One approval.
pub(crate) fn one(store: &Store, id: &str) -> Result<Option<Versioned>, BackendError> {
    let row = store.row(SPACE, id)?;
    Ok(row.and_then(|row| Some((row.version, serde_json::from_slice(&row.value).ok()?))))
}

/// The write that moves an approval on; it fails if somebody else has.
pub(crate) fn put(approval: &Versioned) -> Write {
    Write::Row(row(approval))
}

fn row((expect_version, approval): &Versioned) -> RowWrite {
    let value = serde_json::to_vec(approval).ok();
    let (space, key) = (SPACE.to_owned(), approval.id.clone());
    RowWrite { space, key, expect_version: *expect_version, value }
}

/// What a change is, for autonomy: nothing for the agent's own files and answers.
pub fn category(path: &Path, change: &Change) -> Option<Category> {
    let mut parts = path.components();
    match (parts.next()?, parts.next()) {
        ("nostr", Some("publish" | "dm" | "send")) => Some(Category::SendMessage),
        ("http" | "ws", _) => Some(Category::ExternalApi),
        // A name is asked of its domain, as any host is.
        ("peers", Some("find")) if asks_a_domain(change.body()) => Some(Category::ExternalApi),
        ("children", _) => Some(Category::CreateAgent),
        ("goals", _) => Some(Category::ModifyGoals),
        ("tools", _) => Some(Category::ExecuteCode),
        ("workspace", _) if !matches!(change, Change::Call(_)) => Some(Category::WriteFile),
        ("wallet", Some("pay")) => Some(Category::SpendMoney),
        _ => None,
    }
}

/// The payment that is asked for; nothing for what is none, or cannot be read and will be refused.
fn payment(path: &Path, change: &Change) -> Option<PayAsked> {
    let (true, Change::Call(body)) = (path.as_str() == "/wallet/pay", change) else { return None };
    PayAsked::parse(body).ok()
}

/// What a payment comes to, without fees.
fn cost(path: &Path, change: &Change) -> Option<Msat> {
    payment(path, change)?.bill().ok().map(|(_, amount)| amount)
}

/// Freezes what needs consent.
#[derive(Debug)]
pub(crate) struct Freezer {
    /// What was frozen before.
    pub(crate) wishes: Arc<Index>,
    pub(crate) keyring: Arc<dyn Keyring>,
    /// Those the node's configuration lets consent for any agent.
    pub(crate) approvers: Vec<PublicKey>,
    pub(crate) time: Arc<dyn crate::time::Time>,
    /// Which knows what an agent has spent without consent.
    pub(crate) money: Option<Money>,
}

impl Freezer {
    /// Whom an agent's wishes are put before: owner, approvers of its manifest and of the node.
    fn approvers(&self, row: &AgentRow, manifest: &Manifest) -> Vec<PublicKey> {
        let listed = manifest.roles.approvers.iter().map(|npub| npub.0);
        let mut all: Vec<PublicKey> =
            row.owner.into_iter().chain(listed).chain(self.approvers.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether a payment is above what the agent may still spend today without asking.
    fn is_dear(&self, cx: &Context<'_>, subject: &Subject<'_>, path: &Path, change: &Change) -> bool {
        let (Some(money), Some(asked)) = (&self.money, payment(path, change)) else { return false };
        money.asks(&holder(subject.row.id), &subject.manifest.caps("/wallet"), &asked, cx.key)
    }

    fn freeze_now(
        &self,
        cx: &Context<'_>,
        subject: &Subject<'_>,
        path: &Path,
        change: &Change,
        category: Category,
    ) -> Result<(Vec<Write>, String), Error> {
        if change.body().len() > FROZEN_BYTES_MAX {
            return Err(Error::too_large(path, FROZEN_BYTES_MAX));
        }
        let approvers = self.approvers(subject.row, subject.manifest);
        if approvers.is_empty() {
            let reason = format!("{category} needs consent, and the agent has no owner to ask");
            return Err(Error::new(Code::PermissionDenied, path, reason));
        }
        if self.wishes.waiting_of(subject.row.id) >= WAITING_MAX || self.wishes.len() >= REMEMBERED_MAX {
            return Err(Error::new(
                Code::RateLimited,
                path,
                format!("{WAITING_MAX} wishes wait for consent already"),
            ));
        }
        let code = loop {
            let code = codes::code();
            if !self.wishes.knows(&codes::digest(&code)) {
                break code;
            }
        };
        // The messages are dated by the node: an approver reads them now, whenever the envelope came.
        let now_ms = self.time.now_ms();
        let mut approval = Approval {
            id: Hex::<4>(cx.key.first_chunk().copied().unwrap_or_default()).to_string(),
            agent: subject.row.id,
            envelope: cx.wake.map_or(Hash::ZERO, |wake| wake.envelope.id),
            origin: cx.wake.and_then(|wake| wake.envelope.origin.clone()),
            heard: cx.wake.and_then(|wake| wake.envelope.heard.clone()),
            key: Hex(cx.key),
            path: path.to_string(),
            change: Frozen::of(change),
            category,
            asked_at_ms: now_ms,
            expires_at_ms: now_ms + VALID_MS,
            code: codes::digest(&code),
            messages: Vec::new(),
            state: Stage::Waiting,
        };
        let node = self.keyring.node().public_key();
        let mut sends = Vec::new();
        for approver in approvers {
            let text = words::ask(&approval, subject.row, cx.wake, &code);
            let draft = Draft { auto_hop: 1, ..Draft::text(approver, text, now_ms) };
            approval.messages.extend(draft.rumor(node).id);
            let mail = Outgoing::Mail { draft, protocol: Protocol::Nip17, relay: None };
            sends.push(Write::Send(AgentId::NODE, Box::new(mail), now_ms));
        }
        let id = approval.id.clone();
        let mut writes = vec![put(&(0, approval))];
        writes.extend(sends);
        Ok((writes, id))
    }
}

impl Consent for Freezer {
    fn freeze(&self, cx: &Context<'_>, path: &Path, change: &Change) -> Option<(Vec<Write>, Error)> {
        let subject = cx.subject?;
        let category = category(path, change)?;
        if category == Category::SpendMoney && !crate::serve::may_use_wallet(cx, path.as_str()) {
            // It is refused by the wallet, and nobody is asked about it.
            return None;
        }
        if !subject.manifest.autonomy.asks(category) && !self.is_dear(cx, &subject, path, change) {
            return None;
        }
        Some(match self.freeze_now(cx, &subject, path, change, category) {
            Ok((writes, id)) => {
                let reason = format!("{category} needs consent: asked as /approvals/{id}.json");
                (writes, Error::new(Code::ApprovalRequired, path, reason))
            }
            Err(refusal) => (Vec::new(), refusal),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::{Supervised, frozen, someone, wish};
    use super::*;
    use crate::agent::envelope::{Envelope, Kind};

    #[test]
    fn a_wish_remembers_who_was_behind_it_and_old_rows_are_read() {
        let heard = Heard { author: someone(), subscriptions: vec!["a".to_owned()], auto_hop: 1 };
        let origin = Origin {
            peer: someone(),
            protocol: oa_nips::mail::Protocol::Nip17,
            relay: None,
            mail: None,
            auto_hop: 0,
        };
        let envelope = Envelope {
            origin: Some(origin.clone()),
            heard: Some(heard.clone()),
            ..Envelope::from_node(Kind::Event, "event", 0)
        };
        let (writes, refusal) =
            Supervised::new().freeze(&envelope, "/goals/a.json", &Change::Write(b"x".to_vec()));
        assert_eq!(refusal.code, Code::ApprovalRequired);
        let kept = frozen(&writes).unwrap();
        assert_eq!((kept.origin, kept.heard), (Some(origin), Some(heard)));

        let json = serde_json::to_string(&wish()).unwrap();
        assert!(!json.contains("heard"), "as rows were before: {json}");
        assert_eq!(serde_json::from_str::<Approval>(&json).unwrap(), wish());
    }

    #[test]
    fn what_is_frozen_has_a_size_and_a_number() {
        let supervised = Supervised::new();
        let (path, envelope) = ("/goals/a.json", Envelope::from_node(Kind::Poke, "poke", 0));
        let ask = |bytes: usize| supervised.freeze(&envelope, path, &Change::Write(vec![b'x'; bytes]));
        assert_eq!(ask(FROZEN_BYTES_MAX).1.code, Code::ApprovalRequired);
        let (writes, refusal) = ask(FROZEN_BYTES_MAX + 1);
        assert!(writes.is_empty() && refusal.code == Code::TooLarge, "{refusal}");
        for n in 0..WAITING_MAX {
            let waits = Approval { id: format!("{n:08x}"), agent: supervised.row.id, ..wish() };
            let Write::Row(row) = put(&(0, waits)) else { panic!("no row") };
            supervised.freezer.wishes.landed(&row);
        }
        assert_eq!(ask(1).1.code, Code::RateLimited);
    }

    #[test]
    fn what_a_change_is_follows_from_its_path() {
        let of = |path: &str| category(&path.parse().unwrap(), &Change::Write(Vec::new()));
        assert_eq!(of("/memory/x"), None);
        assert_eq!(of("/nostr/publish"), Some(Category::SendMessage));
        assert_eq!(of("/nostr/subscriptions/a.json"), None);
        let find =
            |body: &str| category(&"/peers/find".parse().unwrap(), &Change::Call(body.as_bytes().to_vec()));
        assert_eq!(find(r#"{"name":"bob@example.com"}"#), Some(Category::ExternalApi));
        for body in [r#"{"capability":"chat"}"#, "bob@example.com", ""] {
            assert_eq!(find(body), None, "{body}: asks relays, or nobody");
        }
        assert_eq!(of("/children/new"), Some(Category::CreateAgent));
        assert_eq!(of("/goals/a.json"), Some(Category::ModifyGoals));
    }

    #[test]
    fn what_was_frozen_thaws_as_it_was() {
        for change in [
            Change::Write(b"x".to_vec()),
            Change::Append(Vec::new()),
            Change::Call(vec![0, 255]),
            Change::Mkdir,
            Change::Remove,
            Change::Rename("/b".parse().unwrap()),
        ] {
            let json = serde_json::to_string(&Frozen::of(&change)).unwrap();
            assert_eq!(serde_json::from_str::<Frozen>(&json).unwrap().thaw(), Some(change));
        }
    }
}
