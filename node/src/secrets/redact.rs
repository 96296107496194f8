//! Rids what comes back of secrets: as they are, and in the encodings that hosts echo things in.
//!
//! This guards against hosts that repeat what they were sent: an error that quotes a header, a page that shows its own
//! URL. A host that works with the agent against its operator can encode a secret in ways nobody looks for; a secret's
//! list of hosts is what keeps it from such a one.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::Secret;
use super::fill::percent_encoded;

/// What stands where a secret stood.
pub(crate) const REDACTED: &str = "[redacted]";
/// Shortest text that is looked for: of shorter ones any page is full.
const NEEDLE_BYTES_MIN: usize = 6;
/// Pairs of bytes.
const PAIRS: usize = 1 << 16;

/// Finds a number of secrets in whatever form.
pub(crate) struct Redactor {
    /// In lower case, for they are found in any. The longest first, so that of two that begin alike the longer goes.
    needles: Vec<Vec<u8>>,
    /// Whether a needle begins with these two bytes: what most places in a text are dismissed by.
    begins: Vec<bool>,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Redactor {
    /// A redactor for these secrets.
    pub(crate) fn new(secrets: &[Secret]) -> Self {
        let forms: BTreeSet<Vec<u8>> = secrets.iter().flat_map(|secret| forms(secret.reveal())).collect();
        let mut needles: Vec<Vec<u8>> =
            forms.into_iter().filter(|form| form.len() >= NEEDLE_BYTES_MIN).collect();
        needles.sort_by_key(|needle| std::cmp::Reverse(needle.len()));
        let mut begins = if needles.is_empty() { Vec::new() } else { vec![false; PAIRS] };
        for needle in &needles {
            if let Some(begin) = pair(needle).and_then(|pair| begins.get_mut(pair)) {
                *begin = true;
            }
        }
        Self { needles, begins }
    }

    /// The bytes without secrets.
    pub(crate) fn bytes(&self, text: Vec<u8>) -> Vec<u8> {
        if self.needles.is_empty() {
            return text;
        }
        let mut clean = Vec::with_capacity(text.len());
        let mut rest = text.as_slice();
        while let Some((first, after)) = rest.split_first() {
            match self.at(rest) {
                Some(length) => {
                    clean.extend_from_slice(REDACTED.as_bytes());
                    rest = rest.get(length..).unwrap_or_default();
                }
                None => {
                    clean.push(*first);
                    rest = after;
                }
            }
        }
        clean
    }

    /// The text without secrets.
    pub(crate) fn text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.bytes(text.as_bytes().to_vec())).into_owned()
    }

    /// Whether there is a secret in a text.
    pub(crate) fn finds(&self, text: &str) -> bool {
        (0..text.len()).any(|at| text.as_bytes().get(at..).is_some_and(|rest| self.at(rest).is_some()))
    }

    /// Cuts off what may be the beginning of a secret whose end was cut off before.
    pub(crate) fn trim(&self, text: &mut Vec<u8>) {
        let begun = |needle: &Vec<u8>| {
            let longest = needle.len().min(text.len());
            (1..=longest).rev().find(|length| {
                let end = text.get(text.len() - length..);
                end.zip(needle.get(..*length)).is_some_and(|(end, begin)| end.eq_ignore_ascii_case(begin))
            })
        };
        let length = self.needles.iter().filter_map(begun).max().unwrap_or(0);
        text.truncate(text.len() - length);
    }

    /// The length of the secret that a text begins with.
    fn at(&self, text: &[u8]) -> Option<usize> {
        if !*self.begins.get(pair(text)?)? {
            return None;
        }
        let is_here = |needle: &&Vec<u8>| {
            text.get(..needle.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(needle))
        };
        self.needles.iter().find(is_here).map(Vec::len)
    }
}

fn pair(text: &[u8]) -> Option<usize> {
    let [one, two]: &[u8; 2] = text.first_chunk()?;
    Some(usize::from(u16::from_be_bytes([one.to_ascii_lowercase(), two.to_ascii_lowercase()])))
}

