//! No secret of a wallet is in any output, log or argument: neither the seed's words, nor the wallet's key, nor the
//! secret of any connection. What holds them is for its owner only, and refused otherwise.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use oa_node::signer::KeyFile;
use oa_tests::lightning::{Lightning, Operator};
use oa_tests::secrets::Secrets;
use oa_tests::wallet::{Purse, first, text};
use oa_tests::world::{DEADLINE, Done, Home, World};
use oa_wallet::nwc::uri::Uri;

/// Where a wallet's secrets are meant to be, in its folder.
const PLACES: [&str; 3] = ["seed", "wallet.key", "admin.nwc"];

/// The secrets of a home's wallet, and of connections in files.
fn secrets(home: &Home, connections: &[PathBuf]) -> Result<Secrets> {
    let mut secrets = Secrets::default();
    let folder = home.dir().join("wallet");
    if let Ok(words) = std::fs::read_to_string(folder.join("seed")) {
        secrets.words("seed", &words);
    }
    secrets.key("wallet", KeyFile::load(&folder.join("wallet.key"))?.keys().secret_key())?;
    let admin = folder.join("admin.nwc");
    for file in connections.iter().chain(admin.exists().then_some(&admin)) {
        let uri: Uri = std::fs::read_to_string(file)?.trim().parse()?;
        secrets.key(&file.display().to_string(), uri.keys().secret_key())?;
    }
    Ok(secrets)
}

fn places(homes: &[&Home], connections: &[PathBuf]) -> Vec<PathBuf> {
    let in_homes = homes.iter().flat_map(|home| PLACES.map(|file| home.dir().join("wallet").join(file)));
    in_homes.chain(connections.iter().cloned()).collect()
}

fn clean(world: &World, secrets: &Secrets, places: &[PathBuf]) -> Result<()> {
    let except: Vec<&Path> = places.iter().map(PathBuf::as_path).collect();
    let found = secrets.search_files(world.path(), &except)?;
    ensure!(found.is_empty(), "{found:#?}");
    Ok(())
}

/// What a program was started with is for everybody on the machine to read.
fn arguments(pid: u32) -> Result<Vec<u8>> {
    let of = |name: &str| std::fs::read(format!("/proc/{pid}/{name}"));
    Ok([of("cmdline")?, of("environ")?].concat())
}

struct Kept<'a>(&'a World, usize);

impl Kept<'_> {
    /// Leaves what a command said where it is searched.
    fn keep(&mut self, done: &Done) -> Result<()> {
        self.1 += 1;
        let file = self.0.path().join(format!("command-{}", self.1));
        Ok(std::fs::write(file, format!("{}\n{}", done.stdout, done.stderr))?)
    }
}

#[tokio::test]
async fn no_secret_is_told_by_a_wallet_that_says_all_it_can() -> Result<()> {
    let mut purse = Purse::start_with(|home| home.relay_url(), &[("OA_LOG", "trace")]).await?;
    let shop = purse.connect("shop", &["--account", "shop"]).await?;
    let kid =
        purse.connect("kid", &["--account", "kid", "--budget", "10sat/day", "--expires", "30d"]).await?;
    let asked = first(purse.by(&shop, &["invoice", "5", "--description", "tea"]).await?)?;
    let bill = text(&asked, "invoice")?;
    let file = kid.to_str().context("a path")?.to_owned();
    let mut kept = Vec::new();
    for args in [
        &["balance"][..],
        &["pay", &bill],
        &["history", "--all"],
        &["accounts"],
        &["transfer", "operator", "kid", "100"],
        &["connections"],
        &["channels"],
        // What is refused is told with more words.
        &["--nwc-file", &file, "pay", &bill],
        &["--nwc-file", &file, "pay", "lnbc1nonsense"],
        &["--nwc-file", &file, "address"],
        &["address"],
        &["backup"],
        &["open", "02ab@127.0.0.1:1", "5000"],
        &["revoke", "kid"],
        &["--nwc-file", &file, "balance"],
        &["revoke", "nobody"],
    ] {
        kept.push(purse.home.oa(&[&["--log", "trace", "wallet"], args, &["--json"]].concat()).await?);
        kept.push(purse.home.oa(&[&["wallet"], args].concat()).await?);
    }
    let mut files = Kept(&purse.world, 0);
    kept.iter().try_for_each(|done| files.keep(done))?;
    let secrets = secrets(&purse.home, &[shop.clone(), kid.clone()])?;
    ensure!(secrets.search(&arguments(purse.wallet.pid()?)?).is_empty(), "an argument tells a secret");
    ensure!(purse.wallet.terminate(DEADLINE).await? == 0, "{}", purse.wallet.stderr()?);
    purse.wallet.restart().await?;
    purse.wallet.kill().await?;
    purse.wallet.restart().await?;
    let places = places(&[&purse.home], &[shop, kid]);
    clean(&purse.world, &secrets, &places)?;
    let log = purse.wallet.stderr()?;
    ensure!(log.contains("TRACE") && log.len() > 10_000, "{} bytes of log say too little", log.len());
    plant(&purse, &secrets, &places)
}

