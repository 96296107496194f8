//! `/identity/{sign,verify,encrypt,decrypt}`: what an agent may do with its key beside events.
//!
//! Its own words are all that it can be made to sign: data under a prefix that no event has ([`DataDigest`]). What it
//! can be made to decrypt is bounded too, as strangers may ask it to: nothing of a protocol, nothing between it and
//! the node or itself, and what is between it and its owner only when the owner or the node woke it.

mod protocol;

use std::str::FromStr as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oa_nips::files::Code;
use oa_nips::nostr::PublicKey;
use oa_nips::nostr::secp256k1::schnorr::Signature;
use oa_nips::port::{Signer, SignerError};
use oa_nips::signed::DataDigest;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Parts, at};
use crate::agent::envelope::Trust;
use crate::agent::manifest::Npub;
use crate::keyring::Keyring;
use crate::namespace::blocks::Computed;
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::service::{Class, Context, Effect};

/// Most data that is signed or checked at once, in bytes.
const DATA_BYTES_MAX: usize = 1024 * 1024;
/// Longest text that is encrypted, in bytes: NIP-44's.
const TEXT_BYTES_MAX: usize = 65_535;

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts) {
    let keyring = [(); 3].map(|()| parts.keyring.clone());
    let [signs, encrypts, decrypts] = keyring;
    // Done again after a crash, each gives an answer that is as good.
    let folder = Computed::new()
        .outside("sign", Class::Idempotent, move |cx, data| {
            let keyring = signs.clone();
            Box::pin(async move { sign(cx, &*keyring, data).await })
        })
        .call("verify", |_, request| verify(request).map(Effect::reply))
        .outside("encrypt", Class::Idempotent, move |cx, request| {
            let keyring = encrypts.clone();
            Box::pin(async move { encrypt(cx, &*keyring, request).await })
        })
        .outside("decrypt", Class::Idempotent, move |cx, request| {
            let keyring = decrypts.clone();
            Box::pin(async move { decrypt(cx, &*keyring, request).await })
        });
    mounts.mount(at("/identity"), folder.build(), "identity");
}

fn signer(cx: &Context<'_>, keyring: &dyn Keyring) -> Result<Arc<dyn Signer>, Error> {
    Ok(keyring.agent(cx.subject()?.row.id))
}

/// What a signer's refusal is to the caller.
fn said(path: &str, refused: Code) -> impl Fn(SignerError) -> Error {
    move |error| match error {
        SignerError::Refused(reason) => Error::new(refused, path, reason),
        SignerError::Unavailable(reason) => Error::new(Code::Unavailable, path, reason),
    }
}

fn parse<T: DeserializeOwned>(path: &str, shape: &str, request: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(request).map_err(|error| Error::invalid(path, format!("takes {shape}: {error}")))
}

async fn sign(cx: &Context<'_>, keyring: &dyn Keyring, data: &[u8]) -> Result<Vec<u8>, Error> {
    let path = "/identity/sign";
    if data.len() > DATA_BYTES_MAX {
        return Err(Error::too_large(path, DATA_BYTES_MAX));
    }
    let signing = signer(cx, keyring)?;
    let signature = signing.sign_data(DataDigest::of(data)).await;
    Ok(signature.map_err(said(path, Code::PermissionDenied))?.to_string().into_bytes())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    pubkey: Option<Npub>,
    npub: Option<Npub>,
    data: Option<String>,
    data_base64: Option<String>,
    signature: String,
}

fn verify(request: &[u8]) -> Result<Vec<u8>, Error> {
    let path = "/identity/verify";
    let shape = r#"{"npub" or "pubkey", "data" or "data_base64", "signature"}"#;
    if request.len() > 2 * DATA_BYTES_MAX {
        return Err(Error::too_large(path, 2 * DATA_BYTES_MAX));
    }
    let Signed { pubkey, npub, data, data_base64, signature } = parse(path, shape, request)?;
    let one_of = || Error::invalid(path, format!("takes {shape}, one of each"));
    let ((Some(Npub(by)), None) | (None, Some(Npub(by)))) = (pubkey, npub) else { return Err(one_of()) };
    let data = match (data, data_base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(base64)) => {
            let decoded = STANDARD.decode(base64);
            decoded.map_err(|error| Error::invalid(path, format!("data_base64: {error}")))?
        }
        _ => return Err(one_of()),
    };
    let signature = Signature::from_str(&signature);
    let valid = signature.is_ok_and(|signature| DataDigest::of(&data).is_signed(&by, &signature));
    Ok(json!({ "valid": valid }).to_string().into_bytes())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain {
    to: Npub,
    text: String,
}

async fn encrypt(cx: &Context<'_>, keyring: &dyn Keyring, request: &[u8]) -> Result<Vec<u8>, Error> {
    let path = "/identity/encrypt";
    let Plain { to: Npub(to), text } = parse(path, r#"{"to", "text"}"#, request)?;
    if text.len() > TEXT_BYTES_MAX {
        return Err(Error::too_large(path, TEXT_BYTES_MAX));
    }
    check_peer(cx, keyring, path, &to)?;
    let signer = signer(cx, keyring)?;
    let payload = signer.nip44_encrypt(&to, &text).await.map_err(said(path, Code::InvalidInput))?;
    Ok(payload.into_bytes())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cipher {
    from: Npub,
    payload: String,
}

async fn decrypt(cx: &Context<'_>, keyring: &dyn Keyring, request: &[u8]) -> Result<Vec<u8>, Error> {
    let path = "/identity/decrypt";
    let Cipher { from: Npub(from), payload } = parse(path, r#"{"from", "payload"}"#, request)?;
    check_peer(cx, keyring, path, &from)?;
    let is_owners = cx.wake.is_some_and(|wake| matches!(wake.trust, Trust::Owner | Trust::Node));
    if cx.subject()?.row.owner == Some(from) && !is_owners {
        let reason = "what is between the agent and its owner is for ticks that the owner begins";
        return Err(Error::new(Code::PermissionDenied, path, reason));
    }
    let signer = signer(cx, keyring)?;
    let text = signer.nip44_decrypt(&from, &payload).await.map_err(said(path, Code::InvalidInput))?;
    match protocol::protocol(&text) {
        Some(what) => Err(Error::new(Code::PermissionDenied, path, format!("not shown: it is {what}"))),
        None => Ok(text.into_bytes()),
    }
}

/// Refuses what is between the agent and itself (backups, private lists) or the node.
fn check_peer(cx: &Context<'_>, keyring: &dyn Keyring, path: &str, peer: &PublicKey) -> Result<(), Error> {
    let whose = match *peer {
        peer if peer == cx.subject()?.row.pubkey => "itself",
        peer if peer == keyring.node().public_key() => "the node",
        _ => return Ok(()),
    };
    let reason = format!("nothing is encrypted or decrypted between the agent and {whose}");
    Err(Error::new(Code::PermissionDenied, path, reason))
}

#[cfg(test)]
mod tests;
