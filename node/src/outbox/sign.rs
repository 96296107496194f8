//! Signing what goes out: an intent becomes parcels, whose bytes never change again.

use oa_nips::mail::{self, Draft, Protocol};
use oa_nips::nostr::nips::nip44;
use oa_nips::nostr::{Event, JsonUtil, Keys, PublicKey, Timestamp};
use oa_nips::port::{Signer, SignerError};

use crate::store::row::{Audience, Outgoing, Parcel};

/// Randomness for backdating the layers of one wrap: not secret.
fn entropy(keys: &Keys) -> u32 {
    keys.public_key().as_bytes().first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// Signs an item. The first parcel is the one that counts; a direct message has a copy to its author as the second.
///
/// # Errors
/// What the signer said; nothing has left.
pub async fn sign(outgoing: &Outgoing, signer: &dyn Signer, now_s: u64) -> Result<Vec<Parcel>, SignerError> {
    let parcel = |event, audience| Parcel { event, audience, targets: Vec::new() };
    match outgoing {
        Outgoing::Event { event } => Ok(vec![parcel(signer.sign(event.clone()).await?, Audience::Own)]),
        Outgoing::Mail { draft, protocol: Protocol::Nip04, .. } => {
            let text = signer.nip04_encrypt(&draft.recipient, &draft.content).await?;
            let event = signer.sign(draft.legacy(signer.public_key(), text)).await?;
            Ok(vec![parcel(event.clone(), Audience::Peer), parcel(event, Audience::Own)])
        }
        Outgoing::Mail { draft, protocol: Protocol::Nip17, .. } => {
            let me = signer.public_key();
            let rumor = mail::to_json(&draft.rumor(me));
            let mut parcels =
                vec![parcel(wrapped(&rumor, draft, &draft.recipient, signer, now_s).await?, Audience::Peer)];
            if draft.recipient != me {
                parcels.push(parcel(wrapped(&rumor, draft, &me, signer, now_s).await?, Audience::Own));
            }
            Ok(parcels)
        }
    }
}

async fn wrapped(
    rumor: &str,
    draft: &Draft,
    to: &PublicKey,
    signer: &dyn Signer,
    now_s: u64,
) -> Result<Event, SignerError> {
    let one_time = Keys::generate();
    let now = Timestamp::from_secs(now_s.max(draft.at_ms / 1000));
    let sealed_at = mail::backdate(now, entropy(&one_time));
    let wrapped_at = mail::backdate(now, entropy(&one_time).rotate_left(16));
    let seal = mail::seal(signer.public_key(), signer.nip44_encrypt(to, rumor).await?, sealed_at);
    let seal = signer.sign(seal).await?.as_json();
    let refused = |error: &dyn std::fmt::Display| SignerError::Refused(format!("wrap: {error}"));
    let content =
        nip44::encrypt(one_time.secret_key(), to, seal, nip44::Version::V2).map_err(|e| refused(&e))?;
    mail::wrap(one_time.public_key(), *to, content, wrapped_at)
        .sign_with_keys(&one_time)
        .map_err(|error| refused(&error))
}