/// A leak in each spelling is found: the search is one.
fn plant(purse: &Purse, secrets: &Secrets, places: &[PathBuf]) -> Result<()> {
    let admin = std::fs::read_to_string(purse.home.dir().join("wallet/admin.nwc"))?;
    let key = KeyFile::load(&purse.home.dir().join("wallet/wallet.key"))?;
    let file = purse.world.path().join("planted.log");
    for leak in [admin, key.keys().secret_key().to_secret_hex()] {
        std::fs::write(&file, format!("before\n{leak} after\n"))?;
        let found = clean(&purse.world, secrets, places);
        ensure!(found.is_err_and(|error| error.to_string().contains("planted.log")), "not found: {leak}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_told_by_a_lightning_node_that_pays() -> Result<()> {
    let mut world = Lightning::start().await?;
    ensure!(world.alice.wallet.terminate(DEADLINE).await? == 0, "{}", world.alice.wallet.stderr()?);
    world.alice.wallet = Operator::launch(&world.alice.home).env("OA_LOG", "trace").start().await?;
    world.usable().await?;
    for (payer, payee) in [(&world.alice, &world.bob), (&world.bob, &world.alice)] {
        let asked = payee.ask(&["invoice", "1000"]).await?;
        payer.ask(&["pay", &text(&asked, "invoice")?]).await?;
    }
    world.alice.ask(&["backup"]).await?;
    let homes = [&world.alice.home, &world.bob.home];
    let places = places(&homes, &[]);
    for home in homes {
        let secrets = secrets(home, &[])?;
        clean(&world.world, &secrets, &places)?;
    }
    ensure!(
        secrets(&world.alice.home, &[])?.search(&arguments(world.alice.wallet.pid()?)?).is_empty(),
        "an argument tells a secret"
    );
    let log = world.alice.wallet.stderr()?;
    ensure!(log.contains("TRACE ldk") || log.contains("ldk"), "LDK says nothing");
    let words = std::fs::read_to_string(world.alice.home.dir().join("wallet/seed"))?;
    std::fs::write(world.world.path().join("planted.log"), words.to_uppercase().replace(' ', "\", \""))?;
    let found = clean(&world.world, &secrets(&world.alice.home, &[])?, &places);
    ensure!(found.is_err(), "four words in a row are a leak");
    world.stop().await.map(drop)
}

#[tokio::test]
async fn what_is_damaged_is_not_quoted() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let init =
        ["init", "--network", "regtest", "--esplora", "http://127.0.0.1:1", "--relay", &home.relay_url()];
    home.oa_wallet(&[&["--log", "trace"][..], &init].concat()).await?.ok()?;
    let secrets = secrets(&home, &[])?;
    let folder = home.dir().join("wallet");
    let good = |file: &str| std::fs::read_to_string(folder.join(file));
    let (seed, key) = (good("seed")?, good("wallet.key")?);
    let mistyped =
        seed.trim().rsplit_once(' ').map(|(words, _)| format!("{words} xyzzy\n")).context("words")?;
    let damages = [("seed", mistyped, &seed), ("wallet.key", format!("{} x", key.trim()), &key)];
    for (file, damaged, good) in damages {
        std::fs::write(folder.join(file), damaged)?;
        let done = home.oa_wallet(&["--log", "trace", "run"]).await?;
        ensure!(done.code == Some(1), "{done:?}");
        ensure!(secrets.search(format!("{done:?}").as_bytes()).is_empty(), "{file} is quoted");
        std::fs::write(folder.join(file), good)?;
    }
    // The chain is away: the start fails with all that LDK says at its end.
    let done = home.oa_wallet(&["--log", "trace", "run"]).await?;
    ensure!(done.code == Some(1) && done.stderr.contains("chain"), "{done:?}");
    ensure!(secrets.search(format!("{done:?}").as_bytes()).is_empty(), "a start that fails tells a secret");
    let secret = oa_nips::nostr::SecretKey::generate();
    let uri = format!(
        "nostr+walletconnect://{}?relay=nonsense&secret={}",
        oa_nips::nostr::Keys::generate().public_key(),
        secret.to_secret_hex()
    );
    let mut of_it = Secrets::default();
    of_it.key("connection", &secret)?;
    for broken in [uri.clone(), uri.replace("nonsense", "ws%3A%2F%2F127.0.0.1%3A1"), format!("{uri}00")] {
        let file = world.path().join("broken.nwc");
        std::fs::write(&file, &broken)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
        let path = file.to_str().context("a path")?;
        let done = home.oa(&["--log", "trace", "wallet", "--nwc-file", path, "balance"]).await?;
        ensure!(done.code != Some(0), "{done:?}");
        ensure!(of_it.search(format!("{done:?}").as_bytes()).is_empty(), "the connection is quoted");
    }
    Ok(())
}

#[tokio::test]
async fn what_others_can_read_is_refused_with_the_command_that_mends_it() -> Result<()> {
    let world = Lightning::start().await?;
    let home = world.alice.home.clone();
    world.alice.ask(&["backup"]).await?;
    let folder = home.dir().join("wallet");
    let modes = [
        ("seed", 0o600),
        ("wallet.key", 0o600),
        ("admin.nwc", 0o600),
        ("wallet.db", 0o600),
        ("lightning", 0o700),
    ];
    for (file, mode) in modes {
        let found = std::fs::metadata(folder.join(file))?.mode() & 0o777;
        ensure!(found == mode, "{file}: {found:o}");
    }
    for entry in
        std::fs::read_dir(folder.join("lightning"))?.chain(std::fs::read_dir(folder.join("backups"))?)
    {
        let entry = entry?;
        let mode = entry.metadata()?.mode() & 0o077;
        // What is in a folder of its owner's only is hidden; a copy may be carried elsewhere.
        ensure!(mode == 0 || entry.path().starts_with(folder.join("lightning")), "{entry:?}: {mode:o}");
    }
    let mut alice = world.alice.wallet;
    ensure!(alice.terminate(DEADLINE).await? == 0, "{}", alice.stderr()?);
    for (file, mode) in modes {
        let path = folder.join(file);
        for others in [0o040, 0o004] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode | others))?;
            let done = home.oa_wallet(&["run"]).await?;
            let mends = format!("chmod {mode:o} {}", path.display());
            ensure!(done.code == Some(1) && done.stderr.contains(&mends), "{file}: {done:?}");
            ensure!(done.stderr.contains("can be read by others"), "{done:?}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
    }
    let nwc = world.world.path().join("shop.nwc");
    std::fs::copy(folder.join("admin.nwc"), &nwc)?;
    std::fs::set_permissions(&nwc, std::fs::Permissions::from_mode(0o644))?;
    let path = nwc.to_str().context("a path")?;
    let done = home.oa(&["wallet", "--nwc-file", path, "balance"]).await?;
    ensure!(done.code == Some(1) && done.stderr.contains(&format!("chmod 600 {path}")), "{done:?}");
    alice.restart().await?;
    ensure!(alice.terminate(DEADLINE).await? == 0, "mended, it runs");
    Ok(())
}
