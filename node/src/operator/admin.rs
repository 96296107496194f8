//! What operators do to agents: create, stop, wake, remove; one place, whoever asks.

use std::sync::Arc;

use oa_nips::files::{Code, OpError, Request};
use oa_nips::hex::Hex;
use oa_nips::mail::Protocol;
use oa_nips::nostr::{PublicKey, RelayUrl, Timestamp, ToBech32};
use serde_json::json;
use tokio::sync::Mutex;

use crate::agent::envelope::{Envelope, Kind, Origin};
use crate::agent::manifest::Manifest;
use crate::agent::{AgentId, Lifecycle};
use crate::codes;
use crate::drivers::nostr::Pool;
use crate::engine::Engine;
use crate::engine::shared::Shared;
use crate::keyring::Addresses;
use crate::operator::tree::Keep;
use crate::profiles;
use crate::store::row::{AgentRow, Claim};
use crate::store::write::{AgentChange, NewAgent, Poke, Verdict, Write};

/// How long a claim code is good, in milliseconds.
pub(crate) const CLAIM_MS: u64 = 10 * 60 * 1000;

/// Changes agents, with all that follows: subscriptions, ticks, profile events.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) engine: Engine,
    pub(crate) pool: Pool,
    pub(crate) addresses: Arc<Addresses>,
    /// What agents name as their relays.
    pub(crate) published: Vec<RelayUrl>,
    /// Ids are handed out one at a time.
    pub(crate) creating: Mutex<()>,
}

impl Admin {
    fn check_program(&self, manifest: &Manifest) -> Result<(), OpError> {
        let wrong = |error| OpError::new(Code::InvalidInput, format!("manifest: program: {error}"));
        self.shared.programs.check(&manifest.program).map_err(wrong)
    }

    /// Creates an agent; `keep` is a write that lands with it.
    pub(crate) async fn create(
        &self,
        manifest: Manifest,
        keep: impl FnOnce(PublicKey) -> Option<Write>,
    ) -> Result<(AgentId, PublicKey), OpError> {
        self.check_program(&manifest)?;
        let _turn = self.creating.lock().await;
        let shared = &self.shared;
        let id = shared.store.next_agent_id()?;
        let signer = shared.keyring.agent(id);
        let pubkey = signer.public_key();
        let at_ms = shared.time.now_ms();
        let at = Timestamp::from_secs(at_ms / 1000);
        let profile = profiles::events(&manifest, pubkey, &self.published, at);
        let session = session();
        let name = manifest.name.clone();
        let new = NewAgent { id, pubkey, manifest, session, at_ms, profile };
        let mut unit = vec![Write::CreateAgent(Box::new(new))];
        unit.extend(keep(pubkey));
        // Known before the commit, so that mail that comes at once finds its agent.
        self.addresses.add(pubkey, id);
        let verdicts = shared.store.commit(unit).await?;
        match verdicts.first() {
            Some(Verdict::Landed(range)) => {
                shared.outbox.nudge(*range);
                self.pool.listen(vec![pubkey]);
                self.engine.arrived(id).await;
                Ok((id, pubkey))
            }
            verdict => {
                self.addresses.remove(&pubkey);
                tracing::debug!(?verdict, name, "agent not created");
                Err(OpError::new(Code::Exists, format!("there is an agent named {name} already")))
            }
        }
    }

    /// The agent of a name.
    pub(crate) fn named(&self, name: &str) -> Result<AgentRow, OpError> {
        let none = || OpError::new(Code::NotFound, format!("there is no agent named {name}"));
        let id = self.shared.store.agent_named(name)?.ok_or_else(none)?;
        self.shared.store.agent(id)?.ok_or_else(none)
    }

