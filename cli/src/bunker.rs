//! A home whose operator's key lives in a bunker (NIP-46): what it remembers, and the signer that it gets of it.
//!
//! Two files: `bunker.json` says where the bunker is and whose key it has; `bunker.key` has the key that the bunker
//! knows this home by, made once, so that its owner lets the home in once. The secret of a bunker's address is used
//! to be let in, and not kept.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oa_nips::nostr::{Keys, PublicKey, RelayUrl};
use oa_nips::port::SignerError;
use oa_node::agent::manifest::Npub;
use oa_node::bunker::uri::{BunkerUri, Remote};
use oa_node::drivers::bunker::dial;
use oa_node::home::Home;
use oa_node::signer::KeyFile;
use oa_node::signer::bunker::{Bunker, Link, Owner, Patience};
use oa_node::time::System;
use serde::{Deserialize, Serialize};

use crate::commands::stdin;
use crate::error::{Error, Kind, Result, chain};
use crate::output::Output;
use crate::passphrase::PassphraseSource;

/// From a request to the bunker's answer. 10 s: a bunker on a phone may have to wake up.
const ANSWER: Duration = Duration::from_secs(10);
/// The same once it said that its owner has to be asked: he reads, and goes to another device.
const OWNER: Duration = Duration::from_secs(120);
/// What a home would like to have signed, as NIP-46 writes it: operator requests, the seals of direct messages, legacy
/// messages, and authentication to relays.
const PERMISSIONS: &str = "sign_event:25930,sign_event:13,sign_event:4,sign_event:22242,nip44_encrypt,nip44_decrypt,\
                           nip04_encrypt,nip04_decrypt";

/// What a home remembers of the bunker: `bunker.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Remembered {
    /// Whose key it has.
    pub(crate) operator: Npub,
    /// Where it is.
    pub(crate) bunker: Remote,
}

