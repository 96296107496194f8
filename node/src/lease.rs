//! Who may act with a key: before a node ticks it takes the lease of its key (kind 39205), and stops when it has not.
//!
//! The lease is an event of the key on its relays, and they know no "set if unchanged": [`machine::Machine`] makes a
//! lock of them by time alone, [`driver`] carries its messages. The same machine serves a node's key, for all agents
//! of its seed, and the key of one agent that can move: whose it is, is the signer's affair.
//!
//! What makes it safe, with clocks that differ by no more than [`Config::skew`] and relays that keep what they
//! acknowledged:
//!
//! - **Whoever is asked overlaps with whoever was told** ([`Need`]), so a lease that is held is seen.
//! - **A lease that somebody has is waited out**, and `skew` longer, unless it was released. Its holder counts it as
//!   his only until it runs out by his own clock, and extends it only by renewals that enough relays took.
//! - **Two that claim at the same moment**: a claim must be acknowledged [`Config::claim_within`] after its writer
//!   began to ask who has the lease, or it is given up. Then it rests for the longer [`Config::settle`] and is looked
//!   at again. Of two claims one is on the relays before the other's writer asks, or both are there when their
//!   writers look again; then the newer wins, and of the same second that with the lower id.
//! - **Who had it last need not rest**: an instance whose own lease is the newest on the relays goes on at once, but
//!   only until the end of a rest, and looks again `claim_within` after its claim, before any rival's rest is over.
//!   Until then it publishes nothing: a renewal would hide the rival's claim.
//! - **A restart within the lease** asks nobody: nobody else can have taken it. A key made in this very start cannot
//!   be anybody else's.
//! - **A claim without an answer is in doubt**, and is waited out like somebody else's: it may reach a relay late, and
//!   hide there what others wrote meanwhile.
//!
//! What makes it honest: a store that had the lease, and sees that another had it since, is behind. Somebody else has
//! answered its mail. It stops for good ([`Standing::Lost`]), until its operator says otherwise
//! ([`LeaseState::renounced`]).
//!
//! **Copies.** A copy of a store has its instance too. One that was moved to another place draws an instance of its
//! own ([`LeaseState::at_place`]), and waits like any other node. One that cannot be told from a restart goes on at
//! once; each start has a `boot` of its own and takes a higher epoch, so the process that runs sees a lease of its own
//! instance by another boot, and stops: the later start wins.

pub mod driver;
pub mod machine;
mod words;

use std::fmt::Debug;
use std::time::Duration;

use oa_nips::lease::Id;
use oa_nips::nostr::util::BoxedFuture;
use serde::{Deserialize, Serialize};

/// Times of a lease. All nodes that may have a key in common need the same ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How long a lease lasts. 90 s: two renewals may fail.
    pub term: Duration,
    /// Between renewals: a third of the term.
    pub renew_every: Duration,
    /// How far two clocks may differ. 30 s: more than an unattended machine's, and worth the longer wait.
    pub skew: Duration,
    /// From asking who has the lease to the relays' OK for a claim. 3 s: three round trips to a slow relay or bunker.
    pub claim_within: Duration,
    /// The rest of a claim, which must be longer than [`Config::claim_within`] and leave time to look again. 5 s.
    pub settle: Duration,
    /// The first pause after relays did not answer; it doubles.
    pub retry_first: Duration,
    /// The longest pause, also between tries to renew. 5 s.
    pub retry_last: Duration,
    /// What the node is called in its leases, which everybody can read; nothing unless the operator says so.
    pub node: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            term: Duration::from_secs(90),
            renew_every: Duration::from_secs(30),
            skew: Duration::from_secs(30),
            claim_within: Duration::from_secs(3),
            settle: Duration::from_secs(5),
            retry_first: Duration::from_millis(50),
            retry_last: Duration::from_secs(5),
            node: None,
        }
    }
}

