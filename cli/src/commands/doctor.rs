//! `oa-node doctor`: what a node in this home needs, looked at one thing after the other. Mends nothing.
//!
//! It opens the database only where no node runs; as at a start, that brings one of an older format to this program's. What
//! a check cannot see it says, and what is wrong with the command that mends it.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oa_nips::files::Verb;
use oa_nips::lease::{self, Published};
use oa_nips::nostr::RelayUrl;
use oa_nips::port::{Signer, Subscribe as _};
use oa_node::agent::AgentId;
use oa_node::drivers::nostr::{self, OneKey, Pool};
use oa_node::home::{Home, HomeError};
use oa_node::signer::{Conversations, LocalSigner};
use oa_node::store::Store;
use oa_node::store::sqlite::SqliteBackend;
use oa_node::time::{System, Time as _};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::commands::connect;
use crate::config::{self, Config, relay_url};
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::host::npub;
use crate::output::Output;
use crate::purse;

/// For a relay to be there.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// For a relay to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Less room than this on the home's disk is worth a word.
const FREE_BYTES_LOW: u64 = 1 << 30;
/// Events that come unasked while a relay is looked at.
const INCOMING: usize = 64;

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    /// It works, and may not for long, or not as wished.
    Doubt,
    /// It does not work.
    Wrong,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Doubt => "doubt",
            Self::Wrong => "wrong",
        })
    }
}

/// What was found, told as it comes.
#[derive(Debug)]
struct Findings {
    output: Output,
    wrong: usize,
}

impl Findings {
    fn tell(&mut self, check: &str, state: State, what: impl Into<String>, hint: Option<&str>) {
        let what = what.into();
        self.wrong += usize::from(state == State::Wrong);
        self.output
            .object(&json!({ "check": check, "state": state.to_string(), "what": what, "hint": hint }));
        self.output.say(format!("{state:<6} {check:<9} {what}"));
        if let Some(hint) = hint {
            self.output.say(format!("{:<16} {hint}", ""));
        }
    }

    fn ok(&mut self, check: &str, what: impl Into<String>) {
        self.tell(check, State::Ok, what, None);
    }

    fn wrong(&mut self, check: &str, error: &Error) {
        self.tell(check, State::Wrong, error.message.clone(), error.hint.as_deref());
    }
}

/// Looks at everything; fails when something is wrong.
pub(crate) async fn run(context: &Context) -> Result<()> {
    let home = Home::peek(&context.home)?;
    let mut findings = Findings { output: context.output, wrong: 0 };
    look_at_folder(&home, &mut findings)?;
    let config = look_at_config(&home, &mut findings);
    let signer = look_at_seed(context, &home, &mut findings);
    let is_running = look_at_process(&home, &mut findings);
    if let (Some(config), Some(signer)) = (&config, &signer) {
        let lease = look_at_relays(config, signer, is_running, &mut findings).await;
        look_at_lease(lease.as_ref(), is_running, &mut findings);
    }
    if let Some(wallet) = config.as_ref().and_then(|config| config.wallet.as_ref()) {
        look_at_wallet(&home, wallet, &mut findings).await;
    }
    if is_running {
        look_at_node(context, &mut findings).await;
    }
    match findings.wrong {
        0 => Ok(()),
        1 => Err(Error::new(Kind::Failed, "one thing is wrong")),
        wrong => Err(Error::new(Kind::Failed, format!("{wrong} things are wrong"))),
    }
}

fn look_at_folder(home: &Home, findings: &mut Findings) -> Result<()> {
    let dir = home.dir().display();
    let mode = std::fs::metadata(home.dir())?.mode() & 0o777;
    if mode & 0o022 == 0 {
        findings.ok("home", format!("{dir}, mode {mode:03o}"));
    } else {
        let hint = format!("chmod 700 {dir}");
        findings.tell(
            "home",
            State::Wrong,
            format!("{dir} can be written by others (mode {mode:03o})"),
            Some(&hint),
        );
    }
    let disk = rustix::fs::statvfs(home.dir()).map_err(std::io::Error::from)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let what = format!("{} MiB are free", free >> 20);
    if free < FREE_BYTES_LOW {
        let hint = "a node stops when nothing can be written; nothing is lost then";
        findings.tell("disk", State::Doubt, what, Some(hint));
    } else {
        findings.ok("disk", what);
    }
    Ok(())
}

