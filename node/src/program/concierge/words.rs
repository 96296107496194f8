//! Words of a message: where each stands in the text, and how it reads once case and punctuation are off.
//!
//! The language of the concierge matches on [`Word::key`] and cuts what it keeps out of the text as it was
//! written, by [`Word::start`] and [`Word::end`].

/// One word of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// Lower case, without punctuation at its edges; empty for a word that is only punctuation.
    pub(super) key: String,
    /// Byte offset of its first byte in the text.
    pub(super) start: usize,
    /// Byte offset behind its last byte.
    pub(super) end: usize,
}

/// What people put around a word without meaning it. The minus sign is not here: `-5` is not `5`.
const PUNCTUATION: &[char] = &[
    ',', '.', ';', ':', '!', '?', '"', '\'', '(', ')', '[', ']', '{', '}', '“', '”', '„', '‘', '’', '«', '»',
    '…', '¿', '¡', '/', '#', '*', '`',
];

/// Splits a text at white space.
pub(super) fn split(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices() {
        match (c.is_whitespace(), start) {
            (false, None) => start = Some(at),
            (true, Some(from)) => {
                words.push(word(text, from, at));
                start = None;
            }
            _ => {}
        }
    }
    if let Some(from) = start {
        words.push(word(text, from, text.len()));
    }
    words
}

fn word(text: &str, start: usize, end: usize) -> Word {
    Word { key: key(text.get(start..end).unwrap_or_default()), start, end }
}

/// The form in which a word is compared; a dash that stands alone is punctuation too.
pub(super) fn key(raw: &str) -> String {
    let trimmed = raw.trim_matches(PUNCTUATION);
    if trimmed.chars().all(|c| matches!(c, '-' | '–' | '—')) {
        return String::new();
    }
    trimmed.to_lowercase()
}

/// Cuts a text to at most `chars_max` characters, with an ellipsis in the place of the rest, on one line.
pub(super) fn cut(text: &str, chars_max: usize) -> String {
    let line: Vec<&str> = text.split_whitespace().collect();
    let line = line.join(" ");
    if line.chars().count() <= chars_max {
        return line;
    }
    let mut head: String = line.chars().take(chars_max.saturating_sub(1)).collect();
    head.truncate(head.trim_end().len());
    head.push('…');
    head
}

/// Counts the letters to insert, remove, replace or swap with a neighbour to get from one word to the other,
/// and gives up with `None` above `most`.
pub(super) fn distance(left: &str, right: &str, most: usize) -> Option<usize> {
    // The guard keeps a word of megabytes from costing more than its first look.
    let cap = right.chars().count() + most;
    let left: Vec<char> = left.chars().take(cap + 1).collect();
    if left.len() > cap {
        return None;
    }
    let right: Vec<char> = right.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, r) in right.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let mut best =
                (at(&last, j) + usize::from(l != r)).min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && left.get(i - 1) == Some(r) && right.get(j - 1) == Some(l);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().filter(|found| *found <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_know_their_place_and_lose_case_and_punctuation() {
        let text = "  Buy, “Milk”\n(17:00) — p.m. -5 #3";
        let words = split(text);
        let keys: Vec<&str> = words.iter().map(|word| word.key.as_str()).collect();
        assert_eq!(keys, ["buy", "milk", "17:00", "", "p.m", "-5", "3"]);
        assert_eq!(&text[words[1].start..words[1].end], "“Milk”");
        assert!(split(" \n\t ").is_empty());
    }

    #[test]
    fn a_cut_text_is_one_line_and_never_longer_than_asked() {
        assert_eq!(cut("short\ntext", 60), "short text");
        let long = "ěščř".repeat(100);
        assert_eq!(cut(&long, 60).chars().count(), 60);
        assert!(cut(&long, 60).ends_with('…'));
        assert_eq!(cut("abc def", 5), "abc…");
        assert_eq!(cut("abc", 0), "…");
    }

    #[test]
    fn the_distance_counts_edits_up_to_a_bound() {
        let cases = [
            ("notes", "notes", Some(0)),
            ("nots", "notes", Some(1)),
            ("remnid", "remind", Some(1)),
            ("rmeind", "remind", Some(1)),
            ("hlep", "help", Some(1)),
            ("gaol", "goal", Some(1)),
            ("status", "notes", None),
            ("", "go", Some(2)),
            ("něco", "neco", Some(1)),
        ];
        for (left, right, expected) in cases {
            assert_eq!(distance(left, right, 2), expected, "{left} → {right}");
        }
        assert_eq!(distance(&"x".repeat(1_000_000), "help", 2), None);
    }
}
