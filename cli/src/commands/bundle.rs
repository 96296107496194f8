//! `oa agent export | import` and `oa-node init --restore`: agents as files, and a node from its seed words.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oa_nips::files::{MESSAGE_BYTES_MAX, Verb};
use oa_nips::hex::{Hash, Hex};
use oa_nips::nostr::hashes::{Hash as _, sha256};
use oa_nips::nostr::{PublicKey, RelayUrl};
use oa_node::agent::manifest::Npub;
use oa_node::bundle::admit::Mode;
use oa_node::bundle::rebuild::{Rebuild, RebuildError, Rebuilt};
use oa_node::bundle::{BYTES_MAX, Bundle};
use oa_node::drivers::nostr::{self as pool, OneKey, Pool};
use oa_node::engine::Programs;
use oa_node::home::Home;
use oa_node::keyring::{Addresses, SeedKeyring};
use oa_node::signer::{Conversations, LocalSigner, Seed, WordsError};
use oa_node::store::Store;
use oa_node::store::sqlite::SqliteBackend;
use oa_node::time::{System, Time as _};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::client::fresh;
use crate::commands::{connect, public_key, stdin, stdin_bytes};
use crate::config::{relay_url, template};
use crate::context::Context;
use crate::error::{Error, Kind, Result, chain};
use crate::host::{self, npub};
use crate::passphrase::Terminal;

/// Bytes that are asked for, or sent, at once.
const PIECE_BYTES: usize = MESSAGE_BYTES_MAX / 4;
/// How long the first relay may take to be there.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Writes an agent's bundle to a file that is not there yet, or to stdout. With `migrate` the agent stops where it is.
pub(crate) async fn export(context: &Context, name: &str, migrate: bool, file: Option<&Path>) -> Result<()> {
    let output = context.output;
    if file.is_none() && output.is_terminal() {
        return Err(Error::new(Kind::Usage, "a bundle is not for a terminal")
            .hint(format!("oa agent export {name} > {name}.oa, or name a file with --out")));
    }
    // Before the agent is stopped in vain.
    let file = file.map(|path| create(path).map(|file| (path, file))).transpose()?;
    let (made, bundle) = fetch(context, name, migrate).await.inspect_err(|_| {
        // Else the next try would find it there.
        if let Some((path, _)) = &file {
            let _ = std::fs::remove_file(path);
        }
    })?;
    let Some((path, mut file)) = file else { return output.bytes(&bundle) };
    file.write_all(&bundle)?;
    file.sync_all()?;
    output.object(
        &json!({ "name": name, "file": path, "bytes": bundle.len(), "migrated": made.get("migrated") }),
    );
    output.say(format!("{name} is in {}, {} bytes, without its key", path.display(), bundle.len()));
    if migrate {
        output
            .say(format!("It is stopped here. Elsewhere: oa agent import {} --mode migrate", path.display()));
    }
    Ok(())
}

/// Has the node make a bundle, and reads it: what the node said of it, and its bytes.
async fn fetch(context: &Context, name: &str, migrate: bool) -> Result<(Value, Vec<u8>)> {
    let client = connect(context).await?;
    let how = if migrate { "migrate" } else { "" };
    let made = client.ask(Verb::Call, &format!("/agents/{name}/export"), how.as_bytes().to_vec()).await?;
    let made = object(&made)?;
    let path = format!("/agents/{name}{}", text(&made, "path"));
    let mut bundle = Vec::new();
    loop {
        let piece = client.read(&path, bundle.len() as u64, PIECE_BYTES as u64).await?;
        if piece.is_empty() {
            break;
        }
        bundle.extend_from_slice(&piece);
    }
    client.close().await;
    if digest(&bundle).to_string() != text(&made, "sha256") {
        return Err(Error::new(Kind::Failed, "the bundle has changed on its way").hint("export it once more"));
    }
    Ok((made, bundle))
}

/// A file for this user only: a bundle is an agent's whole memory.
fn create(path: &Path) -> Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|error| {
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            return Error::new(Kind::Failed, format!("{} exists already", path.display()))
                .hint("choose another name: nothing is written over");
        }
        Error::new(Kind::Failed, format!("{}: {error}", path.display()))
    })
}

