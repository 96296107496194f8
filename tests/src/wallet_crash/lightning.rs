//! Two operators with real Lightning wallets and a channel between them; one of the wallets is struck.
//!
//! While the channel is there, both ledgers must have to the millisatoshi what LDK says, and what the payments come
//! to. Where a wallet that was killed comes back to a closed channel, the chain goes on until all coins are back: then
//! both sides must still agree about every payment, each ledger must have what LDK says, and both together may lack
//! the fees of the closure. A new world takes the old one's place.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use oa_wallet::msat::Msat;
use serde_json::{Value, json};

use super::round::{self, Flight, Order, Route};
use super::{Blow, Config, Report};
use crate::crash::plan::Dice;
use crate::lightning::{Lightning, Operator, TOGETHER};
use crate::wallet::{Customer, number};
use crate::world::eventually;

/// A blow falls so soon after the payments began, at the latest: most are over by then.
const WITHIN_MS: u64 = 500;
/// Both directions of the channel.
const ROUTES: [Route; 2] = [Route { payer: 0, payee: 1 }, Route { payer: 1, payee: 0 }];
/// Amounts are this and up to as much again: on the chain none of them is too small to exist.
const AMOUNT_MSAT: u64 = 1_500_000;
/// After a closure blocks come one by one, as they do, so long as payments are claimed: a claim pays its fee with a coin of
/// the wallet's, and the next one with what is left of that, a block later.
const ONE_BY_ONE: u32 = 48;
/// Then so many at once. So often at least: payments to nobody come back after 200 blocks at most, and are in no balance
/// before. And so often at most: more than every delay there is.
const BLOCKS: u32 = 24;
const TIMES_MIN: u32 = 12;
const TIMES: u32 = 40;
/// What a closure may cost both sides together, in satoshi.
const COST_MAX_SAT: u64 = 100_000;

struct Stage {
    world: Lightning,
    customers: Vec<Customer>,
    /// What each side should have, in msat.
    should: [u64; 2],
}

/// Strikes until it has hit payments under way as often as wanted.
///
/// # Errors
/// When the run cannot be finished.
pub async fn run(config: &Config, say: &mut dyn FnMut(String)) -> Result<Report> {
    let (began, mut report) = (Instant::now(), Report::default());
    let mut stage = Stage::set().await?;
    for number in config.first.. {
        let Some(blow) = report.wanted(config) else { break };
        let mut dice = Dice::new(config.seed, "lightning", number);
        let before = report.violations.len();
        let closed = stage.round(config, blow, &mut dice, &mut report).await;
        let closed =
            closed.with_context(|| format!("round {number}, in {}", stage.world.world.path().display()))?;
        for violation in report.violations.iter().skip(before) {
            say(format!("round {number}: {violation} (in {})", stage.world.world.path().display()));
        }
        if closed {
            say(format!("round {number}: {blow:?} closed the channel"));
            stage.end(&mut report).await?;
            stage = Stage::set().await?;
        }
    }
    // With the channel open, each payment of the ledger is one of LDK's list, and the other way round.
    report.check(stage.world.stop().await.context("at the end"));
    report.took = began.elapsed();
    Ok(report)
}

impl Stage {
    async fn set() -> Result<Self> {
        let world = Lightning::start().await?;
        let mut customers = Vec::new();
        for operator in [&world.alice, &world.bob] {
            customers.push(round::customer(&operator.home.dir().join("wallet/admin.nwc")).await?);
        }
        let should = [world.alice.accounts_msat().await?, world.bob.accounts_msat().await?];
        Ok(Self { world, customers, should })
    }

    /// Ends both wallets well, whose channel was closed, and reads their books.
    async fn end(self, report: &mut Report) -> Result<()> {
        let homes = [&self.world.alice, &self.world.bob].map(|operator| operator.home.dir().to_owned());
        let Lightning { mut alice, mut bob, world: _world, chain, relay: _relay, .. } = self.world;
        for operator in [&mut alice, &mut bob] {
            ensure!(operator.wallet.terminate(TOGETHER).await? == 0, "a wallet does not end well");
        }
        for home in homes {
            let books = round::closed_books(&home);
            report.check(books.with_context(|| format!("the books of {}", home.display())));
        }
        chain.shutdown().await
    }

    async fn orders(&self, config: &Config, dice: &mut Dice) -> Result<Vec<Order>> {
        let mut orders = Vec::new();
        for _ in 0..config.payments {
            for route in ROUTES {
                let amount = Msat::new(AMOUNT_MSAT + dice.below(AMOUNT_MSAT));
                orders.push(round::order(&self.customers, route, amount).await?);
            }
        }
        Ok(orders)
    }

