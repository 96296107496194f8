//! A wallet in this process, at a bank of play money where somebody else has an account too.
//!
//! The process `oa-wallet run --fake` is alone at its bank. Here money comes from outside and goes there, payments
//! are held, and routes fail.

use std::sync::Arc;

use anyhow::{Result, ensure};
use oa_nips::nostr::{Keys, RelayUrl, SecretKey};
use oa_nips::port::Signer;
use oa_node::drivers::nostr::{self as pool, OneKey, Pool, hand_on};
use oa_node::signer::{Conversations, LocalSigner};
use oa_relay::{Config as RelayConfig, Relay, StoreConfig};
use oa_wallet::account::{Holder, Verified, verify};
use oa_wallet::backend::fake::{Bank, Fake};
use oa_wallet::msat::Msat;
use oa_wallet::nwc::connection::{Connection, Scope};
use oa_wallet::nwc::rows::StoreRows;
use oa_wallet::nwc::service::{self, Service};
use oa_wallet::nwc::uri::Uri;
use oa_wallet::purse::{self, LedgerPurse, Liquidity};
use oa_wallet::store::{MemoryStore, Store};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{Customer, clock};
use crate::world::DEADLINE;

/// Requests and notices that wait.
const INCOMING: usize = 1024;

/// The wallet, its relay, and who is outside of it.
#[derive(Debug)]
pub struct Branch {
    /// The world of this money.
    pub bank: Bank,
    /// Another wallet of that world, which is not ours.
    pub outside: Fake,
    /// The relay.
    pub relay: Relay,
    keys: Keys,
    store: Arc<dyn Store>,
    service: Arc<Service>,
    _pool: Pool,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Branch {
    /// With so much in the operator's account, and as much outside.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start(each: Msat) -> Result<Self> {
        let relay = Relay::start(RelayConfig::new("127.0.0.1:0".parse()?, StoreConfig::Memory)).await?;
        let bank = Bank::new(&SecretKey::generate().to_secret_bytes());
        let (inside, outside) = (bank.open("inside", each), bank.open("outside", each));
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let purse_config = purse::Config { liquidity: Liquidity::Own, backups: None };
        let (purse, mut told) =
            LedgerPurse::start(purse_config, Arc::new(inside), store.clone(), clock).await?;
        let keys = Keys::generate();
        let signer: Arc<dyn Signer> = Arc::new(LocalSigner::new(keys.clone(), Conversations::default()));
        let url = RelayUrl::parse(&relay.url())?;
        let (sender, incoming) = mpsc::channel(INCOMING);
        let pool_config = pool::Config::client([&url]);
        let pool = Pool::start(pool_config, Arc::new(OneKey(signer.clone())), None, sender);
        let (requests, events) = mpsc::channel(INCOMING);
        let ports = service::Ports {
            signer,
            publish: Arc::new(pool.clone()),
            rows: Arc::new(StoreRows::new(store.clone())),
            purse: Arc::new(purse.clone()),
            steer: Arc::new(purse),
            clock,
        };
        let service = Arc::new(Service::start(service::Config::new(vec![url]), ports, events).await?);
        pool.stand("nwc", Service::filter(keys.public_key(), clock() / 1000));
        ensure!(pool.ready(1, DEADLINE).await > 0, "no connection to the relay");
        let teller = service.clone();
        let _tasks = [
            tokio::spawn(hand_on(incoming, requests)),
            tokio::spawn(async move {
                while let Some((account, notification)) = told.recv().await {
                    if teller.happened(account, notification).await.is_err() {
                        return;
                    }
                }
            }),
        ]
        .map(AbortOnDropHandle::new);
        Ok(Self { bank, outside, relay, keys, store, service, _pool: pool, _tasks })
    }

    /// A connection with all scopes but `admin`, changed as wanted.
    ///
    /// # Errors
    /// When the service has ended.
    pub async fn connect(&self, account: &str, change: impl FnOnce(&mut Connection)) -> Result<Uri> {
        let uri = Uri::new(
            self.keys.public_key(),
            vec![RelayUrl::parse(&self.relay.url())?],
            SecretKey::generate(),
        )?;
        let holder = Holder::new(account)?;
        let mut connection = Connection::new(uri.keys().public_key(), account, holder, clock() / 1000);
        change(&mut connection);
        self.service.connect(connection).await?;
        Ok(uri)
    }

    /// The same, in use.
    ///
    /// # Errors
    /// When the service has ended, or the relay does not answer.
    pub async fn customer(&self, account: &str, change: impl FnOnce(&mut Connection)) -> Result<Customer> {
        Customer::connect(self.connect(account, change).await?).await
    }

    /// The operator, who may steer too.
    ///
    /// # Errors
    /// As [`Branch::customer`].
    pub async fn operator(&self) -> Result<Customer> {
        self.customer("operator", |connection| connection.scopes = Scope::ALL.into()).await
    }

    /// Whether the ledger adds up.
    ///
    /// # Errors
    /// What does not.
    pub fn verify(&self) -> Result<Verified> {
        Ok(verify(&*self.store)?)
    }
}
