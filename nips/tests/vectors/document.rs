//! The examples of `docs/protocol.md` are golden vectors, so that the document cannot drift from the code.

use serde_json::Value;

use crate::support::FILES;

const DOCUMENT: &str = include_str!("../../../docs/protocol.md");

/// Every value in a vector file, and those that its strings are the JSON of.
fn values(value: &Value, out: &mut Vec<Value>) {
    out.push(value.clone());
    match value {
        Value::Array(items) => items.iter().for_each(|item| values(item, out)),
        Value::Object(map) => map.values().for_each(|item| values(item, out)),
        Value::String(text) => out.extend(serde_json::from_str::<Value>(text)),
        _ => {}
    }
}

#[test]
fn every_example_of_the_document_is_a_golden_vector() {
    let mut known = Vec::new();
    FILES.iter().for_each(|(_, text)| values(&serde_json::from_str(text).unwrap(), &mut known));
    let blocks: Vec<_> =
        DOCUMENT.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 10, "only {} examples", blocks.len());
    // A block may hold several values, one after the other.
    for block in blocks {
        for example in serde_json::Deserializer::from_str(block).into_iter::<Value>() {
            let example = example.unwrap_or_else(|error| panic!("{error} in\n{block}"));
            assert!(known.contains(&example), "no vector is {example}");
        }
    }
}

#[test]
fn every_hash_in_the_text_is_in_a_vector() {
    let is_hash = |word: &&str| word.len() == 64 && word.bytes().all(|c| c.is_ascii_hexdigit());
    for hash in DOCUMENT.split(|c: char| !c.is_ascii_alphanumeric()).filter(is_hash) {
        assert!(FILES.iter().any(|(_, text)| text.contains(hash)), "no vector has {hash}");
    }
}
