//! `oa-wallet init`: seed words, the wallet's key, `wallet.toml`, and how to get going on the chosen network.

use clap::Args;
use oa_nips::nostr::Keys;
use oa_node::home::Home;
use oa_node::signer::KeyFile;
use oa_wallet::backend::Network;
use oa_wallet::backend::ldk::{Seed, SeedError};
use serde_json::json;

use super::PLAY_MONEY;
use super::config::Coins;
use super::place::Place;
use crate::client::Remembered;
use crate::config::relay_url;
use crate::context::Context;
use crate::error::{Error, Kind, Result, chain};
use crate::host::npub;

/// Where `oa up` and `oa-node` have their relay by default.
const RELAY: &str = "ws://127.0.0.1:7447";
/// Where a bitcoind's password is, beside `wallet.toml`.
const PASSWORD_FILE: &str = "bitcoind.password";

/// `oa-wallet init`
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Whose coins: mainnet, testnet, signet or regtest
    #[arg(long, default_value = "regtest", conflicts_with = "fake")]
    pub(crate) network: Network,
    /// Who tells about the chain: the URL of an Esplora API
    #[arg(long, value_name = "URL")]
    pub(crate) esplora: Option<String>,
    /// An Electrum server instead, as ssl://HOST:PORT or tcp://HOST:PORT
    #[arg(long, value_name = "URL", conflicts_with = "esplora")]
    pub(crate) electrum: Option<String>,
    /// A bitcoind instead, as USER@HOST:PORT; its password goes into the file bitcoind.password
    #[arg(long, value_name = "USER@HOST:PORT", conflicts_with_all = ["esplora", "electrum"])]
    pub(crate) bitcoind: Option<String>,
    /// A relay to be spoken to on; may be given several times [default: the home's, or ws://127.0.0.1:7447]
    #[arg(long, value_name = "URL")]
    pub(crate) relay: Vec<String>,
    /// Where to listen for Lightning peers, as HOST:PORT
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Vec<String>,
    /// How often the chain is asked, in milliseconds
    #[arg(long, value_name = "MS", hide = true)]
    pub(crate) sync_ms: Option<u64>,
    /// Play money, worth nothing, to try things out
    #[arg(long)]
    pub(crate) fake: bool,
}

impl Init {
    /// On a network, with an Esplora API that tells about its chain.
    pub(crate) fn new(network: Network, esplora: &str) -> Self {
        Self {
            network,
            esplora: Some(esplora.to_owned()),
            electrum: None,
            bitcoind: None,
            relay: Vec::new(),
            listen: Vec::new(),
            sync_ms: None,
            fake: false,
        }
    }
}

/// A wallet that was made.
pub(crate) struct Made {
    place: Place,
    coins: Coins,
    relays: Vec<String>,
    key: oa_nips::nostr::PublicKey,
    /// Of a real one.
    seed: Option<Seed>,
}

/// Makes a wallet in a home, and says nothing.
///
/// # Errors
/// What is missing, or there already.
pub(crate) fn make(context: &Context, init: &Init) -> Result<Made> {
    let coins = if init.fake { Coins::PlayMoney } else { init.network.into() };
    let chain = if init.fake { String::new() } else { chain_of(init)? };
    let relays = relays(context, init)?;
    let place = Place::open(&context.home)?;
    if place.config().exists() {
        let message = format!("there is a wallet already: {}", place.config().display());
        return Err(Error::new(Kind::Failed, message).hint("edit it, or choose another --home"));
    }
    let seed = if init.fake { None } else { Some(Seed::create(&place.seed()).map_err(no_seed)?) };
    let key = make_key(&place, context)?;
    std::fs::write(place.config(), template(coins, &relays, &init.listen, &chain))?;
    Ok(Made { place, coins, relays, key, seed })
}