fn look_at_config(home: &Home, findings: &mut Findings) -> Option<Config> {
    if !home.config().exists() {
        let hint = "`oa up` needs none; `oa-node init` makes one";
        findings.tell("config", State::Doubt, format!("there is no {}", home.config().display()), Some(hint));
        return None;
    }
    match Config::load(&home.config()) {
        Ok(config) if config.operators.is_empty() => {
            let hint = "put the npub of whoever steers it under `operators`";
            findings.tell(
                "config",
                State::Doubt,
                "nobody may steer the node: `operators` is empty",
                Some(hint),
            );
            Some(config)
        }
        Ok(config) => {
            findings.ok("config", format!("{} can be read", home.config().display()));
            Some(config)
        }
        Err(error) => {
            findings.wrong("config", &error);
            None
        }
    }
}

/// The seed's file can be read by its owner only, and opened.
fn look_at_seed(context: &Context, home: &Home, findings: &mut Findings) -> Option<Arc<dyn Signer>> {
    match context.passphrase.seed(&home.seed()) {
        Ok(seed) => {
            let key = seed.node();
            findings
                .ok("seed", format!("{} is the key of {}", home.seed().display(), npub(&key.public_key())));
            Some(Arc::new(LocalSigner::new(key.clone(), Conversations::default())))
        }
        Err(error) => {
            findings.wrong("seed", &error);
            None
        }
    }
}

/// Whether a node runs here. Where none does, its database is opened.
fn look_at_process(home: &Home, findings: &mut Findings) -> bool {
    // Held until the database is closed.
    let _lock = match Home::open(home.dir()) {
        Ok(lock) => lock,
        Err(error @ HomeError::Locked { .. }) => {
            findings.ok("process", error.to_string());
            return true;
        }
        Err(error) => {
            findings.tell("process", State::Wrong, error.to_string(), Some(error.hint()));
            return false;
        }
    };
    findings.tell("process", State::Doubt, "no node runs in this home", Some("oa-node run, or its service"));
    if !home.db().exists() {
        findings.ok("database", "there is none yet: the first start makes it");
        return false;
    }
    let opened = SqliteBackend::open(&home.db()).map_err(Error::from).and_then(|backend| {
        let store = Store::new(Arc::new(backend))?;
        Ok(store.agents(AgentId(0), usize::MAX)?.len())
    });
    match opened {
        Ok(agents) => findings.ok("database", format!("{}, {agents} agents", home.db().display())),
        Err(error) => findings.wrong("database", &error),
    }
    false
}

async fn look_at_relays(
    config: &Config,
    signer: &Arc<dyn Signer>,
    is_running: bool,
    findings: &mut Findings,
) -> Option<Published> {
    let own = config.relay.enabled.then(|| format!("ws://{}", config.relay.listen));
    let own = own.filter(|_| is_running);
    let mut lease: Option<Published> = None;
    for url in config.relays.iter().chain(&config.relay.url).chain(&own) {
        match relay_url(url) {
            Ok(relay) => {
                let found = look_at_relay(&relay, signer, findings).await;
                lease = found.into_iter().chain(lease).reduce(newer);
            }
            Err(reason) => findings.tell("relay", State::Wrong, reason, Some("mend `relays` in config.toml")),
        }
    }
    if config.relays.is_empty() && !config.relay.enabled {
        let hint = "name one under `relays` in config.toml";
        findings.tell("relay", State::Wrong, "the node has no relay: nobody can reach it", Some(hint));
    }
    lease
}

/// Who uses the node's key, as the relays have it.
fn look_at_lease(lease: Option<&Published>, is_running: bool, findings: &mut Findings) {
    let now_s = System.now_ms() / 1000;
    let held =
        lease.filter(|found| found.lease.state == lease::State::Held && found.lease.expires_at > now_s);
    let named = |found: &Published| {
        let node = found.lease.node.as_deref().map(|node| format!(" by {node:?}")).unwrap_or_default();
        format!(
            "the key's lease is held{node}, for {} s more unless it is renewed",
            found.lease.expires_at.saturating_sub(now_s)
        )
    };
    match (held, is_running) {
        (Some(found), true) => findings.ok("lease", named(found)),
        (Some(found), false) => {
            let hint =
                "a node that was killed holds it a little longer; else another one has this seed and runs";
            findings.tell("lease", State::Doubt, named(found), Some(hint));
        }
        (None, true) => {
            let hint = "a node that has just begun takes it within seconds; its log says what is in the way";
            findings.tell("lease", State::Doubt, "nobody holds the key's lease", Some(hint));
        }
        (None, false) => findings.ok("lease", "nobody uses the node's key"),
    }
}

