//! Agents' profiles (kind 39200) and documents of names (NIP-05), as others write them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oa_nips::discovery::{AgentProfile, CAPABILITIES_MAX};
use oa_nips::nip05::{self, Name};
use oa_nips::nostr::{Event, JsonUtil};

fuzz_target!(|text: &str| {
    if let Ok(event) = Event::from_json(text)
        && let Ok(profile) = AgentProfile::read(&event)
    {
        assert!(profile.capabilities.len() <= CAPABILITIES_MAX);
        assert!(profile.owner.is_none_or(|owner| owner.holds(event.pubkey)));
        // What was read can be written, and is read as the same.
        let again = profile.event(event.pubkey, event.created_at).add_signature(event.sig);
        if let Ok(again) = again {
            assert_eq!(AgentProfile::read(&again).expect("what was read is written"), profile);
        }
    }
    let (name, document) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(name) = name.parse::<Name>() {
        assert_eq!(name.to_string().parse::<Name>().as_ref(), Ok(&name));
        let _ = nip05::read(document.as_bytes(), &name);
    }
});
