//! Mail: rumors, wraps and legacy messages, made and opened.

use oa_nips::mail::{self, Body, Draft, Mail, OpenError};
use oa_nips::nostr::nips::{nip04, nip44};
use oa_nips::nostr::{Event, JsonUtil, PublicKey, Timestamp};
use serde_json::{Value, json};

use crate::support::{self, Fixed, given, keys, recompute, refuse, variant};

/// What a reader makes of a message.
fn shown(mail: &Mail) -> Value {
    let body = match &mail.body {
        Body::Text(text) => json!({ "text": text }),
        Body::File(url) => json!({ "file": url }),
        Body::Reaction(sign) => json!({ "reaction": sign }),
        Body::Envelope(envelope) => json!({ "envelope": envelope }),
    };
    json!({
        "id": mail.id,
        "protocol": mail.protocol,
        "author": mail.author,
        "recipients": mail.recipients,
        "sent_at_ms": mail.sent_at_ms,
        "auto_hop": mail.auto_hop,
        "reply_to": mail.reply_to,
        "body": body,
    })
}

pub(crate) fn rumor(case: &Value) -> Value {
    let draft: Draft = given(case, "draft");
    let rumor = draft.rumor(given(case, "author"));
    json!({ "id": rumor.id, "json": mail::to_json(&rumor) })
}

pub(crate) fn wrap(case: &Value) -> Value {
    let (alice, bob) = (keys(case, "author_secret"), keys(case, "reader_secret"));
    let one_time = keys(case, "one_time_secret");
    let draft: Draft = given(case, "draft");
    let rumor = mail::to_json(&draft.rumor(alice.public_key()));
    let to = bob.public_key();
    let sealed = support::encrypt(&alice, &to, &case["seal_nonce"], &rumor);
    let at = |key| Timestamp::from_secs(given(case, key));
    let seal = support::sign(mail::seal(alice.public_key(), sealed, at("seal_at")), &alice);
    let wrapped = support::encrypt(&one_time, &to, &case["wrap_nonce"], &seal.as_json());
    let event = mail::wrap(one_time.public_key(), to, wrapped, at("wrap_at"));
    let event = support::sign(event, &one_time);

    assert_eq!(mail::check_outer(&event).unwrap(), to);
    let opened = |author: &PublicKey, text: &str| nip44::decrypt(bob.secret_key(), author, text).unwrap();
    let read = mail::open_seal(&opened(&event.pubkey, &event.content)).unwrap();
    let mail = mail::open_rumor(&read, &opened(&read.author, &read.ciphertext)).unwrap();
    json!({ "seal": support::value(&seal), "event": support::value(&event), "mail": shown(&mail) })
}

pub(crate) fn legacy(case: &Value) -> Value {
    let (alice, bob) = (keys(case, "author_secret"), keys(case, "reader_secret"));
    let draft: Draft = given(case, "draft");
    let mut iv = Fixed::hex(&case["iv"]);
    let text =
        nip04::encrypt_with_rng(&mut iv, alice.secret_key(), &draft.recipient, &draft.content).unwrap();
    let event = support::sign(draft.legacy(alice.public_key(), text), &alice);

    let plain = nip04::decrypt(bob.secret_key(), &event.pubkey, &event.content).unwrap();
    let mail = mail::read_legacy(&event, plain).unwrap();
    json!({ "event": support::value(&event), "mail": shown(&mail) })
}

pub(crate) fn read(case: &Value) -> Value {
    shown(&mail::read_rumor(&given(case, "sealed_by"), case["rumor"].as_str().unwrap()).unwrap())
}

fn open(case: &Value) -> Result<(), OpenError> {
    if let Some(seal) = case["seal"].as_str() {
        return mail::open_seal(seal).map(drop);
    }
    if let Some(rumor) = case["rumor"].as_str() {
        return mail::read_rumor(&given(case, "sealed_by"), rumor).map(drop);
    }
    mail::check_outer(&given::<Event>(case, "event")).map(drop)
}

#[test]
fn rumors_have_their_bytes_and_ids() {
    recompute("mail", "rumors", rumor);
}

#[test]
fn wraps_have_their_bytes_and_open() {
    recompute("mail", "wraps", wrap);
}

#[test]
fn legacy_messages_have_their_bytes_and_open() {
    recompute("mail", "legacy", legacy);
}

#[test]
fn rumors_of_others_are_read() {
    recompute("mail", "read", read);
}

#[test]
fn bad_mail_is_refused() {
    refuse("mail", |case| open(case).map_err(variant));
}
