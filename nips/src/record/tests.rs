//! Chains that verify, those that do not, and records that survive their JSON.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn chain(n: u64) -> Vec<Record> {
    let mut head = Head::GENESIS;
    (0..n)
        .map(|seq| {
            let state = state_hash(&head.state, [("/memory/a", Some(&b"x"[..])), ("/memory/b", None)]);
            let fields = BTreeMap::from([
                ("outcome".to_owned(), json!("done")),
                ("text".to_owned(), json!(format!("message {seq}"))),
            ]);
            let record = Record::new(Hex([1; 32]), Hex([2; 16]), &head, state, fields, &[7; 32]);
            head = record.verify(&head).unwrap();
            record
        })
        .collect()
}

fn verify(records: &[Record]) -> Result<Head, ChainError> {
    records.iter().try_fold(Head::GENESIS, |head, record| record.verify(&head))
}

#[test]
fn a_chain_verifies_and_every_tampering_shows() {
    let records = chain(4);
    assert_eq!(verify(&records).unwrap().seq, 4);

    let mut changed = records.clone();
    changed[1].fields.insert("text".into(), json!("never said"));
    assert_eq!(verify(&changed), Err(ChainError::Field { seq: 1, field: "text".into() }));

    let mut dropped = records.clone();
    dropped.remove(2);
    assert_eq!(verify(&dropped), Err(ChainError::Sequence { expected: 2, got: 3 }));

    let mut rewritten = records.clone();
    rewritten[1].header.state = Hex([9; 32]);
    assert_eq!(verify(&rewritten), Err(ChainError::Broken { seq: 2 }));
}

#[test]
fn redaction_keeps_the_chain() {
    let mut records = chain(3);
    records[1].redact("text");
    assert!(!serde_json::to_string(&records[1]).unwrap().contains("message 1"));
    assert!(verify(&records).is_ok());
}

#[test]
fn a_chain_of_one_agent_takes_no_record_of_another() {
    let records = chain(2);
    let mut chain = Chain::new(Hex([1; 32]), Hex([2; 16]), Head::GENESIS);
    chain.push(&records[0]).unwrap();
    let mut stolen = records[1].clone();
    stolen.header.agent = Hex([8; 32]);
    let head = *chain.head();
    assert!(stolen.verify(&head).is_ok());
    assert_eq!(chain.push(&stolen), Err(ChainError::Foreign { seq: 1 }));
    let mut bloated = records[1].clone();
    bloated.salts.insert("x".repeat(RECORD_BYTES_MAX), Hex::ZERO);
    assert_eq!(chain.push(&bloated), Err(ChainError::TooLarge { seq: 1 }));
    assert_eq!(*chain.head(), head);
    chain.push(&records[1]).unwrap();
    assert_eq!(chain.head().seq, 2);
}

#[test]
fn a_header_is_hashed_in_its_canonical_form_whatever_its_fields_are_called() {
    for names in [&["b", "a", "a b", "\"", ""][..], &["\u{fb33}", "\u{1f600}", "z"]] {
        let fields: Fields = names.iter().map(|name| ((*name).to_owned(), json!(1))).collect();
        let header =
            Record::new(Hex([1; 32]), Hex([2; 16]), &Head::GENESIS, Hex::ZERO, fields, &[7; 32]).header;
        assert_eq!(header.canonical(), canonical(&header));
    }
}

#[test]
fn a_chain_ends_before_its_numbers_do() {
    for seq in [INTEGER_MAX, u64::MAX] {
        let head = Head { seq, ..Head::GENESIS };
        let last = Record::new(Hex([1; 32]), Hex([2; 16]), &head, Hex::ZERO, Fields::new(), &[7; 32]);
        assert_eq!(last.verify(&head), Err(ChainError::End { seq }));
    }
}

#[test]
fn a_number_that_readers_may_take_for_another_is_not_taken() {
    let fields = || Fields::from([("cost".to_owned(), json!({ "usd": 0.1, "n": u64::MAX }))]);
    let mut record = Record::new(Hex([1; 32]), Hex([2; 16]), &Head::GENESIS, Hex::ZERO, fields(), &[7; 32]);
    assert_eq!(record.fields["cost"], json!({ "usd": "0.1", "n": "18446744073709551615" }));
    record.verify(&Head::GENESIS).unwrap();
    record.fields = fields();
    assert_eq!(record.verify(&Head::GENESIS), Err(ChainError::Number { seq: 0, field: "cost".into() }));
}

#[test]
fn no_two_records_share_a_salt() {
    let records = chain(3);
    let salts: std::collections::BTreeSet<_> = records.iter().flat_map(|r| r.salts.values()).collect();
    assert_eq!(salts.len(), 6);
}

#[test]
fn a_header_with_an_unknown_key_is_refused() {
    let mut value = serde_json::to_value(&chain(1)[0]).unwrap();
    value["header"]["note"] = json!("not hashed");
    assert!(serde_json::from_value::<Record>(value).is_err());
}

#[test]
fn the_state_hash_does_not_depend_on_the_order_of_changes() {
    let (a, b) = (("/memory/a", Some(&b"1"[..])), ("/memory/b", None));
    assert_eq!(state_hash(&Hex::ZERO, [a, b]), state_hash(&Hex::ZERO, [b, a]));
    assert_ne!(state_hash(&Hex::ZERO, [a, b]), state_hash(&Hex::ZERO, [a]));
    // An empty file and a removed one differ.
    assert_ne!(
        state_hash(&Hex::ZERO, [("/memory/b", Some(&b""[..]))]),
        state_hash(&Hex::ZERO, [("/memory/b", None)])
    );
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(".{0,8}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_record_survives_its_json_and_redaction(
        fields in proptest::collection::btree_map(".{0,12}", value(), 0..6),
        seq in 0..INTEGER_MAX,
        seed in any::<[u8; 32]>(),
        hidden in any::<proptest::sample::Index>(),
    ) {
        let head = Head { seq, hash: Hex([5; 32]), state: Hex([6; 32]) };
        let mut record = Record::new(Hex([1; 32]), Hex([2; 16]), &head, Hex([3; 32]), fields, &seed);
        let next = record.verify(&head).unwrap();
        if !record.fields.is_empty() {
            let name = record.fields.keys().nth(hidden.index(record.fields.len())).unwrap().clone();
            record.redact(&name);
            prop_assert!(record.header.digests.contains_key(&name));
        }
        for json in [canonical(&record), serde_json::to_string(&record).unwrap()] {
            let read: Record = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(&read, &record);
            prop_assert_eq!(read.verify(&head), Ok(next));
        }
    }

    #[test]
    fn canonical_json_reads_back_as_the_same_value(value in value()) {
        let value = exact(value);
        prop_assert_eq!(serde_json::from_str::<Value>(&canonical(&value)).unwrap(), value);
    }
}