/// Whether a relay is there and answers, and what it has of the key's lease.
async fn look_at_relay(
    relay: &RelayUrl,
    signer: &Arc<dyn Signer>,
    findings: &mut Findings,
) -> Option<Published> {
    let (sender, _incoming) = mpsc::channel(INCOMING);
    let keyring = Arc::new(OneKey(signer.clone()));
    let pool = Pool::start(nostr::Config::client([relay]), keyring, None, sender);
    if pool.ready(1, CONNECT_WITHIN).await == 0 {
        let hint = "is its address right, and does it run? mail waits on the node's other relays";
        findings.tell("relay", State::Wrong, format!("{relay}: no connection"), Some(hint));
        pool.shutdown().await;
        return None;
    }
    let (me, asked) = (signer.public_key(), Instant::now());
    let found = pool.fetch(relay, lease::filter(me), ANSWER_WITHIN).await;
    pool.shutdown().await;
    let leases = match found {
        Ok(leases) => leases,
        Err(error) => {
            let hint = "a relay may let in only whom it knows";
            findings.tell("relay", State::Wrong, error.to_string(), Some(hint));
            return None;
        }
    };
    let answered = format!("{relay}: answers in {} ms", asked.elapsed().as_millis());
    let leases = leases.iter().filter(|event| event.pubkey == me);
    let lease = leases.filter_map(|event| Published::read(event).ok()).reduce(newer);
    match lease {
        Some(_) => findings.ok("relay", format!("{answered}, and keeps what the node writes")),
        None => {
            let hint = "a relay that stays so, while the node runs, refuses what it writes";
            findings.tell(
                "relay",
                State::Doubt,
                format!("{answered}, and has nothing of the node's"),
                Some(hint),
            );
        }
    }
    lease
}

fn newer(a: Published, b: Published) -> Published {
    if b.replaces(&a) { b } else { a }
}

#[cfg(feature = "wallet")]
async fn look_at_wallet(home: &Home, wallet: &config::Wallet, findings: &mut Findings) {
    if let Err(error) = purse::of_config(home.dir(), wallet) {
        return findings.wrong("wallet", &error);
    }
    let asked = async {
        let wallet = crate::wallet::client::Wallet::connect(&home.dir().join(&wallet.nwc_file)).await?;
        let balance = wallet.client.balance().await;
        wallet.close().await;
        Ok::<_, Error>(balance?)
    };
    match asked.await {
        Ok(balance) => findings.ok("wallet", format!("answers, and has {balance} for the node")),
        Err(error) => findings.wrong("wallet", &error),
    }
}

#[cfg(not(feature = "wallet"))]
async fn look_at_wallet(home: &Home, wallet: &config::Wallet, findings: &mut Findings) {
    match purse::of_config(home.dir(), wallet) {
        Ok(_) => findings.ok("wallet", "its connection can be read"),
        Err(error) => findings.wrong("wallet", &error),
    }
}

/// What the node itself says, where this home may ask it.
async fn look_at_node(context: &Context, findings: &mut Findings) {
    let status = async {
        let client = connect(context).await?;
        let status = client.ask(Verb::Read, "/node/status", Vec::new()).await;
        client.close().await;
        status
    };
    let status = match status.await {
        Ok(status) => status,
        Err(error) if error.kind == Kind::NotFound => {
            let hint = "ask it from the operator's home: oa-node status";
            return findings.tell("node", State::Doubt, "this home has no key to ask it with", Some(hint));
        }
        Err(error) => return findings.wrong("node", &error),
    };
    let Ok(status) = serde_json::from_slice::<Value>(&status) else {
        return findings.tell("node", State::Wrong, "its answer is no status", None);
    };
    let relays = status.get("relays").and_then(Value::as_array).into_iter().flatten();
    let away = relays.filter(|relay| relay.get("connected") == Some(&Value::Bool(false))).count();
    let agents = status.get("agents").and_then(Value::as_u64).unwrap_or_default();
    if away == 0 {
        findings.ok("node", format!("answers, with {agents} agents"));
    } else {
        findings.tell("node", State::Doubt, format!("answers; {away} of its relays are away"), None);
    }
}
