//! `oa key`: whose keys a home has, and how they are backed up.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use oa_nips::nostr::{PublicKey, ToBech32};
use oa_node::home::Home;
use oa_node::signer::{KeyFile, Ncryptsec, Seed};
use serde_json::json;

use crate::bunker;
use crate::client::Remembered;
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::host::npub;
use crate::output::Output;
use crate::passphrase::{PassphraseSource, Terminal};

/// `oa key`
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Write the operator's key under a passphrase (ncryptsec), or show the node's seed words
    Backup(Backup),
    /// Show whose keys this home has
    Show(Show),
}

/// `oa key backup`
#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// Where the encrypted key goes, never over another file; - is stdout
    #[arg(default_value = "-", value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Show the node's seed words instead, once, on the terminal: every agent's key comes from them
    #[arg(long, conflicts_with = "file")]
    pub(crate) words: bool,
}

/// `oa key show`
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Show the operator's secret key too, on a terminal only
    #[arg(long)]
    pub(crate) secret: bool,
}

pub(crate) fn run(context: &Context, source: &PassphraseSource, key: Key) -> Result<()> {
    let home = Home::peek(&context.home)?;
    match key {
        Key::Backup(Backup { words: true, .. }) => words(&home, source),
        Key::Backup(Backup { file, .. }) => backup(context.output, &home, source, &file),
        Key::Show(Show { secret }) => show(context.output, &home, source, secret),
    }
}

/// The operator's key of a home that has one.
fn operator(home: &Home, source: &PassphraseSource) -> Result<KeyFile> {
    let path = home.operator_key();
    if !path.exists() && home.bunker().exists() {
        let message = format!("this home's operator key is in a bunker, as {} says", home.bunker().display());
        return Err(Error::new(Kind::NotFound, message).hint("back it up there"));
    }
    if !path.exists() {
        let message = format!("{} does not exist: this home has no operator's key", path.display());
        return Err(Error::new(Kind::NotFound, message)
            .hint("a server keeps the operator's npub only; its own seed words are shown with --words"));
    }
    source.key(&path)
}

/// The seed of a home that has one.
fn seed(home: &Home, source: &PassphraseSource) -> Result<Seed> {
    let path = home.seed();
    if !path.exists() {
        let message = format!("{} does not exist: no node lives in this home", path.display());
        return Err(Error::new(Kind::NotFound, message).hint("name the node's home with --home"));
    }
    source.seed(&path)
}

fn backup(output: Output, home: &Home, source: &PassphraseSource, file: &Path) -> Result<()> {
    let key = operator(home, source)?;
    let who = npub(&key.keys().public_key());
    if file.as_os_str() == "-" {
        let sealed = Ncryptsec::seal(key.keys().secret_key(), &source.choose(Path::new("the backup"))?);
        output.object(&json!({ "operator": who, "ncryptsec": sealed.to_string() }));
        output.say(sealed.to_string());
        return Ok(());
    }
    // Before anybody types a passphrase in vain.
    if std::fs::symlink_metadata(file).is_ok() {
        return Err(Error::new(Kind::Failed, format!("{} exists already", file.display()))
            .hint("choose another name: a backup is never written over"));
    }
    KeyFile::save_encrypted(file, key.keys().clone(), &source.choose(file)?)?;
    output.object(&json!({ "operator": who, "file": file }));
    output.say(format!("The key of {who} is in {}, under that passphrase.", file.display()));
    output.say("Without the passphrase nobody can open it, you neither.");
    Ok(())
}

fn words(home: &Home, source: &PassphraseSource) -> Result<()> {
    let Some(mut terminal) = Terminal::open() else {
        return Err(Error::new(Kind::Usage, "seed words are shown on a terminal only"));
    };
    let seed = seed(home, source)?;
    if !reveal(&mut terminal, home.dir(), &seed)? {
        return Err(Error::new(Kind::Failed, "not shown"));
    }
    Ok(())
}

/// Shows the words to who confirms that nobody else looks; whether it did.
fn reveal(terminal: &mut Terminal, home: &Path, seed: &Seed) -> Result<bool> {
    let question = format!(
        "Whoever reads the seed words of {} has the node and all its agents. Show them now?",
        home.display()
    );
    if !terminal.confirms(&question)? {
        return Ok(false);
    }
    let words = seed.reveal();
    let lines: Vec<String> =
        words.split(' ').enumerate().map(|(n, word)| format!("  {:>2}  {word}\n", n + 1)).collect();
    let node = npub(&seed.node().public_key());
    let text = format!(
        "The seed words of {node}\n\n{}\nWrite them down, in this order. Enter makes them go.",
        lines.concat()
    );
    terminal.show_once(&text)?;
    Ok(true)
}

