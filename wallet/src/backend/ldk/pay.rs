//! Payments that go out.

use std::sync::{Arc, Mutex};

use ldk_node::bitcoin::constants::ChainHash;
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::lightning::offers::offer::{Amount, Offer};
use ldk_node::lightning::routing::router::RouteParametersConfig;
use ldk_node::lightning_types::payment::PaymentPreimage;
use ldk_node::payment::{PaymentDirection, PaymentStatus};
use ldk_node::{CustomTlvRecord, Node, NodeError};

use super::outcome::{Outcome, Outcomes};
use super::{Ldk, Running, channels, convert, lock, now};
use crate::backend::check::{self, CODE_BYTES_MAX};
use crate::backend::{Direction, Error, Keysend, Kind, Network, Payment, PaymentHash, State};
use crate::msat::Msat;

impl Ldk {
    pub(super) async fn send_bolt11(
        &self,
        text: &str,
        amount: Option<Msat>,
        fee_max: Msat,
    ) -> Result<Payment, Error> {
        let checked = check::bolt11(text, amount, self.network, now())?;
        if checked.payee == self.node_id {
            return Err(Error::OwnInvoice);
        }
        let invoice = checked.invoice;
        self.send(checked.hash, checked.amount, move |node| {
            let (bolt11, route) = (node.bolt11_payment(), Some(route(fee_max)));
            match invoice.amount_milli_satoshis() {
                Some(_) => bolt11.send(&invoice, route),
                None => bolt11.send_using_amount(&invoice, checked.amount.get(), route),
            }
        })
        .await
    }

    pub(super) async fn send_keysend(&self, keysend: Keysend) -> Result<Payment, Error> {
        check::amount_asked(keysend.amount)?;
        check::records(&keysend.records)?;
        if keysend.payee == self.node_id {
            return Err(Error::OwnInvoice);
        }
        self.send(keysend.preimage.hash(), keysend.amount, move |node| {
            let records = keysend.records.into_iter();
            let records = records
                .map(|record| CustomTlvRecord { type_num: record.kind, value: record.value })
                .collect();
            node.spontaneous_payment().send_with_preimage_and_custom_tlvs(
                keysend.amount.get(),
                *keysend.payee.key(),
                records,
                PaymentPreimage(keysend.preimage.0),
                Some(route(keysend.fee_max)),
            )
        })
        .await
    }

    pub(super) async fn send_to_offer(
        &self,
        text: &str,
        amount: Option<Msat>,
        note: Option<&str>,
        fee_max: Msat,
    ) -> Result<Payment, Error> {
        let offer = self.check_offer(text)?;
        let asked = match offer.amount() {
            Some(Amount::Bitcoin { amount_msats }) => Some(Msat::new(amount_msats)),
            Some(Amount::Currency { .. }) => {
                return Err(Error::Malformed("an offer in a currency other than bitcoin".to_owned()));
            }
            None => None,
        };
        let amount = match (asked, amount) {
            (Some(theirs), Some(given)) if theirs != given => return Err(Error::AmountMismatch { theirs }),
            (Some(amount), _) | (None, Some(amount)) if !amount.is_zero() => amount,
            _ => return Err(Error::AmountMissing),
        };
        if lock(&self.offers).contains(&offer.id()) {
            return Err(Error::OwnInvoice);
        }
        let note = note.map(str::to_owned);
        let one_at_a_time = Arc::clone(&self.sending).lock_owned().await;
        let outcomes = Arc::clone(&self.outcomes);
        self.ask(move |node| {
            let _one_at_a_time = one_at_a_time;
            afford(node, amount)?;
            let (bolt12, route) = (node.bolt12_payment(), Some(route(fee_max)));
            let sent = match asked {
                Some(_) => bolt12.send(&offer, None, note, route),
                None => bolt12.send_using_amount(&offer, amount.get(), None, note, route),
            };
            let id = convert::id(sent.map_err(|error| convert::error(error, Msat::ZERO))?);
            lock(&outcomes).begin(id, false);
            find_in(node, &outcomes, id).ok_or(Error::NotFound)
        })
        .await
    }

    fn check_offer(&self, text: &str) -> Result<Offer, Error> {
        let text = text.trim();
        if text.len() > CODE_BYTES_MAX {
            return Err(Error::Malformed(format!("an offer of more than {CODE_BYTES_MAX} bytes")));
        }
        let offer: Offer = text.parse().map_err(|error| Error::Malformed(format!("no offer: {error:?}")))?;
        let accepted_on =
            |network| offer.supports_chain(ChainHash::using_genesis_block(convert::network(network)));
        if !accepted_on(self.network) {
            let others = [Network::Mainnet, Network::Testnet, Network::Signet, Network::Regtest];
            let theirs = others.into_iter().find(|network| accepted_on(*network));
            return Err(match theirs {
                Some(theirs) => Error::WrongNetwork { ours: self.network, theirs },
                None => Error::Malformed("an offer for a chain we do not know".to_owned()),
            });
        }
        if offer.is_expired() {
            return Err(Error::Expired);
        }
        Ok(offer)
    }

