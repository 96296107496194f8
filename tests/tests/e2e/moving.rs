//! Agents with keys of their own: made, exported as ncryptsec, taken in by a node with another seed; and never two nodes
//! that tick with one key.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use oa_nips::mail::Protocol::Nip17;
use oa_nips::nostr::{Keys, PublicKey};
use oa_node::signer::{Ncryptsec, Passphrase};
use oa_tests::client::Client;
use oa_tests::world::{DEADLINE, Done, Home, Process, World, eventually, field};
use serde_json::Value;

/// A lease that was left is taken after a rest of some seconds; one look more may be needed.
const TAKEN: Duration = Duration::from_secs(40);
/// How long a silence must last to count as one.
const SILENCE: Duration = Duration::from_secs(2);

/// Two nodes of two seeds on one relay, and a passphrase in a file.
struct Stage {
    world: World,
    _relay: Process,
    homes: [Home; 2],
    nodes: [Process; 2],
    passphrase: String,
}

impl Stage {
    async fn start() -> Result<Self> {
        let world = World::new()?;
        let relay = world.home("relay")?.relay().start().await?;
        let passphrase = world.path().join("passphrase");
        std::fs::write(&passphrase, "correct horse\n")?;
        std::fs::set_permissions(&passphrase, std::fs::Permissions::from_mode(0o600))?;
        let passphrase = passphrase.display().to_string();
        let homes = [world.home("a")?, world.home("b")?];
        let [a, b] = &homes;
        let nodes = [run(a, &relay, &passphrase).await?, run(b, &relay, &passphrase).await?];
        Ok(Self { world, _relay: relay, homes, nodes, passphrase })
    }

    /// `oa …` in a home, with the passphrase.
    async fn oa(&self, n: usize, args: &[&str]) -> Result<Done> {
        let home = self.homes.get(n).context("a home")?;
        home.oa(&[&["--passphrase-file", &self.passphrase], args].concat()).await
    }

    async fn oa_node(&self, n: usize, args: &[&str]) -> Result<Done> {
        let home = self.homes.get(n).context("a home")?;
        home.oa_node(&[&["--passphrase-file", &self.passphrase], args].concat()).await
    }

    /// Makes mover on the first node; answers its npub.
    async fn mover(&self) -> Result<String> {
        let new = ["--json", "agent", "new", "mover", "--key", "own", "--program", "echo", "--dm", "open"];
        let made = self.oa(0, &new).await?;
        ensure!(made.code == Some(0), "{made:?}");
        Ok(made.json()?.first().and_then(|made| field(made, "npub")).context("an npub")?.to_owned())
    }

    fn file(&self, name: &str) -> String {
        self.world.path().join(name).display().to_string()
    }

    /// Brings mover's key to the second node, by hand.
    async fn hand_over(&self, npub: &str) -> Result<()> {
        let key = self.file("key");
        self.oa_node(0, &["key", "export", npub, &key]).await?.ok()?;
        let text = std::fs::read_to_string(&key)?;
        ensure!(text.starts_with("ncryptsec1"), "{text}");
        self.oa_node(1, &["key", "import", &key]).await?.ok()?;
        Ok(())
    }

    async fn status(&self, n: usize) -> Result<Value> {
        let shown = self.oa(n, &["agent", "show", "mover", "--json"]).await?;
        ensure!(shown.code == Some(0), "{shown:?}");
        shown.json()?.into_iter().next().context("a status")
    }

    /// Waits until mover may tick on a node.
    async fn holds(&self, n: usize) -> Result<()> {
        let holds = || async {
            let status = self.status(n).await?;
            ensure!(status.pointer("/key/lease/held") == Some(&true.into()), "{status}");
            ensure!(
                field(&status, "reason").is_none_or(|reason| !reason.starts_with("restored")),
                "{status}"
            );
            Ok(())
        };
        eventually(TAKEN, holds).await
    }
}

/// A server on the relay whose keys are under the passphrase.
async fn run(home: &Home, relay: &Process, passphrase: &str) -> Result<Process> {
    let said = home.oa_node(&["--passphrase-file", passphrase, "--json", "init"]).await?;
    ensure!(said.code == Some(0), "{said:?}");
    let said = said.json()?;
    let operator = said.first().and_then(|said| field(said, "operator")).context("an operator")?;
    let config = format!(
        "operators = [{operator:?}]\nrelays = [{:?}]\n[relay]\nenabled = false\n[sweep]\nevery_ms = 1000\n",
        relay.relay()?
    );
    home.write("config.toml", &config)?;
    home.run().arg("--passphrase-file").arg(passphrase).start().await
}

async fn says(client: &mut Client, agent: PublicKey, text: &str) -> Result<()> {
    let said = client.ask(agent, text, Nip17, TAKEN).await?;
    ensure!(said.text() == Some(format!("You said: {text}").as_str()) && said.author == agent, "{said:?}");
    Ok(())
}

fn failed(done: &Done, code: i32, sentence: &str) -> Result<()> {
    ensure!(done.code == Some(code), "{code} is wanted: {done:?}");
    ensure!(done.stderr.contains(sentence), "{sentence:?} is wanted: {done:?}");
    Ok(())
}

