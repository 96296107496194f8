//! Invoices of this node's accounts, and the money that comes in for them.
//!
//! An invoice is on disk before anybody sees it, so whatever is paid for it finds its account. Money counts when the
//! wallet's look-up says that it has come; whatever else claims so only makes us look.

use oa_nips::hex::{Hash, Hex};
use oa_wallet::account::{Holder, Ledger, PostError, Posted};
use oa_wallet::backend::PaymentHash;
use oa_wallet::msat::Msat;
use oa_wallet::nwc::client::CallError;
use oa_wallet::nwc::message::{Direction, InvoiceOrder, State, Transaction};
use oa_wallet::store::Draft;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::error::said;
use super::item::{self, Invoice, InvoiceStage, Item, Place, Waiting, What};
use super::{InvoiceAsked, Money, lock};
use crate::agent::envelope::{Envelope, Kind};
use crate::agent::{AgentId, Lifecycle};
use crate::namespace::Error;
use crate::namespace::service::{ChangeKey, LookUp};
use crate::plumber::{Item as Routed, Place as Goes};
use crate::store::write::{Poke, Write};
use oa_nips::files::Code;

/// Invoices of one account that wait for their payment: more than a shop has open at once.
const OPEN_MAX: usize = 500;
/// And of all accounts of a node.
pub(super) const OPEN_ALL_MAX: usize = 10_000;
/// An invoice is looked at so much longer than it lasts, in milliseconds: clocks differ, and a payment that has begun
/// may come in late.
const LATE_MS: u64 = 2 * 60 * 1000;

impl Money {
    /// Makes an invoice that pays into an account, once for each key.
    ///
    /// # Errors
    /// What the wallet said; nothing was made then that anybody knows of.
    pub(crate) async fn invoice(
        &self,
        holder: &Holder,
        woken_by: Option<&Envelope>,
        asked: &InvoiceAsked,
        key: ChangeKey,
    ) -> Result<Vec<u8>, Error> {
        let call = Hex(key);
        if let Some(place) = self.of_call(&call)? {
            return self.made(&place);
        }
        self.check_room(holder)?;
        self.connected().await?;
        let order = InvoiceOrder {
            amount: asked.amount_msat,
            description: asked.description.clone(),
            description_hash: None,
            expiry: asked.expiry_s,
            metadata: None,
        };
        let made = self.inner.bank.make_invoice(order).await?;
        let place = self.note(holder, woken_by, asked, call, &made).await?;
        self.made(&place)
    }

    /// What became of an invoice whose reply was lost.
    ///
    /// # Errors
    /// When the rows cannot be read.
    pub(crate) fn look_up_invoice(&self, key: ChangeKey) -> Result<LookUp, Error> {
        match self.of_call(&Hex(key))? {
            Some(place) => self.made(&place).map(LookUp::Done),
            None => Ok(LookUp::NotDone),
        }
    }

    fn check_room(&self, holder: &Holder) -> Result<(), Error> {
        let waiting = item::waiting(&self.inner.book.rows(), OPEN_ALL_MAX)?;
        let own = waiting.iter().filter(|(_, waiting)| waiting.place.holder == *holder).count();
        if own >= OPEN_MAX || waiting.len() >= OPEN_ALL_MAX {
            return Err(said(Code::RateLimited, format!("{own} invoices of this account wait to be paid")));
        }
        Ok(())
    }