pub(crate) fn run(context: &Context, init: &Init) -> Result<()> {
    let Made { place, coins, relays, key, seed } = make(context, init)?;
    let output = context.output;
    output.object(&json!({
        "event": "initialised",
        "network": coins.word(),
        "play_money": init.fake,
        "wallet": npub(&key),
        "config": place.config(),
    }));
    output.say(format!("A wallet ({}) is at {}", coins.name(), place.config().display()));
    match seed {
        Some(seed) if output.is_terminal() => {
            output.say(
                "\nWrite these 24 words down, now, on paper: whoever has them has the coins. They are not",
            );
            output.say("shown again.\n");
            for (line, words) in seed.words().split(' ').collect::<Vec<_>>().chunks(6).enumerate() {
                output.say(format!("  {:>2}  {}", line * 6 + 1, words.join(" ")));
            }
        }
        Some(_) => {
            output.note(format!("the seed words are in {}, and were not shown", place.seed().display()))
        }
        None => {}
    }
    let relay = relays.first().map(String::as_str).unwrap_or_default();
    output.say(format!("\n{}", next_steps(coins, &of_home(context), relay)));
    Ok(())
}

/// How a command names this home, where it is not the usual one.
fn of_home(context: &Context) -> String {
    if std::env::home_dir().is_some_and(|home| home.join(".oa") == context.home) {
        String::new()
    } else {
        format!(" --home {}", context.home.display())
    }
}

/// The key that the wallet answers under, made here.
pub(super) fn make_key(place: &Place, context: &Context) -> Result<oa_nips::nostr::PublicKey> {
    let path = place.key();
    let key = match context.passphrase.kept()? {
        _ if path.exists() => context.passphrase.key(&path)?,
        Some(passphrase) => KeyFile::save_encrypted(&path, Keys::generate(), &passphrase)?,
        None => KeyFile::save(&path, Keys::generate())?,
    };
    Ok(key.keys().public_key())
}

pub(super) fn no_seed(error: SeedError) -> Error {
    let hint = match &error {
        SeedError::Permissive { path, .. } => Some(format!("chmod 600 {}", path.display())),
        SeedError::Missing(_) => Some("put it back: the coins are nothing without it".to_owned()),
        SeedError::Exists(_) | SeedError::Words | SeedError::Io { .. } => None,
    };
    Error { kind: Kind::Failed, message: chain(&error), hint }
}

fn relays(context: &Context, init: &Init) -> Result<Vec<String>> {
    for relay in &init.relay {
        relay_url(relay).map_err(|reason| Error::new(Kind::Usage, format!("--relay: {reason}")))?;
    }
    if !init.relay.is_empty() {
        return Ok(init.relay.clone());
    }
    let home = Home::peek(&context.home).ok();
    let known = home.and_then(|home| Remembered::load(&home.client()).ok());
    Ok(vec![known.map_or_else(|| RELAY.to_owned(), |known| known.relay.to_string())])
}

/// The lines of `[chain]`.
fn chain_of(init: &Init) -> Result<String> {
    let source = source_of(init)?;
    Ok(init.sync_ms.map_or_else(|| source.clone(), |ms| format!("{source}sync_ms = {ms}\n")))
}

fn source_of(init: &Init) -> Result<String> {
    if let Some(url) = &init.electrum {
        return Ok(format!("electrum = {}\n", quoted(url)));
    }
    if let Some(bitcoind) = &init.bitcoind {
        let bad = || Error::new(Kind::Usage, "--bitcoind is written USER@HOST:PORT");
        let (user, at) = bitcoind.split_once('@').ok_or_else(bad)?;
        let (host, port) = at.rsplit_once(':').ok_or_else(bad)?;
        let port: u16 = port.parse().map_err(|_| bad())?;
        return Ok(format!(
            "bitcoind = {{ host = {}, port = {port}, user = {}, password_file = \"{PASSWORD_FILE}\" }}\n",
            quoted(host),
            quoted(user),
        ));
    }
    let public = match init.network {
        Network::Mainnet => "https://blockstream.info/api",
        Network::Testnet => "https://blockstream.info/testnet/api",
        Network::Signet => "https://mempool.space/signet/api",
        Network::Regtest => {
            let url = init.esplora.as_ref().ok_or_else(|| {
                Error::new(Kind::Usage, "a regtest chain is one's own: nobody knows where it is").hint(
                    "--esplora URL, --electrum URL or --bitcoind USER@HOST:PORT; or play money with --fake",
                )
            })?;
            return Ok(format!("esplora = {}\n", quoted(url)));
        }
    };
    Ok(format!("esplora = {}\n", quoted(init.esplora.as_deref().unwrap_or(public))))
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(items: &[String]) -> String {
    format!("[{}]", items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", "))
}

