//! Every way a message can be wrong, and the round trips of those that are right.

use nostr::Keys;
use nostr::nips::{nip04, nip44};
use proptest::prelude::*;

use super::*;

fn encrypt(from: &Keys, to: &PublicKey, text: &str) -> String {
    nip44::encrypt(from.secret_key(), to, text, nip44::Version::V2).unwrap()
}

fn sealed(author: &Keys, to: &PublicKey, rumor: &str) -> String {
    let seal = seal(author.public_key(), encrypt(author, to, rumor), Timestamp::from_secs(5));
    seal.sign_with_keys(author).unwrap().as_json()
}

fn open(me: &Keys, seal_json: &str) -> Result<Mail, OpenError> {
    let seal = open_seal(seal_json)?;
    let rumor = nip44::decrypt(me.secret_key(), &seal.author, &seal.ciphertext).unwrap();
    open_rumor(&seal, &rumor)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_draft_survives_sealing(text in "\\PC{0,300}", at_ms in 0u64..4_000_000_000_000, auto_hop in 0u8..=AUTO_HOPS_MAX) {
        let (alice, bob) = (Keys::generate(), Keys::generate());
        let mut draft = Draft::text(bob.public_key(), text.clone(), at_ms);
        draft.auto_hop = auto_hop;
        draft.reply_to = Some(EventId::all_zeros());
        let rumor = draft.rumor(alice.public_key());
        let mail = open(&bob, &sealed(&alice, &bob.public_key(), &to_json(&rumor))).unwrap();
        prop_assert_eq!(Some(mail.id), rumor.id);
        prop_assert_eq!(mail.text(), Some(text.as_str()));
        prop_assert_eq!(
            (mail.sent_at_ms, mail.auto_hop, mail.reply_to),
            (at_ms, auto_hop, Some(EventId::all_zeros()))
        );
        prop_assert!(!mail.is_room(&bob.public_key()));
    }

    #[test]
    fn opening_garbage_never_panics(text in ".{0,300}") {
        let _ = open_seal(&text);
        let _ = read_rumor(&Keys::generate().public_key(), &text);
    }
}

#[test]
fn a_seal_in_anothers_name_is_refused() {
    let (alice, bob, mallory) = (Keys::generate(), Keys::generate(), Keys::generate());
    let rumor = Draft::text(bob.public_key(), "pay mallory", 1000).rumor(alice.public_key());
    let forged = sealed(&mallory, &bob.public_key(), &to_json(&rumor));
    assert!(matches!(open(&bob, &forged), Err(OpenError::AuthorMismatch { .. })));
}

#[test]
fn a_rumor_with_a_false_id_is_refused_and_one_without_gets_its_own() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let rumor = Draft::text(bob.public_key(), "hi", 1000).rumor(alice.public_key());
    let mut forged = rumor.clone();
    forged.id = Some(EventId::all_zeros());
    let read = |rumor: &UnsignedEvent| read_rumor(&alice.public_key(), &rumor.as_json());
    assert!(matches!(read(&forged), Err(OpenError::RumorId)));
    forged.id = None;
    assert_eq!(Some(read(&forged).unwrap().id), rumor.id);
}

#[test]
fn a_seal_with_a_broken_signature_is_refused() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let good = sealed(&alice, &bob.public_key(), "{}");
    let mut value: serde_json::Value = serde_json::from_str(&good).unwrap();
    value["content"] = "tampered".into();
    assert!(matches!(open_seal(&value.to_string()), Err(OpenError::SealSignature(_))));
}

#[test]
fn what_is_too_long_or_no_mail_is_refused() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let read = |draft: Draft| read_rumor(&alice.public_key(), &to_json(&draft.rumor(alice.public_key())));
    let long = "x".repeat(TEXT_BYTES_MAX + 1);
    let refused = read(Draft::text(bob.public_key(), long, 0));
    assert!(matches!(refused, Err(OpenError::TextTooLong(_))));
    let mut crowd = Draft::text(bob.public_key(), "hi", 0).rumor(alice.public_key());
    crowd.tags = (0..=TAGS_MAX).map(|_| Tag::public_key(bob.public_key())).collect();
    crowd.id = None;
    let refused = read_rumor(&alice.public_key(), &crowd.as_json());
    assert!(matches!(refused, Err(OpenError::TooManyTags(n)) if n == TAGS_MAX + 1));
    let mut note = Draft::text(bob.public_key(), "x", 0);
    note.kind = 1;
    assert!(matches!(read(note), Err(OpenError::Kind(1))));
}

#[test]
fn a_legacy_message_is_read_with_its_event_id() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let text = nip04::encrypt(alice.secret_key(), &bob.public_key(), "hi").unwrap();
    let draft = Draft::text(bob.public_key(), "hi", 9_007);
    let event = draft.legacy(alice.public_key(), text).sign_with_keys(&alice).unwrap();
    assert_eq!(check_outer(&event).unwrap(), bob.public_key());
    let plain = nip04::decrypt(bob.secret_key(), &event.pubkey, &event.content).unwrap();
    let mail = read_legacy(&event, plain).unwrap();
    assert_eq!((mail.id, mail.protocol, mail.sent_at_ms), (event.id, Protocol::Nip04, 9_007));
}

#[test]
fn a_wrap_hides_its_author_and_is_backdated_at_most_two_days() {
    let (one_time, bob) = (Keys::generate(), Keys::generate());
    let now = Timestamp::from_secs(10_000_000);
    for entropy in [0, 1, u32::MAX] {
        let at = backdate(now, entropy);
        assert!(at <= now && now.as_secs() - at.as_secs() < BACKDATE_S_MAX);
        let event = wrap(one_time.public_key(), bob.public_key(), String::new(), at);
        assert_eq!((event.pubkey, event.kind), (one_time.public_key(), kind::WRAP));
    }
}