    /// A message from an operator: `{"text": "…"}`. Its answer goes to the operator by direct message.
    pub(crate) async fn put_in_inbox(
        &self,
        row: &AgentRow,
        caller: &PublicKey,
        request: &Request,
        keep: Keep<'_>,
    ) -> Result<Vec<u8>, OpError> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct New {
            text: String,
        }
        let New { text } = serde_json::from_slice(&request.body).map_err(|error| {
            OpError::new(Code::InvalidInput, format!(r#"an inbox takes {{"text": "..."}}: {error}"#))
        })?;
        let now_ms = self.shared.time.now_ms();
        let origin =
            Origin { peer: *caller, protocol: Protocol::Nip17, relay: None, mail: None, auto_hop: 0 };
        let envelope = Envelope {
            origin: Some(origin),
            text,
            ..Envelope::from_node(Kind::Dm, &format!("op:{caller}:{}", request.op), now_ms)
        };
        let reply = json!({ "id": envelope.id }).to_string().into_bytes();
        let poke = Write::Poke(Box::new(Poke { agent: row.id, envelope }));
        self.shared.store.commit(vec![poke, keep(&Ok(reply.clone()))]).await?;
        self.engine.arrived(row.id).await;
        Ok(reply)
    }

    /// A new manifest: the next tick runs under it, and the profile follows.
    pub(crate) async fn set_manifest(
        &self,
        row: &AgentRow,
        manifest: Manifest,
        keep: Keep<'_>,
    ) -> Result<Vec<u8>, OpError> {
        self.check_program(&manifest)?;
        if manifest.name != row.name {
            return Err(OpError::new(
                Code::InvalidInput,
                format!("manifest: name: {} cannot be renamed", row.name),
            ));
        }
        let mut unit = profiles::publish(row, &manifest, &self.published, self.shared.time.now_ms());
        unit.push(Write::ChangeAgent(row.id, AgentChange::Manifest(Box::new(manifest))));
        unit.push(keep(&Ok(Vec::new())));
        let verdicts = self.shared.store.commit(unit).await?;
        self.shared.outbox.nudge_landed(&verdicts);
        self.engine.arrived(row.id).await;
        Ok(Vec::new())
    }

    /// A word written to an agent's `ctl`; `keep` lands with what it does.
    pub(crate) async fn ctl(
        &self,
        row: &AgentRow,
        command: &str,
        keep: Keep<'_>,
    ) -> Result<Vec<u8>, OpError> {
        let now_ms = self.shared.time.now_ms();
        let (verb, argument) = command.trim().split_once(' ').unwrap_or((command.trim(), ""));
        let lifecycle = |lifecycle| Write::ChangeAgent(row.id, AgentChange::Lifecycle(lifecycle, None));
        let poke = |kind, name: &str| {
            let name = format!("{name}:{}:{}", row.id, Hex(codes::random()));
            let envelope = Envelope::from_node(kind, &name, now_ms);
            Write::Poke(Box::new(Poke { agent: row.id, envelope }))
        };
        let mut said = json!({ "name": row.name, "did": verb });
        let write = match verb {
            "tick" => poke(Kind::Poke, "poke"),
            "hibernate" => poke(Kind::Sleep, "sleep"),
            "stop" => lifecycle(Lifecycle::Stopped),
            "resume" => lifecycle(Lifecycle::Active),
            "remove" => Write::ChangeAgent(row.id, AgentChange::Remove),
            "allow" | "deny" => {
                let peer = PublicKey::parse(argument.trim()).map_err(|_| {
                    OpError::new(Code::InvalidInput, format!("{verb} takes an npub, not {argument:?}"))
                })?;
                Write::ChangeAgent(row.id, AgentChange::Allow(peer, verb == "allow"))
            }
            "claim" => {
                let (code, claim) = claim(now_ms);
                said = json!({ "name": row.name, "did": verb, "code": code, "expires_at": claim.expires_at_ms / 1000 });
                Write::ChangeAgent(row.id, AgentChange::Claim(claim))
            }
            _ => {
                let known = "tick, hibernate, stop, resume, remove, claim, allow NPUB, deny NPUB";
                return Err(OpError::new(Code::InvalidInput, format!("{verb:?} is none of {known}")));
            }
        };
        let reply = said.to_string().into_bytes();
        let verdicts = self.shared.store.commit(vec![write, keep(&Ok(reply.clone()))]).await?;
        if verdicts.contains(&Verdict::Stale) {
            return Err(OpError::new(Code::Unavailable, format!("{} is {}", row.name, row.lifecycle)));
        }
        if verb == "remove" {
            self.addresses.remove(&row.pubkey);
            self.pool.unlisten(&row.pubkey);
        }
        self.engine.arrived(row.id).await;
        Ok(reply)
    }
}

/// A fresh claim: the code to show, and what is stored of it.
pub(crate) fn claim(now_ms: u64) -> (String, Claim) {
    let code = codes::code();
    let claim = Claim { digest: codes::digest(&code), expires_at_ms: now_ms + CLAIM_MS, misses: 0 };
    (code, claim)
}

fn session() -> oa_nips::record::SessionId {
    let random = codes::random();
    random.first_chunk().copied().map_or(Hex::ZERO, Hex)
}

/// The answer to the creation of an agent.
pub(crate) fn created(name: &str, pubkey: &PublicKey) -> Vec<u8> {
    json!({ "name": name, "npub": pubkey.to_bech32().unwrap_or_default() }).to_string().into_bytes()
}
