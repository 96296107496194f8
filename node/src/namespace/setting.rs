//! What the view of a tick is made of, and what it leaves behind.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use oa_nips::files::Code;
use oa_nips::hex::{Hash, Hex};
use oa_nips::nostr::hashes::{Hash as _, sha256};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::error::Error;
use super::journal::Line;
use super::mount::Mounts;
use super::overlay::Files;
use super::path::Path;
use super::service::{Change, Context, State};
use crate::agent::envelope::{Envelope, Kind};
use crate::agent::manifest::Manifest;
use crate::store::row::{AgentRow, Outgoing};
use crate::store::write::Write;

/// The disk under a tick's journal.
pub trait Durable: std::fmt::Debug + Send + Sync {
    /// Returns once the lines are on disk, the first of them at ordinal `first`.
    ///
    /// # Errors
    /// `Stale` when the tick may no longer run.
    fn record(&self, first: u32, lines: Vec<Line>) -> BoxFuture<'_, Result<(), Error>>;
}

/// Asks whether a change needs somebody's consent.
pub trait Consent: std::fmt::Debug + Send + Sync {
    /// What becomes of a change, as it was asked for, with paths of the agent's tree: frozen, for the commit, and the
    /// refusal that the program hears; nothing when it may go ahead.
    fn freeze(&self, cx: &Context<'_>, path: &Path, change: &Change) -> Option<(Vec<Write>, Error)>;
}

/// Nobody is asked.
#[derive(Debug, Clone, Copy)]
pub struct NoConsent;

impl Consent for NoConsent {
    fn freeze(&self, _: &Context<'_>, _: &Path, _: &Change) -> Option<(Vec<Write>, Error)> {
        None
    }
}

/// What a tick begins with.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The agent's mounts.
    pub mounts: Arc<Mounts>,
    /// The agent.
    pub row: Arc<AgentRow>,
    /// What it is.
    pub manifest: Arc<Manifest>,
    /// What woke it.
    pub envelope: Arc<Envelope>,
    /// Its files.
    pub committed: Arc<dyn State>,
    /// Where its journal goes.
    pub durable: Arc<dyn Durable>,
    /// Who is asked.
    pub consent: Arc<dyn Consent>,
}

/// What a tick did, for its commit.
#[derive(Debug, Default)]
pub struct Done {
    /// Files of the agent's state and alarms; nothing for a removed one.
    pub files: Files,
    /// The reply, if one was written.
    pub reply: Option<String>,
    /// Mail and events besides.
    pub out: Vec<Outgoing>,
    /// What else lands.
    pub writes: Vec<Write>,
    /// The journaled changes, and those that were frozen or granted, for the record.
    pub calls: Vec<CallMade>,
}

/// A change that was made outside, or that consent is about, as the record lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallMade {
    /// Where.
    pub path: String,
    /// SHA-256 of what was asked.
    pub request: Hash,
    /// SHA-256 of what was answered, or the error's code: `ApprovalRequired` of what was frozen.
    pub reply: Result<Hash, Code>,
    /// Of what the node made because somebody consented: the approval.
    pub approval: Option<String>,
}

impl CallMade {
    /// What was granted and made, which the envelope that tells of it is about; nothing for what was denied or expired, or
    /// another envelope.
    pub(crate) fn granted(envelope: &Envelope) -> Option<Self> {
        let data = envelope.data.as_ref().filter(|_| envelope.kind == Kind::Approval)?;
        let text = |name: &str| data.get(name).and_then(Value::as_str);
        let reply = match text("outcome")? {
            "done" => {
                let reply = STANDARD.decode(text("reply_base64")?).ok()?;
                Ok(Hex(sha256::Hash::hash(&reply).to_byte_array()))
            }
            "failed" => Err(Code::deserialize(data.get("error")?).ok()?),
            _ => return None,
        };
        let (path, request) = (text("path")?.to_owned(), text("request")?.parse().ok()?);
        Some(Self { path, request, reply, approval: Some(text("id")?.to_owned()) })
    }

    /// As records have it.
    pub(crate) fn to_json(&self) -> Value {
        let said = match &self.reply {
            Ok(digest) => ("reply", json!(digest)),
            Err(code) => ("error", json!(code)),
        };
        let approval = self.approval.iter().map(|id| ("approval", json!(id)));
        let all =
            [("path", json!(self.path)), ("request", json!(self.request)), said].into_iter().chain(approval);
        all.map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(data: Value) -> Option<Value> {
        let envelope =
            Envelope { data: Some(data), ..Envelope::from_node(Kind::Approval, "approval:0:1:2", 0) };
        CallMade::granted(&envelope).map(|call| call.to_json())
    }

    #[test]
    fn the_record_has_what_was_made_by_consent_and_nothing_that_was_not() {
        let request = "ab".repeat(32);
        let end = |end: Value| {
            let mut data =
                json!({ "id": "80ee723b", "path": "/wallet/pay", "verb": "call", "request": request });
            data.as_object_mut().unwrap().extend(end.as_object().unwrap().clone());
            data
        };
        let digest = sha256::Hash::hash(b"paid").to_string();
        let call = json!({ "path": "/wallet/pay", "request": request, "approval": "80ee723b" });
        let with = |name: &str, value: &str| {
            let mut call = call.clone();
            call[name] = json!(value);
            Some(call)
        };
        let done = end(json!({ "outcome": "done", "reply": "paid", "reply_base64": "cGFpZA==" }));
        assert_eq!(told(done.clone()), with("reply", &digest));
        let failed = end(json!({ "outcome": "failed", "error": "budget_exceeded", "reason": "" }));
        assert_eq!(told(failed), with("error", "budget_exceeded"));
        for nothing in ["denied", "expired"] {
            assert_eq!(told(end(json!({ "outcome": nothing, "reason": "" }))), None);
        }
        // Only an approval's own envelope says so.
        let other = Envelope { data: Some(done), ..Envelope::from_node(Kind::Payment, "x", 0) };
        assert_eq!(CallMade::granted(&other), None);
    }
}