fn show(output: Output, home: &Home, source: &PassphraseSource, secret: bool) -> Result<()> {
    if secret && !output.is_terminal() {
        return Err(Error::new(Kind::Usage, "a secret is shown on a terminal only")
            .hint("oa key backup writes it to a file, encrypted"));
    }
    let key = if secret || home.operator_key().exists() { Some(operator(home, source)?) } else { None };
    let node = node(home, source)?;
    let bunker = bunker::Remembered::load(home)?.filter(|_| key.is_none());
    if key.is_none() && bunker.is_none() && node.is_none() {
        return Err(Error::new(Kind::NotFound, format!("{} has no keys", home.dir().display()))
            .hint("start a node with `oa up`, or name the home that has one with --home"));
    }
    let elsewhere = bunker.as_ref().map(|bunker| bunker.operator.0);
    let operator = key.as_ref().map(|key| key.keys().public_key()).or(elsewhere).as_ref().map(npub);
    let relays = bunker.map(|bunker| bunker.bunker.relays);
    output.object(&json!({ "operator": operator, "bunker": relays, "node": node.as_ref().map(npub) }));
    if let Some(operator) = operator {
        output.say(format!("operator  {operator}"));
    }
    for relay in relays.into_iter().flatten() {
        output.say(format!("          in a bunker on {relay}"));
    }
    if let Some(node) = node {
        output.say(format!("node      {}", npub(&node)));
    }
    if secret && let Some(key) = key {
        let Ok(nsec) = key.keys().secret_key().to_bech32();
        output.say(format!("secret    {nsec}"));
    }
    Ok(())
}

/// The node that this home has or speaks to. What is remembered needs no passphrase.
fn node(home: &Home, source: &PassphraseSource) -> Result<Option<PublicKey>> {
    if home.client().exists() {
        return Ok(Some(Remembered::load(&home.client())?.node.0));
    }
    if home.seed().exists() {
        return Ok(Some(seed(home, source)?.node().public_key()));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use oa_nips::nostr::Keys;
    use oa_node::signer::Passphrase;

    use super::*;

    const QUIET: Output = Output { json: true };

    /// A home with an operator's key and a seed, and a file with a passphrase in it.
    fn home() -> (tempfile::TempDir, Home, Keys, PassphraseSource) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::prepare(dir.path().join("home")).unwrap();
        let keys = Keys::generate();
        KeyFile::save(&home.operator_key(), keys.clone()).unwrap();
        Seed::generate().save(&home.seed()).unwrap();
        let passphrase = dir.path().join("passphrase");
        std::fs::write(&passphrase, "horse\n").unwrap();
        std::fs::set_permissions(&passphrase, std::fs::Permissions::from_mode(0o600)).unwrap();
        (dir, home, keys, PassphraseSource::new(Some(passphrase)))
    }

    #[test]
    fn a_backup_is_encrypted_opens_and_is_never_written_over() {
        let (dir, home, keys, source) = home();
        let file = dir.path().join("backup");
        backup(QUIET, &home, &source, &file).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("ncryptsec1"), "{text}");
        let sealed: Ncryptsec = text.trim().parse().unwrap();
        assert_eq!(sealed.open(&Passphrase::new("horse").unwrap()).unwrap(), *keys.secret_key());
        let error = backup(QUIET, &home, &source, &file).unwrap_err();
        assert!(error.message.ends_with("exists already"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    }

    #[test]
    fn a_secret_needs_a_terminal() {
        let (_dir, home, _keys, source) = home();
        assert_eq!(show(QUIET, &home, &source, true).unwrap_err().kind, Kind::Usage);
        show(QUIET, &home, &source, false).unwrap();
    }

    #[test]
    fn the_node_is_known_from_what_is_remembered_or_from_the_seed() {
        let (_dir, home, keys, source) = home();
        let seed = Seed::load(&home.seed()).unwrap();
        assert_eq!(node(&home, &source).unwrap(), Some(seed.node().public_key()));
        let remembered = serde_json::json!({ "relay": "ws://127.0.0.1:1", "node": npub(&keys.public_key()) });
        std::fs::write(home.client(), remembered.to_string()).unwrap();
        assert_eq!(node(&home, &source).unwrap(), Some(keys.public_key()));
    }

    #[test]
    fn a_home_without_keys_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (home, source) = (Home::prepare(dir.path()).unwrap(), PassphraseSource::default());
        for error in [
            backup(QUIET, &home, &source, Path::new("-")).unwrap_err(),
            show(QUIET, &home, &source, false).unwrap_err(),
            seed(&home, &source).unwrap_err(),
        ] {
            assert!(error.kind == Kind::NotFound && error.hint.is_some(), "{error}");
        }
    }
}
