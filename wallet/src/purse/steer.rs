//! What admin connections do with the wallet itself: see "The wallet's own methods" in docs/protocol.md.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Inner;
use super::receive::unposted;
use super::{PurseError, refusal};
use crate::account::{Holder, Ledger, PostError, holders};
use crate::backend::{ChannelId, Close, NodeId, Sat};
use crate::msat::Msat;
use crate::nwc::message::{Error, ErrorCode};

/// All of them.
pub(super) const METHODS: [&str; 10] = [
    "oa_address",
    "oa_channels",
    "oa_open_channel",
    "oa_close_channel",
    "oa_backup",
    "oa_sync",
    "oa_offer",
    "oa_pay_offer",
    "oa_transfer",
    "oa_accounts",
];

/// Accounts of one answer.
const ACCOUNTS_MAX: usize = 200;

#[derive(Deserialize)]
struct Open {
    /// `id@host:port`
    peer: String,
    amount_sat: u64,
    #[serde(default)]
    push_msat: Msat,
}

#[derive(Deserialize)]
struct CloseIt {
    channel: String,
    #[serde(default)]
    force: bool,
}

#[derive(Deserialize)]
struct Transfer {
    /// The same again is the same transfer.
    id: String,
    from: Holder,
    to: Holder,
    amount_msat: Msat,
}

#[derive(Deserialize)]
struct Accounts {
    #[serde(default)]
    after: Option<Holder>,
}

impl Inner {
    pub(super) async fn steer(self: &Arc<Self>, method: &str, params: Value) -> Result<Value, Error> {
        match method {
            "oa_address" => Ok(json!({ "address": self.backend.address().await.map_err(told)? })),
            "oa_channels" => self.channels().await,
            "oa_open_channel" => self.open_channel(read(params)?).await,
            "oa_close_channel" => self.close_channel(read(params)?).await,
            "oa_backup" => self.back_up().await,
            "oa_sync" => self.sync().await,
            "oa_offer" => self.make_offer(read(params)?).await,
            "oa_pay_offer" => self.pay_offer(read(params)?).await,
            "oa_transfer" => self.transfer(read(params)?).await,
            "oa_accounts" => self.accounts(read(params)?).await,
            other => Err(Error::new(ErrorCode::NotImplemented, format!("method {other:?} is not known"))),
        }
    }

    async fn channels(&self) -> Result<Value, Error> {
        let (info, balance) = (self.backend.info().await, self.backend.balance().await);
        let (info, balance) = (info.map_err(told)?, balance.map_err(told)?);
        let channels = self.backend.channels().await.map_err(told)?;
        let shown = channels.iter().map(|channel| {
            json!({
                "channel": channel.id.to_string(),
                "peer": channel.peer.to_string(),
                "capacity_sat": channel.capacity,
                "ours_msat": channel.ours,
                "spendable_msat": channel.spendable,
                "receivable_msat": channel.receivable,
                "ready": channel.ready,
                "usable": channel.usable,
                "funding_txid": channel.funding_txid,
                "confirmations": channel.confirmations.0,
                "confirmations_needed": channel.confirmations.1,
            })
        });
        Ok(json!({
            "node": info.node_id.to_string(),
            "addresses": info.addresses,
            "spendable_msat": balance.spendable,
            "receivable_msat": balance.receivable,
            "onchain_sat": balance.onchain,
            "onchain_reserved_sat": balance.onchain_reserved,
            "onchain_pending_sat": balance.pending,
            "channels": shown.collect::<Vec<_>>(),
        }))
    }

    async fn open_channel(&self, open: Open) -> Result<Value, Error> {
        let no_peer = || other("a peer is written ID@HOST:PORT");
        let (id, address) = open.peer.split_once('@').ok_or_else(no_peer)?;
        let id: NodeId = id.parse().map_err(told)?;
        let opened = self.backend.open_channel(id, address, Sat(open.amount_sat), open.push_msat).await;
        Ok(json!({ "channel": opened.map_err(told)?.to_string() }))
    }

    async fn close_channel(&self, close: CloseIt) -> Result<Value, Error> {
        let id: ChannelId = close.channel.parse().map_err(told)?;
        let how = if close.force { Close::Force } else { Close::Cooperative };
        self.backend.close_channel(id, how).await.map_err(told)?;
        Ok(json!({}))
    }

    async fn back_up(&self) -> Result<Value, Error> {
        let Some(folder) = &self.config.backups else {
            return Err(Error::new(ErrorCode::NotImplemented, "this wallet has no folder for backups"));
        };
        let file = folder.join(format!("channels-{}.backup", self.now_ms()));
        let backup = self.backend.backup(&file).await.map_err(told)?;
        let channels: Vec<_> = backup.channels.iter().map(ToString::to_string).collect();
        Ok(json!({ "file": file.display().to_string(), "bytes": backup.bytes, "channels": channels }))
    }

    async fn sync(&self) -> Result<Value, Error> {
        self.backend.sync().await.map_err(told)?;
        let info = self.backend.info().await.map_err(told)?;
        Ok(json!({ "block_height": info.block_height, "block_hash": info.block_hash }))
    }

    async fn transfer(&self, transfer: Transfer) -> Result<Value, Error> {
        let at_ms = self.now_ms();
        let moved = self.book.write(move |draft| {
            let Transfer { id, from, to, amount_msat } = &transfer;
            let moved = Ledger::new(draft).transfer(&format!("transfer {id}"), from, to, *amount_msat, at_ms);
            match moved {
                Ok(posted) => Ok(Ok(posted.entry().seq)),
                Err(PostError::Refused(refused)) => Ok(Err(refused.to_string())),
                Err(error @ (PostError::Conflict(_) | PostError::BadId(_))) => Ok(Err(error.to_string())),
                Err(error) => Err(unposted(error)),
            }
        });
        let seq = moved.await.map_err(Error::from)?.map_err(other)?;
        Ok(json!({ "posting": seq }))
    }

    async fn accounts(&self, accounts: Accounts) -> Result<Value, Error> {
        let listed = self
            .book
            .read(move |store| -> Result<_, PurseError> {
                Ok(holders(store, accounts.after.as_ref(), ACCOUNTS_MAX)?)
            })
            .await
            .map_err(Error::from)?;
        let shown = listed.iter().map(|(holder, standing)| {
            json!({
                "account": holder,
                "balance_msat": standing.available,
                "reserved_msat": standing.reserved,
                "debt_msat": standing.debt,
            })
        });
        let compared_at = self.compared_ms.load(Ordering::Relaxed) / 1000;
        Ok(json!({ "accounts": shown.collect::<Vec<_>>(), "compared_at": compared_at }))
    }
}

fn read<T: DeserializeOwned>(params: Value) -> Result<T, Error> {
    serde_json::from_value(params).map_err(|error| other(format!("parameters are not valid: {error}")))
}

fn other(why: impl Into<String>) -> Error {
    Error::new(ErrorCode::Other, why)
}

pub(super) fn told(error: crate::backend::Error) -> Error {
    refusal(error).into()
}
