//! Sealing, wrapping and signing step by step, so that each step can be done wrong.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use oa_nips::kind;
use oa_nips::mail::{self, Draft};
use oa_nips::nostr::nips::nip04;
use oa_nips::nostr::nips::nip44::{self, Version};
use oa_nips::nostr::{Event, JsonUtil as _, Keys, PublicKey, Tag, Timestamp, UnsignedEvent};

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    now_ms() / 1000
}

/// A wrap with this rumor in it, sealed by `author`.
///
/// # Errors
/// When it is too long to be encrypted.
pub fn wrap_rumor(author: &Keys, to: &PublicKey, rumor: &UnsignedEvent) -> Result<Event> {
    wrap_text(to, &seal_text(author, to, &mail::to_json(rumor))?.as_json())
}

/// A seal around any text.
///
/// # Errors
/// As [`wrap_rumor`].
pub fn seal_text(author: &Keys, to: &PublicKey, text: &str) -> Result<Event> {
    let ciphertext = nip44::encrypt(author.secret_key(), to, text, Version::V2)?;
    Ok(mail::seal(author.public_key(), ciphertext, backdated()).sign_with_keys(author)?)
}

/// A wrap around any text.
///
/// # Errors
/// As [`wrap_rumor`].
pub fn wrap_text(to: &PublicKey, text: &str) -> Result<Event> {
    let one_time = Keys::generate();
    let ciphertext = nip44::encrypt(one_time.secret_key(), to, text, Version::V2)?;
    Ok(mail::wrap(one_time.public_key(), *to, ciphertext, backdated()).sign_with_keys(&one_time)?)
}

/// A wrap with any content in place of a ciphertext.
///
/// # Errors
/// When it cannot be signed.
pub fn wrap_raw(to: &PublicKey, content: impl Into<String>) -> Result<Event> {
    let one_time = Keys::generate();
    let wrap = mail::wrap(one_time.public_key(), *to, content.into(), backdated());
    Ok(wrap.sign_with_keys(&one_time)?)
}

/// A kind 4 event of a draft.
///
/// # Errors
/// When it cannot be encrypted.
pub fn legacy(author: &Keys, draft: &Draft) -> Result<Event> {
    let ciphertext = nip04::encrypt(author.secret_key(), &draft.recipient, &draft.content)?;
    Ok(draft.legacy(author.public_key(), ciphertext).sign_with_keys(author)?)
}

/// A kind 4 event with any content in place of a ciphertext.
///
/// # Errors
/// When it cannot be signed.
pub fn legacy_raw(author: &Keys, to: &PublicKey, content: impl Into<String>) -> Result<Event> {
    let at = Timestamp::from_secs(now_s());
    let event =
        UnsignedEvent::new(author.public_key(), at, kind::LEGACY_DM, [Tag::public_key(*to)], content.into());
    Ok(event.sign_with_keys(author)?)
}

/// The same event with another one's signature: id and content fit, the signature does not.
///
/// # Errors
/// When there is no signature to be had.
pub fn with_signature_of(event: &Event, other: &Event) -> Result<Event> {
    let mut json: serde_json::Value = serde_json::from_str(&event.as_json())?;
    let sig = json.get_mut("sig").context("an event has a signature")?;
    *sig = other.sig.to_string().into();
    Ok(Event::from_json(json.to_string())?)
}

/// A time within the last two days, another one each time.
fn backdated() -> Timestamp {
    let entropy = Keys::generate().public_key().to_bytes();
    let entropy = entropy.first_chunk().copied().map_or(0, u32::from_be_bytes);
    mail::backdate(Timestamp::from_secs(now_s()), entropy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forged_signature_is_one() {
        let keys = Keys::generate();
        let (one, two) = (keys.public_key(), Keys::generate().public_key());
        let good = wrap_text(&one, "x").unwrap();
        let bad = with_signature_of(&good, &wrap_text(&two, "x").unwrap()).unwrap();
        assert!(good.verify().is_ok() && bad.verify_id() && !bad.verify_signature());
    }
}
