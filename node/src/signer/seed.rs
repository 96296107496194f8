//! The seed of a node: twelve words, from which the node's key and every agent's key come.
//!
//! Its file holds the words, or one line of what `sealed_seed` describes: their entropy under a passphrase.

use std::fmt;
use std::path::{Path, PathBuf};

use oa_nips::nostr::Keys;
use oa_nips::nostr::bip39::{self, Language, Mnemonic};
use oa_nips::nostr::hashes::{Hash as _, HashEngine as _, Hmac, HmacEngine, sha256};
use oa_nips::nostr::secp256k1::rand::RngCore as _;
use oa_nips::nostr::secp256k1::rand::rngs::OsRng;
use zeroize::Zeroizing;

use super::derive::{Accounts, DeriveError};
use super::file::{self, LoadError, SaveError, quoted};
use super::passphrase::{OpenError, Passphrase};
use super::sealed_seed::{self, SealedSeed};

/// Entropy of twelve words, in bytes.
const ENTROPY_BYTES: usize = 16;

/// The account of the node itself; agent `n` has the one `n` after the next.
const NODE_ACCOUNT: u32 = 0;

/// A NIP-06 mnemonic and what is derived from it: account 0 is the node's key, account n + 1 is agent n's.
///
/// Deriving a key takes some 50 µs; the expensive step from words to master key is done once, here.
#[derive(Clone)]
pub struct Seed {
    entropy: Vec<u8>,
    accounts: Accounts,
    node: Keys,
}

/// Why there is no seed.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The file was not read.
    #[error(transparent)]
    File(#[from] LoadError),
    /// The file is there and has nothing in it: whoever created it was interrupted.
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
    /// The words of a file are no seed.
    #[error("{} holds no seed: {reason}", .path.display())]
    Wrong { path: PathBuf, reason: WordsError },
    /// It is encrypted, and no passphrase is at hand.
    #[error("the seed in {} is encrypted", .0.display())]
    Encrypted(PathBuf),
    /// It is encrypted, and stayed closed.
    #[error("cannot open the seed in {}: {reason}", .path.display())]
    Sealed { path: PathBuf, reason: OpenError },
}

impl SeedError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Empty(path) => Some(format!("rm {}", quoted(path))),
            Self::Wrong { reason, .. } => Some(reason.hint().to_owned()),
            Self::Encrypted(_) => Some("its passphrase is needed".to_owned()),
            Self::Sealed { reason, .. } => Some(reason.hint().to_owned()),
        }
    }
}

/// Why words are no seed. Never says a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    #[error("{0} words instead of 12")]
    Count(usize),
    #[error("word {0} is not in the list of BIP-39")]
    Unknown(usize),
    #[error("the words do not fit together")]
    Checksum,
}

impl WordsError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Count(_) => "a seed is twelve English words in one line",
            Self::Unknown(_) => "look at that word again: it is spelt wrongly",
            Self::Checksum => "one word is another than it was, or two have changed places",
        }
    }
}

impl Seed {
    /// A new seed from the operating system's randomness.
    pub fn generate() -> Self {
        loop {
            let mut entropy = [0; ENTROPY_BYTES];
            OsRng.fill_bytes(&mut entropy);
            let mnemonic = Mnemonic::from_entropy_in(Language::English, &entropy).ok();
            // Never seen to fail: one seed in 2^126 has no key.
            if let Some(seed) = mnemonic.and_then(|mnemonic| Self::from_mnemonic(&mnemonic)) {
                return seed;
            }
        }
    }

    /// The seed of these words. More than twelve are taken too: a seed of another program may have 24.
    ///
    /// # Errors
    /// Which word is wrong, by its number.
    pub fn from_words(words: &str) -> Result<Self, WordsError> {
        let words: Vec<String> = words.split_whitespace().map(str::to_ascii_lowercase).collect();
        let mnemonic = Mnemonic::parse_in_normalized(Language::English, &words.join(" "));
        let mnemonic = mnemonic.map_err(|error| match error {
            bip39::Error::BadWordCount(count) => WordsError::Count(count),
            bip39::Error::UnknownWord(index) => WordsError::Unknown(index + 1),
            _ => WordsError::Checksum,
        })?;
        Self::from_mnemonic(&mnemonic).ok_or(WordsError::Checksum)
    }

    fn from_mnemonic(mnemonic: &Mnemonic) -> Option<Self> {
        let accounts = Accounts::new(&mnemonic.to_seed_normalized(""))?;
        let node = accounts.keys(NODE_ACCOUNT).ok()?;
        Some(Self { entropy: mnemonic.to_entropy(), accounts, node })
    }

    /// Reads the seed from a file that only its owner can read, and that is not encrypted.
    ///
    /// # Errors
    /// Name the file, never a word of it.
    pub fn load(path: &Path) -> Result<Self, SeedError> {
        Self::load_with(path, || Err(SeedError::Encrypted(path.to_owned())))
    }

