//! Canonical JSON (RFC 8785), as far as our formats go: numbers are integers that every reader holds exactly.
//!
//! Key order and escapes are settled here and not left to a JSON library, whose map may keep another order.

use std::cmp::Ordering;

use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::Value;

/// The largest integer, either side of zero, that a reader whose numbers are doubles holds exactly (RFC 7493).
pub const INTEGER_MAX: u64 = (1 << 53) - 1;

/// The canonical JSON of a value of ours: keys sorted by their UTF-16 code units, no white space.
///
/// Whatever is given must have string keys, as all our formats do. Numbers are written as they are; those that are
/// hashed are made exact first.
pub fn canonical(value: &impl Serialize) -> String {
    canonical_value(&serde_json::to_value(value).expect("what is given has string keys"))
}

/// As [`canonical`], of a value that is at hand.
pub(super) fn canonical_value(value: &Value) -> String {
    let mut out = Vec::new();
    write(&mut out, value);
    String::from_utf8(out).expect("JSON of ours is UTF-8")
}

/// Reads what must be a JSON object: left to itself, the derived reader of a struct takes an array too.
pub(crate) fn object<T: DeserializeOwned>(json: &str) -> Result<T, serde_json::Error> {
    let value: Value = serde_json::from_str(json)?;
    if !value.is_object() {
        return Err(serde_json::Error::custom("no object"));
    }
    serde_json::from_value(value)
}

fn write(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Array(items) => {
            out.push(b'[');
            for (n, item) in items.iter().enumerate() {
                out.extend((n > 0).then_some(b','));
                write(out, item);
            }
            out.push(b']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|(a, _), (b, _)| by_utf_16(a, b));
            out.push(b'{');
            for (n, (key, item)) in entries.into_iter().enumerate() {
                out.extend((n > 0).then_some(b','));
                scalar(out, key);
                out.push(b':');
                write(out, item);
            }
            out.push(b'}');
        }
        value => scalar(out, value),
    }
}

/// The escapes of serde_json are those of RFC 8785: the short ones, else \u00xx in lower case.
fn scalar(out: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(out, value).expect("a vector takes all that is written");
}

fn by_utf_16(a: &str, b: &str) -> Ordering {
    // Of ASCII, which nearly all keys are, the bytes sort alike.
    if a.is_ascii() && b.is_ascii() { a.cmp(b) } else { a.encode_utf16().cmp(b.encode_utf16()) }
}

/// Whether every number in a value is an integer of at most [`INTEGER_MAX`] either side of zero.
pub(super) fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_i64().is_some_and(|n| n.unsigned_abs() <= INTEGER_MAX),
        Value::Array(items) => items.iter().all(is_exact),
        Value::Object(map) => map.values().all(is_exact),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// The value with each number that is not exact as a string of its digits, which RFC 7493 advises.
pub(super) fn exact(value: Value) -> Value {
    match value {
        Value::Number(_) if !is_exact(&value) => Value::String(value.to_string()),
        Value::Array(items) => items.into_iter().map(exact).collect(),
        Value::Object(map) => map.into_iter().map(|(key, item)| (key, exact(item))).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_sorted_by_utf_16_and_strings_escaped_as_rfc_8785_has_it() {
        // The keys of RFC 8785, section 3.2.3, whose order differs from that of their UTF-8 bytes.
        let keys = json!({ "\u{20ac}": 1, "\r": 2, "\u{fb33}": 3, "1": 4, "\u{1f600}": 5, "\u{80}": 6, "\u{f6}": 7 });
        let sorted =
            "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"\u{f6}\":7,\"\u{20ac}\":1,\"\u{1f600}\":5,\"\u{fb33}\":3}";
        assert_eq!(canonical(&keys), sorted);
        let text = json!(["\u{20ac}$\u{f}\nA'B\"\\\\\"/\u{7f}", null, true, -7]);
        assert_eq!(canonical(&text), "[\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\u{7f}\",null,true,-7]");
    }

    #[test]
    fn numbers_that_doubles_do_not_hold_become_strings() {
        let max = INTEGER_MAX as i64;
        for good in [json!(0), json!(max), json!(-max), json!([{ "a": 1 }])] {
            assert_eq!(exact(good.clone()), good);
        }
        let bad = json!({ "a": [max + 1, -max - 1, u64::MAX, 1.5], "b": 1e21 });
        assert!(!is_exact(&bad));
        let fixed = exact(bad);
        assert!(is_exact(&fixed));
        let a = json!(["9007199254740992", "-9007199254740992", "18446744073709551615", "1.5"]);
        assert_eq!(fixed, json!({ "a": a, "b": "1e+21" }));
    }
}
