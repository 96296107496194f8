//! What becomes of a bundle where it is taken in: the same agent that goes on, or another one with its memory.

use std::fmt;

use oa_nips::hex::Hex;
use oa_nips::nostr::{PublicKey, ToBech32};
use oa_nips::record::{Head, SessionId, state_hash};
use serde::{Deserialize, Serialize};

use super::{About, Bundle};
use crate::agent::mailbox::Peer;
use crate::agent::manifest::{Manifest, Npub};
use crate::agent::{AgentId, Lifecycle};
use crate::keyring::Keyring;
use crate::store::row::AgentRow;
use crate::store::write::{Holdings, Import};

/// Why a restored agent does not tick yet.
pub(crate) const LOOKING: &str = "restored: what it answered since the export is looked up first";

/// Files that a clone does not have: the agents that the old one made, and the work that was given to it.
const PERSONAL: [&str; 2] = ["/children/", "/task/"];

/// How a bundle is taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The same agent, after its node was lost: same key, same number.
    Restore,
    /// Another agent with the same manifest, files and acquaintances.
    Clone,
    /// As [`Mode::Restore`], of an agent that was stopped where it was before the bundle was made.
    Migrate,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Restore => "restore",
            Self::Clone => "clone",
            Self::Migrate => "migrate",
        })
    }
}

/// Why a bundle is not taken in.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    #[error(
        "{name} is agent {number} of the node {node}, and its key comes from that node's seed words: restore it on a \
         node that was made with them (oa-node init --restore), or take it in with --mode clone, under a new key; if it \
         has a key of its own, bring that here first (oa-node key import)"
    )]
    OtherSeed { name: String, number: AgentId, node: String },
    #[error(
        "{0} was not stopped before this bundle was made, so it may still run: export it with --migrate, or restore \
         it once its node is gone"
    )]
    NotMigrated(String),
    #[error("the bundle's manifest cannot be used: {0}")]
    Manifest(String),
}

/// What a restored agent goes on as, once it is known what it answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GoesOn {
    pub(crate) lifecycle: Lifecycle,
    pub(crate) reason: Option<String>,
    /// When the bundle was made, in milliseconds since 1970.
    pub(crate) since_ms: u64,
}

/// A new agent that a bundle becomes.
#[derive(Debug)]
pub struct Twin {
    /// Its number, which nobody had.
    pub id: AgentId,
    pub pubkey: PublicKey,
    /// Its name; nothing for the old one.
    pub name: Option<String>,
    /// Whom it obeys.
    pub owner: PublicKey,
    pub session: SessionId,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

impl Bundle {
    /// The manifest.
    ///
    /// # Errors
    /// [`AdmitError::Manifest`]; not for a bundle that was opened.
    pub fn manifest(&self) -> Result<Manifest, AdmitError> {
        Manifest::read(&self.manifest).map_err(|error| AdmitError::Manifest(error.to_string()))
    }

    /// Checks that the agent can go on under these keys.
    ///
    /// # Errors
    /// [`AdmitError::OtherSeed`], [`AdmitError::NotMigrated`]
    pub fn belongs(&self, keyring: &dyn Keyring, mode: Mode) -> Result<(), AdmitError> {
        let About { node, number, pubkey, name, migrated, .. } = &self.about;
        let is_ours = *number != AgentId::NODE
            && *node == keyring.node().public_key()
            && *pubkey == keyring.agent(*number).public_key();
        if !is_ours {
            let node = node.to_bech32().unwrap_or_default();
            return Err(AdmitError::OtherSeed { name: name.clone(), number: *number, node });
        }
        if mode == Mode::Migrate && !migrated {
            return Err(AdmitError::NotMigrated(name.clone()));
        }
        Ok(())
    }

    /// The rows of the agent as it stood, but stopped, and what it goes on as.
    ///
    /// # Errors
    /// [`AdmitError::Manifest`]
    pub(crate) fn restored(self) -> Result<(Import, GoesOn), AdmitError> {
        let manifest = self.manifest()?;
        let about = self.about;
        let goes_on =
            GoesOn { lifecycle: about.lifecycle, reason: about.reason, since_ms: about.exported_at_ms };
        let first = self.holdings.records.first().map_or(about.head.seq, |record| record.header.seq);
        let row = AgentRow {
            name: about.name,
            lifecycle: Lifecycle::Stopped,
            reason: Some(LOOKING.to_owned()),
            owner: about.owner,
            floor_s: about.floor_s,
            session: about.session,
            head: about.head,
            // What stands before the first record cannot be published from here.
            published: about.published.max(first),
            inbox_next: about.inbox_next,
            outbox_next: about.outbox_next,
            dead_next: about.letters_next,
            refused_next: about.refused_next,
            failures: about.failures,
            profiled_at_s: about.profiled_at_s,
            ..AgentRow::new(about.number, about.pubkey, about.created_at_ms)
        };
        Ok((Import { row, manifest, holdings: self.holdings }, goes_on))
    }

    /// The rows of a new agent with the manifest, the files, the alarms and the acquaintances of the old one. It has
    /// no mail and no past, and lets in nobody whom somebody else's owner has let in.
    ///
    /// # Errors
    /// [`AdmitError::Manifest`]
    pub fn cloned(self, new: Twin) -> Result<Import, AdmitError> {
        let mut manifest = self.manifest()?;
        let Holdings { mut files, alarms, peers, .. } = self.holdings;
        files.retain(|(path, _)| !PERSONAL.iter().any(|folder| path.starts_with(folder)));
        if let Some(name) = new.name {
            manifest.name = name;
        }
        manifest.owner = Some(Npub(new.owner));
        let mut row = AgentRow {
            name: manifest.name.clone(),
            lifecycle: Lifecycle::Dormant,
            owner: Some(new.owner),
            session: new.session,
            ..AgentRow::new(new.id, new.pubkey, new.at_ms)
        };
        let mind = files.iter().map(|(path, content)| (path.as_str(), Some(content.as_slice())));
        row.head = Head { state: state_hash(&Hex::ZERO, mind), ..Head::GENESIS };
        let known = |(who, peer): (PublicKey, Peer)| {
            let Peer { first_seen_ms, last_seen_ms, .. } = peer;
            (who, Peer { first_seen_ms, last_seen_ms, ..Peer::default() })
        };
        let peers = peers.into_iter().map(known).collect();
        Ok(Import { row, manifest, holdings: Holdings { files, alarms, peers, ..Holdings::default() } })
    }
}
