//! A wallet's ledger beside LDK's own list of payments, once the wallet's process has ended.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use oa_wallet::account::{Asset, What, entries, verify};
use oa_wallet::backend::ldk::{Config, Ldk, Seed, SyncRate};
use oa_wallet::backend::{Backend as _, Direction, Filter, Kind, Network, State};
use oa_wallet::store::SqliteStore;

use super::Chain;
use crate::world::Home;

/// Postings of one read.
const PAGE: usize = 1_000;

/// What both books agree on, in millisatoshi.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Payments that went out: how many, their amounts, their fees.
    pub sent: (usize, u64, u64),
    /// Payments that came in: how many, their amounts.
    pub received: (usize, u64),
    /// Corrections of what is in channels, made while payments went on. A channel that opens or closes is none, if
    /// nobody pays meanwhile.
    pub corrections: usize,
}

/// Payments by name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Payments {
    /// Amount and fee.
    sent: BTreeMap<String, (u64, u64)>,
    received: BTreeMap<String, u64>,
}

/// Compares every payment of the ledger in a home with LDK's, and the balances too. Nothing else runs in that home.
///
/// # Errors
/// Names what differs.
pub async fn audit(home: &Home, chain: &Chain) -> Result<Audit> {
    let (ledgers, book, corrections) = ledger(home)?;
    let dir = home.dir().join("wallet");
    let config = Config::new(dir.join("lightning"), Network::Regtest, chain.source());
    let config = Config { sync: SyncRate::OnDemand, ..config };
    let node = Ldk::start(config, &Seed::open(&dir.join("seed"))?).await?;
    let listed = lightning(&node).await;
    node.stop().await?;
    let (ldks, balance) = listed?;
    ensure!(ledgers == ldks, "the ledger has {ledgers:#?}\nand LDK {ldks:#?}");
    ensure!(book == balance, "channels and chain: the ledger has {book:?} msat, LDK {balance:?}");
    let (amounts, fees) =
        ldks.sent.values().fold((0, 0), |(amounts, fees), (amount, fee)| (amounts + amount, fees + fee));
    Ok(Audit {
        sent: (ldks.sent.len(), amounts, fees),
        received: (ldks.received.len(), ldks.received.values().sum()),
        corrections,
    })
}

/// What the ledger says: payments, what is in channels and on the chain, and the corrections between payments.
fn ledger(home: &Home) -> Result<(Payments, (u64, u64), usize)> {
    let store = SqliteStore::open(&home.dir().join("wallet/wallet.db"))?;
    let verified = verify(&store)?;
    ensure!(verified.open_payments == 0, "{} payments are not over", verified.open_payments);
    let book = verified.balances.book();
    let (mut payments, mut next) = (Payments::default(), 0);
    let (mut corrections, mut since) = (0, None);
    loop {
        let page = entries(&store, next, PAGE)?;
        let Some(last) = page.last() else { break };
        next = last.seq + 1;
        for entry in &page {
            match entry.posting.what() {
                What::Settled { payment, amount, fee, .. } => {
                    payments.sent.insert(payment.to_string(), (amount.get(), fee.get()));
                }
                What::PaidIn { payment, amount, .. } => {
                    payments.received.insert(payment.to_string(), amount.get());
                }
                What::Adjusted { asset: Asset::Lightning, .. } => {
                    since = since.map(|since| since + 1);
                    continue;
                }
                _ => continue,
            }
            // Those that a payment follows stood between payments.
            corrections += since.replace(0).unwrap_or(0);
        }
    }
    Ok((payments, (book.lightning.get(), book.onchain.get()), corrections))
}

/// What LDK says: payments, what is in channels and on the chain.
async fn lightning(node: &Ldk) -> Result<(Payments, (u64, u64))> {
    node.sync().await?;
    let mut payments = Payments::default();
    for payment in node.list(Filter { unpaid: false, ..Filter::default() }).await? {
        let (State::Settled { fee, .. }, amount) = (&payment.state, payment.amount.unwrap_or_default())
        else {
            continue;
        };
        match (payment.direction, &payment.kind) {
            (_, Kind::Onchain { .. }) => {}
            (Direction::Outgoing, _) => {
                payments.sent.insert(payment.id.to_string(), (amount.get(), fee.get()));
            }
            (Direction::Incoming, _) => {
                let hash = payment.hash.unwrap_or(payment.id);
                payments.received.insert(hash.to_string(), amount.get());
            }
        }
    }
    let balance = node.balance().await?;
    let chain = balance.onchain.0 + balance.onchain_reserved.0 + balance.pending.0;
    Ok((payments, (balance.in_channels.get(), chain * 1_000)))
}