/// Has the node take in a bundle; `-` is stdin.
pub(crate) async fn import(
    context: &Context,
    file: &Path,
    mode: Mode,
    name: Option<String>,
    owner: Option<String>,
) -> Result<()> {
    let owner = owner.as_deref().map(public_key).transpose()?.map(Npub);
    let bytes = read(file)?;
    // What is no bundle need not travel.
    open(file, &bytes)?;
    let client = connect(context).await?;
    let upload = fresh().to_string();
    for (n, piece) in bytes.chunks(PIECE_BYTES).enumerate() {
        let path = format!("/agents/import/{upload}/{}", n * PIECE_BYTES);
        client.ask(Verb::Write, &path, piece.to_vec()).await?;
    }
    let order =
        json!({ "mode": mode, "name": name, "owner": owner, "upload": upload, "sha256": digest(&bytes) });
    let said = client.ask(Verb::Call, "/agents/import", order.to_string().into_bytes()).await;
    client.close().await;
    let said = object(&said?)?;
    context.output.object(&said);
    context.output.say(format!("{} is {}", text(&said, "name"), text(&said, "npub")));
    if mode != Mode::Clone {
        context
            .output
            .say("It goes on once its relays have told what it answered since the bundle was made.");
    }
    Ok(())
}

/// What `oa-node init --restore` was told.
#[derive(Debug)]
pub(crate) struct Restore {
    pub(crate) operator: Option<String>,
    pub(crate) relays: Vec<String>,
    /// Where the seed words are, `-` for stdin; nothing for a person at the terminal.
    pub(crate) words: Option<PathBuf>,
    /// Agents that come back as they were.
    pub(crate) bundles: Vec<PathBuf>,
}

/// Makes a home of the seed words of a node that is lost. It may be run again if it did not come to its end.
pub(crate) async fn restore(context: &Context, asked: Restore) -> Result<()> {
    let operator = asked.operator.as_deref().map(public_key).transpose()?;
    let relays: Vec<RelayUrl> = asked
        .relays
        .iter()
        .map(|url| relay_url(url))
        .collect::<std::result::Result<_, _>>()
        .map_err(|reason| Error::new(Kind::Usage, format!("--relay: {reason}")))?;
    if relays.is_empty() && asked.bundles.is_empty() {
        return Err(Error::new(Kind::Usage, "agents are looked for on the relays that they lived on")
            .hint("name them with --relay, or the agents' bundles with --bundle"));
    }
    let home = Home::open(&context.home)?;
    if home.config().exists() {
        let message = format!("{} is there already", home.config().display());
        return Err(Error::new(Kind::Failed, message).hint("choose another --home"));
    }
    let bundles = asked.bundles.iter().map(|path| open(path, &read(path)?)).collect::<Result<Vec<_>>>()?;
    let seed = keep(context, &home, words(context, asked.words.as_deref())?)?;
    let operator = match operator {
        Some(operator) => operator,
        None => host::operator_key(&home, &context.passphrase)?,
    };
    let node = seed.node().public_key();
    let store = Store::new(Arc::new(SqliteBackend::open(&home.db())?))?;
    let rebuilt = rebuild(seed, store.clone(), relays, operator, bundles).await;
    store.close().await;
    let rebuilt = rebuilt?;
    std::fs::write(home.config(), template(&[Npub(operator)], &asked.relays))?;
    tell(context, &home, &node, &operator, &rebuilt);
    Ok(())
}

/// The seed, from where the operator has its words.
fn words(context: &Context, from: Option<&Path>) -> Result<Seed> {
    let wrong = |error: WordsError| Error::new(Kind::Usage, error.to_string()).hint(error.hint());
    match from {
        Some(path) if path.as_os_str() == "-" => Seed::from_words(&Zeroizing::new(stdin()?)).map_err(wrong),
        Some(path) => context.passphrase.seed(path),
        None => {
            let mut terminal = Terminal::open().ok_or_else(|| {
                Error::new(Kind::Usage, "the seed words are typed at a terminal, and there is none")
                    .hint("--words FILE reads them from a file, --words - from stdin")
            })?;
            Seed::from_words(&terminal.typed("The twelve seed words (they are not shown): ")?).map_err(wrong)
        }
    }
}

