//! An owner's word: that an agent is theirs, signed with the home's key.

use oa_nips::discovery::Owner;
use oa_nips::nostr::{Event, PublicKey, Timestamp};

use super::{Client, failed};
use crate::error::Result;

impl Client {
    /// Signs that `agent` belongs to whoever has this home's key.
    ///
    /// # Errors
    /// When the key is away, or does not sign.
    pub(crate) async fn vouch(&self, agent: PublicKey) -> Result<Event> {
        let signer = &self.inner.signer;
        let at = Timestamp::from_secs(self.inner.now_s());
        signer.sign(Owner::statement(signer.public_key(), agent, at)).await.map_err(failed)
    }
}
