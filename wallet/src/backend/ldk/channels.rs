//! Channels, peers, coins on the chain, and the copy of it all.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use ldk_node::bitcoin::hashes::Hash as _;
use ldk_node::bitcoin::{Address, Txid};
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::{Node, UserChannelId};
use rusqlite::{Connection, OpenFlags};

use super::{Ldk, convert, start};
use crate::backend::{Backup, Balance, Channel, ChannelId, Close, Error, NodeId, Peer, Sat};
use crate::msat::Msat;

/// Why a forced close is said to happen; peers see it.
const FORCED: &str = "closed by its owner";

impl Ldk {
    pub(super) async fn open(
        &self,
        peer: NodeId,
        address: &str,
        amount: Sat,
        push: Msat,
    ) -> Result<ChannelId, Error> {
        let address = start::address(address).map_err(|error| Error::Malformed(error.to_string()))?;
        if amount.0.checked_mul(1_000).is_none_or(|all| push.get() > all) {
            return Err(Error::Malformed("more is given away than the channel holds".to_owned()));
        }
        self.ask(move |node| {
            let opened = node.open_channel(*peer.key(), address, amount.0, Some(push.get()), None);
            opened.map(|id| ChannelId(id.0)).map_err(|error| convert::error(error, coins(node)))
        })
        .await
    }

    pub(super) async fn close(&self, id: ChannelId, how: Close) -> Result<(), Error> {
        self.ask(move |node| {
            let channel = list(node).into_iter().find(|channel| channel.id == id).ok_or(Error::NotFound)?;
            let (id, peer) = (UserChannelId(id.0), *channel.peer.key());
            let closed = match how {
                Close::Cooperative => node.close_channel(&id, peer),
                Close::Force => node.force_close_channel(&id, peer, Some(FORCED.to_owned())),
            };
            closed.map_err(|error| convert::error(error, Msat::ZERO))
        })
        .await
    }

    pub(super) async fn send_coins(&self, address: &str, amount: Option<Sat>) -> Result<String, Error> {
        let ours = self.network;
        let address = address
            .parse::<Address<_>>()
            .and_then(|address| address.require_network(convert::network(ours)))
            .map_err(|error| Error::Malformed(error.to_string()))?;
        self.ask(move |node| {
            let onchain = node.onchain_payment();
            let sent = match amount {
                Some(amount) => onchain.send_to_address(&address, amount.0, None),
                None => onchain.send_all_to_address(&address, true, None),
            };
            sent.map(|txid| txid.to_string()).map_err(|error| convert::error(error, coins(node)))
        })
        .await
    }

    pub(super) async fn copy_to(&self, file: &Path) -> Result<Backup, Error> {
        let (database, file) = (start::database(&self.dir), file.to_owned());
        self.ask(move |node| {
            let channels = list(node).into_iter().map(|channel| channel.id).collect();
            let bytes =
                copy(&database, &file).map_err(|error| Error::Other(format!("cannot copy: {error}")))?;
            Ok(Backup { bytes, channels })
        })
        .await
    }
}

/// A copy as of one moment, complete on disk when this returns.
fn copy(database: &Path, file: &Path) -> io::Result<u64> {
    // SQLite fills an empty file, and leaves its mode as it is.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    let source =
        Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(io::Error::other)?;
    source.execute("VACUUM INTO ?1", [&*file.to_string_lossy()]).map_err(io::Error::other)?;
    File::open(file)?.sync_all()?;
    Ok(fs::metadata(file)?.len())
}

/// What the chain's side could spend.
fn coins(node: &Node) -> Msat {
    Msat::checked_from_sat(node.list_balances().spendable_onchain_balance_sats).unwrap_or(Msat::SUPPLY)
}

pub(super) fn balance(node: &Node) -> Balance {
    let is_counted = |txid: &Txid| node.payment(&PaymentId(txid.to_byte_array())).is_some();
    convert::balance(&node.list_channels(), &node.list_balances(), is_counted)
}

pub(super) fn list(node: &Node) -> Vec<Channel> {
    convert::channels(&node.list_channels(), || node.list_balances().lightning_balances)
}

pub(super) fn peers(node: &Node) -> Vec<Peer> {
    let peers = node.list_peers().into_iter();
    let peer = |peer: ldk_node::PeerDetails| Peer {
        id: peer.node_id.into(),
        address: peer.address.to_string(),
        connected: peer.is_connected,
    };
    peers.map(peer).collect()
}