#[tokio::test]
async fn an_agent_moves_with_its_key_to_a_node_with_another_seed() -> Result<()> {
    let stage = Stage::start().await?;
    let npub = stage.mover().await?;
    let mover = PublicKey::parse(&npub)?;
    let [a, b] = &stage.homes;
    let relay = stage.nodes.first().context("a node")?.relay()?;
    let mut client = Client::connect(&relay, Keys::generate(), DEADLINE).await?;
    says(&mut client, mover, "one").await?;
    stage.oa(0, &["write", "/agents/mover/memory/x", "kept"]).await?.ok()?;
    // Its key is in no database, and in no file but encrypted.
    stage.hand_over(&npub).await?;
    let sealed: Ncryptsec = std::fs::read_to_string(stage.file("key"))?.trim().parse()?;
    let secret = sealed.open(&Passphrase::new("correct horse").context("a passphrase")?)?;
    let needles = [secret.to_secret_bytes().to_vec(), secret.to_secret_hex().into_bytes()];
    for home in [a, b] {
        for entry in walk(home.dir())? {
            let bytes = std::fs::read(&entry)?;
            let is_in = |needle: &Vec<u8>| bytes.windows(needle.len()).any(|window| window == *needle);
            ensure!(!needles.iter().any(is_in), "the key is in {}", entry.display());
        }
    }
    failed(&stage.oa_node(0, &["key", "export", &npub, &stage.file("key")]).await?, 1, "exists already")?;
    // Without the migration it may still run where it is.
    let (bundle, still) = (stage.file("mover.oa"), stage.file("still.oa"));
    stage.oa(0, &["agent", "export", "mover", "--out", &still]).await?.ok()?;
    failed(&stage.oa(1, &["agent", "import", &still, "--mode", "migrate"]).await?, 2, "was not stopped")?;
    stage.oa(0, &["agent", "export", "mover", "--migrate", "--out", &bundle]).await?.ok()?;
    let two = client.dm(mover, "two", Nip17, DEADLINE).await?;
    stage.oa(1, &["agent", "import", &bundle, "--mode", "migrate"]).await?.ok()?;
    let said = client.answer(two, TAKEN).await?;
    ensure!(said.text() == Some("You said: two"), "{said:?}");
    stage.holds(1).await?;
    ensure!(stage.oa(1, &["cat", "/agents/mover/memory/x"]).await?.ok()?.trim() == "kept");
    // Resumed where it was, it waits and says why.
    stage.oa(0, &["agent", "ctl", "mover", "resume"]).await?.ok()?;
    waits(&stage, 0).await?;
    says(&mut client, mover, "three").await?;
    ensure!(client.next(SILENCE).await.is_err(), "nothing is answered twice");
    Ok(())
}

/// Waits until mover's status on a node says that another has its key.
async fn waits(stage: &Stage, n: usize) -> Result<()> {
    let says_why = || async {
        let status = stage.status(n).await?;
        let lease = status.pointer("/key/lease").context("a lease")?;
        ensure!(lease.get("held") == Some(&false.into()), "{status}");
        ensure!(field(lease, "why").is_some_and(|why| why.contains("another node")), "{status}");
        Ok(())
    };
    eventually(TAKEN, says_why).await
}

#[tokio::test]
async fn of_two_nodes_with_one_agents_key_one_ticks_and_the_other_says_why_not() -> Result<()> {
    let mut stage = Stage::start().await?;
    let npub = stage.mover().await?;
    let mover = PublicKey::parse(&npub)?;
    let relay = stage.nodes.first().context("a node")?.relay()?;
    let mut client = Client::connect(&relay, Keys::generate(), DEADLINE).await?;
    says(&mut client, mover, "one").await?;
    let bundle = stage.file("mover.oa");
    stage.oa(0, &["agent", "export", "mover", "--out", &bundle]).await?.ok()?;
    failed(&stage.oa(1, &["agent", "import", &bundle, "--mode", "restore"]).await?, 2, "oa-node key import")?;
    stage.hand_over(&npub).await?;
    stage.oa(1, &["agent", "import", &bundle, "--mode", "restore"]).await?.ok()?;
    waits(&stage, 1).await?;
    for n in 0..3 {
        says(&mut client, mover, &format!("who {n}")).await?;
    }
    ensure!(client.next(SILENCE).await.is_err(), "one of them answers");
    let ticks = |status: &Value| status.get("ticks").and_then(Value::as_u64);
    ensure!(ticks(&stage.status(0).await?) > ticks(&stage.status(1).await?), "the second does not tick");
    // The first leaves; the second goes on, and knows what was answered.
    let [first, _] = &mut stage.nodes;
    ensure!(first.terminate(DEADLINE).await? == 0);
    says(&mut client, mover, "and now").await?;
    stage.holds(1).await?;
    ensure!(client.next(SILENCE).await.is_err(), "nothing is answered twice");
    // The first comes back, and is behind.
    let [first, _] = &mut stage.nodes;
    first.restart().await?;
    waits(&stage, 0).await?;
    says(&mut client, mover, "still here").await
}

#[tokio::test]
async fn a_key_is_kept_as_its_new_home_keeps_its_own() -> Result<()> {
    let stage = Stage::start().await?;
    let npub = stage.mover().await?;
    stage.hand_over(&npub).await?;
    let plain = stage.world.home("plain")?;
    plain.oa_node(&["init"]).await?.ok()?;
    // The passphrase is the file's: a node that was never given one could not open the key.
    let import = ["--passphrase-file", &stage.passphrase, "key", "import", &stage.file("key")];
    plain.oa_node(&import).await?.ok()?;
    let is_sealed = |done: Done| -> Result<bool> {
        let listed = done.json()?;
        let key = listed.first().context("a key")?;
        ensure!(field(key, "npub") == Some(npub.as_str()), "{key}");
        key.get("encrypted").and_then(Value::as_bool).context("whether it is encrypted")
    };
    ensure!(!is_sealed(plain.oa_node(&["key", "list", "--json"]).await?)?);
    ensure!(is_sealed(stage.oa_node(1, &["key", "list", "--json"]).await?)?);
    Ok(())
}

/// Every file beneath a folder, but what relays keep.
fn walk(dir: &std::path::Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(walk(&entry.path())?);
        } else if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}
