//! Searches bytes for keys and seed words, in every spelling they could leak in.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use oa_nips::nostr::base64::Engine as _;
use oa_nips::nostr::base64::engine::general_purpose::STANDARD_NO_PAD;
use oa_nips::nostr::{SecretKey, ToBech32 as _};

/// So many consecutive words of a seed are a leak.
const WORDS: usize = 4;

/// What must not be found.
#[derive(Default)]
pub struct Secrets {
    needles: Vec<(String, Vec<u8>)>,
    phrases: Vec<(String, Vec<String>)>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names =
            self.needles.iter().map(|(name, _)| name).chain(self.phrases.iter().map(|(name, _)| name));
        f.debug_list().entries(names).finish()
    }
}

impl Secrets {
    /// A key: as bytes, hex, nsec, and base64 wherever in its line it begins.
    ///
    /// # Errors
    /// When it has no nsec.
    pub fn key(&mut self, name: &str, key: &SecretKey) -> Result<()> {
        let bytes = key.to_secret_bytes();
        let hex = key.to_secret_hex();
        let mut add = |how: &str, needle: Vec<u8>| self.needles.push((format!("{name} as {how}"), needle));
        add("bytes", bytes.to_vec());
        add("upper-case hex", hex.to_ascii_uppercase().into_bytes());
        add("hex", hex.into_bytes());
        add("nsec", key.to_bech32()?.into_bytes());
        for shift in 0..3 {
            for (how, needle) in base64(&bytes, shift) {
                add(how, needle);
            }
        }
        Ok(())
    }

    /// The words of a seed: any four that follow each other, whatever is between them.
    pub fn words(&mut self, name: &str, words: &str) {
        let words: Vec<String> = words.split_whitespace().map(str::to_lowercase).collect();
        for (n, phrase) in words.windows(WORDS).enumerate() {
            self.phrases.push((format!("{name}, words {} to {}", n + 1, n + WORDS), phrase.to_vec()));
        }
    }

    /// The names of the secrets that are in some bytes.
    pub fn search(&self, bytes: &[u8]) -> Vec<String> {
        let mut found = self.spelled(bytes);
        let words: Vec<String> = bytes
            .split(|byte| !byte.is_ascii_alphabetic())
            .filter(|word| !word.is_empty())
            .map(|word| String::from_utf8_lossy(word).to_lowercase())
            .collect();
        let is_there = |phrase: &[String]| words.windows(WORDS).any(|window| window == phrase);
        found
            .extend(self.phrases.iter().filter(|(_, phrase)| is_there(phrase)).map(|(name, _)| name.clone()));
        found
    }

    /// Keys, in one pass over the bytes: most places are passed by their first two.
    fn spelled(&self, bytes: &[u8]) -> Vec<String> {
        let begins: HashSet<[u8; 2]> =
            self.needles.iter().filter_map(|(_, needle)| needle.first_chunk().copied()).collect();
        let mut found = BTreeSet::new();
        let mut rest = bytes;
        while let Some(begin) = rest.first_chunk() {
            if begins.contains(begin) {
                let here = self.needles.iter().filter(|(_, needle)| rest.starts_with(needle));
                found.extend(here.map(|(name, _)| name.clone()));
            }
            rest = rest.split_first().map_or(&[], |(_, rest)| rest);
        }
        found.into_iter().collect()
    }

    /// The files below a folder that hold secrets, but for `except`, and which.
    ///
    /// # Errors
    /// What the file system said.
    pub fn search_files(&self, dir: &Path, except: &[&Path]) -> Result<Vec<(PathBuf, Vec<String>)>> {
        let mut found = Vec::new();
        for path in files(dir)? {
            if except.contains(&path.as_path()) {
                continue;
            }
            let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
            let names = self.search(&bytes);
            if !names.is_empty() {
                found.push((path, names));
            }
        }
        Ok(found)
    }
}

/// Base64 of a key that begins `shift` bytes into what is encoded, without the characters its neighbours touch.
fn base64(bytes: &[u8], shift: usize) -> [(&'static str, Vec<u8>); 2] {
    let padded = [vec![0; shift], bytes.to_vec()].concat();
    let text = STANDARD_NO_PAD.encode(padded);
    let begin = (shift * 8).div_ceil(6);
    let end = (shift + bytes.len()) * 8 / 6;
    let inner = text.get(begin..end).unwrap_or_default();
    [
        ("base64", inner.as_bytes().to_vec()),
        ("URL-safe base64", inner.replace('+', "-").replace('/', "_").into_bytes()),
    ]
}

/// All files below a folder.
///
/// # Errors
/// What the file system said.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() { dirs.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::Keys;

    use super::*;

    const SEED: &str = "legal winner thank year wave sausage worth useful legal winner thank yellow";

    #[test]
    fn a_key_is_found_in_every_spelling() {
        let keys = Keys::generate();
        let key = keys.secret_key();
        let mut secrets = Secrets::default();
        secrets.key("k", key).unwrap();
        let found = |text: &[u8]| !secrets.search(text).is_empty();
        assert!(found(format!("key={}", key.to_secret_hex()).as_bytes()));
        assert!(found(key.to_secret_hex().to_uppercase().as_bytes()));
        assert!(found(key.to_bech32().unwrap().as_bytes()));
        assert!(found(&[b"xyz", key.to_secret_bytes().as_slice(), b"x"].concat()));
        for before in [&b""[..], b"a", b"ab", b"abc", b"abcd"] {
            let line = [before, key.to_secret_bytes().as_slice(), b"after"].concat();
            assert!(found(STANDARD_NO_PAD.encode(line).as_bytes()), "{before:?}");
        }
        assert!(!found(keys.public_key().to_hex().as_bytes()));
        assert!(!found(Keys::generate().secret_key().to_secret_hex().as_bytes()));
    }

    #[test]
    fn four_words_in_a_row_are_found_and_three_are_not() {
        let mut secrets = Secrets::default();
        secrets.words("seed", SEED);
        assert!(secrets.search(br#"["year", "Wave","sausage","worth"]"#).len() == 1);
        assert!(secrets.search(b"year wave sausage, then worth").is_empty());
        assert!(secrets.search(b"legal winner thank you").is_empty());
        assert_eq!(secrets.search(SEED.as_bytes()).len(), 9);
    }
}
