//! Payments, invoices, and the hashes they are known by.

use std::fmt;
use std::str::FromStr;

use oa_nips::hex::Hex;
use oa_nips::nostr::hashes::{Hash as _, sha256};
use serde::{Deserialize, Serialize};

use super::error::FailReason;
use super::node::NodeId;
use crate::msat::Msat;

/// The SHA-256 of a preimage: the name of a payment, and what is paid at most once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PaymentHash(pub Hex<32>);

impl PaymentHash {
    /// From its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Hex(bytes))
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0.0
    }
}

impl fmt::Display for PaymentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for PaymentHash {
    type Err = oa_nips::hex::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// What takes a payment, and afterwards proves it. A secret until then: its `Debug` shows nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Preimage(pub [u8; 32]);

impl Preimage {
    /// The hash it opens.
    pub fn hash(&self) -> PaymentHash {
        PaymentHash::from_bytes(sha256::Hash::hash(&self.0).to_byte_array())
    }

    /// Its digits, for the one who is entitled to see them.
    pub fn reveal(&self) -> Hex<32> {
        Hex(self.0)
    }
}

impl fmt::Debug for Preimage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Which way money goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To us.
    Incoming,
    /// From us.
    Outgoing,
}

/// By which protocol it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// An invoice (BOLT 11).
    Bolt11,
    /// An offer (BOLT 12).
    Offer,
    /// Without being asked.
    Keysend,
    /// A transaction on the chain.
    Onchain {
        /// Which.
        txid: String,
    },
}

/// How far it is. `Settled` and `Failed` are final.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not decided: an invoice nobody has paid, money held, a payment under way.
    Pending,
    /// Done.
    Settled {
        /// The receipt; none for transactions.
        preimage: Option<Preimage>,
        /// What it cost on top of the amount; of an incoming one, what a provider of liquidity kept.
        fee: Msat,
    },
    /// Nothing moved.
    Failed {
        /// Why.
        why: FailReason,
    },
}

/// One payment, as the backend knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// Its name here: the payment hash, but for outgoing offers (random) and transactions (the transaction id).
    pub id: PaymentHash,
    /// The payment hash, where one is known.
    pub hash: Option<PaymentHash>,
    /// Which way.
    pub direction: Direction,
    /// By which protocol.
    pub kind: Kind,
    /// How much, without fees; unknown while an open amount is unpaid.
    pub amount: Option<Msat>,
    /// How far.
    pub state: State,
    /// When that last changed, in seconds of Unix time.
    pub updated_at: u64,
}

impl Payment {
    /// Whether its state is final.
    pub fn is_final(&self) -> bool {
        self.state != State::Pending
    }
}

/// What an invoice is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvoiceRequest {
    /// How much; `None` leaves it to the payer.
    pub amount: Option<Msat>,
    /// What for, shown to the payer; 639 bytes at most.
    pub description: String,
    /// For how long it can be paid, in seconds.
    pub expiry_s: u32,
}

/// Longest description an invoice holds, in bytes (BOLT 11: a field has at most 1,023 groups of 5 bits).
pub const DESCRIPTION_BYTES_MAX: usize = 639;

/// A request for money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoice {
    /// What the payer is given.
    pub bolt11: String,
    /// What it is known by.
    pub hash: PaymentHash,
    /// When it ends, in seconds of Unix time.
    pub expires_at: u64,
}

/// A field that a sender attaches to a payment (TLV). Its type is odd and at least 65,536.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it means.
    pub kind: u64,
    /// What it says.
    pub value: Vec<u8>,
}

/// Smallest type of a record that senders may choose (BOLT 1).
pub const RECORD_KIND_MIN: u64 = 65_536;

/// Most bytes of records a payment carries: an onion has 1,300 for the whole route.
pub const RECORD_BYTES_MAX: usize = 800;

/// A payment that was not asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keysend {
    /// To whom.
    pub payee: NodeId,
    /// How much.
    pub amount: Msat,
    /// Random, and persisted before the call.
    pub preimage: Preimage,
    /// What routing may cost on top.
    pub fee_max: Msat,
    /// What goes with it.
    pub records: Vec<Record>,
}

/// Which payments are listed. The default is everything, in one page of `limit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Changed at or after this second of Unix time.
    pub from: Option<u64>,
    /// Changed at or before this second.
    pub until: Option<u64>,
    /// One way only.
    pub direction: Option<Direction>,
    /// Also what is not settled.
    pub unpaid: bool,
    /// Skips as many.
    pub offset: usize,
    /// Gives at most as many.
    pub limit: usize,
}

impl Default for Filter {
    fn default() -> Self {
        Self { from: None, until: None, direction: None, unpaid: true, offset: 0, limit: usize::MAX }
    }
}

impl Filter {
    /// Whether a payment belongs to the list.
    pub fn admits(&self, payment: &Payment) -> bool {
        self.from.is_none_or(|from| payment.updated_at >= from)
            && self.until.is_none_or(|until| payment.updated_at <= until)
            && self.direction.is_none_or(|direction| payment.direction == direction)
            && (self.unpaid || matches!(payment.state, State::Settled { .. }))
    }

    /// Puts the newest first and cuts the page out.
    pub(crate) fn page(&self, mut payments: Vec<Payment>) -> Vec<Payment> {
        payments.retain(|payment| self.admits(payment));
        payments.sort_by(|a, b| b.updated_at.cmp(&a.updated_at).then_with(|| a.id.cmp(&b.id)));
        payments.into_iter().skip(self.offset).take(self.limit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payment(byte: u8, updated_at: u64, direction: Direction, state: State) -> Payment {
        let id = PaymentHash::from_bytes([byte; 32]);
        Payment { id, hash: Some(id), direction, kind: Kind::Bolt11, amount: None, state, updated_at }
    }

    #[test]
    fn a_preimage_opens_its_hash_and_is_not_shown() {
        let preimage = Preimage([0; 32]);
        assert_eq!(
            preimage.hash().to_string(),
            "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925"
        );
        assert_eq!(format!("{preimage:?}"), "[redacted]");
        let settled = State::Settled { preimage: Some(preimage), fee: Msat::ZERO };
        assert!(!format!("{settled:?}").contains("0000"));
    }

    #[test]
    fn a_page_is_the_newest_that_match() {
        let settled = State::Settled { preimage: None, fee: Msat::ZERO };
        let all = vec![
            payment(1, 10, Direction::Incoming, settled.clone()),
            payment(2, 30, Direction::Outgoing, settled.clone()),
            payment(3, 20, Direction::Incoming, State::Pending),
            payment(4, 40, Direction::Incoming, settled),
        ];
        let times = |filter: &Filter| {
            filter.page(all.clone()).iter().map(|payment| payment.updated_at).collect::<Vec<_>>()
        };
        assert_eq!(times(&Filter::default()), [40, 30, 20, 10]);
        assert_eq!(times(&Filter { unpaid: false, ..Filter::default() }), [40, 30, 10]);
        assert_eq!(times(&Filter { offset: 1, limit: 2, ..Filter::default() }), [30, 20]);
        assert_eq!(times(&Filter { from: Some(20), until: Some(30), ..Filter::default() }), [30, 20]);
        assert_eq!(times(&Filter { direction: Some(Direction::Outgoing), ..Filter::default() }), [30]);
    }
}