    /// Sends what has a hash, unless it was sent.
    async fn send(
        &self,
        id: PaymentHash,
        amount: Msat,
        call: impl FnOnce(&Node) -> Result<PaymentId, NodeError> + Send + 'static,
    ) -> Result<Payment, Error> {
        let one_at_a_time = Arc::clone(&self.sending).lock_owned().await;
        let outcomes = Arc::clone(&self.outcomes);
        self.ask(move |node| {
            // Released when LDK has written the payment down, also if nobody waits for this any more.
            let _one_at_a_time = one_at_a_time;
            let known = find_in(node, &outcomes, id);
            match &known {
                Some(Payment { direction: Direction::Incoming, .. }) => return Err(Error::OwnInvoice),
                Some(Payment { state: State::Settled { .. }, .. }) => return Err(Error::AlreadyPaid),
                Some(Payment { state: State::Pending, .. }) => return Err(Error::InFlight),
                Some(Payment { state: State::Failed { .. }, .. }) | None => {}
            }
            afford(node, amount)?;
            lock(&outcomes).begin(id, known.is_some());
            call(node).map_err(|error| convert::error(error, Msat::ZERO))?;
            find_in(node, &outcomes, id).ok_or(Error::NotFound)
        })
        .await
    }
}

/// Refuses what the channels cannot send: for want of money, or of peers.
fn afford(node: &Node, amount: Msat) -> Result<(), Error> {
    let channels = channels::list(node);
    let sum = |usable: bool| {
        let open = channels.iter().filter(|channel| channel.ready && (channel.usable || !usable));
        open.map(|channel| channel.spendable_at_once).fold(Msat::ZERO, Msat::saturating_add)
    };
    let available = sum(false);
    if amount > available {
        return Err(Error::InsufficientBalance { available });
    }
    if amount > sum(true) {
        return Err(Error::Unavailable("the peer of a channel is away".to_owned()));
    }
    Ok(())
}

fn route(fee_max: Msat) -> RouteParametersConfig {
    RouteParametersConfig {
        max_total_routing_fee_msat: Some(fee_max.get()),
        ..RouteParametersConfig::default()
    }
}

/// A payment by its name or its hash.
pub(super) fn find(running: &Running, outcomes: &Mutex<Outcomes>, hash: PaymentHash) -> Option<Payment> {
    find_in(&running.node, outcomes, hash)
}

fn find_in(node: &Node, outcomes: &Mutex<Outcomes>, hash: PaymentHash) -> Option<Payment> {
    // Only an outgoing offer has another name than its hash.
    let details = node.payment(&convert::payment_id(hash)).or_else(|| {
        node.list_payments_with_filter(|payment| convert::hash_of(&payment.kind) == Some(hash)).pop()
    });
    let outcomes = lock(outcomes);
    if let Some(details) = details {
        return Some(convert::payment(&details, outcomes.of(&convert::id(details.id))));
    }
    // The process ended between sending and writing down; the event is all there is.
    let Some(Outcome::Sent { hash, preimage, fee }) = outcomes.sent(hash).copied() else { return None };
    Some(unlisted(hash, State::Settled { preimage, fee }))
}

/// A payment that was sent before this run, and never written down: what LDK tells of its end, or that there is none yet.
pub(super) fn begun_before(
    running: &Running,
    outcomes: &Mutex<Outcomes>,
    hash: PaymentHash,
) -> Option<Payment> {
    let state = match lock(outcomes).of(&hash) {
        Some(Outcome::Failed { why }) => State::Failed { why: *why },
        _ if running.traces.has(&hash) => State::Pending,
        _ => return None,
    };
    Some(unlisted(hash, state))
}

fn unlisted(hash: PaymentHash, state: State) -> Payment {
    Payment {
        id: hash,
        hash: Some(hash),
        direction: Direction::Outgoing,
        kind: Kind::Bolt11,
        amount: None,
        state,
        updated_at: now().as_secs(),
    }
}

impl Ldk {
    /// What an event says of the end of a payment goes into [`Outcomes`]. Gives whether it is that payment's end.
    pub(super) async fn note_end(&self, id: PaymentHash, outcome: Outcome) -> Result<bool, Error> {
        let one_at_a_time = Arc::clone(&self.sending).lock_owned().await;
        let outcomes = Arc::clone(&self.outcomes);
        self.ask(move |node| {
            let _one_at_a_time = one_at_a_time;
            let details = node.payment(&convert::payment_id(id));
            let mut outcomes = lock(&outcomes);
            let sent = matches!(outcome, Outcome::Sent { .. });
            if !sent
                && let Some(details) = &details
                && details.status != PaymentStatus::Failed
            {
                let outgoing = details.direction == PaymentDirection::Outbound;
                if details.status == PaymentStatus::Succeeded || !outgoing || !outcomes.is_first_attempt(&id)
                {
                    // An earlier attempt's end; the present one is under way or has succeeded.
                    return Ok(false);
                }
                // It failed before LDK had written down that it exists, which then overwrote the failure. This call is
                // for payments we receive, but what it does to the store is what is needed, and it does no more.
                let mended = node.bolt11_payment().fail_for_hash(convert::ldk_hash(id));
                mended.map_err(|error| convert::error(error, Msat::ZERO))?;
            }
            outcomes.end(id, outcome);
            Ok(true)
        })
        .await
    }
}