    /// Reads the seed from a file that only its owner can read. `ask` is called for the passphrase if there must be
    /// one. Opening an encrypted seed takes some 100 ms.
    ///
    /// # Errors
    /// Name the file, never a word of it; or what `ask` said.
    pub fn load_with<E: From<SeedError>>(
        path: &Path,
        ask: impl FnOnce() -> Result<Passphrase, E>,
    ) -> Result<Self, E> {
        let content = Zeroizing::new(file::load(path).map_err(SeedError::from)?);
        // What is not text has no word of BIP-39 in it either, and is told so.
        let text = Zeroizing::new(String::from_utf8_lossy(&content).into_owned());
        let text = text.trim();
        if text.is_empty() {
            return Err(SeedError::Empty(path.to_owned()).into());
        }
        if !text.starts_with(sealed_seed::PREFIX) {
            let wrong = |reason| SeedError::Wrong { path: path.to_owned(), reason };
            return Ok(Self::from_words(text).map_err(wrong)?);
        }
        let closed = |reason| SeedError::Sealed { path: path.to_owned(), reason };
        let sealed: SealedSeed = text.parse().map_err(closed)?;
        let entropy = sealed.open(&ask()?).map_err(closed)?;
        let mnemonic = Mnemonic::from_entropy_in(Language::English, &entropy).ok();
        let seed = mnemonic.and_then(|mnemonic| Self::from_mnemonic(&mnemonic));
        Ok(seed.ok_or_else(|| closed(OpenError::Malformed))?)
    }

