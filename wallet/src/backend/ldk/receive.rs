//! Payments that come in.

use std::time::{Duration, Instant};

use ldk_node::Node;
use ldk_node::lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescription, Description};
use ldk_node::lightning_types::payment::PaymentPreimage;
use ldk_node::payment::{PaymentDetails, PaymentDirection, PaymentKind, PaymentStatus};

use super::{Ldk, channels, convert, lock};
use crate::backend::check;
use crate::backend::{Error, Invoice, InvoiceRequest, PaymentHash, Preimage};
use crate::msat::Msat;

/// How long LDK may take to say that money it holds is ours.
const SETTLE_WITHIN: Duration = Duration::from_secs(10);

/// The same where nobody has seen any money held, since the start: it may have come before.
const SETTLE_UNSEEN_WITHIN: Duration = Duration::from_secs(1);

/// Offers of this run that are remembered, to refuse paying them ourselves.
const OFFERS_MAX: usize = 1_024;

impl Ldk {
    pub(super) async fn make_invoice(&self, request: InvoiceRequest) -> Result<Invoice, Error> {
        check::request(&request)?;
        let description = describe(&request)?;
        let lsp = self.lsp.clone();
        self.ask(move |node| {
            let (bolt11, expiry_s) = (node.bolt11_payment(), request.expiry_s);
            let invoice = match (request.amount, lsp) {
                (Some(amount), Some(lsp)) if amount > receivable(node) => {
                    let fee_max = Some(lsp.fee_max_of(amount).get());
                    bolt11.receive_via_jit_channel(amount.get(), &description, expiry_s, fee_max)
                }
                (Some(amount), _) => bolt11.receive(amount.get(), &description, expiry_s),
                (None, _) => bolt11.receive_variable_amount(&description, expiry_s),
            };
            invoice.map(|invoice| read(&invoice)).map_err(|error| convert::error(error, Msat::ZERO))
        })
        .await
    }

    pub(super) async fn make_hold_invoice(
        &self,
        hash: PaymentHash,
        request: InvoiceRequest,
    ) -> Result<Invoice, Error> {
        check::request(&request)?;
        let description = describe(&request)?;
        let amount = request.amount.ok_or(Error::AmountMissing)?;
        self.ask(move |node| {
            if node.payment(&convert::payment_id(hash)).is_some() {
                return Err(Error::AlreadyPaid);
            }
            let bolt11 = node.bolt11_payment();
            let invoice = bolt11.receive_for_hash(
                amount.get(),
                &description,
                request.expiry_s,
                convert::ldk_hash(hash),
            );
            invoice.map(|invoice| read(&invoice)).map_err(|error| convert::error(error, Msat::ZERO))
        })
        .await
    }

    pub(super) async fn settle_held(&self, preimage: Preimage) -> Result<(), Error> {
        let hash = preimage.hash();
        let seen = lock(&self.held).get(&hash).copied();
        let deadline = seen.flatten();
        let begun = self
            .ask(move |node| {
                let details = incoming(node, hash)?;
                match details.status {
                    PaymentStatus::Succeeded => return Ok(()),
                    PaymentStatus::Failed => return Err(Error::NotHeld),
                    PaymentStatus::Pending => {}
                }
                // LDK takes no note of a claim for what has gone back, and says nothing.
                if has_passed(node, deadline) {
                    return Err(Error::NotHeld);
                }
                // LDK has checked what arrived against the invoice before it told of it, and asks for it only to check
                // again; of a payment that came before the last start we do not know it.
                let amount = details.amount_msat.unwrap_or(0);
                let bolt11 = node.bolt11_payment();
                let claimed =
                    bolt11.claim_for_hash(convert::ldk_hash(hash), amount, PaymentPreimage(preimage.0));
                claimed.map_err(|error| convert::error(error, Msat::ZERO))
            })
            .await;
        begun?;
        let within = if seen.is_some() { SETTLE_WITHIN } else { SETTLE_UNSEEN_WITHIN };
        let until = Instant::now() + within;
        loop {
            if incoming(&self.running()?.node, hash)?.status == PaymentStatus::Succeeded {
                lock(&self.held).remove(&hash);
                return Ok(());
            }
            if Instant::now() >= until {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if seen.is_none() || has_passed(&self.running()?.node, deadline) {
            return Err(Error::NotHeld);
        }
        Err(Error::Unavailable("the node is busy".to_owned()))
    }

    pub(super) async fn cancel_held(&self, hash: PaymentHash) -> Result<(), Error> {
        self.ask(move |node| {
            let details = incoming(node, hash)?;
            match details.status {
                PaymentStatus::Succeeded => Err(Error::AlreadyPaid),
                // Also of one that was cancelled: it sends back what came after that.
                PaymentStatus::Failed | PaymentStatus::Pending => {
                    let failed = node.bolt11_payment().fail_for_hash(convert::ldk_hash(hash));
                    failed.map_err(|error| convert::error(error, Msat::ZERO))
                }
            }
        })
        .await?;
        lock(&self.held).remove(&hash);
        Ok(())
    }

    pub(super) async fn make_offer(&self, amount: Option<Msat>, description: &str) -> Result<String, Error> {
        amount.map_or(Ok(()), check::amount_asked)?;
        let description = description.to_owned();
        let offer = self
            .ask(move |node| {
                let bolt12 = node.bolt12_payment();
                let offer = match amount {
                    Some(amount) => bolt12.receive(amount.get(), &description, None, None),
                    None => bolt12.receive_variable_amount(&description, None),
                };
                offer.map_err(|error| convert::error(error, Msat::ZERO))
            })
            .await?;
        let mut offers = lock(&self.offers);
        offers.push_back(offer.id());
        while offers.len() > OFFERS_MAX {
            offers.pop_front();
        }
        Ok(offer.to_string())
    }
}

/// A hold invoice of ours: one whose preimage LDK does not have.
fn incoming(node: &Node, hash: PaymentHash) -> Result<PaymentDetails, Error> {
    let details = node.payment(&convert::payment_id(hash)).ok_or(Error::NotFound)?;
    let holds = match details.kind {
        PaymentKind::Bolt11 { preimage, .. } | PaymentKind::Bolt11Jit { preimage, .. } => {
            preimage.is_none() || details.status == PaymentStatus::Succeeded
        }
        _ => false,
    };
    if details.direction == PaymentDirection::Inbound && holds { Ok(details) } else { Err(Error::NotFound) }
}

/// Whether what is held until a height has gone back.
fn has_passed(node: &Node, deadline: Option<u32>) -> bool {
    deadline.is_some_and(|height| node.status().current_best_block.height >= height)
}

fn receivable(node: &Node) -> Msat {
    let ready = channels::list(node).into_iter().filter(|channel| channel.ready);
    ready.map(|channel| channel.receivable).fold(Msat::ZERO, Msat::saturating_add)
}

fn describe(request: &InvoiceRequest) -> Result<Bolt11InvoiceDescription, Error> {
    let description =
        Description::new(request.description.clone()).map_err(|error| Error::Malformed(error.to_string()))?;
    Ok(Bolt11InvoiceDescription::Direct(description))
}

fn read(invoice: &Bolt11Invoice) -> Invoice {
    Invoice {
        bolt11: invoice.to_string(),
        hash: PaymentHash::from_bytes(*AsRef::<[u8; 32]>::as_ref(invoice.payment_hash())),
        expires_at: invoice.expires_at().map_or(u64::MAX, |at| at.as_secs()),
    }
}
