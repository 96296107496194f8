//! Two operators who can pay each other: a chain, a relay, and a wallet process each, in a home of its own, with a
//! channel between them that both can spend from.
//!
//! The chain is the test's, which mines when it likes: one in the test's process, or a real bitcoind (see [`Chain`]);
//! the relay and both wallets are processes. A wallet is spoken to as its operator does ([`Operator::oa`]) or by a
//! client in the test ([`Operator::customer`]).

mod audit;
mod bitcoind;
mod chain;
mod hub;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use oa_wallet::backend::Sat;
use serde_json::Value;

pub use audit::{Audit, audit};
pub use chain::Chain;
pub use hub::Hub;

use crate::wallet::Customer;
use crate::world::{Done, Home, Launch, Process, Program, World, eventually, field, free_port};

/// What the channel holds.
pub const CAPACITY: Sat = Sat(2_000_000);
/// Coins that each side has on the chain besides: the reserve for closing a channel, and fees.
const SPARE: Sat = Sat(100_000);
/// Blocks after which a channel is ready.
pub const CONFIRMATIONS: u32 = 6;
/// Longest wait for anything that wallets do together; reached only by a failing test.
pub const TOGETHER: Duration = Duration::from_secs(60);

/// The chain, the relay, and both operators. What is dropped is killed; [`Lightning::stop`] ends it well.
#[derive(Debug)]
pub struct Lightning {
    /// The folder with both homes.
    pub world: World,
    /// Their chain.
    pub chain: Chain,
    /// Their relay.
    pub relay: Process,
    /// Who opened the channel.
    pub alice: Operator,
    /// Who was given half of it.
    pub bob: Operator,
    /// From nothing until both could spend.
    pub took: Duration,
}

/// Somebody with a home and a wallet process in it.
#[derive(Debug)]
pub struct Operator {
    /// The home, which also has the relay's address as its own.
    pub home: Home,
    /// `oa-wallet run`; [`Process::restart`] starts it again after its end.
    pub wallet: Process,
    /// `ID@HOST:PORT`, for Lightning peers.
    pub peer: String,
}

impl Lightning {
    /// From nothing to a channel of [`CAPACITY`] that each side has half of.
    ///
    /// # Errors
    /// What did not start or come about in time.
    pub async fn start() -> Result<Self> {
        let began = Instant::now();
        let world = World::new()?;
        let chain = Chain::start(&world.path().join("chain")).await?;
        let place = world.home("relay")?;
        let relay =
            place.launch(Program::Oa, ["relay", "--memory", "--listen", &place.listen()]).start().await?;
        let url = place.relay_url();
        let (alice, bob) = tokio::try_join!(
            Operator::start(&world, "alice", &chain, &url),
            Operator::start(&world, "bob", &chain, &url),
        )?;
        let mut world = Self { world, chain, relay, alice, bob, took: Duration::ZERO };
        world.connect().await?;
        world.took = began.elapsed();
        Ok(world)
    }

    /// Gives both coins, and opens the channel.
    async fn connect(&self) -> Result<()> {
        let (alice, bob) = tokio::try_join!(self.alice.address(), self.bob.address())?;
        self.chain.fund(&alice, Sat(CAPACITY.0 + SPARE.0)).await?;
        self.chain.fund(&bob, SPARE).await?;
        self.chain.mine(1).await?;
        self.sync().await?;
        let waiting = self.chain.waiting().await?;
        self.alice.open(&self.bob.peer, CAPACITY, Sat(CAPACITY.0 / 2)).await?;
        self.waits(waiting).await?;
        self.mine(CONFIRMATIONS).await?;
        self.usable().await?;
        tokio::try_join!(self.alice.settled(), self.bob.settled()).map(drop)
    }

    /// Waits until more transactions wait for a block than `before`.
    ///
    /// # Errors
    /// When none comes.
    pub async fn waits(&self, before: usize) -> Result<()> {
        eventually(TOGETHER, || async {
            ensure!(self.chain.waiting().await? > before, "no transaction waits for a block");
            Ok(())
        })
        .await
    }

    /// Mines blocks, and waits until both wallets know them.
    ///
    /// # Errors
    /// When a wallet does not answer.
    pub async fn mine(&self, blocks: u32) -> Result<()> {
        self.chain.mine(blocks).await?;
        self.sync().await
    }

    /// Lets both wallets catch up with the chain.
    ///
    /// # Errors
    /// When a wallet does not answer, or knows less than it should then.
    pub async fn sync(&self) -> Result<()> {
        let height = self.chain.height().await?;
        let of = async |operator: &Operator| {
            let synced = operator.ask(&["sync"]).await?;
            let known = synced.get("block_height").and_then(Value::as_u64);
            ensure!(known.is_some_and(|known| known >= height), "{synced}, and the chain is at {height}");
            Ok(())
        };
        tokio::try_join!(of(&self.alice), of(&self.bob)).map(drop)
    }

    /// Waits until both sides can use the channel.
    ///
    /// # Errors
    /// When they cannot in time.
    pub async fn usable(&self) -> Result<()> {
        tokio::try_join!(self.alice.usable(), self.bob.usable()).map(drop)
    }

    /// Ends both wallets well, compares their ledgers with LDK's books, and ends the rest; nothing is left.
    ///
    /// # Errors
    /// When one of them does not end, or not well, or books differ.
    pub async fn stop(mut self) -> Result<[Audit; 2]> {
        let alice = self.alice.stop(&self.chain).await?;
        let bob = self.bob.stop(&self.chain).await?;
        self.relay.terminate(TOGETHER).await?;
        self.chain.shutdown().await?;
        Ok([alice, bob])
    }
}