fn template(coins: Coins, relays: &[String], listen: &[String], chain: &str) -> String {
    let mut text = format!("# Never changed once there are coins.\nnetwork = {}\n", quoted(coins.word()));
    text += &format!("# Where it is spoken to; connections name these.\nrelays = {}\n", list(relays));
    if coins == Coins::PlayMoney {
        return text;
    }
    text += &format!(
        "# Where Lightning peers come in, as \"host:port\"; without any it only dials.\nlisten = {}\n",
        list(listen)
    );
    if coins == Coins::Mainnet {
        text += "# Where it learns the network's channels; without it, from its peers.\n";
        text += "rapid_gossip = \"https://rapidsync.lightningdevkit.org/snapshot\"\n";
    }
    text += &format!("\n[chain]\n{chain}");
    text += "\n# Who opens channels to it when an invoice needs more room than there is (LSPS2):\n";
    text +=
        "#[lsp]\n#node = \"03…\"\n#address = \"host:port\"\n#fee_max_msat = 3000000\n#fee_max_ppm = 10000\n";
    text
}

/// How to go on: the first coins, and inbound liquidity. `home` is how commands name this home, if they have to.
fn next_steps(coins: Coins, home: &str, relay: &str) -> String {
    let run = format!(
        "  oa-wallet{home} run\n      It is spoken to on {relay}: oa up or oa relay runs a relay there.\n"
    );
    if coins == Coins::PlayMoney {
        return format!(
            "Next:\n{run}      It has 1,000,000 sat in the operator's account: worth nothing, and payable between\n      \
             accounts of this wallet only."
        );
    }
    let (coins_from, more) = match coins {
        Coins::Regtest => (
            "mine to it: bitcoin-cli -regtest generatetoaddress 101 ADDRESS",
            "To be paid, give the other side some of your channel with --push, or let it open one to you.\n\
             `oa devnet` has all of this ready.",
        ),
        Coins::Signet => (
            "ask a faucet for some, such as https://signetfaucet.com: they are worth nothing",
            "To be paid, you need inbound liquidity: pay something over your channel first, or name a provider\n\
             (LSPS2) under [lsp] in wallet.toml.",
        ),
        Coins::Testnet => (
            "ask a faucet for some, such as https://coinfaucet.eu: they are worth nothing",
            "To be paid, you need inbound liquidity: pay something over your channel first, or name a provider\n\
             (LSPS2) under [lsp] in wallet.toml.",
        ),
        Coins::Mainnet | Coins::PlayMoney => (
            "send some to it; this is REAL MONEY, so little",
            "To be paid, you need inbound liquidity: name a provider (LSPS2) under [lsp] in wallet.toml, and it opens\n\
             a channel with the first payment; or pay something over your own channel first; or buy a channel.\n\
             Back up: the words, and oa wallet backup.",
        ),
    };
    format!(
        "Next:\n{run}  oa{home} wallet address\n      The first coins: {coins_from}.\n  oa{home} wallet open \
         ID@HOST:PORT 100000\n      A channel of 100,000 sat, to pay with, once the coins are confirmed.\n{more}"
    )
}

/// Whether a home has a wallet of play money, or none at all, in which case it gets one.
///
/// # Errors
/// When it has a real one.
pub(super) fn play(context: &Context, place: &Place) -> Result<()> {
    if place.config().exists() {
        let found = super::config::Config::load(&place.config())?.network;
        if found == Coins::PlayMoney {
            return Ok(());
        }
        let message = format!("this wallet is on {}: no {PLAY_MONEY} goes into it", found.name());
        return Err(Error::new(Kind::Usage, message).hint("choose another --home for --fake"));
    }
    let init = Init { esplora: None, fake: true, ..Init::new(Network::Regtest, "") };
    std::fs::write(place.config(), template(Coins::PlayMoney, &relays(context, &init)?, &[], ""))?;
    Ok(())
}