/// A secret in the encodings that hosts echo things in, in lower case.
fn forms(value: &str) -> Vec<Vec<u8>> {
    let percent = percent_encoded(value);
    let json = serde_json::to_string(value).unwrap_or_default();
    let json = json.trim_start_matches('"').strip_suffix('"').unwrap_or_default().to_owned();
    let html = value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![
        value.to_owned(),
        json.replace('/', "\\/"),
        json,
        html.replace('\'', "&#39;"),
        html.replace('\'', "&#x27;"),
        percent.replace("%2F", "/"),
        percent.replace("%20", "+"),
        percent,
        hex,
    ];
    forms.extend((0..3).flat_map(|before| base64_within(value.as_bytes(), before)));
    forms.into_iter().map(|form| form.to_ascii_lowercase().into_bytes()).collect()
}

/// The letters of base64 that depend on nothing but `value`, when so many bytes modulo 3 stand before it.
fn base64_within(value: &[u8], before: usize) -> [String; 2] {
    let whole = [vec![0; before].as_slice(), value].concat();
    let (from, to) = ((before * 8).div_ceil(6), whole.len() * 8 / 6);
    [STANDARD_NO_PAD.encode(&whole), URL_SAFE_NO_PAD.encode(&whole)]
        .map(|text| text.get(from..to).unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    const KEY: &str = "sk-Live/42+\"ü\"='&x";

    fn redactor() -> Redactor {
        Redactor::new(&[Secret::made("a", KEY, &[]), Secret::made("b", "sk-Live/42+longer", &[])])
    }

    #[test]
    fn a_secret_is_found_in_whatever_form_it_is_echoed() {
        let redactor = redactor();
        let basic = |user: &str| STANDARD.encode(format!("{user}:{KEY}!"));
        for text in [
            KEY.to_owned(),
            KEY.to_ascii_lowercase(),
            KEY.to_ascii_uppercase(),
            serde_json::json!({ "authorization": format!("Bearer {KEY}") }).to_string(),
            format!("/path?key={}&more", percent_encoded(KEY)),
            format!("/path?key={}&more", percent_encoded(KEY).to_lowercase()),
            KEY.bytes().map(|byte| format!("{byte:02x}")).collect(),
            KEY.replace('&', "&amp;").replace('"', "&quot;").replace('\'', "&#39;"),
            format!("{KEY}{KEY}"),
            "sk-Live/42+longer".to_owned(),
        ] {
            let clean = redactor.text(&format!("before {text} after"));
            let rest = clean.replace(REDACTED, "");
            assert!(clean.contains(REDACTED) && !rest.to_lowercase().contains("ive"), "{text} left {clean}");
            assert!(clean.starts_with("before ") && clean.ends_with(" after"), "{clean}");
            assert!(redactor.finds(&text));
        }
        for user in ["", "u", "us", "use"] {
            let clean = redactor.text(&basic(user));
            assert!(clean.contains(REDACTED), "{user}: {clean}");
            assert!(clean.replace(REDACTED, "").len() < 16, "{user}: {clean}");
        }
    }

    #[test]
    fn of_two_that_begin_alike_the_longer_goes() {
        assert_eq!(redactor().text("x sk-Live/42+longer y"), "x [redacted] y");
    }

    #[test]
    fn other_text_stays_byte_for_byte() {
        let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
        assert_eq!(redactor().bytes(bytes.clone()), bytes);
        assert_eq!(Redactor::new(&[]).bytes(bytes.clone()), bytes);
        assert!(!redactor().finds("sk-Live/4"));
    }

    #[test]
    fn a_secret_that_was_cut_in_two_leaves_no_half() {
        let redactor = redactor();
        let mut text = b"before sk-Live/4".to_vec();
        redactor.trim(&mut text);
        assert_eq!(text, b"before ");
        let mut text = b"before".to_vec();
        redactor.trim(&mut text);
        assert_eq!(text, b"before");
    }
}
