//! Takes secrets out of what onlookers see, before it is kept anywhere: by the key that a value stands under, and by
//! what secrets of known makes look like.

use serde_json::Value;

/// What stands in place of a secret.
pub(crate) const REDACTED: &str = "[redacted]";

/// Words of a key whose value is secret. `api_key` is written in many ways, see [`is_secret_key`].
const WORDS: [&str; 9] =
    ["token", "secret", "password", "passwd", "apikey", "authorization", "bearer", "preimage", "mnemonic"];

/// How secrets begin that can be told by their looks.
const MAKES: [&str; 8] =
    ["sk-", "ghp_", "github_pat_", "xoxb-", "xoxp-", "nsec1", "ncryptsec1", "nostr+walletconnect://"];

/// Takes secrets out of a value, at any depth.
pub(crate) fn redact(value: Value) -> Value {
    match value {
        Value::String(string) => Value::String(text(&string)),
        Value::Array(items) => Value::Array(items.into_iter().map(redact).collect()),
        Value::Object(entries) => {
            let entry = |(key, value): (String, Value)| {
                let value = if is_secret_key(&key, &value) { Value::from(REDACTED) } else { redact(value) };
                (text(&key), value)
            };
            Value::Object(entries.into_iter().map(entry).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}

/// Whether what stands under a key is secret. Counts of tokens are not.
fn is_secret_key(key: &str, value: &Value) -> bool {
    let mut words = words(key);
    // api_key, apiKey, API-KEY
    if let Some(at) =
        words.windows(2).position(|two| matches!(two, [api, key] if api == "api" && key == "key"))
    {
        words.insert(at, "apikey".to_owned());
    }
    words.iter().any(|word| {
        let is_many = word.strip_suffix('s').is_some_and(|one| WORDS.contains(&one));
        WORDS.contains(&word.as_str()) || (is_many && !value.is_number())
    })
}

/// The words of a key in lower case: `accessToken`, `ACCESS_TOKEN` and `access-token` are two.
fn words(key: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in key.chars() {
        let begins = !c.is_alphanumeric() || (c.is_uppercase() && was_lower);
        was_lower = c.is_lowercase() || c.is_numeric();
        if begins {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Takes secrets out of a text: those that show what they are, and those that the word before says are secret, as in
/// `password=...`, `"token": "..."`, `Bearer ...`.
pub(crate) fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut before = Before::Nothing;
    let mut rest = text;
    while !rest.is_empty() {
        let (gap, from) = rest.split_at(rest.find(|c| !is_gap(c)).unwrap_or(rest.len()));
        let (word, after) = from.split_at(from.find(is_gap).unwrap_or(from.len()));
        out.push_str(gap);
        if !word.is_empty() {
            before = push(&mut out, word, before);
        }
        rest = after;
    }
    out
}

/// What stands before a word of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// Something that would be the name of a secret if a sign followed that gives it a value.
    Key,
    /// Something after which a secret comes.
    Told,
}

/// Adds what may be seen of a word; answers what it is for the next one.
fn push(out: &mut String, word: &str, before: Before) -> Before {
    let value = word.trim_start_matches([':', '=']);
    let is_told = before == Before::Told || (before == Before::Key && value.len() < word.len());
    if value.is_empty() {
        out.push_str(word);
        return if is_told { Before::Told } else { Before::Nothing };
    }
    let lower = word.to_ascii_lowercase();
    let is_scheme = lower.ends_with("bearer") || (is_told && value.eq_ignore_ascii_case("basic"));
    if is_scheme {
        out.push_str(word);
        return Before::Told;
    }
    if is_told {
        out.push_str(word.get(..word.len() - value.len()).unwrap_or_default());
        out.push_str(REDACTED);
        return Before::Nothing;
    }
    match make(&lower) {
        Some(at) => {
            push_pairs(out, word.get(..at).unwrap_or_default());
            out.push_str(REDACTED);
            Before::Nothing
        }
        None => push_pairs(out, word),
    }
}

/// Adds a word in which values may stand right after their names: `a=1&token=x`, `password:x`.
fn push_pairs(out: &mut String, word: &str) -> Before {
    let mut last = Before::Nothing;
    for pair in word.split_inclusive(['&', '?', ';', ',']) {
        let Some((key, value)) = pair.split_once(['=', ':']) else {
            out.push_str(pair);
            last = if is_secret_key(pair, &Value::Null) { Before::Key } else { Before::Nothing };
            continue;
        };
        let name = key.rsplit(['/', '.', '#']).next().unwrap_or(key);
        if !is_secret_key(name, &Value::Null) {
            out.push_str(pair);
            last = Before::Nothing;
            continue;
        }
        out.push_str(pair.get(..=key.len()).unwrap_or(key));
        last = if value.is_empty() { Before::Told } else { Before::Nothing };
        if !value.is_empty() {
            out.push_str(REDACTED);
            out.extend(value.chars().last().filter(|end| matches!(end, '&' | '?' | ';' | ',')));
        }
    }
    last
}

/// Where a secret of a known make begins.
fn make(lower: &str) -> Option<usize> {
    let begins = |at: &usize| {
        let before = lower.get(..*at).and_then(|before| before.chars().last());
        !before.is_some_and(char::is_alphanumeric)
    };
    let found = MAKES.iter().filter_map(|prefix| lower.match_indices(prefix).map(|(at, _)| at).find(begins));
    found.min()
}

/// What stands between words.
fn is_gap(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c, '"' | '\'' | '`' | '{' | '}' | '[' | ']' | '(' | ')' | '<' | '>' | '\\')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_go_by_the_name_of_their_key() {
        let told = json!({
            "accessToken": "abc", "API_KEY": [1], "api-key": "x", "Authorization": {"a": 1}, "x-secret": 5,
            "tokens": ["a"], "password": 1234, "nested": [{"bearer": "y"}],
        });
        let shown = redact(told).to_string();
        for secret in ["abc", "[1]", "\"x\"", "1234", "\"y\"", "\"a\":1", "5"] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
        let open =
            json!({ "input_tokens": 5, "tokens": 7, "key": "k", "tokenizer": "t", "path": "/memory/x" });
        assert_eq!(redact(open.clone()), open);
    }

    #[test]
    fn secrets_go_by_their_looks_and_by_the_word_before_them() {
        for (text, shown) in [
            ("use sk-abcDEF123 now", "use [redacted] now"),
            ("nostr:nsec1qqqq, bye", "nostr:[redacted] bye"),
            ("NCRYPTSEC1QQ", "[redacted]"),
            ("nostr+walletconnect://ab?relay=wss://r&secret=cd", "[redacted]"),
            ("Authorization: Bearer abc.def", "Authorization: Bearer [redacted]"),
            ("authorization: basic dXNlcg==", "authorization: basic [redacted]"),
            ("https://x/y?a=1&token=abc&b=2", "https://x/y?a=1&token=[redacted]&b=2"),
            (r#"{"password": "hunter2", "a": 1}"#, r#"{"password": "[redacted]", "a": 1}"#),
            ("password=hunter2;user=me", "password=[redacted];user=me"),
            ("api_key : xyz", "api_key : [redacted]"),
            ("token = ghp_a", "token = [redacted]"),
            ("a risk-free task-5 took 5 tokens", "a risk-free task-5 took 5 tokens"),
            ("the password was wrong: try again", "the password was wrong: try again"),
            ("tick 7 done: /tools/x", "tick 7 done: /tools/x"),
        ] {
            assert_eq!(super::text(text), shown);
        }
    }

    proptest! {
        #[test]
        fn no_secret_of_a_known_make_survives(
            before in "[ a-z:=\",/{]{0,12}",
            make in 0..MAKES.len(),
            secret in "[A-Z0-9]{8,40}",
            after in "[ \"}&,a-z]{0,12}",
        ) {
            // What follows a letter is no beginning: task-5.
            let before = format!("{before} ");
            let shown = super::text(&format!("{before}{}{secret}{after}", MAKES[make]));
            prop_assert!(!shown.contains(&secret), "{shown}");
        }

        #[test]
        fn what_has_no_secret_in_it_stays_as_it_is(text in "[ a-d0-9./{}\\[\\]\",:=é]{0,60}") {
            prop_assert_eq!(super::text(&text), text);
        }
    }
}
