//! `oa-wallet run`: the backend, the ledger, the service, and their end.

use std::sync::Arc;
use std::time::Duration;

use oa_nips::nostr::{Keys, PublicKey};
use oa_nips::port::Signer;
use oa_node::codes;
use oa_node::drivers::nostr::{self as pool, Incoming, OneKey, Pool};
use oa_node::signer::{Conversations, LocalSigner};
use oa_node::time::{System, Time as _};
use oa_wallet::account::{Holder, Ledger};
use oa_wallet::backend::Backend;
use oa_wallet::backend::fake::Bank;
use oa_wallet::backend::ldk::{Ldk, Seed, StartError};
use oa_wallet::msat::Msat;
use oa_wallet::nwc::connection::{Connection, Scope};
use oa_wallet::nwc::rows::StoreRows;
use oa_wallet::nwc::service::{self, Service};
use oa_wallet::nwc::uri::Uri;
use oa_wallet::purse::{self, LedgerPurse, Liquidity, Notice};
use oa_wallet::store::{Draft, SqliteStore, Store};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::config::{Coins, Config};
use super::place::Place;
use super::{PLAY_MONEY, init, secret};
use crate::context::{Context, Signals};
use crate::error::{Error, Kind, Result, chain};
use crate::host::npub;
use crate::lifecycle;

/// What an operator of play money begins with.
const PLAY: Msat = Msat::from_sat(1_000_000);
/// How long the first relay may take; the wallet runs without it too, and is reached once it is there.
const READY: Duration = Duration::from_secs(10);
/// Events from relays, and requests for the service, that wait; while they are full, relays wait.
const INCOMING: usize = 1024;
/// How long the end may take before the process goes all the same.
const SHUTDOWN: Duration = Duration::from_secs(60);

/// What runs.
struct Running {
    backend: Arc<dyn Backend>,
    purse: LedgerPurse,
    service: Arc<Service>,
    pool: Pool,
    requests: AbortOnDropHandle<()>,
    notices: AbortOnDropHandle<()>,
}

pub(crate) async fn run(context: &Context, fake: bool, until_eof: bool) -> Result<()> {
    let mut signals = Signals::catch_and(until_eof)?;
    if !fake && !Place::peek(&context.home).config().exists() {
        Config::load(&Place::peek(&context.home).config())?;
    }
    let place = Place::open(&context.home)?;
    if fake {
        init::play(context, &place)?;
        init::make_key(&place, context)?;
    }
    let config = Config::load(&place.config())?;
    let relays = config.relays()?;
    let key = context.passphrase.key(&place.key())?.keys().clone();
    let signer: Arc<dyn Signer> = Arc::new(LocalSigner::new(key.clone(), Conversations::default()));
    // It has preimages, and what was asked for.
    secret::guard(&place.db())?;
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&place.db()).map_err(failed)?);
    let backend = backend(&config, &place, &*store, &key).await?;
    let prepared = async {
        let admin = admin(&place, &signer.public_key(), &relays)?;
        Ok((start(&config, &place, relays, signer.clone(), store, backend.clone()).await?, admin))
    };
    let (running, admin) = match Box::pin(prepared).await {
        Ok(prepared) => prepared,
        Err(error) => {
            // A Lightning node is stopped, whatever else went wrong.
            stopped(backend.stop().await)?;
            return Err(error);
        }
    };
    let told = running.service.connect(admin).await;
    told.map_err(|error| Error::new(Kind::Failed, error.to_string()))?;
    ready(context, &config, &signer.public_key(), &running).await;
    let ended = tokio::select! {
        biased;
        () = signals.next() => None,
        ended = running.service.ended() => Some(ended),
    };
    lifecycle::stopping(context.output);
    match tokio::time::timeout(SHUTDOWN, running.stop()).await {
        Ok(done) => done?,
        Err(_) => return Err(Error::new(Kind::Failed, "could not end in time; the next start goes on")),
    }
    match ended {
        Some(ended) => Err(Error::new(Kind::Failed, format!("the wallet's service has ended: {ended}"))
            .hint("make room on its disk and start again; nothing was lost")),
        None => Ok(()),
    }
}

/// The connection of `oa wallet`, made with the first start: all scopes, the operator's account, no end.
fn admin(place: &Place, wallet: &PublicKey, relays: &[oa_nips::nostr::RelayUrl]) -> Result<Connection> {
    let path = place.admin();
    let keys = if path.exists() {
        let uri: Uri = secret::read(&path)?
            .parse()
            .map_err(|error| Error::new(Kind::Failed, format!("{}: {error}", path.display())))?;
        uri.keys()
    } else {
        let keys = Keys::generate();
        let uri = Uri::new(*wallet, relays.to_vec(), keys.secret_key().clone()).map_err(failed)?;
        secret::write(&path, &uri.reveal())?;
        keys
    };
    let now_s = System.now_ms() / 1000;
    let mut connection = Connection::new(keys.public_key(), "oa wallet", Holder::operator(), now_s);
    connection.scopes.insert(Scope::Admin);
    Ok(connection)
}

async fn backend(config: &Config, place: &Place, store: &dyn Store, key: &Keys) -> Result<Arc<dyn Backend>> {
    let Some(network) = config.network.network() else {
        return Ok(Arc::new(play(store, key)?));
    };
    let seed = Seed::open(&place.seed()).map_err(init::no_seed)?;
    let lightning = config.lightning(network, place.lightning())?;
    let node = Ldk::start(lightning, &seed).await.map_err(|error| {
        let hint = match &error {
            StartError::Permissive { dir, .. } => format!("chmod 700 {}", dir.display()),
            StartError::ChainAway => "see [chain] in wallet.toml; nothing was changed".to_owned(),
            _ => "nothing was changed; see what the message names".to_owned(),
        };
        Error::new(Kind::Failed, chain(&error)).hint(hint)
    })?;
    Ok(Arc::new(node))
}

