//! Two Lightning nodes that can pay each other, made from nothing in seconds on a chain of one's own.
//!
//! [`connect`] gives two running nodes coins and a channel that both can spend from. [`prepare`] does that to two
//! homes and stops the nodes again, so that a process of its own can run each.

use std::time::{Duration, Instant};

use crate::backend::ldk::{Config, Ldk, Seed, StartError};
use crate::backend::{Backend, ChannelId, Error, Sat};
use crate::msat::Msat;
use crate::regtest::{Chain, FundError};

/// Coins each node gets on the chain besides what goes into the channel: its reserve for closing, and fees.
const SPARE: Sat = Sat(100_000);

/// Blocks after which a channel is ready.
const CONFIRMATIONS: u32 = 6;

/// How long any one step may take, on a busy machine.
const STEP_MAX: Duration = Duration::from_secs(60);

/// How often it is looked whether a step is done.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A node to be: how it is set up, and its seed. It has to listen somewhere.
#[derive(Debug)]
pub struct Home {
    /// How it is set up.
    pub config: Config,
    /// Its seed.
    pub seed: Seed,
}

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum DevnetError {
    #[error("a node does not start")]
    Start(#[from] StartError),
    #[error(transparent)]
    Node(#[from] Error),
    #[error(transparent)]
    Fund(#[from] FundError),
    /// A step took longer than it ever should.
    #[error("{0} takes too long")]
    TimedOut(&'static str),
}

/// Sets both homes up with coins and a channel of `capacity`, half of it each, and stops them.
pub async fn prepare(chain: &Chain, homes: [&Home; 2], capacity: Sat) -> Result<ChannelId, DevnetError> {
    let [opener, other] = homes;
    let opener = Ldk::start(opener.config.clone(), &opener.seed).await?;
    let channel = match Ldk::start(other.config.clone(), &other.seed).await {
        Ok(other) => {
            let channel = connect(chain, &opener, &other, capacity).await;
            other.stop().await?;
            channel
        }
        Err(error) => Err(error.into()),
    };
    opener.stop().await?;
    channel
}

/// Gives both nodes coins, and opens a channel of `capacity` between them, half of it each.
///
/// Mines the blocks that this takes. Gives the channel's name at `opener`'s. The other accepts at most a tenth of the
/// capacity under way at a time, which LDK fixes for whoever does not open; the opener accepts all of it.
pub async fn connect(
    chain: &Chain,
    opener: &Ldk,
    other: &Ldk,
    capacity: Sat,
) -> Result<ChannelId, DevnetError> {
    let peer = other.info().await?;
    let address =
        peer.addresses.first().ok_or_else(|| Error::Unavailable("the other does not listen".to_owned()))?;
    chain.fund(&opener.address().await?, Sat(capacity.0.saturating_add(SPARE.0)))?;
    chain.fund(&other.address().await?, SPARE)?;
    chain.mine(1);
    sync(opener, other).await?;
    let push = Msat::checked_from_sat(capacity.0 / 2).unwrap_or(Msat::ZERO);
    let waiting = chain.waiting();
    let channel = opener.open_channel(peer.node_id, address, capacity, push).await?;
    let until = Instant::now() + STEP_MAX;
    while chain.waiting() == waiting {
        pause(until, "the funding transaction").await?;
    }
    chain.mine(CONFIRMATIONS);
    let until = Instant::now() + STEP_MAX;
    loop {
        sync(opener, other).await?;
        if usable(opener).await? && usable(other).await? {
            return Ok(channel);
        }
        pause(until, "the channel").await?;
    }
}

async fn sync(one: &Ldk, other: &Ldk) -> Result<(), Error> {
    let (one, other) = tokio::join!(one.sync(), other.sync());
    one.and(other)
}

async fn usable(node: &Ldk) -> Result<bool, Error> {
    Ok(node.channels().await?.iter().any(|channel| channel.usable))
}

async fn pause(until: Instant, step: &'static str) -> Result<(), DevnetError> {
    if Instant::now() >= until {
        return Err(DevnetError::TimedOut(step));
    }
    tokio::time::sleep(LOOK_EVERY).await;
    Ok(())
}
