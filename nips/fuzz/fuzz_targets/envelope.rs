//! Envelopes of agents.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oa_nips::envelope::Envelope;

fuzz_target!(|text: &str| {
    let Ok(envelope) = Envelope::parse(text) else { return };
    let once = Envelope::parse(&envelope.to_json()).expect("what was read is written");
    // Fractions may move by their last bit when they are read, but what was written before is written again.
    assert_eq!(std::mem::discriminant(&once), std::mem::discriminant(&envelope));
});
