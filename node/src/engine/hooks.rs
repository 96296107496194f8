//! What follows writes that have landed: inboxes are looked into, outboxes sent, addresses listened to.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use oa_nips::nostr::PublicKey;
use oa_nips::port::RowWrite;

use crate::agent::{AgentId, Lifecycle};
use crate::approvals;
use crate::outbox::Outbox;
use crate::store::write::{AgentChange, FileChange, Verdict, Write};
use crate::{sockets, subscriptions};

/// The parts of a node that are told.
pub(crate) trait Told: Debug + Send + Sync {
    /// An agent goes on in another state, at somebody's word.
    fn becomes(&self, agent: AgentId, lifecycle: Lifecycle, reason: Option<&str>);

    /// Something is in an agent's inbox, or it may tick again.
    fn arrived(&self, agent: AgentId);

    /// There is a new agent.
    fn created(&self, agent: AgentId, key: PublicKey);

    /// An agent is gone.
    fn removed(&self, agent: AgentId, key: PublicKey);

    /// An approval was asked for, or decided.
    fn approvals(&self);

    /// An agent's subscriptions or websockets have changed.
    fn subscriptions(&self, agent: AgentId);

    /// An agent has another manifest.
    fn manifest(&self, agent: AgentId);
}

/// Tells the parts of a node once they are there.
#[derive(Debug)]
pub(crate) struct Hooks {
    told: OnceLock<Box<dyn Told>>,
    /// Knows of every approval that lands, also before the others are there.
    wishes: Arc<approvals::Index>,
}

/// What is to be told about a unit, noted before the store takes it.
#[derive(Debug, Default)]
pub(crate) struct After {
    arrived: Vec<AgentId>,
    became: Vec<(AgentId, Lifecycle, Option<String>)>,
    created: Vec<(AgentId, PublicKey)>,
    approvals: Vec<RowWrite>,
    subscriptions: Vec<AgentId>,
    manifests: Vec<AgentId>,
}

impl After {
    /// What these writes will be followed by.
    pub(crate) fn of(writes: &[Write]) -> Self {
        let mut after = Self::default();
        for write in writes {
            match write {
                Write::Poke(poke) => after.arrived.push(poke.agent),
                Write::Letter(id, ..) => after.arrived.push(*id),
                Write::ChangeAgent(id, AgentChange::Lifecycle(lifecycle, reason)) => {
                    after.became.push((*id, *lifecycle, reason.clone()));
                    after.arrived.push(*id);
                }
                Write::ChangeAgent(id, AgentChange::Manifest(_)) => {
                    after.manifests.push(*id);
                    after.arrived.push(*id);
                }
                Write::Row(row) if row.space == approvals::SPACE => after.approvals.push(row.clone()),
                Write::CreateAgent(new) => after.created.push((new.id, new.pubkey)),
                Write::Import(import) => {
                    after.created.push((import.row.id, import.row.pubkey));
                    after.subscriptions.push(import.row.id);
                }
                Write::Commit(commit) => after.files(commit.agent, &commit.files),
                Write::Files(agent, files, _) => after.files(*agent, files),
                _ => {}
            }
        }
        after
    }

    /// Whether nobody but the outbox has anything to do then.
    pub(crate) fn is_quiet(&self) -> bool {
        let Self { arrived, became, created, approvals, subscriptions, manifests } = self;
        arrived.is_empty()
            && became.is_empty()
            && created.is_empty()
            && approvals.is_empty()
            && subscriptions.is_empty()
            && manifests.is_empty()
    }

    fn files(&mut self, agent: AgentId, files: &[FileChange]) {
        let tells = |path: &str| path.starts_with(subscriptions::FOLDER) || path.starts_with(sockets::FOLDER);
        if files.iter().any(|(path, _)| tells(path.as_str())) {
            self.subscriptions.push(agent);
        }
    }
}

impl Hooks {
    pub(crate) fn new(wishes: Arc<approvals::Index>) -> Self {
        Self { told: OnceLock::new(), wishes }
    }

    /// Sets who is told; once.
    pub(crate) fn set(&self, told: Box<dyn Told>) {
        // A second setting would be a bug of the wiring, and the first holds.
        let _ = self.told.set(told);
    }

    /// The unit has landed with these verdicts.
    pub(crate) fn landed(&self, after: After, verdicts: &[Verdict], outbox: &Outbox) {
        // Before the message with its code goes out.
        after.approvals.iter().for_each(|row| self.wishes.landed(row));
        outbox.nudge_landed(verdicts);
        let Some(told) = self.told.get() else { return };
        for (agent, key) in after.created {
            told.created(agent, key);
            told.arrived(agent);
        }
        if !after.approvals.is_empty() {
            told.approvals();
        }
        for (agent, lifecycle, reason) in after.became {
            told.becomes(agent, lifecycle, reason.as_deref());
        }
        after.manifests.into_iter().for_each(|agent| told.manifest(agent));
        after.subscriptions.into_iter().for_each(|agent| told.subscriptions(agent));
        after.arrived.into_iter().for_each(|agent| told.arrived(agent));
    }

    /// An agent is gone.
    pub(crate) fn removed(&self, agent: AgentId, key: PublicKey) {
        if let Some(told) = self.told.get() {
            told.removed(agent, key);
        }
    }
}
