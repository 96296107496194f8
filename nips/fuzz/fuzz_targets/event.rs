//! Whole events as relays hand them over: outer mail, profiles, frames.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oa_nips::nostr::{Event, JsonUtil};
use oa_nips::{files, mail, profile};

fuzz_target!(|text: &str| {
    let Ok(event) = Event::from_json(text) else { return };
    if let Ok(recipient) = mail::check_outer(&event) {
        assert!(files::is_for(&event, &recipient));
        assert!(event.content.len() <= mail::CONTENT_BYTES_MAX);
    }
    if let Ok(mail) = mail::read_legacy(&event, text.to_owned()) {
        let _ = mail.is_room(&event.pubkey);
    }
    assert!(profile::read_dm_relays(&event).len() <= profile::RELAYS_OF_OTHERS_MAX);
    let _ = profile::is_bot(&event);
});
