//! LDK's words for things, in ours. Pure.

use ldk_node::bitcoin::{self, Txid};
use ldk_node::lightning::chain::channelmonitor::BalanceSource;
use ldk_node::lightning::events::{ClosureReason, PaymentFailureReason};
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::lightning_types::payment::{PaymentHash as LdkHash, PaymentPreimage};
use ldk_node::payment::{PaymentDetails, PaymentDirection, PaymentKind, PaymentStatus};
use ldk_node::{BalanceDetails, ChannelDetails, LightningBalance, NodeError, PendingSweepBalance};

use super::outcome::Outcome;
use crate::backend::{
    Balance, Channel, ChannelId, Direction, Error, FailReason, Kind, Network, Payment, PaymentHash, Preimage,
    Sat, State,
};
use crate::msat::Msat;

/// Two outputs of every commitment, which whoever opened the channel pays for.
const ANCHORS_SAT: u64 = 660;

pub(super) fn network(network: Network) -> bitcoin::Network {
    match network {
        Network::Mainnet => bitcoin::Network::Bitcoin,
        Network::Testnet => bitcoin::Network::Testnet,
        Network::Signet => bitcoin::Network::Signet,
        Network::Regtest => bitcoin::Network::Regtest,
    }
}

pub(super) fn payment_id(hash: PaymentHash) -> PaymentId {
    PaymentId(hash.to_bytes())
}

pub(super) fn ldk_hash(hash: PaymentHash) -> LdkHash {
    LdkHash(hash.to_bytes())
}

pub(super) fn hash(hash: LdkHash) -> PaymentHash {
    PaymentHash::from_bytes(hash.0)
}

pub(super) fn id(id: PaymentId) -> PaymentHash {
    PaymentHash::from_bytes(id.0)
}

pub(super) fn preimage(preimage: PaymentPreimage) -> Preimage {
    Preimage(preimage.0)
}

pub(super) fn why(reason: Option<PaymentFailureReason>) -> FailReason {
    match reason {
        Some(PaymentFailureReason::RecipientRejected | PaymentFailureReason::InvoiceRequestRejected) => {
            FailReason::Rejected
        }
        Some(PaymentFailureReason::RouteNotFound | PaymentFailureReason::RetriesExhausted) => {
            FailReason::NoRoute
        }
        Some(PaymentFailureReason::PaymentExpired | PaymentFailureReason::InvoiceRequestExpired) => {
            FailReason::Expired
        }
        _ => FailReason::Unknown,
    }
}

/// The payment hash of a payment, once it has one.
pub(super) fn hash_of(kind: &PaymentKind) -> Option<PaymentHash> {
    match kind {
        PaymentKind::Onchain { .. } => None,
        PaymentKind::Bolt11 { hash, .. }
        | PaymentKind::Bolt11Jit { hash, .. }
        | PaymentKind::Spontaneous { hash, .. } => Some(self::hash(*hash)),
        PaymentKind::Bolt12Offer { hash, .. } | PaymentKind::Bolt12Refund { hash, .. } => {
            hash.map(self::hash)
        }
    }
}

fn preimage_of(kind: &PaymentKind) -> Option<Preimage> {
    match kind {
        PaymentKind::Onchain { .. } => None,
        PaymentKind::Bolt11 { preimage, .. }
        | PaymentKind::Bolt11Jit { preimage, .. }
        | PaymentKind::Spontaneous { preimage, .. }
        | PaymentKind::Bolt12Offer { preimage, .. }
        | PaymentKind::Bolt12Refund { preimage, .. } => preimage.map(self::preimage),
    }
}

fn direction(direction: PaymentDirection) -> Direction {
    match direction {
        PaymentDirection::Inbound => Direction::Incoming,
        PaymentDirection::Outbound => Direction::Outgoing,
    }
}

/// What LDK's payment store says, and what an event said that the store missed.
pub(super) fn payment(details: &PaymentDetails, outcome: Option<&Outcome>) -> Payment {
    let kind = match &details.kind {
        PaymentKind::Onchain { txid, .. } => Kind::Onchain { txid: txid.to_string() },
        PaymentKind::Bolt11 { .. } | PaymentKind::Bolt11Jit { .. } => Kind::Bolt11,
        PaymentKind::Bolt12Offer { .. } | PaymentKind::Bolt12Refund { .. } => Kind::Offer,
        PaymentKind::Spontaneous { .. } => Kind::Keysend,
    };
    let fee = Msat::new(match details.direction {
        PaymentDirection::Outbound => details.fee_paid_msat.unwrap_or(0),
        PaymentDirection::Inbound => skimmed(&details.kind),
    });
    let state = match (details.status, outcome) {
        (PaymentStatus::Succeeded, _) => State::Settled { preimage: preimage_of(&details.kind), fee },
        (PaymentStatus::Pending, Some(Outcome::Sent { preimage, fee, .. })) => {
            State::Settled { preimage: *preimage, fee: *fee }
        }
        (PaymentStatus::Pending, _) => State::Pending,
        (PaymentStatus::Failed, Some(Outcome::Failed { why })) => State::Failed { why: *why },
        (PaymentStatus::Failed, _) => State::Failed { why: FailReason::Unknown },
    };
    Payment {
        id: id(details.id),
        hash: hash_of(&details.kind),
        direction: direction(details.direction),
        kind,
        amount: details.amount_msat.map(Msat::new),
        state,
        updated_at: details.latest_update_timestamp,
    }
}

