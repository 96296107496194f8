//! What a backend has to tell.

use super::error::FailReason;
use super::node::{ChannelId, NodeId};
use super::payment::{PaymentHash, Preimage, Record};
use crate::msat::Msat;

/// Which delivery is acknowledged. Means something to the backend that gave it, until it is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub u64);

/// An event, and what acknowledges it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// For [`acknowledge`](super::Backend::acknowledge).
    pub id: EventId,
    /// What happened.
    pub event: Event,
}

/// Something that happened. Handlers are idempotent: the same event may come again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Money arrived and is ours.
    Received {
        /// The hash of the invoice or keysend.
        hash: PaymentHash,
        /// How much.
        amount: Msat,
        /// What the sender attached.
        records: Vec<Record>,
    },
    /// Money arrived for a hold invoice, and goes back unless it is settled in time.
    Held {
        /// Whose preimage takes it.
        hash: PaymentHash,
        /// How much.
        amount: Msat,
        /// The block height at which it goes back.
        deadline: Option<u32>,
    },
    /// A payment of ours reached the payee.
    Sent {
        /// [`Payment::id`](super::Payment::id).
        id: PaymentHash,
        /// What was paid.
        hash: PaymentHash,
        /// The receipt.
        preimage: Option<Preimage>,
        /// What routing cost, on top of the amount.
        fee: Msat,
    },
    /// A payment of ours did not, and never will.
    Failed {
        /// [`Payment::id`](super::Payment::id).
        id: PaymentHash,
        /// Why.
        why: FailReason,
    },
    /// A payment of others went through this node, which kept `earned` of it.
    Forwarded {
        /// The routing fee.
        earned: Msat,
    },
    /// A channel can be used.
    ChannelReady {
        /// Which.
        id: ChannelId,
        /// With whom.
        peer: Option<NodeId>,
    },
    /// A channel is gone, or was never opened.
    ChannelClosed {
        /// Which.
        id: ChannelId,
        /// With whom.
        peer: Option<NodeId>,
        /// Whether one side published its state alone: the coins come back late, and somebody ought to ask why.
        forced: bool,
        /// Why, for people.
        reason: String,
    },
}