/// A bank of its own, with what the ledger says there is: play money is kept nowhere else. It has the same key at each
/// start, by the wallet's.
fn play(store: &dyn Store, key: &Keys) -> Result<oa_wallet::backend::fake::Fake> {
    let mut draft = Draft::new(store);
    let mut ledger = Ledger::new(&mut draft);
    let is_new = ledger.length().map_err(failed)? == 0;
    let had = ledger.book().map_err(failed)?.lightning;
    let bank = Bank::new(&codes::random());
    Ok(bank.open_again("oa", &key.secret_key().to_secret_bytes(), if is_new { PLAY } else { had }))
}

async fn start(
    config: &Config,
    place: &Place,
    relays: Vec<oa_nips::nostr::RelayUrl>,
    signer: Arc<dyn Signer>,
    store: Arc<dyn Store>,
    backend: Arc<dyn Backend>,
) -> Result<Running> {
    let clock = || System.now_ms();
    let liquidity = if config.lsp.is_some() { Liquidity::Provider } else { Liquidity::Own };
    std::fs::create_dir_all(place.backups())?;
    let purse_config = purse::Config { liquidity, backups: Some(place.backups()) };
    let (purse, told) =
        LedgerPurse::start(purse_config, backend.clone(), store.clone(), clock).await.map_err(failed)?;
    let (sender, incoming) = mpsc::channel(INCOMING);
    let pool = Pool::start(pool::Config::client(&relays), Arc::new(OneKey(signer.clone())), None, sender);
    let (requests, events) = mpsc::channel(INCOMING);
    let filter = Service::filter(signer.public_key(), clock() / 1000);
    let ports = service::Ports {
        signer,
        publish: Arc::new(pool.clone()),
        rows: Arc::new(StoreRows::new(store)),
        purse: Arc::new(purse.clone()),
        steer: Arc::new(purse.clone()),
        clock,
    };
    let service =
        Arc::new(Service::start(service::Config::new(relays), ports, events).await.map_err(failed)?);
    pool.stand("nwc", filter);
    let requests = AbortOnDropHandle::new(tokio::spawn(hand_on(incoming, requests)));
    let notices = AbortOnDropHandle::new(tokio::spawn(tell(told, service.clone())));
    Ok(Running { backend, purse, service, pool, requests, notices })
}

/// Requests from relays to the service. It verifies them.
async fn hand_on(mut incoming: mpsc::Receiver<Incoming>, requests: mpsc::Sender<oa_nips::nostr::Event>) {
    while let Some(next) = incoming.recv().await {
        match next {
            Incoming::Event { event, .. } => {
                if requests.send(*event).await.is_err() {
                    return;
                }
            }
            Incoming::Down { relay, reason } => tracing::warn!(%relay, reason, "a relay is away"),
            Incoming::Up { relay } => tracing::info!(%relay, "a relay is there"),
            Incoming::Sweep(_) => {}
        }
    }
}

async fn tell(mut told: mpsc::Receiver<Notice>, service: Arc<Service>) {
    while let Some((account, notification)) = told.recv().await {
        if service.happened(account, notification).await.is_err() {
            return;
        }
    }
}

async fn ready(context: &Context, config: &Config, wallet: &PublicKey, running: &Running) {
    if running.pool.ready(1, READY).await == 0 {
        context.output.note("no relay answers yet; the wallet is reached once one does");
    }
    let node = running.backend.info().await.map(|info| info.node_id.to_string()).unwrap_or_default();
    let output = context.output;
    let is_play = config.network == Coins::PlayMoney;
    let event = json!({
        "event": "ready",
        "wallet": npub(wallet),
        "network": config.network.word(),
        "play_money": is_play,
        "node": node,
        "relays": config.relays,
        "connection": Place::peek(&context.home).admin(),
    });
    lifecycle::ready(output, &event);
    let kind =
        if is_play { format!("{PLAY_MONEY}, worth nothing") } else { config.network.name().to_owned() };
    output.say(format!("wallet {} ({kind}) is up on {}", npub(wallet), config.relays.join(" ")));
    output.say("Try it from another terminal: oa wallet balance");
}

impl Running {
    /// Nothing more is taken; what stands between a commit and an answer is finished; then the node is stopped. What
    /// was not answered is answered after the next start.
    async fn stop(self) -> Result<()> {
        let Self { backend, purse, service, pool, requests, notices } = self;
        pool.unstand("nwc");
        drop(requests);
        notices.abort();
        // Ended by the abort, as it should be.
        let _ = notices.await;
        match Arc::try_unwrap(service) {
            Ok(service) => service.shutdown().await,
            Err(service) => drop(service),
        }
        purse.stop().await;
        let ended = backend.stop().await;
        pool.shutdown().await;
        stopped(ended)
    }
}

fn stopped(ended: std::result::Result<(), oa_wallet::backend::Error>) -> Result<()> {
    ended.map_err(|error| Error::new(Kind::Failed, format!("the Lightning node did not stop well: {error}")))
}

fn failed(error: impl std::error::Error + 'static) -> Error {
    Error::new(Kind::Failed, chain(&error))
}
