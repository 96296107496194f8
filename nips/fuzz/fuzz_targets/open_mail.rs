//! The inner layers of a wrap: a seal's JSON, and a rumor's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oa_nips::mail::{self, Body};
use oa_nips::nostr::{JsonUtil, UnsignedEvent};

fuzz_target!(|text: &str| {
    let _ = mail::open_seal(text);
    // Sealed by whom it says, and with the id it should have: what lies behind those checks is to be reached too.
    let Ok(mut rumor) = UnsignedEvent::from_json(text) else { return };
    let _ = mail::read_rumor(&rumor.pubkey, text);
    rumor.id = None;
    let Ok(mail) = mail::read_rumor(&rumor.pubkey, &rumor.as_json()) else { return };
    assert_eq!(mail.author, rumor.pubkey);
    assert!(mail.recipients.len() <= mail::TAGS_MAX);
    assert!(mail.auto_hop <= mail::AUTO_HOPS_MAX);
    assert!(mail.sent_at_ms / 1000 >= rumor.created_at.as_secs().min(u64::MAX / 1000));
    if let Body::Text(text) | Body::File(text) | Body::Reaction(text) = &mail.body {
        assert!(text.len() <= mail::TEXT_BYTES_MAX);
    }
});
