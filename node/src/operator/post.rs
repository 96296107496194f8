//! What the node says to a caller: frames, encrypted, signed, published where the caller was heard.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use oa_nips::files::{self, FramesKind};
use oa_nips::nostr::{Event, PublicKey, RelayUrl, Timestamp};
use oa_nips::port::{Ack, Publish, Signer, SignerError};

use crate::time::Time;

/// How long a relay may take to accept a frame.
const DEADLINE: Duration = Duration::from_secs(10);
/// Times a frame is signed and sent, where the relay was not reached. What is lost all the same is asked for again.
const TRIES: usize = 2;
/// Frames of one message on their way at once. 16: 256 KiB a round trip, which is 5 MB/s at 50 ms.
pub(super) const PIPELINE: usize = 16;

/// Sends frames. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Post {
    pub(super) signer: Arc<dyn Signer>,
    pub(super) publish: Arc<dyn Publish>,
    pub(super) time: Arc<dyn Time>,
}

/// Whom a frame is for, and where they were heard.
#[derive(Debug, Clone)]
pub(super) struct To {
    pub(super) caller: PublicKey,
    pub(super) relay: RelayUrl,
}

impl Post {
    /// Sends one frame.
    pub(super) async fn send(self, kind: FramesKind, to: To, json: String) {
        for _ in 0..TRIES {
            match self.seal(kind, &to.caller, &json).await {
                Ok(event) => match self.publish.publish(&to.relay, &event, DEADLINE).await {
                    Ack::Accepted => return,
                    Ack::Refused(reason) => {
                        return tracing::warn!(relay = %to.relay, reason, "a relay refuses frames");
                    }
                    Ack::Unreached(reason) => tracing::debug!(reason, "a frame was not taken"),
                },
                Err(error) => return tracing::warn!(%error, "a frame could not be signed"),
            }
        }
    }

    /// Sends the frames of one reply, many at once; ends when relays have answered to all.
    pub(super) async fn reply(&self, to: &To, frames: Vec<String>) {
        let sends = frames.into_iter().map(|json| self.clone().send(FramesKind::Reply, to.clone(), json));
        futures_util::stream::iter(sends).buffer_unordered(PIPELINE).for_each(async |()| {}).await;
    }

    async fn seal(&self, kind: FramesKind, caller: &PublicKey, json: &str) -> Result<Event, SignerError> {
        let content = self.signer.nip44_encrypt(caller, json).await?;
        let at = Timestamp::from_secs(self.time.now_ms() / 1000);
        self.signer.sign(files::event(kind, self.signer.public_key(), *caller, content, at)).await
    }
}
