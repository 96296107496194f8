//! Tick records as they stand in the store: their bytes as bytes, not as hex digits in JSON, so that a usual one needs no
//! overflow page of its own.
//!
//! A record begins with 1, then: the header's version (1 byte), agent (32), session (16), `prev` (32), state (32), seq (8),
//! the number of digests (2); then of each digest the length of its name (2), the name, the digest (32), and 0 where
//! the field is redacted, else 1, its salt (16), the length of its JSON (4), the JSON. Numbers are big endian. Whatever
//! else a record may be (salts of fields that are not there) stands as JSON, as did all records of the store's first
//! format, and begins with `{`.

use std::collections::BTreeMap;

use oa_nips::hex::Hex;
use oa_nips::record::{Fields, Header, Record};

use crate::store::backend::{BackendError, Table};
use crate::store::unit::decode;

const PACKED: u8 = 1;

/// The bytes of a record.
pub(super) fn pack(record: &Record) -> Vec<u8> {
    try_pack(record).unwrap_or_else(|| serde_json::to_vec(record).unwrap_or_default())
}

fn try_pack(record: &Record) -> Option<Vec<u8>> {
    let Record { header, fields, salts } = record;
    let Header { v, agent, digests, prev, seq, session, state } = header;
    let mut out = Vec::with_capacity(1024);
    out.extend([PACKED, *v]);
    out.extend(agent.as_bytes());
    out.extend(session.as_bytes());
    out.extend(prev.as_bytes());
    out.extend(state.as_bytes());
    out.extend(seq.to_be_bytes());
    out.extend(u16::try_from(digests.len()).ok()?.to_be_bytes());
    let mut shown = 0;
    for (name, digest) in digests {
        out.extend(u16::try_from(name.len()).ok()?.to_be_bytes());
        out.extend(name.as_bytes());
        out.extend(digest.as_bytes());
        let (Some(value), Some(salt)) = (fields.get(name), salts.get(name)) else {
            out.push(0);
            continue;
        };
        out.push(1);
        out.extend(salt.as_bytes());
        let length = out.len();
        out.extend([0; 4]);
        serde_json::to_writer(&mut out, value).ok()?;
        let bytes = u32::try_from(out.len() - length - 4).ok()?.to_be_bytes();
        out.get_mut(length..)?.first_chunk_mut::<4>()?.copy_from_slice(&bytes);
        shown += 1;
    }
    (shown == fields.len() && shown == salts.len()).then_some(out)
}

/// Reads a record.
pub(super) fn unpack(bytes: &[u8]) -> Result<Record, BackendError> {
    match bytes.split_first() {
        Some((&PACKED, packed)) => read(packed).ok_or_else(|| BackendError::Corrupt {
            path: format!("table {}", Table::Records.name()),
            detail: "not a record".to_owned(),
        }),
        _ => decode(Table::Records, bytes),
    }
}

/// Nothing where it ends too soon, goes on too long or has what is no JSON.
fn read(packed: &[u8]) -> Option<Record> {
    let bytes = &mut { packed };
    let [v] = take(bytes)?;
    let (agent, session, prev, state) =
        (Hex(take(bytes)?), Hex(take(bytes)?), Hex(take(bytes)?), Hex(take(bytes)?));
    let seq = u64::from_be_bytes(take(bytes)?);
    let (mut digests, mut fields, mut salts) = (BTreeMap::new(), Fields::new(), BTreeMap::new());
    for _ in 0..u16::from_be_bytes(take(bytes)?) {
        let length = usize::from(u16::from_be_bytes(take(bytes)?));
        let name = std::str::from_utf8(bytes.split_off(..length)?).ok()?.to_owned();
        digests.insert(name.clone(), Hex(take(bytes)?));
        match take(bytes)? {
            [0] => continue,
            [1] => salts.insert(name.clone(), Hex(take(bytes)?)),
            _ => return None,
        };
        let length = usize::try_from(u32::from_be_bytes(take(bytes)?)).ok()?;
        fields.insert(name, serde_json::from_slice(bytes.split_off(..length)?).ok()?);
    }
    let header = Header { v, agent, digests, prev, seq, session, state };
    bytes.is_empty().then_some(Record { header, fields, salts })
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    bytes.split_off(..N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use oa_nips::record::Head;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn record(fields: Fields) -> Record {
        Record::new(Hex([1; 32]), Hex([2; 16]), &Head::GENESIS, Hex([3; 32]), fields, &[7; 32])
    }

    fn usual() -> Record {
        let trigger = json!({ "id": Hex([5; 32]), "kind": "poke", "from": null, "rule": null });
        let calls = json!([{ "path": "/memory/count", "bytes": 17 }]);
        let fields = [
            ("trigger", trigger),
            ("started_at", json!(1_795_198_250_095_u64)),
            ("duration_ms", json!(0)),
            ("outcome", json!("done")),
            ("calls", calls),
            ("sent", json!([])),
        ];
        record(fields.map(|(name, value)| (name.to_owned(), value)).into())
    }

    #[test]
    fn a_usual_record_has_room_beside_others_in_a_page() {
        // What SQLite keeps of a row in an index page of 4 KiB, see "B-tree Cell Format" of sqlite.org/fileformat2.
        let local_max = (4096 - 12) * 64 / 255 - 23;
        let (packed, json) = (pack(&usual()), serde_json::to_vec(&usual()).unwrap());
        assert!(packed.len() + 12 < local_max, "{} bytes", packed.len());
        assert!(json.len() > local_max, "{} bytes: packing is for nothing", json.len());
    }

    #[test]
    fn what_is_redacted_and_what_is_odd_comes_back_as_it_was() {
        let mut redacted = usual();
        redacted.redact("calls");
        let mut odd = redacted.clone();
        odd.salts.insert("calls".to_owned(), Hex([9; 16]));
        let mut stray = usual();
        stray.fields.insert("stray".to_owned(), json!(1));
        for (record, first) in [(redacted, PACKED), (odd, b'{'), (stray, b'{')] {
            let bytes = pack(&record);
            assert_eq!(bytes.first(), Some(&first));
            assert_eq!(unpack(&bytes).unwrap(), record);
        }
        let json = serde_json::to_vec(&usual()).unwrap();
        assert_eq!(unpack(&json).unwrap(), usual(), "of the first format");
    }

    #[test]
    fn what_is_cut_or_longer_is_damaged() {
        let whole = pack(&usual());
        for length in 0..whole.len() {
            assert!(unpack(whole.get(..length).unwrap()).is_err(), "{length} bytes");
        }
        assert!(unpack(&[whole.as_slice(), b" "].concat()).is_err());
    }

    proptest! {
        #[test]
        fn any_record_comes_back(
            fields in proptest::collection::btree_map(".{0,9}", ".{0,99}", 0..9),
            redacted in ".{0,2}",
            noise in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut record = record(fields.into_iter().map(|(k, v)| (k, Value::from(v))).collect());
            record.redact(&redacted);
            prop_assert_eq!(unpack(&pack(&record)).unwrap(), record);
            // Whatever is read, nothing panics.
            let _ = unpack(&[&[PACKED][..], &noise].concat());
        }
    }
}