impl Remembered {
    /// What a home remembers; nothing where the operator's key is no bunker's.
    ///
    /// # Errors
    /// When it is damaged.
    pub(crate) fn load(home: &Home) -> Result<Option<Self>> {
        let path = home.bunker();
        let failed = |error: String| Error::new(Kind::Usage, format!("{}: {error}", path.display()));
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| failed(error.to_string())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Writes it, whole or not at all, for this user only.
    fn save(&self, path: &Path) -> Result<()> {
        let temporary = path.with_extension("json.new");
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{text}").and_then(|()| file.sync_all())?;
        Ok(std::fs::rename(&temporary, path)?)
    }

    /// The operator's signer. Nothing is asked yet: a bunker that is away is noticed with the first request.
    ///
    /// # Errors
    /// When the key that the bunker knows this home by cannot be read.
    pub(crate) fn signer(self, home: &Home, source: &PassphraseSource, output: Output) -> Result<Bunker> {
        let client = source.key(&home.bunker_key())?.keys().clone();
        Ok(link(self.bunker, client, output).resume(self.operator.0))
    }
}

/// Tells whoever runs the command.
#[derive(Debug)]
struct Asked(Output);

impl Owner for Asked {
    fn asked(&self, url: &str) {
        self.0.note(format!("the bunker asks you first: open {url}"));
    }
}

fn link(remote: Remote, client: Keys, output: Output) -> Link {
    let patience = Patience { answer: ANSWER, owner: Some((Arc::new(Asked(output)), OWNER)) };
    dial(patience, remote, client, Arc::new(System))
}

/// The address of a bunker as the command line names it: itself, a file with it, or `-` for stdin.
///
/// # Errors
/// [`Kind::Usage`], and never says what the secret is.
pub(crate) fn address(argument: &str) -> Result<BunkerUri> {
    let wrong = |error| Error::new(Kind::Usage, format!("--bunker: {error}"));
    if argument == "-" {
        return stdin()?.parse().map_err(wrong);
    }
    if !argument.starts_with("bunker:") {
        return BunkerUri::load(Path::new(argument)).map_err(|error| {
            let (hint, message) = (error.hint(), format!("--bunker: {}", chain(&error)));
            Error { kind: Kind::Usage, message, hint }
        });
    }
    let uri: BunkerUri = argument.parse().map_err(wrong)?;
    if uri.secret.is_some() {
        let message =
            "--bunker: this address holds a secret, and arguments can be read by everybody on this machine";
        return Err(Error::new(Kind::Usage, message)
            .hint("--bunker - reads it from stdin, --bunker FILE from a file that only you can read"));
    }
    Ok(uri)
}

/// Has a bunker let this home in, and remembers it; answers whose key it has. A home that was let in before asks only
/// whether it still is.
///
/// # Errors
/// When the home has another key, or the bunker does not let it in, or does not answer in time.
pub(crate) async fn connect(
    home: &Home,
    uri: BunkerUri,
    source: &PassphraseSource,
    output: Output,
) -> Result<PublicKey> {
    let elsewhere = |message: String| {
        Err(Error::new(Kind::Failed, message).hint("choose another --home for this operator"))
    };
    if home.operator_key().exists() {
        return elsewhere(format!("{} holds another key", home.operator_key().display()));
    }
    let known = Remembered::load(home)?;
    if let Some(known) = known.as_ref().filter(|known| known.bunker.public_key != uri.remote.public_key) {
        let who = crate::host::npub(&known.operator.0);
        return elsewhere(format!("this home's operator is {who}, in another bunker"));
    }
    let link = link(uri.remote.clone(), client_key(home, source)?, output);
    let away = |error| failed(error, &uri.remote.relays);
    let in_already = match &known {
        Some(_) => link.key().await.ok(),
        None => None,
    };
    let operator = match in_already {
        Some(key) => key,
        None => oa_nips::port::Signer::public_key(
            &link.connect(uri.secret.clone(), PERMISSIONS).await.map_err(away)?,
        ),
    };
    if let Some(known) = known.filter(|known| known.operator.0 != operator) {
        let who = crate::host::npub(&known.operator.0);
        return elsewhere(format!("the bunker has another key now than that of {who}"));
    }
    Remembered { operator: Npub(operator), bunker: uri.remote }.save(&home.bunker())?;
    Ok(operator)
}

/// The key that bunkers know this home by, made when there is none.
fn client_key(home: &Home, source: &PassphraseSource) -> Result<Keys> {
    let path = home.bunker_key();
    let key = match source.kept()? {
        _ if path.exists() => source.key(&path)?,
        Some(passphrase) => KeyFile::save_encrypted(&path, Keys::generate(), &passphrase)?,
        None => KeyFile::save(&path, Keys::generate())?,
    };
    Ok(key.keys().clone())
}

/// What became of the first request, for whoever runs the command.
fn failed(error: SignerError, relays: &[RelayUrl]) -> Error {
    let relays: Vec<&str> = relays.iter().map(RelayUrl::as_str).collect();
    match error {
        SignerError::Refused(reason) => Error::new(Kind::Denied, reason)
            .hint("ask the bunker for a new address: each one lets in one client, once"),
        SignerError::Unavailable(reason) => Error::new(Kind::TimedOut, reason)
            .hint(format!("is the bunker running, and does it listen on {}?", relays.join(" "))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    const KEY: &str = "fa984bd7dbb282f07e16e7ae87b26a2a7b9b90b7246a44771f0cf5ae58018f52";

    #[test]
    fn an_address_with_a_secret_is_no_argument() {
        let plain = format!("bunker://{KEY}?relay=wss://a.example");
        assert_eq!(address(&plain).unwrap().remote.public_key.to_hex(), KEY);
        let error = address(&format!("{plain}&secret=hush")).unwrap_err();
        assert_eq!(error.kind, Kind::Usage);
        assert!(error.hint.as_ref().unwrap().contains("stdin") && !format!("{error:?}").contains("hush"));
        let error = address(&format!("bunker://{KEY}?secret=hush")).unwrap_err();
        assert!(!format!("{error:?}").contains("hush"), "{error:?}");
    }

    #[test]
    fn an_address_in_a_file_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("address");
        std::fs::write(&path, format!("bunker://{KEY}?relay=wss://a.example&secret=hush\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = address(path.to_str().unwrap()).unwrap_err();
        assert_eq!((error.kind, error.hint), (Kind::Usage, Some(format!("chmod 600 {}", path.display()))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(address(path.to_str().unwrap()).unwrap().secret.is_some());
        assert_eq!(address("/no/such/file").unwrap_err().kind, Kind::Usage);
    }

    #[tokio::test]
    async fn a_home_with_a_key_or_another_bunker_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::prepare(dir.path().join("one")).unwrap();
        let (source, output) = (PassphraseSource::default(), Output { json: true });
        KeyFile::save(&home.operator_key(), Keys::generate()).unwrap();
        let uri = || address(&format!("bunker://{KEY}?relay=ws://127.0.0.1:1")).unwrap();
        let error = connect(&home, uri(), &source, output).await.unwrap_err();
        assert!(error.message.contains("holds another key"), "{error}");
        let home = Home::prepare(dir.path().join("two")).unwrap();
        let bunker = Remote { public_key: Keys::generate().public_key(), ..uri().remote };
        let known = Remembered { operator: Npub(Keys::generate().public_key()), bunker };
        known.save(&home.bunker()).unwrap();
        assert_eq!(Remembered::load(&home).unwrap(), Some(known));
        assert_eq!(std::fs::metadata(home.bunker()).unwrap().mode() & 0o777, 0o600);
        let error = connect(&home, uri(), &source, output).await.unwrap_err();
        assert!(error.message.contains("another bunker"), "{error}");
        assert!(!home.bunker_key().exists(), "nothing was made");
    }

    #[test]
    fn the_key_that_a_bunker_knows_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::prepare(dir.path()).unwrap();
        let source = PassphraseSource::default();
        let key = client_key(&home, &source).unwrap();
        assert_eq!(client_key(&home, &source).unwrap(), key);
        assert_eq!(std::fs::metadata(home.bunker_key()).unwrap().mode() & 0o777, 0o600);
    }
}
