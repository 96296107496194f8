//! Where requests come in: those of strangers are let go before they can take a place in the queue from anybody.
//!
//! Mail in knocks for each request it hears; the server takes them from the queue and looks at each again, thoroughly.

use std::sync::Arc;

use oa_nips::nostr::{Event, PublicKey, RelayUrl};
use tokio::sync::mpsc;

use super::{Heard, Roles};
use crate::engine::shared::Manifests;
use crate::namespace::rights::Role;
use crate::store::Store;

/// Requests that wait; one too many is sent again by its caller. 256: as many as are dealt with at once.
const WAITING: usize = 256;

/// The way in for requests. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    store: Store,
    manifests: Arc<Manifests>,
    roles: Roles,
    requests: mpsc::Sender<Heard>,
}

impl Door {
    /// A door for those with a role now, and the queue behind it.
    pub(crate) fn new(
        store: Store,
        manifests: Arc<Manifests>,
        roles: Roles,
    ) -> (Self, mpsc::Receiver<Heard>) {
        let (requests, asked) = mpsc::channel(WAITING);
        (Self { store, manifests, roles, requests }, asked)
    }

    /// Lets a request in, if its author has a role and there is room. Its signature is looked at behind the door: the
    /// node's relays have verified it, and it is cheaper not to do it twice in the line that all mail goes through.
    pub(crate) fn knock(&self, relay: RelayUrl, event: Event) {
        if !self.is_known(&event.pubkey) {
            tracing::debug!(caller = %event.pubkey, "request from somebody without a role");
            return;
        }
        // A full queue means the node is busy; the caller sends again.
        if self.requests.try_send((relay, event)).is_err() {
            tracing::warn!("too many operator requests at once");
        }
    }

    fn is_known(&self, caller: &PublicKey) -> bool {
        let role = self.roles.anywhere(&self.store, &self.manifests, caller);
        // What the store does not tell now is for the server to find out.
        role.map_or(true, |role| role > Role::Stranger)
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::files::{self, FramesKind};
    use oa_nips::hex::Hex;
    use oa_nips::nostr::{Keys, Timestamp};

    use super::*;
    use crate::agent::AgentId;
    use crate::agent::manifest::{Manifest, Npub};
    use crate::store::memory::MemoryBackend;
    use crate::store::write::{AgentChange, NewAgent, Write};

    fn request(keys: &Keys) -> (RelayUrl, Event) {
        let node = Keys::generate().public_key();
        let at = Timestamp::from_secs(1);
        let event = files::event(FramesKind::Request, keys.public_key(), node, String::new(), at);
        (RelayUrl::parse("wss://relay.example").unwrap(), event.sign_with_keys(keys).unwrap())
    }

    #[tokio::test]
    async fn strangers_cannot_crowd_out_who_has_a_role() {
        let store = Store::new(Arc::new(MemoryBackend::default())).unwrap();
        let [operator, owner, viewer, stranger] = std::array::from_fn(|_| Keys::generate());
        let mut manifest = Manifest::new("alice", "echo");
        manifest.roles.viewers.push(Npub(viewer.public_key()));
        let new = NewAgent {
            id: AgentId(0),
            pubkey: Keys::generate().public_key(),
            manifest,
            session: Hex::ZERO,
            at_ms: 0,
            profile: Vec::new(),
        };
        store.write(Write::CreateAgent(Box::new(new))).await.unwrap();
        let owned = AgentChange::Owner(Some(owner.public_key()));
        store.write(Write::ChangeAgent(AgentId(0), owned)).await.unwrap();
        let roles = Roles { operators: [operator.public_key()].into(), ..Roles::default() };
        let (door, mut asked) = Door::new(store.clone(), Arc::default(), roles);
        let knock = |keys: &Keys| {
            let (relay, event) = request(keys);
            door.knock(relay, event);
        };
        (0..WAITING * 2).for_each(|_| knock(&stranger));
        [&operator, &owner, &viewer].into_iter().for_each(knock);
        for expected in [&operator, &owner, &viewer] {
            assert_eq!(asked.try_recv().unwrap().1.pubkey, expected.public_key());
        }
        // Who has lost their role is a stranger.
        store.write(Write::ChangeAgent(AgentId(0), AgentChange::Owner(None))).await.unwrap();
        knock(&owner);
        assert!(asked.try_recv().is_err());
        // Of those with a role the queue takes so many, and no more.
        (0..WAITING * 2).for_each(|_| knock(&operator));
        assert_eq!(std::iter::from_fn(|| asked.try_recv().ok()).count(), WAITING);
    }
}
