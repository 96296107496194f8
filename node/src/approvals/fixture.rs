//! A wish, and who freezes it: for tests.

use std::sync::Arc;

use oa_nips::hex::{Hash, Hex};
use oa_nips::nostr::{EventId, Keys, PublicKey};

use super::{Approval, Freezer, Frozen, SPACE, Stage};
use crate::agent::AgentId;
use crate::agent::envelope::{Envelope, Trust};
use crate::agent::manifest::{Category, Level, Manifest};
use crate::codes;
use crate::keyring::{Addresses, SeedKeyring};
use crate::namespace::rights::Role;
use crate::namespace::service::{Change, Context, Subject, Wake};
use crate::namespace::{Consent, Error, MemoryState};
use crate::signer::Seed;
use crate::store::row::{AgentRow, Blob};
use crate::store::write::Write;
use crate::time::System;

/// The code of [`wish`].
pub(crate) const CODE: &str = "ABCDEF";
/// When it is asked for, in milliseconds since 1970; it ends a second later.
pub(crate) const ASKED_MS: u64 = 999_000;

/// A wish to write a goal.
pub(crate) fn wish() -> Approval {
    Approval {
        id: "00000001".to_owned(),
        agent: AgentId(0),
        envelope: Hash::ZERO,
        origin: None,
        heard: None,
        key: Hex([1; 32]),
        path: "/goals/a.json".to_owned(),
        change: Frozen { verb: "write".to_owned(), body: Blob::default(), to: None },
        category: Category::ModifyGoals,
        asked_at_ms: ASKED_MS,
        expires_at_ms: ASKED_MS + 2000,
        code: codes::digest(CODE),
        messages: vec![EventId::from_byte_array([5; 32])],
        state: Stage::Waiting,
    }
}

/// An agent under supervision, and its owner.
pub(crate) struct Supervised {
    pub(crate) freezer: Freezer,
    pub(crate) row: AgentRow,
    pub(crate) manifest: Manifest,
}

impl Supervised {
    pub(crate) fn new() -> Self {
        let keyring = SeedKeyring::new(Seed::generate(), Arc::new(Addresses::default()));
        let freezer = Freezer {
            wishes: Arc::default(),
            keyring: Arc::new(keyring),
            approvers: Vec::new(),
            time: Arc::new(System),
            money: None,
        };
        let mut row = AgentRow::new(AgentId(0), someone(), ASKED_MS);
        row.owner = Some(someone());
        let mut manifest = Manifest::new("alice", "echo");
        manifest.autonomy.level = Level::Supervised;
        Self { freezer, row, manifest }
    }

    /// What the tick of an envelope that asks for a change leaves behind, and hears.
    pub(crate) fn freeze(&self, envelope: &Envelope, path: &str, change: &Change) -> (Vec<Write>, Error) {
        let state = MemoryState::default();
        let cx = Context {
            role: Role::Agent,
            caller: self.row.pubkey,
            subject: Some(Subject { row: &self.row, manifest: &self.manifest, state: &state }),
            wake: Some(Wake { envelope, trust: Trust::Stranger, sent: &[], is_consented: false }),
            now_ms: ASKED_MS,
            key: [7; 32],
        };
        self.freezer.freeze(&cx, &path.parse().unwrap(), change).unwrap()
    }
}

/// The wish among these writes.
pub(crate) fn frozen(writes: &[Write]) -> Option<Approval> {
    writes.iter().find_map(|write| match write {
        Write::Row(row) if row.space == SPACE => serde_json::from_slice(row.value.as_ref()?).ok(),
        _ => None,
    })
}

pub(crate) fn someone() -> PublicKey {
    Keys::generate().public_key()
}