    /// Whether a file looks like an encrypted seed; nothing is asked and nothing is opened.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_encrypted(path: &Path) -> Result<bool, SeedError> {
        let content = Zeroizing::new(file::load(path)?);
        Ok(content.trim_ascii_start().starts_with(sealed_seed::PREFIX.as_bytes()))
    }

    /// Writes the seed under a passphrase to a file that is not there yet, for its owner only.
    ///
    /// # Errors
    /// [`SaveError::Exists`] when anything is there.
    pub fn save_encrypted(&self, path: &Path, passphrase: &Passphrase) -> Result<(), SaveError> {
        let sealed = SealedSeed::seal(&self.entropy, passphrase);
        file::save(path, format!("{sealed}\n").as_bytes())
    }

    /// Writes the seed to a file that is not there yet, for its owner only.
    ///
    /// # Errors
    /// [`SaveError::Exists`] when anything is there.
    pub fn save(&self, path: &Path) -> Result<(), SaveError> {
        let words = Zeroizing::new(self.reveal() + "\n");
        file::save(path, words.as_bytes())
    }

    /// The words, to be shown to the operator who asked for a backup.
    pub fn reveal(&self) -> String {
        Mnemonic::from_entropy_in(Language::English, &self.entropy)
            .expect("the entropy came out of a mnemonic")
            .to_string()
    }

    /// The node's key.
    pub fn node(&self) -> &Keys {
        &self.node
    }

    /// The key of agent `agent`.
    ///
    /// # Errors
    /// [`DeriveError::OutOfRange`] from 2^31 - 1 on.
    pub fn agent(&self, agent: u32) -> Result<Keys, DeriveError> {
        self.accounts.keys(agent.checked_add(1).ok_or(DeriveError::OutOfRange(agent))?)
    }

    /// A secret of agent `agent` for one purpose: HMAC-SHA256 of the purpose under its key, which it does not reveal.
    ///
    /// # Errors
    /// As [`Seed::agent`].
    pub fn agent_secret(&self, agent: u32, purpose: &str) -> Result<[u8; 32], DeriveError> {
        Ok(Self::secret_of(&self.agent(agent)?, purpose))
    }

    /// As [`Seed::agent_secret`], for who has derived the agent's key already.
    pub fn secret_of(keys: &Keys, purpose: &str) -> [u8; 32] {
        let mut engine = HmacEngine::<sha256::Hash>::new(keys.secret_key().as_secret_bytes());
        engine.input(purpose.as_bytes());
        Hmac::from_engine(engine).to_byte_array()
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::os::unix::fs::PermissionsExt as _;

    use oa_nips::nostr::nips::nip06::FromMnemonic as _;

    use super::*;

    const WORDS: &str = "leader monkey parrot ring guide accident before fence cannon height naive bean";

    /// Fails when any word of `words` is in `text`.
    fn says_none_of(text: &str, words: &str) {
        let said: HashSet<&str> = text.split(|c: char| !c.is_ascii_alphabetic()).collect();
        let words: HashSet<&str> = words.split_whitespace().collect();
        assert!(said.is_disjoint(&words), "{text}");
    }

    #[test]
    fn the_node_is_account_0_and_agents_follow() {
        let seed = Seed::from_words(WORDS).unwrap();
        let account = |n| Keys::from_mnemonic_with_account(WORDS, None, Some(n)).unwrap();
        assert_eq!(*seed.node(), account(0));
        assert_eq!(seed.agent(0).unwrap(), account(1));
        assert_eq!(seed.agent(41).unwrap(), account(42));
        assert!(seed.agent(u32::MAX).is_err());
    }

    #[test]
    fn generated_seeds_have_twelve_words_and_differ() {
        let (one, two) = (Seed::generate(), Seed::generate());
        assert_eq!(one.reveal().split(' ').count(), 12);
        assert_ne!(one.reveal(), two.reveal());
        assert_eq!(Seed::from_words(&one.reveal()).unwrap().node(), one.node());
    }

    #[test]
    fn a_saved_seed_loads_as_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed");
        let seed = Seed::generate();
        seed.save(&path).unwrap();
        let loaded = Seed::load(&path).unwrap();
        assert_eq!((loaded.node(), loaded.reveal()), (seed.node(), seed.reveal()));
        assert!(matches!(Seed::generate().save(&path), Err(SaveError::Exists(_))));
    }

    #[test]
    fn an_encrypted_seed_loads_with_its_passphrase_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed");
        let (seed, passphrase) = (Seed::from_words(WORDS).unwrap(), Passphrase::new("horse").unwrap());
        seed.save_encrypted(&path, &passphrase).unwrap();
        says_none_of(&std::fs::read_to_string(&path).unwrap(), WORDS);
        assert!(Seed::is_encrypted(&path).unwrap());
        let loaded = Seed::load_with::<SeedError>(&path, || Ok(passphrase.clone())).unwrap();
        assert_eq!((loaded.node(), loaded.reveal().as_str()), (seed.node(), WORDS));
        let error = Seed::load(&path).unwrap_err();
        assert!(matches!(error, SeedError::Encrypted(_)), "{error:?}");
        let wrong = || Ok(Passphrase::new("staple").unwrap());
        let error = Seed::load_with::<SeedError>(&path, wrong).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot open the seed in {}: wrong passphrase", path.display())
        );
        assert!(matches!(seed.save_encrypted(&path, &passphrase), Err(SaveError::Exists(_))));
    }

    #[test]
    fn nobody_is_asked_for_the_passphrase_of_a_damaged_or_a_plain_seed() {
        let unasked = || -> Result<Passphrase, SeedError> { unreachable!("nobody is to be asked") };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("damaged");
        file::save(&path, format!("{}AAAA\n", sealed_seed::PREFIX).as_bytes()).unwrap();
        let error = Seed::load_with(&path, unasked).unwrap_err();
        assert!(matches!(error, SeedError::Sealed { reason: OpenError::Malformed, .. }), "{error:?}");
        let path = dir.path().join("plain");
        Seed::from_words(WORDS).unwrap().save(&path).unwrap();
        Seed::load_with(&path, unasked).unwrap();
        assert!(!Seed::is_encrypted(&path).unwrap());
    }

    #[test]
    fn spaces_and_capitals_do_not_matter() {
        let typed = format!("  {}\r\n", WORDS.to_uppercase().replace(' ', "  \n"));
        assert_eq!(Seed::from_words(&typed).unwrap().reveal(), WORDS);
    }

    #[test]
    fn wrong_words_are_named_by_number_only() {
        let dir = tempfile::tempdir().unwrap();
        let swapped = "monkey leader parrot ring guide accident before fence cannon height naive bean";
        let cases = [
            ("leader monkey parrot".to_owned(), WordsError::Count(3)),
            (WORDS.replace("parrot", "pparrot"), WordsError::Unknown(3)),
            (swapped.to_owned(), WordsError::Checksum),
        ];
        for (n, (words, expected)) in cases.into_iter().enumerate() {
            let path = dir.path().join(n.to_string());
            file::save(&path, words.as_bytes()).unwrap();
            let error = Seed::load(&path).unwrap_err();
            assert!(matches!(&error, SeedError::Wrong { reason, .. } if *reason == expected), "{error:?}");
            let hint = error.hint().unwrap();
            says_none_of(
                &format!("{error} {error:?} {hint}").replace(&path.display().to_string(), ""),
                &words,
            );
        }
    }

    #[test]
    fn files_that_hold_no_seed_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed");
        assert!(matches!(Seed::load(&path), Err(SeedError::File(LoadError::Missing(_)))));
        file::save(&path, b"\n").unwrap();
        let error = Seed::load(&path).unwrap_err();
        assert_eq!(error.hint().unwrap(), format!("rm {}", path.display()));
        std::fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
        assert!(matches!(Seed::load(&path), Err(SeedError::Wrong { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = Seed::load(&path).unwrap_err();
        assert_eq!(error.hint().unwrap(), format!("chmod 600 {}", path.display()));
    }

    #[test]
    fn printing_a_seed_shows_nothing() {
        let seed = Seed::from_words(WORDS).unwrap();
        assert_eq!(format!("{seed:?}"), "Seed([redacted])");
        says_none_of(&format!("{seed:#?}"), WORDS);
    }

    #[test]
    fn secrets_differ_by_agent_and_purpose_and_are_no_keys() {
        let seed = Seed::from_words(WORDS).unwrap();
        let secret = seed.agent_secret(0, "oa/random/v1").unwrap();
        assert_eq!(secret, seed.agent_secret(0, "oa/random/v1").unwrap());
        assert_ne!(secret, seed.agent_secret(1, "oa/random/v1").unwrap());
        assert_ne!(secret, seed.agent_secret(0, "oa/salt/v1").unwrap());
        assert_ne!(secret, *seed.agent(0).unwrap().secret_key().as_secret_bytes());
    }
}
