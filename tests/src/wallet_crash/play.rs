//! One wallet of play money, whose accounts pay each other while it is killed.
//!
//! Some invoices are paid by two requests at once: the money must go once.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use oa_wallet::msat::Msat;
use serde_json::{Value, json};

use super::round::{self, Flight, Order, Route};
use super::{Blow, Config, Report};
use crate::crash::plan::Dice;
use crate::wallet::{Customer, PLAY_MSAT, Purse, number, text};
use crate::world::{DEADLINE, eventually};

/// The accounts.
const ACCOUNTS: [&str; 3] = ["operator", "shop", "kid"];
/// What each but the operator begins with.
const EACH_SAT: u64 = 100_000;
/// A blow falls so soon after the payments began, at the latest.
const WITHIN_MS: u64 = 80;

struct Stage {
    purse: Purse,
    customers: Vec<Customer>,
    admin: Customer,
    /// What each account should have, in msat.
    should: [u64; 3],
}

/// Kills until it has hit payments under way as often as wanted.
///
/// # Errors
/// When the run cannot be finished.
pub async fn run(config: &Config, say: &mut dyn FnMut(String)) -> Result<Report> {
    let (began, mut report) = (Instant::now(), Report::default());
    let mut stage = Stage::set().await?;
    for number in config.first.. {
        let Some(blow) = report.wanted(config) else { break };
        let mut dice = Dice::new(config.seed, "play", number);
        let before = report.violations.len();
        let round = stage.round(config, blow, &mut dice, &mut report).await;
        round.with_context(|| {
            format!("round {number}\n{}", stage.purse.wallet.stderr().unwrap_or_default())
        })?;
        for violation in report.violations.iter().skip(before) {
            say(format!("round {number}: {violation}"));
        }
    }
    ensure!(stage.purse.wallet.terminate(DEADLINE).await? == 0, "the wallet does not end well");
    report.check(round::closed_books(stage.purse.home.dir()).context("at the end"));
    report.took = began.elapsed();
    Ok(report)
}

impl Stage {
    async fn set() -> Result<Self> {
        let purse = Purse::start().await?;
        let mut customers = Vec::new();
        for account in ACCOUNTS {
            let file = purse.connect(account, &["--account", account]).await?;
            customers.push(round::customer(&file).await?);
            if account != "operator" {
                purse.oa(&["transfer", "operator", account, &EACH_SAT.to_string()]).await?.ok()?;
            }
        }
        let (admin, each) = (purse.admin().await?, EACH_SAT * 1000);
        Ok(Self { purse, customers, admin, should: [PLAY_MSAT - 2 * each, each, each] })
    }

    async fn orders(&self, config: &Config, dice: &mut Dice) -> Result<Vec<Order>> {
        let mut orders = Vec::new();
        for _ in 0..config.payments * 2 {
            let payer = usize::try_from(dice.below(3))?;
            let payee = (payer + 1 + usize::try_from(dice.below(2))?) % ACCOUNTS.len();
            let amount = Msat::new(1 + dice.below(100_000));
            let one = round::order(&self.customers, Route { payer, payee }, amount).await?;
            if dice.below(3) == 0 {
                orders.push(one.clone());
            }
            orders.push(one);
        }
        Ok(orders)
    }

    async fn round(
        &mut self,
        config: &Config,
        blow: Blow,
        dice: &mut Dice,
        report: &mut Report,
    ) -> Result<()> {
        let orders = self.orders(config, dice).await?;
        let mut flight = Flight::begin(&self.customers, orders)?;
        let under_way = flight.after(Duration::from_millis(dice.below(WITHIN_MS))).await?;
        if under_way > 0 {
            report.hit(blow, under_way);
            match blow {
                Blow::Kill => self.purse.wallet.kill().await?,
                Blow::Term => {
                    ensure!(self.purse.wallet.terminate(DEADLINE).await? == 0, "it does not end well")
                }
            }
            report.restart = report.restart.max(self.purse.wallet.restart().await?);
        }
        let ended = flight.end(&self.customers).await?;
        round::book(&ended, &mut self.should, report);
        report.check(round::compare(&self.customers, &ended).await);
        report.check(eventually(DEADLINE / 4, async || self.has_what_it_should().await).await);
        Ok(())
    }

    async fn has_what_it_should(&self) -> Result<()> {
        let answer = self.admin.ask("oa_accounts", json!({})).await?;
        let accounts = answer.get("accounts").and_then(Value::as_array).context("accounts")?;
        ensure!(accounts.len() == ACCOUNTS.len(), "{answer}");
        for account in accounts {
            let name = text(account, "account")?;
            let has = number(account, "balance_msat")?;
            let at = ACCOUNTS.iter().position(|known| *known == name);
            let should = at.and_then(|at| self.should.get(at)).with_context(|| format!("account {name}"))?;
            ensure!(has == *should, "{name} has {has} msat and should have {should}");
            let open = (number(account, "reserved_msat")?, number(account, "debt_msat")?);
            ensure!(open == (0, 0), "{name} has something reserved or owed: {account}");
        }
        Ok(())
    }
}
