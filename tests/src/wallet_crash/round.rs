//! Payments that are under way when a wallet is struck, and what became of each.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use oa_nips::nostr::SecretKey;
use oa_wallet::account::verify;
use oa_wallet::backend::PaymentHash;
use oa_wallet::msat::Msat;
use oa_wallet::nwc::client::{Client, Config, Outcome, Prepared};
use oa_wallet::nwc::message::{InvoiceOrder, PayOrder, State, Transaction};
use oa_wallet::nwc::uri::Uri;
use oa_wallet::store::SqliteStore;
use tokio::task::JoinSet;

use super::Report;
use crate::wallet::Customer;

/// For a payment to end, with a wallet that is away for a while in the midst of it.
const ENDED_WITHIN: Duration = Duration::from_secs(120);

/// Who pays whom: indices into the customers of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) payer: usize,
    pub(super) payee: usize,
}

/// A payment as it was ordered.
#[derive(Debug, Clone)]
pub(super) struct Order {
    route: Route,
    amount: Msat,
    hash: PaymentHash,
    invoice: String,
}

/// How it ended.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    order: Order,
    prepared: Prepared,
    outcome: Outcome,
}

/// Somebody with the connection in a file, whose client outlives the wallet it speaks to.
pub(super) async fn customer(file: &Path) -> Result<Customer> {
    let uri: Uri = std::fs::read_to_string(file)?.trim().parse()?;
    let patient = Config {
        answer_within: Duration::from_secs(15),
        paid_within: Duration::from_secs(30),
        settled_within: ENDED_WITHIN,
        resend_after: Duration::from_millis(250),
        look_after: Duration::from_millis(200),
        ..Config::new(&uri)
    };
    Customer::connect_as(uri, patient).await
}

/// Has a payee make an invoice.
pub(super) async fn order(customers: &[Customer], route: Route, amount: Msat) -> Result<Order> {
    let payee = customers.get(route.payee).context("a payee")?;
    let order = InvoiceOrder {
        amount,
        description: Some(SecretKey::generate().to_secret_hex()),
        description_hash: None,
        expiry: None,
        metadata: None,
    };
    let made = payee.client.make_invoice(order).await?;
    let invoice = made.invoice.context("an invoice")?;
    Ok(Order { route, amount, hash: made.payment_hash, invoice })
}

/// Payments under way.
pub(super) struct Flight {
    paying: JoinSet<Result<Ended>>,
    ended: Vec<Ended>,
}

impl Flight {
    /// Begins all at once.
    pub(super) fn begin(customers: &[Customer], orders: Vec<Order>) -> Result<Self> {
        let mut paying = JoinSet::new();
        for order in orders {
            let client = customers.get(order.route.payer).context("a payer")?.client.clone();
            paying.spawn(async move { pay(&client, order).await });
        }
        Ok(Self { paying, ended: Vec::new() })
    }

    /// Lets time pass; answers how many are under way then.
    pub(super) async fn after(&mut self, delay: Duration) -> Result<u32> {
        let until = tokio::time::Instant::now() + delay;
        while let Ok(Some(ended)) = tokio::time::timeout_at(until, self.paying.join_next()).await {
            self.ended.push(ended??);
        }
        tokio::time::sleep_until(until).await;
        Ok(u32::try_from(self.paying.len())?)
    }

    /// Waits for all; what is unknown by then is looked up until it is known.
    pub(super) async fn end(mut self, customers: &[Customer]) -> Result<Vec<Ended>> {
        while let Some(ended) = self.paying.join_next().await {
            self.ended.push(ended??);
        }
        for ended in &mut self.ended {
            if ended.outcome == Outcome::Unknown {
                let payer = customers.get(ended.order.route.payer).context("a payer")?;
                ended.outcome = payer.client.resolve(&ended.prepared).await;
            }
            ensure!(ended.outcome != Outcome::Unknown, "the end of {} is not known", ended.order.hash);
        }
        Ok(self.ended)
    }
}

async fn pay(client: &Client, order: Order) -> Result<Ended> {
    let pay = PayOrder { invoice: order.invoice.clone(), amount: None, metadata: None };
    let prepared = client.prepare(pay).await?;
    let outcome = client.perform(&prepared).await;
    Ok(Ended { order, prepared, outcome })
}

impl Ended {
    fn is_settled(&self) -> bool {
        matches!(self.outcome, Outcome::Settled { .. })
    }
}

/// Moves what was paid from what payers should have to what payees should, in msat, and counts the payments of a round:
/// each hash once, however many requests there were for it.
pub(super) fn book(ended: &[Ended], should: &mut [u64], report: &mut Report) {
    let mut seen = HashSet::new();
    for one in ended.iter().filter(|one| one.is_settled()) {
        if !seen.insert(one.order.hash) {
            continue;
        }
        report.settled += 1;
        let Outcome::Settled { fee, .. } = one.outcome else { continue };
        let (amount, fee) = (one.order.amount.get(), fee.unwrap_or_default().get());
        if let Some(has) = should.get_mut(one.order.route.payer) {
            *has = has.saturating_sub(amount).saturating_sub(fee);
        }
        if let Some(has) = should.get_mut(one.order.route.payee) {
            *has = has.saturating_add(amount);
        }
    }
    let failed = ended.iter().filter(|one| seen.insert(one.order.hash)).count();
    report.failed += u32::try_from(failed).unwrap_or(u32::MAX);
}

/// Compares what each payer was told with what both wallets say when they are asked.
pub(super) async fn compare(customers: &[Customer], ended: &[Ended]) -> Result<()> {
    for one in ended {
        let hash = one.order.hash;
        let is_paid = ended.iter().any(|other| other.order.hash == hash && other.is_settled());
        let (payer, payee) = (customers.get(one.order.route.payer), customers.get(one.order.route.payee));
        let (payer, payee) = (payer.context("a payer")?, payee.context("a payee")?);
        let (sent, got) = (payer.client.look_up(hash).await?, payee.client.look_up(hash).await?);
        let state = |found: &Option<Transaction>| found.as_ref().map(|found| found.state);
        let is_sent = state(&sent) == Some(State::Settled);
        let is_received = state(&got) == Some(State::Settled);
        ensure!(
            (is_sent, is_received) == (is_paid, is_paid),
            "{hash}: the payer was told {:?}, its wallet says {:?}, the payee's {:?}",
            one.outcome,
            state(&sent),
            state(&got)
        );
    }
    Ok(())
}

/// Reads the books of a wallet that does not run: they add up, and nothing is left open.
pub(super) fn closed_books(home: &Path) -> Result<()> {
    let store = SqliteStore::open(&home.join("wallet/wallet.db"))?;
    let verified = verify(&store)?;
    ensure!(verified.open_payments == 0, "{} payments are still open", verified.open_payments);
    Ok(())
}