    async fn note(
        &self,
        holder: &Holder,
        woken_by: Option<&Envelope>,
        asked: &InvoiceAsked,
        call: Hash,
        made: &Transaction,
    ) -> Result<Place, Error> {
        let (hash, now_ms) = (made.payment_hash.0, self.now_ms());
        // The client has checked the text against the order.
        let text = made.invoice.clone().unwrap_or_default();
        let bill = oa_wallet::nwc::bill::Bill::read(&text)?;
        let expires_ms = bill.expires_at.saturating_mul(1000);
        let invoice = Invoice {
            call,
            payment_hash: hash,
            invoice: text,
            amount: asked.amount_msat,
            description: asked.description.clone(),
            expires_ms,
            origin: woken_by.and_then(|envelope| envelope.origin.clone()),
            heard: woken_by.and_then(|envelope| envelope.heard.clone()),
            stage: InvoiceStage::Open,
        };
        let work = |draft: &mut Draft<'_>, _: &mut Vec<Write>| {
            if let Some(place) = item::of_call(draft, &call)? {
                return Ok(place);
            }
            let amount = Some(asked.amount_msat);
            Ledger::new(draft).note_invoice(&hash, holder, amount, now_ms, expires_ms)?;
            let place =
                item::add(draft, holder, &Item::new(now_ms, What::Invoice(Box::new(invoice.clone()))))?;
            item::set_call(draft, &call, &place)?;
            let waiting = Waiting { place: place.clone(), made_ms: now_ms, expires_ms };
            item::set_invoice(draft, &hash, &waiting)?;
            Ok(place)
        };
        let place = self.inner.book.write(work).await?;
        self.watch(hash, now_ms, expires_ms);
        Ok(place)
    }

    /// What whoever asked for an invoice is answered.
    fn made(&self, place: &Place) -> Result<Vec<u8>, Error> {
        let rows = self.inner.book.rows();
        let What::Invoice(invoice) = item::get(&mut Draft::new(&rows), place)?.what else {
            return Err(Error::io(place.path(), "is no invoice"));
        };
        let told = json!({
            "invoice": invoice.invoice,
            "payment_hash": invoice.payment_hash,
            "amount_msat": invoice.amount,
            "expires_at": invoice.expires_ms / 1000,
            "path": place.path(),
        });
        Ok(told.to_string().into_bytes())
    }

    /// Asks the wallet about an invoice, and believes what it says.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) async fn look(&self, hash: Hash) -> Result<(), CallError> {
        let found = self.inner.bank.look_up(PaymentHash(hash)).await?;
        let is_paid = |found: &Transaction| {
            found.direction == Direction::Incoming
                && found.state == State::Settled
                && found.amount <= Msat::SUPPLY
        };
        let done = match found.filter(is_paid) {
            Some(paid) => self.came_in(hash, paid.amount).await,
            None => self.not_yet(hash).await,
        };
        if let Err(error) = done {
            tracing::error!(%hash, %error, "an invoice is looked at again later");
        }
        Ok(())
    }

    /// Whether the wallet says that an invoice was paid, before anything is paid for it: what another of its customers
    /// has paid would cost the agent as much again, and the money of one of ours may have come in unseen. That is
    /// attributed first. A wallet that is away, or does not say, is taken to know nothing.
    ///
    /// # Errors
    /// When what came in cannot be written.
    pub(super) async fn is_paid_already(&self, hash: &Hash) -> Result<bool, Error> {
        if !*self.inner.bank.listening().borrow() {
            return Ok(false);
        }
        let asked = timeout(self.inner.pace.known_within, self.inner.bank.look_up(PaymentHash(*hash))).await;
        let Ok(Ok(Some(found))) = asked else {
            tracing::debug!(%hash, "the wallet knows nothing of the invoice, or does not say");
            return Ok(false);
        };
        if found.state == State::Settled
            && found.direction == Direction::Incoming
            && found.amount <= Msat::SUPPLY
        {
            self.came_in(*hash, found.amount).await?;
        }
        Ok(found.state == State::Settled)
    }

    /// The wallet has the money of an invoice: its account has it from now on, and the agent is told.
    async fn came_in(&self, hash: Hash, amount: Msat) -> Result<(), Error> {
        let now_ms = self.now_ms();
        let work = |draft: &mut Draft<'_>, also: &mut Vec<Write>| {
            let Some(invoice) = Ledger::new(draft).invoice(&hash)? else { return Ok(false) };
            // Some wallets leave the amount out of what is settled.
            let amount = if amount.is_zero() { invoice.amount.unwrap_or_default() } else { amount };
            match Ledger::new(draft).paid_in(&hash, amount, now_ms) {
                Ok(Posted::Known(_)) => {}
                Ok(Posted::New(_)) => self.received(draft, also, &hash, amount, None, now_ms)?,
                Err(PostError::Conflict(_)) => {
                    tracing::error!(%hash, %amount, "the wallet says another amount than before");
                }
                Err(error) => return Err(error.into()),
            }
            item::over(draft, &hash)?;
            Ok(true)
        };
        if self.inner.book.write(work).await? {
            lock(&self.inner.watched).remove(&hash);
        }
        Ok(())
    }

    /// The item of an invoice that was paid, and the envelope that wakes its agent. `by` names the account that paid it,
    /// if it is one of this node.
    pub(super) fn received(
        &self,
        draft: &mut Draft<'_>,
        also: &mut Vec<Write>,
        hash: &Hash,
        amount: Msat,
        by: Option<Holder>,
        now_ms: u64,
    ) -> Result<(), Error> {
        item::over(draft, hash)?;
        let Some(place) = item::of_invoice(draft, hash)? else { return Ok(()) };
        let mut found = item::get(draft, &place)?;
        let What::Invoice(invoice) = &mut found.what else { return Ok(()) };
        let event = if by.is_some() { "received-inside" } else { "received" };
        invoice.stage = InvoiceStage::Paid { amount, by };
        found.changed_ms = now_ms;
        item::put(draft, &place, &found)?;
        self.tell(also, &place, &found, event, now_ms)
    }

    /// The wallet has answered, and there is no money: once the invoice's time is over, that is its end.
    async fn not_yet(&self, hash: Hash) -> Result<(), Error> {
        let now_ms = self.now_ms();
        let is_late = |expires_ms: u64| now_ms > expires_ms.saturating_add(LATE_MS);
        if !lock(&self.inner.watched).get(&hash).is_some_and(|watched| is_late(watched.expires_ms)) {
            return Ok(());
        }
        let work = |draft: &mut Draft<'_>, _: &mut Vec<Write>| {
            item::over(draft, &hash)?;
            let Some(place) = item::of_invoice(draft, &hash)? else { return Ok(()) };
            let mut found = item::get(draft, &place)?;
            if let What::Invoice(invoice) = &mut found.what
                && invoice.stage == InvoiceStage::Open
            {
                invoice.stage = InvoiceStage::Expired;
                found.changed_ms = now_ms;
                item::put(draft, &place, &found)?;
            }
            Ok(())
        };
        self.inner.book.write(work).await?;
        lock(&self.inner.watched).remove(&hash);
        Ok(())
    }

    /// Adds the envelope that tells an agent what happened to its account, if there is one that may be told.
    pub(super) fn tell(
        &self,
        also: &mut Vec<Write>,
        place: &Place,
        item: &Item,
        event: &str,
        now_ms: u64,
    ) -> Result<(), Error> {
        let Some(agent) = super::accounts::agent(&place.holder) else { return Ok(()) };
        let Some(rule) = self.rule(agent)? else { return Ok(()) };
        let mut data = item.shown(place, |holder| self.name(holder));
        if let Value::Object(data) = &mut data {
            let event = event.split_once('-').map_or(event, |(event, _)| event);
            data.insert("event".to_owned(), json!(event));
        }
        let name = format!("payment:{agent}:{}:{event}", place.n);
        let envelope = Envelope { data: Some(data), ..Envelope::from_node(Kind::Payment, &name, now_ms) };
        let envelope = item.caused(envelope).by_rule(rule, None);
        also.push(Write::Poke(Box::new(Poke { agent, envelope })));
        Ok(())
    }

    /// The rule by which an agent is told of money; nothing where it is not to be, or is gone.
    fn rule(&self, agent: AgentId) -> Result<Option<String>, Error> {
        let Some(shared) = self.inner.book.shared() else { return Ok(None) };
        let io = |error: crate::store::backend::BackendError| Error::io("/wallet", error.to_string());
        let row = shared.store.agent(agent).map_err(io)?;
        let Some(row) = row.filter(|row| row.lifecycle != Lifecycle::Terminated) else { return Ok(None) };
        let route = shared.plumber.place(&Routed::of_payment(), &row).map_err(io)?;
        if route.place == Goes::Nowhere {
            tracing::info!(
                agent = row.name,
                rule = route.rule,
                "an envelope of a payment is dropped by a rule"
            );
            return Ok(None);
        }
        Ok(Some(route.rule))
    }
}