impl Operator {
    /// Makes a home with a wallet on a chain, and runs it.
    ///
    /// # Errors
    /// When it cannot be made, or is not ready in time.
    pub async fn start(world: &World, name: &str, chain: &Chain, relay: &str) -> Result<Self> {
        let home = world.home(name)?;
        let listen = format!("127.0.0.1:{}", free_port()?);
        chain.init(&home, &["--relay", relay, "--listen", &listen]).await?;
        let wallet = Self::launch(&home).start().await?;
        let node = field(wallet.ready(), "node").context("the ready line names the node")?;
        let peer = format!("{node}@{listen}");
        Ok(Self { home, wallet, peer })
    }

    /// SIGTERM, and what its books say then.
    ///
    /// # Errors
    /// When it does not end well, or the books differ.
    pub async fn stop(&mut self, chain: &Chain) -> Result<Audit> {
        let code = self.wallet.terminate(TOGETHER).await?;
        ensure!(code == 0, "exit code {code}: {}", self.wallet.stderr()?);
        audit(&self.home, chain).await
    }

    /// `oa-wallet run` in a home.
    pub fn launch(home: &Home) -> Launch {
        home.launch(Program::OaWallet, ["run"])
    }

    /// `oa wallet … --json`, to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub async fn oa(&self, args: &[&str]) -> Result<Done> {
        self.home.oa(&[&["wallet"], args, &["--json"]].concat()).await
    }

    /// The same, and its only answer.
    ///
    /// # Errors
    /// When it fails, with all it printed.
    pub async fn ask(&self, args: &[&str]) -> Result<Value> {
        let done = self.oa(args).await?;
        let shown = format!("{args:?}: {done:?}");
        ensure!(done.code == Some(0), "{shown}");
        done.json()?.into_iter().next().context(shown)
    }

    /// A fresh address.
    ///
    /// # Errors
    /// When the wallet does not answer.
    pub async fn address(&self) -> Result<String> {
        let answer = self.ask(&["address"]).await?;
        Ok(field(&answer, "address").context("an address")?.to_owned())
    }

    /// Begins to open a channel to `ID@HOST:PORT`, `push` of which is the peer's.
    ///
    /// # Errors
    /// When the wallet refuses.
    pub async fn open(&self, peer: &str, capacity: Sat, push: Sat) -> Result<()> {
        let (capacity, push) = (capacity.0.to_string(), push.0.to_string());
        self.ask(&["open", peer, &capacity, "--push", &push]).await.map(drop)
    }

    /// A figure of `oa wallet channels`, such as `spendable_msat`.
    ///
    /// # Errors
    /// When the wallet does not answer.
    pub async fn figure(&self, name: &str) -> Result<u64> {
        let channels = self.ask(&["channels"]).await?;
        channels.get(name).and_then(Value::as_u64).with_context(|| format!("{name} in {channels}"))
    }

    /// Waits until it has a channel that can be used.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn usable(&self) -> Result<()> {
        self.usable_channels(1).await
    }

    /// Waits until it has so many of them.
    ///
    /// # Errors
    /// When there are less in time.
    pub async fn usable_channels(&self, count: usize) -> Result<()> {
        eventually(TOGETHER, || async {
            let answer = self.ask(&["channels"]).await?;
            let channels = answer.get("channels").and_then(Value::as_array).context("channels")?;
            let is_usable = |channel: &Value| channel.get("usable") == Some(&Value::Bool(true));
            ensure!(channels.iter().filter(|channel| is_usable(channel)).count() >= count, "{answer}");
            Ok(())
        })
        .await
    }

    /// What LDK says that there is in channels and on the chain, in millisatoshi.
    ///
    /// # Errors
    /// When the wallet does not answer.
    pub async fn has_msat(&self) -> Result<u64> {
        let answer = self.ask(&["channels"]).await?;
        let number = |of: &Value, name: &str| of.get(name).and_then(Value::as_u64);
        let channels = answer.get("channels").and_then(Value::as_array).context("channels")?;
        let ours: Option<u64> = channels.iter().map(|channel| number(channel, "ours_msat")).sum();
        let chain = ["onchain_sat", "onchain_reserved_sat", "onchain_pending_sat"];
        let chain: Option<u64> = chain.into_iter().map(|name| number(&answer, name)).sum();
        ours.zip(chain).map(|(ours, chain)| ours + chain * 1_000).with_context(|| answer.to_string())
    }

    /// What the ledger's accounts have together, in millisatoshi.
    ///
    /// # Errors
    /// When the wallet does not answer.
    pub async fn accounts_msat(&self) -> Result<u64> {
        let accounts = self.oa(&["accounts"]).await?;
        let shown = format!("{accounts:?}");
        let msat = |account: &Value| account.get("balance_msat").and_then(Value::as_u64);
        accounts.json()?.iter().map(msat).sum::<Option<u64>>().context(shown)
    }

    /// Waits until the accounts have exactly what LDK says that there is.
    ///
    /// # Errors
    /// When they do not in time.
    pub async fn settled(&self) -> Result<()> {
        eventually(TOGETHER, || async {
            let (has, accounts) = tokio::try_join!(self.has_msat(), self.accounts_msat())?;
            ensure!(has == accounts, "LDK has {has} msat, the accounts {accounts}");
            Ok(())
        })
        .await
    }

    /// A client in this process, by the admin connection.
    ///
    /// # Errors
    /// When the relay is not there.
    pub async fn customer(&self) -> Result<Customer> {
        Customer::usual(&self.home.dir().join("wallet/admin.nwc")).await
    }
}