    /// Answers whether the channel was closed.
    async fn round(
        &mut self,
        config: &Config,
        blow: Blow,
        dice: &mut Dice,
        report: &mut Report,
    ) -> Result<bool> {
        let orders = self.orders(config, dice).await?;
        let mut flight = Flight::begin(&self.customers, orders)?;
        let under_way = flight.after(Duration::from_millis(dice.below(WITHIN_MS))).await?;
        if under_way > 0 {
            report.hit(blow, under_way);
            let victim = if dice.below(2) == 0 { &mut self.world.alice } else { &mut self.world.bob };
            match blow {
                Blow::Kill => victim.wallet.kill().await?,
                Blow::Term => {
                    let code = victim.wallet.terminate(TOGETHER).await?;
                    ensure!(code == 0, "exit code {code}: {}", victim.wallet.stderr()?);
                }
            }
            report.restart = report.restart.max(victim.wallet.restart().await?);
        }
        let is_open = eventually(TOGETHER, async || self.is_open().await).await?;
        if is_open {
            self.go_on(flight, report).await?;
            return Ok(false);
        }
        let cost_sat = self.wind_up(flight, report).await?;
        let tally = report.of(blow);
        tally.closed += 1;
        tally.cost_sat += cost_sat;
        if blow == Blow::Term {
            report.violations.push("the channel was closed by force after SIGTERM".to_owned());
        }
        Ok(true)
    }

    /// Whether the channel can be used, or else is gone.
    async fn is_open(&self) -> Result<bool> {
        let mut usable = 0;
        for customer in &self.customers {
            let answer = customer.ask("oa_channels", json!({})).await?;
            let channels = answer.get("channels").and_then(Value::as_array).context("channels")?;
            if channels.is_empty() {
                return Ok(false);
            }
            usable += usize::from(channels.iter().any(|one| one.get("usable") == Some(&Value::Bool(true))));
        }
        ensure!(usable == self.customers.len(), "{usable} sides can use the channel");
        Ok(true)
    }

    async fn go_on(&mut self, flight: Flight, report: &mut Report) -> Result<()> {
        let ended = flight.end(&self.customers).await?;
        round::book(&ended, &mut self.should, report);
        let agreed = eventually(TOGETHER / 2, async || {
            round::compare(&self.customers, &ended).await?;
            for (operator, should) in self.operators().into_iter().zip(self.should) {
                let (ledger, ldk) = (operator.accounts_msat().await?, operator.has_msat().await?);
                ensure!(
                    ledger == should && ldk == should,
                    "{} has {ledger} msat in its ledger, {ldk} says LDK, and should have {should}",
                    operator.home.dir().display()
                );
            }
            Ok(())
        });
        report.check(agreed.await);
        // What was unlike once is not told again in each round.
        self.should = [self.world.alice.accounts_msat().await?, self.world.bob.accounts_msat().await?];
        Ok(())
    }

    /// Lets the chain go on until every payment is over and all coins are back; answers what that cost.
    async fn wind_up(&mut self, flight: Flight, report: &mut Report) -> Result<u64> {
        let mut is_done = false;
        for _ in 0..ONE_BY_ONE {
            self.world.mine(1).await?;
        }
        for times in 1..=TIMES {
            self.world.mine(BLOCKS).await?;
            if times >= TIMES_MIN && self.is_back().await? {
                is_done = true;
                break;
            }
        }
        ensure!(is_done, "not all coins are back after {} blocks", ONE_BY_ONE + BLOCKS * TIMES);
        let ended = flight.end(&self.customers).await?;
        let before: u64 = self.should.iter().sum();
        round::book(&ended, &mut self.should, report);
        let agreed = eventually(TOGETHER / 2, async || {
            round::compare(&self.customers, &ended).await?;
            for operator in self.operators() {
                let (ledger, ldk) = (operator.accounts_msat().await?, operator.has_msat().await?);
                ensure!(ledger == ldk, "the ledger has {ledger} msat, {ldk} says LDK");
            }
            Ok(())
        });
        report.check(agreed.await.context("after a forced closure"));
        let after = self.world.alice.has_msat().await? + self.world.bob.has_msat().await?;
        let cost_sat = before.saturating_sub(after).div_ceil(1000);
        if after > before || cost_sat > COST_MAX_SAT {
            report.violations.push(format!("both had {before} msat before the closure, and {after} after"));
        }
        Ok(cost_sat)
    }

    /// Whether no channel is left, and no coin is on its way.
    async fn is_back(&self) -> Result<bool> {
        for customer in &self.customers {
            let answer = customer.ask("oa_channels", json!({})).await?;
            let channels = answer.get("channels").and_then(Value::as_array).map_or(0, Vec::len);
            if channels > 0 || number(&answer, "onchain_pending_sat")? > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn operators(&self) -> [&Operator; 2] {
        [&self.world.alice, &self.world.bob]
    }
}
