//! What a backend is, has, and is connected to.

use std::fmt;
use std::str::FromStr;

use oa_nips::hex::Hex;
use oa_nips::nostr::secp256k1::PublicKey;
use serde::{Deserialize, Serialize};

use super::error::Error;
use crate::msat::Msat;

/// Whole satoshis: what the chain counts in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sat(pub u64);

impl fmt::Display for Sat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sat", self.0)
    }
}

/// Whose coins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Real money.
    Mainnet,
    /// The old public test network.
    Testnet,
    /// The public test network whose blocks are signed.
    Signet,
    /// A network of one's own.
    Regtest,
}

impl Network {
    /// Its name, as in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mainnet => "mainnet",
            Self::Testnet => "testnet",
            Self::Signet => "signet",
            Self::Regtest => "regtest",
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no network is called {0:?}: mainnet, testnet, signet or regtest")]
pub struct UnknownNetwork(pub String);

impl FromStr for Network {
    type Err = UnknownNetwork;

    fn from_str(text: &str) -> Result<Self, UnknownNetwork> {
        [Self::Mainnet, Self::Testnet, Self::Signet, Self::Regtest]
            .into_iter()
            .find(|network| network.name() == text)
            .ok_or_else(|| UnknownNetwork(text.to_owned()))
    }
}

/// A Lightning node's public key: a point of the curve, compressed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(PublicKey);

impl NodeId {
    /// The key.
    pub fn key(&self) -> &PublicKey {
        &self.0
    }
}

impl From<PublicKey> for NodeId {
    fn from(key: PublicKey) -> Self {
        Self(key)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Hex(self.0.serialize()), f)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NodeId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bytes: Hex<33> = text.parse().map_err(|_| Error::Malformed("no node id".to_owned()))?;
        PublicKey::from_slice(bytes.as_bytes())
            .map(Self)
            .map_err(|_| Error::Malformed("no node id: not a point of the curve".to_owned()))
    }
}

/// Who and where a backend is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Whose coins.
    pub network: Network,
    /// What it calls itself; of the fake it begins with "play money".
    pub alias: String,
    /// The node's key.
    pub node_id: NodeId,
    /// The newest block it knows.
    pub block_height: u32,
    /// The same block's hash, in the order people write it.
    pub block_hash: String,
    /// Where peers reach it.
    pub addresses: Vec<String>,
    /// Nothing of it is worth anything. Whatever shows a balance of it says so.
    pub play_money: bool,
}

/// What there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Balance {
    /// What the channels that are ready could send, little by little.
    pub spendable: Msat,
    /// What they could send in one payment, now: peers limit what may be under way.
    pub spendable_at_once: Msat,
    /// What they could receive.
    pub receivable: Msat,
    /// What is ours in open channels, with the reserve that stays as long as they do.
    pub in_channels: Msat,
    /// On-chain coins that can be sent.
    pub onchain: Sat,
    /// On-chain coins that stay, as a reserve for closing channels.
    pub onchain_reserved: Sat,
    /// Coins on their way out of channels that are closing.
    pub pending: Sat,
}

/// A channel's name here: ours, and the same from its first day to its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub u128);

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for ChannelId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bytes: Hex<16> = text.parse().map_err(|_| Error::Malformed("no channel id".to_owned()))?;
        Ok(Self(u128::from_be_bytes(bytes.0)))
    }
}

/// A channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Its name here.
    pub id: ChannelId,
    /// With whom.
    pub peer: NodeId,
    /// Both sides' coins together.
    pub capacity: Sat,
    /// What is ours, with the reserve and without what is on its way.
    pub ours: Msat,
    /// What could be sent, little by little.
    pub spendable: Msat,
    /// What could be sent in one payment, now.
    pub spendable_at_once: Msat,
    /// What could be received.
    pub receivable: Msat,
    /// Whether it is open.
    pub ready: bool,
    /// Whether it is open and the peer is there.
    pub usable: bool,
    /// Whether we opened it, and so pay for its transactions.
    pub opened_by_us: bool,
    /// The transaction that holds its coins.
    pub funding_txid: Option<String>,
    /// How many blocks confirm that, and how many it takes.
    pub confirmations: (u32, u32),
}

/// How a channel is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// Together: cheap and quick, but the peer must be there.
    Cooperative,
    /// Alone: dearer, and the coins are locked for days.
    Force,
}

/// A peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub id: NodeId,
    /// Where.
    pub address: String,
    /// Whether it is there now.
    pub connected: bool,
}

/// A copy that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Its size.
    pub bytes: u64,
    /// The channels it holds.
    pub channels: Vec<ChannelId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for network in [Network::Mainnet, Network::Testnet, Network::Signet, Network::Regtest] {
            assert_eq!(network.to_string().parse(), Ok(network));
        }
        assert!("bitcoin".parse::<Network>().is_err());
        let id = ChannelId(7);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("7".parse::<ChannelId>().is_err());
        let node = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
        assert_eq!(node.parse::<NodeId>().unwrap().to_string(), node);
        assert!("05".repeat(33).parse::<NodeId>().is_err(), "not a point of the curve");
        assert!("02".parse::<NodeId>().is_err());
    }
}