/// How many of a key's relays must answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// To be sure who has the lease.
    pub asks: usize,
    /// To have claimed or renewed it.
    pub acks: usize,
}

impl Need {
    /// So many of `relays` that any that were asked have one in common with any that were told. Half of them keep a
    /// lease, more than half are needed to take one: relays that are away sooner keep a newcomer from starting than
    /// a node from going on.
    pub fn overlapping(relays: usize) -> Self {
        let acks = relays.div_ceil(2);
        Self { asks: relays - acks + 1, acks }
    }
}

/// How a node comes to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The key was made in this very start: nobody else can have it. **Not** a new store with an old seed.
    Fresh,
    /// Any other.
    Again,
    /// Its operator says that this store shall have the key although another had it since. It waits like a node that
    /// never had the lease.
    Renounced,
}

/// Whether the key may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Yes, until a time by this node's clock, in milliseconds since 1970. It is extended with each renewal; who
    /// acts looks at the clock too ([`Standing::epoch`]): a process that was asleep is told late.
    Held { epoch: u64, until_ms: u64 },
    /// Not now; that may change without anybody's doing.
    Waiting { why: String },
    /// Not any more: another has used it since.
    Lost { why: String },
}

impl Standing {
    /// The epoch under which something may be done now.
    pub fn epoch(&self, now_ms: u64) -> Option<u64> {
        match self {
            Self::Held { epoch, until_ms } if now_ms < *until_ms => Some(*epoch),
            _ => None,
        }
    }

    /// Why not, for people.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Held { .. } => None,
            Self::Waiting { why } | Self::Lost { why } => Some(why),
        }
    }
}

/// What is remembered of a lease across restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseState {
    /// Names this store among those that have the key.
    pub instance: Id,
    /// Where the store was used last; see [`LeaseState::at_place`].
    #[serde(default)]
    pub place: Option<Id>,
    /// The last time this store had the lease.
    #[serde(default)]
    pub tenure: Option<Tenure>,
}

/// A time during which a store had the lease. Kept before the first thing is done in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenure {
    /// The lease's epoch.
    pub epoch: u64,
    /// The process that had it.
    pub boot: Id,
    /// `created_at` of its last event, in seconds since 1970.
    pub at: u64,
    /// Until when it may be used without asking, in milliseconds since 1970; 0 when it was released or lost.
    pub until_ms: u64,
}

impl LeaseState {
    /// A store that never had a lease.
    pub fn new(instance: Id) -> Self {
        Self { instance, place: None, tenure: None }
    }

    /// The store, used from `place`: something that a copy of it elsewhere has not, such as a digest of the machine's
    /// id and the folder's path. A store that was elsewhere before becomes another instance, since its original may
    /// still run, but remembers its tenure: if the original ticks on, the copy is behind.
    ///
    /// `fresh` is the instance it then takes.
    pub fn at_place(mut self, place: Id, fresh: Id) -> Self {
        if self.place.is_some_and(|known| known != place) {
            self.instance = fresh;
            if let Some(tenure) = &mut self.tenure {
                tenure.until_ms = 0;
            }
        }
        self.place = Some(place);
        self
    }

    /// The store without its past; see [`Start::Renounced`].
    pub fn renounced(self, fresh: Id) -> Self {
        Self { instance: fresh, tenure: None, ..self }
    }
}

/// Where a [`LeaseState`] is kept: in the database of the node, before anything is done that it speaks of.
pub trait Memory: Debug + Send + Sync {
    /// What was kept last.
    ///
    /// # Errors
    /// When it cannot be read.
    fn load(&self) -> Result<Option<LeaseState>, MemoryError>;

    /// Keeps it, durably.
    fn save<'a>(&'a self, state: &'a LeaseState) -> BoxedFuture<'a, Result<(), MemoryError>>;
}

/// Why a lease's state cannot be read or kept.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the state of the lease cannot be kept: {0}")]
pub struct MemoryError(pub String);
