//! Where secrets go in a request: `{secret:<name>}`, in a URL's path or query, in a header's value, in a body of text.

use super::is_name;

/// How a placeholder begins and ends, as it is written and as a URL's path has it.
const BEGINS: [&str; 2] = ["{secret:", "%7bsecret:"];
const ENDS: [&str; 2] = ["}", "%7d"];

/// A piece of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    Secret(&'a str),
}

/// The names of the secrets that a text asks for, each as often as it does.
pub(crate) fn names(text: &str) -> impl Iterator<Item = &str> {
    pieces(text).filter_map(|piece| match piece {
        Piece::Secret(name) => Some(name),
        Piece::Text(_) => None,
    })
}

/// The text with its secrets. What is put in is not looked at again.
///
/// # Errors
/// The name for which `value` has nothing.
pub(crate) fn fill(text: &str, value: impl Fn(&str) -> Option<String>) -> Result<String, &str> {
    let mut filled = String::with_capacity(text.len());
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => filled.push_str(text),
            Piece::Secret(name) => filled.push_str(&value(name).ok_or(name)?),
        }
    }
    Ok(filled)
}

/// A value as it may stand anywhere in a URL's path or query (RFC 3986, section 2.3).
pub(crate) fn percent_encoded(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    let mut next = None;
    std::iter::from_fn(move || {
        if let Some(secret) = next.take() {
            return Some(secret);
        }
        if rest.is_empty() {
            return None;
        }
        let Some((before, name, after)) = first(rest) else {
            return Some(Piece::Text(std::mem::take(&mut rest)));
        };
        rest = after;
        next = Some(Piece::Secret(name));
        Some(Piece::Text(before))
    })
}

/// The first placeholder: what is before it, its name, what is after it. What has no name in it is mere text.
fn first(text: &str) -> Option<(&str, &str, &str)> {
    text.char_indices().filter(|(_, c)| matches!(c, '{' | '%')).find_map(|(at, _)| {
        let (before, rest) = text.split_at_checked(at)?;
        let after = BEGINS.iter().find_map(|begin| strip(rest, begin))?;
        let length = after.find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'))?;
        let (name, after) = after.split_at_checked(length)?;
        let after = ENDS.iter().find_map(|end| strip(after, end))?;
        is_name(name).then_some((before, name, after))
    })
}

/// As `strip_prefix`, in any case.
fn strip<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<String, &str> {
        fill(text, |name| (name == "a").then(|| "{secret:b}".to_owned()))
    }

    #[test]
    fn placeholders_are_filled_once() {
        assert_eq!(filled("Bearer {secret:a}"), Ok("Bearer {secret:b}".to_owned()), "what was put in stays");
        assert_eq!(filled("{secret:a}{secret:a}x"), Ok("{secret:b}{secret:b}x".to_owned()));
        assert_eq!(filled("/bot%7Bsecret:a%7D/send"), Ok("/bot{secret:b}/send".to_owned()));
        assert_eq!(filled("x {secret:none} y"), Err("none"));
        assert_eq!(names("{secret:a} {secret:b-2}").collect::<Vec<_>>(), ["a", "b-2"]);
    }

    #[test]
    fn what_is_no_placeholder_stays() {
        for text in [
            "",
            "{",
            "{secret:",
            "{secret:}",
            "{secret:A}",
            "{secret:a b}",
            "{secret:a",
            "{Secret",
            "100%",
            "ü{x}",
            "{secret:ä}",
        ] {
            assert_eq!(filled(text), Ok(text.to_owned()));
        }
    }

    #[test]
    fn a_value_cannot_leave_its_place_in_a_url() {
        assert_eq!(percent_encoded("a/../b?c#d&e=f%g h\nü~"), "a%2F..%2Fb%3Fc%23d%26e%3Df%25g%20h%0A%C3%BC~");
    }
}
