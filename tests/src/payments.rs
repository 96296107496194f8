//! Payments: a node that is killed around them, again and again, and books that must be right afterwards.
//!
//! A wallet of play money runs as a process of its own. A [`child`] process is a node that is its customer; three
//! agents with accounts pay one invoice for each of their envelopes. Between node and wallet stands a `tap`, which
//! reads what passes and has the node killed with `kill -9`: when a payment's request comes (the intent is on disk),
//! when it went on (the wallet pays), when the answer comes (nobody was told), or some milliseconds after it went on
//! (the end may be on disk or not, the next payment may have begun). The node is started again each time until every
//! envelope has had its tick.
//!
//! Then what each agent was told is compared with what the payee has, and the node's ledger with the wallet's.

pub mod child;
mod judge;
mod tap;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use oa_node::store::Store;
use oa_node::store::sqlite::SqliteBackend;
use oa_wallet::msat::Msat;
use oa_wallet::nwc::message::InvoiceOrder;
use oa_wallet::nwc::uri::Uri;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::process::Command;

use self::tap::Tap;
use crate::wallet::{Customer, Purse};
use crate::world::eventually;

/// The agents that pay.
pub(crate) const AGENTS: [&str; 3] = ["alice", "bob", "carol"];
/// What each of them has to begin with.
pub(crate) const EACH: Msat = Msat::from_sat(200_000);
/// The file in which the node shows its agents' invoices.
pub(crate) const INVOICES: &str = "invoices.json";
/// No run takes longer.
const LONGEST: Duration = Duration::from_secs(900);
/// For what should take milliseconds.
const SOON: Duration = Duration::from_secs(30);

/// How much is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Decides what is paid, and who is killed when.
    pub seed: u64,
    /// Kills.
    pub kills: u32,
    /// Payments.
    pub payments: u32,
}

/// When a kill hits a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hit {
    /// Its request came, and never reached the wallet.
    Request,
    /// Its request went on.
    Requested,
    /// Its answer came, and never reached the node.
    Answer,
    /// Its answer went on, up to some milliseconds before.
    Answered,
}

impl Hit {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Request, Self::Requested, Self::Answer, Self::Answered];
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// Kills: at the request, after it, at the answer, after it.
    pub kills: [u32; 4],
    /// Kills that left a payment reserved and not sent, sent and not over, or none under way.
    pub left: [u32; 3],
    /// Payments that were made, and that the wallet refused.
    pub made: u32,
    pub failed: u32,
    /// Requests that the wallet refused as too many, and that were made anew.
    pub turned_away: usize,
    /// What must not be.
    pub violations: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [request, requested, answer, answered] = self.kills;
        writeln!(
            f,
            "killed at request {request}, after it {requested}, at answer {answer}, after it {answered}"
        )?;
        let [reserved, sent, none] = self.left;
        writeln!(f, "found a payment reserved {reserved}, sent {sent}, none under way {none}")?;
        writeln!(f, "paid {}, refused by the wallet {}", self.made, self.failed)?;
        writeln!(f, "requests turned away as too many, and made anew {}", self.turned_away)?;
        writeln!(f, "violations {}, {:.1} s", self.violations.len(), self.took.as_secs_f32())?;
        self.violations.iter().try_for_each(|violation| writeln!(f, "  {violation}"))
    }
}

/// One thing to be paid, as the child reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bill {
    /// Which agent pays it.
    pub(crate) agent: usize,
    pub(crate) invoice: String,
    pub(crate) payment_hash: String,
    pub(crate) amount: Msat,
}

/// What an agent was told of one payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Told {
    Done(String),
    Failed { code: String, reason: String },
}

/// Where a run has its things.
pub(crate) struct Stage {
    purse: Purse,
    shop: Customer,
    pub(crate) home: PathBuf,
}

/// Runs `program` (this crate's `oa-payments`) as the node that is killed.
///
/// # Errors
/// When it does not come to an end.
pub async fn run(config: Config, program: &Path) -> Result<Report> {
    let started = Instant::now();
    let stage = Stage::set(config).await?;
    let tap = Tap::start(config, &stage.uri()?, &stage.purse.home.relay_url()).await?;
    stage.give_connection(&tap).await?;
    // Without kills: agents are made, and paid by the shop.
    stage.fund(program).await?;
    let bills = stage.bills(config).await?;
    std::fs::write(stage.home.join("bills.json"), serde_json::to_vec(&bills)?)?;
    tap.arm();
    let mut report = Report::default();
    while !stage.run_child(program, &tap, &mut report).await? {
        ensure!(started.elapsed() < LONGEST, "not done after {LONGEST:?}: {report}");
    }
    (report.kills, report.turned_away) = (tap.kills(), tap.turned_away());
    stage.judge(&bills, &tap, &mut report).await?;
    report.took = started.elapsed();
    Ok(report)
}

