//! Tick records, one a line: read, written, checked against a chain, redacted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oa_nips::record::{Chain, Head, Record, canonical};

fuzz_target!(|text: &str| {
    for line in text.lines() {
        let Ok(mut record) = serde_json::from_str::<Record>(line) else { continue };
        let head = Head { seq: record.header.seq, hash: record.header.prev, state: record.header.state };
        let mut chain = Chain::new(record.header.agent, record.header.session, head);
        let Ok(()) = chain.push(&record) else { continue };
        assert_eq!(
            serde_json::from_str::<Record>(&canonical(&record)).expect("what was read is written"),
            record
        );
        let hash = record.header.hash();
        let names: Vec<_> = record.fields.keys().cloned().collect();
        for name in names {
            record.redact(&name);
            let after = record.verify(&head).expect("redaction keeps the chain");
            assert_eq!(after.hash, hash);
        }
    }
});