/// Keeps the seed in the home, unless it is there from an earlier try.
fn keep(context: &Context, home: &Home, seed: Seed) -> Result<Seed> {
    let (path, source) = (home.seed(), &context.passphrase);
    if path.exists() {
        if source.seed(&path)?.node().public_key() != seed.node().public_key() {
            let message = format!("{} holds another seed", path.display());
            return Err(Error::new(Kind::Failed, message).hint("choose another --home"));
        }
    } else {
        match source.kept()? {
            Some(passphrase) => seed.save_encrypted(&path, &passphrase)?,
            None => seed.save(&path)?,
        }
    }
    // Somebody else may be using this seed: its lease is asked for.
    if home.unused().exists() {
        std::fs::remove_file(home.unused())?;
    }
    Ok(seed)
}

async fn rebuild(
    seed: Seed,
    store: Store,
    relays: Vec<RelayUrl>,
    owner: PublicKey,
    bundles: Vec<Bundle>,
) -> Result<Vec<Rebuilt>> {
    let key = Arc::new(LocalSigner::new(seed.node().clone(), Conversations::default()));
    // Nobody subscribes to anything.
    let (incoming, _heard) = mpsc::channel(1);
    let specs: BTreeSet<&RelayUrl> = relays.iter().collect();
    let pool = Pool::start(pool::Config::client(specs), Arc::new(OneKey(key)), None, incoming);
    pool.ready(relays.len(), CONNECT_DEADLINE).await;
    let rebuild = Rebuild {
        store,
        keyring: Arc::new(SeedKeyring::new(seed, Arc::new(Addresses::default()))),
        subscribe: Arc::new(pool.clone()),
        programs: Programs::default(),
        relays,
        owner,
        now_ms: System.now_ms(),
    };
    let rebuilt = rebuild.run(bundles).await;
    pool.shutdown().await;
    rebuilt.map_err(|error| {
        let hint = match &error {
            RebuildError::NoRelay => "nothing was rebuilt: try again once one of the relays can be reached",
            RebuildError::Admit(_) => "are these the words of the node that the bundle is from?",
            RebuildError::Twice(_) => "name one bundle of each agent, the newest",
            RebuildError::Program { .. } => "this program cannot run it; take the bundle out",
            RebuildError::NotEmpty | RebuildError::Store(_) => "choose another --home",
        };
        Error::new(Kind::Failed, chain(&error)).hint(hint)
    })
}

fn tell(context: &Context, home: &Home, node: &PublicKey, operator: &PublicKey, rebuilt: &[Rebuilt]) {
    let output = context.output;
    let agent =
        |agent: &Rebuilt| json!({ "name": agent.name, "npub": npub(&agent.pubkey), "whole": agent.is_whole });
    output.object(&json!({
        "event": "restored",
        "home": home.dir(),
        "node": npub(node),
        "operator": npub(operator),
        "agents": rebuilt.iter().map(agent).collect::<Vec<_>>(),
    }));
    output.say(format!("The node {} has a home again at {}", npub(node), home.dir().display()));
    output.say(format!("  operator  {}", npub(operator)));
    for Rebuilt { name, pubkey, is_whole, .. } in rebuilt {
        let how = if *is_whole { "as in its bundle" } else { "its key and name, no memory" };
        output.say(format!("  {name:<16} {} ({how})", npub(pubkey)));
    }
    if rebuilt.is_empty() {
        output.say("  no agents: none of its keys has a profile on these relays");
    }
    let home = home.dir().display();
    output.say(format!("\nEdit the config, then: oa-node --home {home} run"));
    output.say("It begins once no other node holds the lease of these keys.");
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path.as_os_str() == "-" {
        return stdin_bytes();
    }
    let failed = |error| Error::new(Kind::Usage, format!("{}: {error}", path.display()));
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > BYTES_MAX as u64 {
        return Err(Error::new(Kind::Usage, format!("{}: {bytes} bytes are no bundle", path.display())));
    }
    std::fs::read(path).map_err(failed)
}

fn open(path: &Path, bytes: &[u8]) -> Result<Bundle> {
    Bundle::open(bytes).map_err(|error| {
        Error::new(Kind::Usage, format!("{}: {}", path.display(), chain(&error)))
            .hint("nothing was changed: export the agent once more")
    })
}

fn digest(bytes: &[u8]) -> Hash {
    Hex(sha256::Hash::hash(bytes).to_byte_array())
}

fn object(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|error| {
        Error::new(Kind::Failed, format!("the node's answer is not what it should be: {error}"))
    })
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}