impl Stage {
    /// A wallet in which a shop has money, and a node has an account with some of a budget.
    async fn set(config: Config) -> Result<Self> {
        let purse = Purse::start().await?;
        let home = purse.world.path().join("n");
        std::fs::create_dir_all(&home)?;
        let shop = purse.customer("shop", &["--account", "shop"]).await?;
        purse.oa(&["transfer", "operator", "shop", "900000", "--in-wallet"]).await?.ok()?;
        // What is paid over the wallet on average is 550 sat: the last of the payments are refused.
        let budget = format!("{}sat/day", u64::from(config.payments) * 450);
        purse.connect("node", &["--account", "node", "--budget", &budget]).await?;
        Ok(Self { purse, shop, home })
    }

    fn uri(&self) -> Result<Uri> {
        Ok(std::fs::read_to_string(self.purse.world.path().join("node.nwc"))?.parse()?)
    }

    /// The node's connection, by way of the tap.
    async fn give_connection(&self, tap: &Tap) -> Result<()> {
        let uri = self.uri()?;
        let tapped = Uri::new(uri.wallet, vec![tap.url().parse()?], uri.keys().secret_key().clone())?;
        std::fs::write(self.home.join("node.nwc"), tapped.reveal())?;
        Ok(())
    }

    /// Runs the node until every agent has made an invoice, pays those, and runs it until the money is there.
    async fn fund(&self, program: &Path) -> Result<()> {
        let mut child = self.spawn(program, "fund")?;
        let file = self.home.join(INVOICES);
        let invoices: Vec<String> =
            eventually(SOON, || async { Ok(serde_json::from_slice(&std::fs::read(&file)?)?) }).await?;
        for invoice in invoices {
            let order = oa_wallet::nwc::message::PayOrder { invoice, amount: None, metadata: None };
            self.shop.client.pay_invoice(order).await?;
        }
        let ended = tokio::time::timeout(SOON, child.wait()).await.context("the agents are not paid")??;
        ensure!(ended.code() == Some(child::DONE), "the node ended with {ended}");
        Ok(())
    }

    /// The node's rows, as they are on disk.
    pub(crate) fn store(&self) -> Result<Store> {
        Ok(Store::new(Arc::new(SqliteBackend::open(&self.home.join("node.db"))?))?)
    }

    /// What is to be paid: invoices of the shop.
    async fn bills(&self, config: Config) -> Result<Vec<Bill>> {
        let mut random = config.seed | 1;
        let mut bills = Vec::new();
        for n in 0..config.payments as usize {
            random = tap::next(random);
            let amount = Msat::new(100_000 + random % 900_000);
            let agent = n % AGENTS.len();
            let order = InvoiceOrder {
                amount,
                description: None,
                description_hash: None,
                expiry: None,
                metadata: None,
            };
            let made = self.shop.client.make_invoice(order).await?;
            let invoice = made.invoice.context("an invoice")?;
            let payment_hash = made.payment_hash.to_string();
            bills.push(Bill { agent, invoice, payment_hash, amount });
        }
        Ok(bills)
    }

    fn spawn(&self, program: &Path, what: &str) -> Result<tokio::process::Child> {
        let home = self.home.to_str().context("a path")?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.home.join("stderr.log"))?;
        let child = Command::new(program)
            .args(["--child", home, what])
            .stdin(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        Ok(child)
    }

    /// Runs the node until it is killed or done; answers which.
    async fn run_child(&self, program: &Path, tap: &Tap, report: &mut Report) -> Result<bool> {
        let mut child = self.spawn(program, "pay")?;
        let status = tokio::select! {
            status = child.wait() => status?,
            () = tap.next_kill() => {
                child.start_kill()?;
                let status = child.wait().await?;
                tap.buried();
                self.note_left(report)?;
                status
            }
        };
        match status.code() {
            Some(child::DONE) => Ok(true),
            None => Ok(false),
            Some(code) => {
                let log = std::fs::read_to_string(self.home.join("stderr.log"))?;
                bail!("the node ended with {code}: {log}")
            }
        }
    }
}