/// What a provider of liquidity kept of an incoming payment.
fn skimmed(kind: &PaymentKind) -> u64 {
    match kind {
        PaymentKind::Bolt11Jit { counterparty_skimmed_fee_msat, .. } => {
            counterparty_skimmed_fee_msat.unwrap_or(0)
        }
        _ => 0,
    }
}

/// `balances` is asked for only where a channel does not say by itself what is ours.
pub(super) fn channels(
    channels: &[ChannelDetails],
    balances: impl FnOnce() -> Vec<LightningBalance>,
) -> Vec<Channel> {
    let is_low = |details: &ChannelDetails| details.outbound_capacity_msat == 0;
    let balances = if channels.iter().any(is_low) { balances() } else { Vec::new() };
    channels.iter().map(|details| channel(details, waiting(&balances, details))).collect()
}

/// What has arrived in a channel and is not ours yet.
fn waiting(balances: &[LightningBalance], details: &ChannelDetails) -> Msat {
    let amounts = balances.iter().map(|balance| match balance {
        LightningBalance::MaybePreimageClaimableHTLC { channel_id, amount_satoshis, .. }
            if *channel_id == details.channel_id =>
        {
            amount_satoshis.saturating_mul(1_000)
        }
        LightningBalance::ClaimableOnChannelClose { channel_id, inbound_htlc_rounded_msat, .. }
            if *channel_id == details.channel_id =>
        {
            *inbound_htlc_rounded_msat
        }
        _ => 0,
    });
    Msat::new(amounts.fold(0, u64::saturating_add))
}

/// What is ours in a channel, with the reserve and without what is on its way.
///
/// LDK says what could be sent besides the reserve, and nothing where we have less than that, as on the far side of a
/// new channel. Then it is what the other side does not have: that has its reserve, what it could send, and if it
/// opened the channel the anchors, which are nobody's in any case.
fn ours(details: &ChannelDetails, waiting: Msat) -> Msat {
    let reserve = Msat::new(details.unspendable_punishment_reserve.unwrap_or(0).saturating_mul(1_000));
    let free = Msat::new(details.outbound_capacity_msat);
    if !free.is_zero() {
        return free.saturating_add(reserve);
    }
    let theirs = details.inbound_capacity_msat;
    if theirs == 0 {
        return Msat::ZERO;
    }
    let theirs_kept = details.counterparty_unspendable_punishment_reserve.saturating_add(ANCHORS_SAT);
    let theirs = Msat::new(theirs.saturating_add(theirs_kept.saturating_mul(1_000)));
    let all = Msat::new(details.channel_value_sats.saturating_mul(1_000));
    all.saturating_sub(theirs).saturating_sub(waiting)
}

fn channel(details: &ChannelDetails, waiting: Msat) -> Channel {
    let free = Msat::new(details.outbound_capacity_msat);
    Channel {
        id: ChannelId(details.user_channel_id.0),
        peer: details.counterparty_node_id.into(),
        capacity: Sat(details.channel_value_sats),
        ours: ours(details, waiting),
        spendable: free,
        spendable_at_once: Msat::new(details.next_outbound_htlc_limit_msat),
        receivable: Msat::new(details.inbound_capacity_msat),
        ready: details.is_channel_ready,
        usable: details.is_usable,
        opened_by_us: details.is_outbound,
        funding_txid: details.funding_txo.map(|outpoint| outpoint.txid.to_string()),
        confirmations: (details.confirmations.unwrap_or(0), details.confirmations_required.unwrap_or(0)),
    }
}

