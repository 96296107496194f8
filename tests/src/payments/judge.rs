//! What the books say after all the kills, and what they must say.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use oa_nips::hex::Hex;
use oa_nips::nostr::hashes::{Hash as _, sha256};
use oa_nips::port::Row;
use oa_node::store::Store;
use oa_wallet::account::{Holder, PaymentState, open_payments, verify};
use oa_wallet::backend::PaymentHash;
use oa_wallet::budget::{Budget, Limits, Usage};
use oa_wallet::msat::Msat;
use oa_wallet::nwc::message::State;
use oa_wallet::store::{Keyed, Rows, StoreError};
use serde_json::Value;

use super::tap::Tap;
use super::{AGENTS, Bill, EACH, Report, Stage, Told};

/// Payments that may be open at once.
const OPEN: usize = 100;

/// The node's rows, as the ledger reads them.
#[derive(Debug)]
struct Books(Store);

fn io(error: impl std::fmt::Display) -> StoreError {
    StoreError::Io { path: "node.db".to_owned(), detail: error.to_string() }
}

impl Rows for Books {
    fn get(&self, space: &str, key: &str) -> Result<Option<Row>, StoreError> {
        self.0.row(space, key).map_err(io)
    }

    fn scan(&self, space: &str, from: &str, limit: usize) -> Result<Vec<Keyed>, StoreError> {
        self.0.rows_from(space, from, limit).map_err(io)
    }
}

impl Stage {
    /// What a kill left under way.
    pub(super) fn note_left(&self, report: &mut Report) -> Result<()> {
        let open = open_payments(&Books(self.store()?), None, OPEN)?;
        let is_reserved = open.iter().any(|(_, payment)| payment.state == PaymentState::Reserved);
        let at = if is_reserved { 0 } else { usize::from(open.is_empty()) + 1 };
        if let Some(count) = report.left.get_mut(at) {
            *count += 1;
        }
        Ok(())
    }

    /// Compares what was told, what the payee has, what was sent, and both ledgers.
    pub(super) async fn judge(&self, bills: &[Bill], tap: &Tap, report: &mut Report) -> Result<()> {
        let store = self.store()?;
        let mut spent = [Msat::ZERO; 3];
        for (n, bill) in bills.iter().enumerate() {
            let id = AGENTS.get(bill.agent).map(|name| store.agent_named(name)).transpose()?.flatten();
            let told = store.file(id.context("an agent")?, &format!("/memory/told/{n}"))?;
            let told: Told = serde_json::from_slice(&told.context("an envelope left nothing")?)?;
            let hash: PaymentHash = PaymentHash(bill.payment_hash.parse()?);
            let paid =
                self.shop.client.look_up(hash).await?.is_some_and(|known| known.state == State::Settled);
            let requests = tap.requests(&bill.invoice);
            let is_right = match &told {
                Told::Done(receipt) => {
                    report.made += 1;
                    if let Some(spent) = spent.get_mut(bill.agent) {
                        *spent = spent.saturating_add(bill.amount);
                    }
                    paid && requests == 1 && proves(receipt, &bill.payment_hash)
                }
                Told::Failed { code, .. } => {
                    report.failed += 1;
                    !paid && requests <= 1 && code == "budget_exceeded"
                }
            };
            if !is_right {
                report.violations.push(format!("bill {n}: told {told:?}, paid {paid}, {requests} requests"));
            }
        }
        let hashes: BTreeSet<&str> = bills.iter().map(|bill| bill.payment_hash.as_str()).collect();
        if hashes.len() != bills.len() {
            report.violations.push("two bills of one hash".to_owned());
        }
        self.judge_books(&store, spent, report).await
    }

    async fn judge_books(&self, store: &Store, spent: [Msat; 3], report: &mut Report) -> Result<()> {
        let mut wrong = |reason: String| report.violations.push(reason);
        let books = Books(store.clone());
        let verified = match verify(&books) {
            Ok(verified) => verified,
            Err(error) => {
                wrong(format!("the ledger: {error}"));
                return Ok(());
            }
        };
        let sums = verified.balances.book();
        if verified.open_payments > 0 || !sums.holders.reserved.is_zero() {
            wrong(format!("{} payments open, {} held back", verified.open_payments, sums.holders.reserved));
        }
        if !sums.holders.debt.is_zero() || sums.suspense.get() != 0 {
            wrong(format!("debts of {}, {} unexplained", sums.holders.debt, sums.suspense));
        }
        let wallet = self.customer_balance().await?;
        if sums.lightning != wallet {
            wrong(format!("the accounts come to {}, the wallet has {wallet}", sums.lightning));
        }
        for (name, spent) in AGENTS.iter().zip(spent) {
            let id = store.agent_named(name)?.context("an agent")?;
            let holder = Holder::new(format!("agent:{id}"))?;
            let has = verified.balances.standing(&holder).available;
            if has != EACH.saturating_sub(spent) {
                wrong(format!("{name} has {has} after spending {spent} of {EACH}"));
            }
            let usage = store.row("money.budgets", holder.as_str())?.context("a budget")?;
            let usage: Usage<Msat> = serde_json::from_slice(&usage.value)?;
            let budget = Budget::new(Limits::unlimited(oa_wallet::budget::Scopes::All), usage);
            if budget.open().next().is_some() {
                wrong(format!("{name} has grants that nobody gave back"));
            }
        }
        Ok(())
    }

    /// What the wallet has for the node.
    async fn customer_balance(&self) -> Result<Msat> {
        let file = self.purse.world.path().join("node.nwc");
        Ok(crate::wallet::Customer::of_file(&file).await?.client.balance().await?)
    }
}

/// Whether a receipt is one of this payment.
fn proves(receipt: &str, hash: &str) -> bool {
    let Ok(receipt) = serde_json::from_str::<Value>(receipt) else { return false };
    let text = |field: &str| receipt.get(field).and_then(Value::as_str);
    let preimage = text("preimage").and_then(|preimage| preimage.parse::<Hex<32>>().ok());
    let opens = preimage.is_some_and(|preimage| sha256::Hash::hash(preimage.as_bytes()).to_string() == hash);
    opens && text("payment_hash") == Some(hash) && text("state") == Some("settled")
}
