//! `oa-node key`: the keys of agents that can move, in and out of a home, by whoever sits at its machine.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use oa_nips::nostr::{FromBech32 as _, Keys, PublicKey};
use oa_node::home::Home;
use oa_node::signer::{KeyCase, KeyFile, Ncryptsec, OpenError, Seed};
use serde_json::json;
use zeroize::Zeroizing;

use crate::commands::stdin;
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::host::npub;
use crate::passphrase::PassphraseSource;

/// `oa-node key`
#[derive(Debug, Subcommand)]
pub(crate) enum NodeKey {
    /// List the agents' keys that are kept here
    List,
    /// Write an agent's key under a passphrase (ncryptsec)
    Export {
        /// The agent's npub
        npub: String,
        /// Where to, never over another file; - is stdout
        #[arg(default_value = "-", value_name = "FILE")]
        file: PathBuf,
    },
    /// Keep a key that `export` wrote elsewhere; `oa agent import` of its agent comes after it
    Import {
        /// The file; - reads it from stdin
        file: PathBuf,
    },
}

pub(crate) fn run(context: &Context, key: NodeKey) -> Result<()> {
    let home = Home::peek(&context.home)?;
    let source = &context.passphrase;
    match key {
        NodeKey::List => list(context, &home),
        NodeKey::Export { npub, file } => export(context, &home, &npub, &file),
        NodeKey::Import { file } => import(context, &home, &read(&file, source)?),
    }
}

/// The keys of agents that a home keeps. A node whose seed is under a passphrase that was typed keeps none, as it could
/// not write them under the same.
///
/// # Errors
/// When a passphrase is needed and there is none.
pub(crate) fn case(home: &Home, source: &PassphraseSource) -> Result<Option<KeyCase>> {
    let passphrase = match source.kept()? {
        Some(passphrase) => Some(passphrase),
        None => match sealed(home)? {
            Some(path) => Some(source.ask(&path)?),
            None if is_seed_sealed(home) => return Ok(None),
            None => None,
        },
    };
    Ok(Some(KeyCase::new(home.keys(), passphrase)))
}

/// One of the agents' keys that is under a passphrase, if any is.
fn sealed(home: &Home) -> Result<Option<PathBuf>> {
    let plain = KeyCase::new(home.keys(), None);
    let keys = plain.list()?;
    let mut paths = keys.iter().map(|key| plain.path(key));
    Ok(paths.find(|path| KeyFile::is_encrypted(path).unwrap_or_default()))
}

fn is_seed_sealed(home: &Home) -> bool {
    Seed::is_encrypted(&home.seed()).unwrap_or_default()
}

fn list(context: &Context, home: &Home) -> Result<()> {
    let case = KeyCase::new(home.keys(), None);
    for key in case.list()? {
        let path = case.path(&key);
        let is_sealed = KeyFile::is_encrypted(&path)?;
        context.output.object(&json!({ "npub": npub(&key), "file": path, "encrypted": is_sealed }));
        let how = if is_sealed { "encrypted" } else { "plain" };
        context.output.say(format!("{} {how:<9} {}", npub(&key), path.display()));
    }
    Ok(())
}

fn export(context: &Context, home: &Home, who: &str, file: &Path) -> Result<()> {
    let (source, output) = (&context.passphrase, context.output);
    let key = PublicKey::from_bech32(who)
        .map_err(|_| Error::new(Kind::Usage, format!("{who:?} is no npub")).hint("oa agent list shows it"))?;
    let path = KeyCase::new(home.keys(), None).path(&key);
    if !path.exists() {
        let message =
            format!("{} does not exist: no agent with a key of its own has this npub", path.display());
        return Err(Error::new(Kind::NotFound, message)
            .hint("the other agents' keys come from the seed words, and do not move"));
    }
    if file.as_os_str() != "-" && std::fs::symlink_metadata(file).is_ok() {
        return Err(Error::new(Kind::Failed, format!("{} exists already", file.display()))
            .hint("choose another name: a key is never written over"));
    }
    let keys = source.key(&path)?.keys().clone();
    if keys.public_key() != key {
        return Err(Error::new(Kind::Failed, format!("{} holds another key", path.display())));
    }
    if file.as_os_str() == "-" {
        let sealed = Ncryptsec::seal(keys.secret_key(), &source.choose(Path::new("the exported key"))?);
        output.object(&json!({ "npub": who, "ncryptsec": sealed.to_string() }));
        output.say(sealed.to_string());
        return Ok(());
    }
    KeyFile::save_encrypted(file, keys, &source.choose(file)?)?;
    output.object(&json!({ "npub": who, "file": file }));
    output.say(format!("The key of {who} is in {}, under that passphrase.", file.display()));
    output.say(format!("Elsewhere: oa-node key import {}, then oa agent import", file.display()));
    Ok(())
}

/// The text of an exported key.
fn read(file: &Path, source: &PassphraseSource) -> Result<Keys> {
    let text = if file.as_os_str() == "-" {
        Zeroizing::new(stdin()?)
    } else {
        let failed = |error| Error::new(Kind::Usage, format!("{}: {error}", file.display()));
        Zeroizing::new(std::fs::read_to_string(file).map_err(failed)?)
    };
    let wrong = |error: OpenError| {
        Error::new(Kind::Usage, format!("{}: {error}", file.display()))
            .hint("a key moves as an ncryptsec1… only")
    };
    let sealed: Ncryptsec = text.trim().parse().map_err(wrong)?;
    Ok(Keys::new(sealed.open(&source.ask(file)?).map_err(wrong)?))
}

fn import(context: &Context, home: &Home, keys: &Keys) -> Result<()> {
    let who = npub(&keys.public_key());
    // In a home that keeps its keys without a passphrase, the one that was given is the file's: its node could not open
    // what is kept under it.
    let case = match sealed(home)?.is_some() || is_seed_sealed(home) {
        true => case(home, &context.passphrase)?,
        false => Some(KeyCase::new(home.keys(), None)),
    };
    let Some(case) = case else {
        return Err(Error::new(Kind::Usage, "this home's passphrase is needed")
            .hint("name a file that holds it with --passphrase-file"));
    };
    let path = case.path(&keys.public_key());
    let is_there = path.exists() && case.find(&keys.public_key()).map_err(Error::from)?.is_some();
    if !is_there {
        case.keep(keys.clone())?;
    }
    context.output.object(&json!({ "npub": who, "file": path }));
    context.output.say(format!("The key of {who} is here. Now: oa agent import FILE --mode restore|migrate"));
    Ok(())
}