/// `is_counted`: whether the wallet on the chain knows a transaction.
pub(super) fn balance(
    channels: &[ChannelDetails],
    details: &BalanceDetails,
    is_counted: impl Fn(&Txid) -> bool,
) -> Balance {
    let open = self::channels(channels, || details.lightning_balances.clone());
    let sum = |amounts: &mut dyn Iterator<Item = Msat>| amounts.fold(Msat::ZERO, Msat::saturating_add);
    let ready = || open.iter().filter(|channel| channel.ready);
    let is_open = |id| channels.iter().any(|channel| channel.channel_id == id);
    let closing = details.lightning_balances.iter().map(|balance| match balance {
        // Closed by both; the transaction is not in a block yet.
        LightningBalance::ClaimableOnChannelClose { channel_id, amount_satoshis, .. }
            if !is_open(*channel_id) =>
        {
            *amount_satoshis
        }
        // Paid to the wallet on the chain, which counts it.
        LightningBalance::ClaimableAwaitingConfirmations { source: BalanceSource::CoopClose, .. } => 0,
        LightningBalance::ClaimableAwaitingConfirmations { amount_satoshis, .. }
        | LightningBalance::ContentiousClaimable { amount_satoshis, .. }
        | LightningBalance::CounterpartyRevokedOutputClaimable { amount_satoshis, .. } => *amount_satoshis,
        _ => 0,
    });
    // A sweep pays to the wallet on the chain, which counts it from the moment it sees it; LDK goes on for a month.
    let swept = details.pending_balances_from_channel_closures.iter().map(|balance| match balance {
        PendingSweepBalance::PendingBroadcast { amount_satoshis, .. } => *amount_satoshis,
        PendingSweepBalance::BroadcastAwaitingConfirmation {
            latest_spending_txid, amount_satoshis, ..
        } if !is_counted(latest_spending_txid) => *amount_satoshis,
        PendingSweepBalance::BroadcastAwaitingConfirmation { .. }
        | PendingSweepBalance::AwaitingThresholdConfirmations { .. } => 0,
    });
    Balance {
        spendable: sum(&mut ready().map(|channel| channel.spendable)),
        spendable_at_once: sum(&mut ready().map(|channel| channel.spendable_at_once)),
        receivable: sum(&mut ready().map(|channel| channel.receivable)),
        in_channels: sum(&mut open.iter().map(|channel| channel.ours)),
        onchain: Sat(details.spendable_onchain_balance_sats),
        onchain_reserved: Sat(details.total_anchor_channels_reserve_sats),
        pending: Sat(closing.chain(swept).fold(0, u64::saturating_add)),
    }
}

/// Whether one side published its state alone, and why a channel ended.
pub(super) fn closure(reason: Option<&ClosureReason>) -> (bool, String) {
    let Some(reason) = reason else { return (false, "unknown".to_owned()) };
    let peaceful = matches!(
        reason,
        ClosureReason::LegacyCooperativeClosure
            | ClosureReason::CounterpartyInitiatedCooperativeClosure
            | ClosureReason::LocallyInitiatedCooperativeClosure
            | ClosureReason::CounterpartyCoopClosedUnfundedChannel
            | ClosureReason::LocallyCoopClosedUnfundedChannel
            | ClosureReason::FundingTimedOut
            | ClosureReason::FundingBatchClosure
            | ClosureReason::DisconnectedPeer
    );
    (!peaceful, reason.to_string())
}

/// What an error of LDK means to a caller. `available` is what the failed call could have spent.
pub(super) fn error(error: NodeError, available: Msat) -> Error {
    use NodeError as E;
    match error {
        E::NotRunning => Error::Unavailable("stopped".to_owned()),
        E::ConnectionFailed => Error::Unavailable("the peer cannot be reached".to_owned()),
        E::LiquiditySourceUnavailable | E::LiquidityRequestFailed => {
            Error::Unavailable("the provider of liquidity does not answer".to_owned())
        }
        E::LiquidityFeeTooHigh => Error::Unavailable("the provider of liquidity asks too much".to_owned()),
        E::FeerateEstimationUpdateFailed
        | E::FeerateEstimationUpdateTimeout
        | E::TxSyncFailed
        | E::TxSyncTimeout
        | E::WalletOperationTimeout => Error::Unavailable("the chain source does not answer".to_owned()),
        E::InsufficientFunds => Error::InsufficientBalance { available },
        E::DuplicatePayment => Error::InFlight,
        E::PaymentSendingFailed => Error::NoRoute,
        E::InvalidAddress
        | E::InvalidSocketAddress
        | E::InvalidPublicKey
        | E::InvalidAmount
        | E::InvalidInvoice
        | E::InvalidOffer
        | E::InvalidQuantity
        | E::InvalidNetwork
        | E::InvalidCustomTlvs
        | E::UnsupportedCurrency => Error::Malformed(sentence(error)),
        _ => Error::Other(sentence(error)),
    }
}

/// LDK's message as one of ours: a lower-case fragment.
fn sentence(error: NodeError) -> String {
    let text = error.to_string();
    let mut letters = text.trim_end_matches('.').chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_both_agreed_upon_is_a_peaceful_end() {
        let forced = |reason: &ClosureReason| closure(Some(reason)).0;
        assert!(!forced(&ClosureReason::LocallyInitiatedCooperativeClosure));
        assert!(!forced(&ClosureReason::CounterpartyInitiatedCooperativeClosure));
        assert!(forced(&ClosureReason::OutdatedChannelManager));
        assert!(forced(&ClosureReason::CommitmentTxConfirmed));
        assert!(forced(&ClosureReason::HolderForceClosed {
            broadcasted_latest_txn: Some(true),
            message: String::new()
        }));
    }

    #[test]
    fn errors_read_like_ours() {
        let other = error(NodeError::WalletOperationFailed, Msat::ZERO);
        assert_eq!(other, Error::Other("failed to conduct wallet operation".to_owned()));
        let short = error(NodeError::InsufficientFunds, Msat::new(5));
        assert_eq!(short, Error::InsufficientBalance { available: Msat::new(5) });
    }
}
