//! Where a passphrase comes from: a file, a credential of systemd's, or a person at the terminal, in this order.
//! Never from an argument or the environment, which others on the machine can read.

mod prompt;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use oa_node::signer::{KeyFile, Passphrase, PassphraseError, Seed};

use crate::error::{Error, Kind, Result, chain};

pub(crate) use prompt::Terminal;

/// The name of the credential: `LoadCredential=oa-passphrase:…` in a unit of systemd's.
const CREDENTIAL: &str = "oa-passphrase";

/// Where passphrases come from, for one run of a program.
#[derive(Debug, Clone, Default)]
pub(crate) struct PassphraseSource {
    file: Option<PathBuf>,
    credentials: Option<PathBuf>,
}

impl PassphraseSource {
    /// With the file that the command line named, if it did.
    pub(crate) fn new(file: Option<PathBuf>) -> Self {
        Self { file, credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from) }
    }

    /// The passphrase that `path` was encrypted under.
    ///
    /// # Errors
    /// [`Kind::Usage`] when there is none and nobody to ask.
    pub(crate) fn ask(&self, path: &Path) -> Result<Passphrase> {
        if let Some(passphrase) = self.kept()? {
            return Ok(passphrase);
        }
        terminal(path)?.hidden(&format!("Passphrase of {}: ", path.display()))
    }

    /// A passphrase to encrypt `path` under, which a person types twice.
    ///
    /// # Errors
    /// As [`PassphraseSource::ask`], and when the two differ.
    pub(crate) fn choose(&self, path: &Path) -> Result<Passphrase> {
        if let Some(passphrase) = self.kept()? {
            return Ok(passphrase);
        }
        let mut terminal = terminal(path)?;
        let passphrase = terminal.hidden(&format!("New passphrase for {}: ", path.display()))?;
        if terminal.hidden("The same again: ")? != passphrase {
            return Err(
                Error::new(Kind::Usage, "the two passphrases differ").hint("nothing was written: try again")
            );
        }
        Ok(passphrase)
    }

    /// The one that a file holds, if there is a file.
    ///
    /// # Errors
    /// When the file cannot be read, or by too many.
    pub(crate) fn kept(&self) -> Result<Option<Passphrase>> {
        if let Some(file) = &self.file {
            return Passphrase::load(file).map(Some).map_err(failed);
        }
        match self.credentials.as_ref().map(|folder| folder.join(CREDENTIAL)) {
            Some(file) if file.exists() => Passphrase::load_credential(&file).map(Some).map_err(failed),
            _ => Ok(None),
        }
    }

    /// Reads a key file, encrypted or not.
    ///
    /// # Errors
    /// Name the file.
    pub(crate) fn key(&self, path: &Path) -> Result<KeyFile> {
        KeyFile::load_with(path, || self.ask(path))
    }

    /// Reads a seed file, encrypted or not.
    ///
    /// # Errors
    /// Name the file.
    pub(crate) fn seed(&self, path: &Path) -> Result<Seed> {
        Seed::load_with(path, || self.ask(path))
    }
}

fn failed(error: PassphraseError) -> Error {
    Error { kind: Kind::Usage, message: chain(&error), hint: error.hint() }
}

/// The terminal, where there is somebody to ask: a program whose messages go elsewhere must not wait for an answer.
fn terminal(path: &Path) -> Result<Terminal> {
    let terminal = std::io::stderr().is_terminal().then(Terminal::open).flatten();
    terminal.ok_or_else(|| {
        let message = format!("{} needs a passphrase, and there is no terminal to ask on", path.display());
        Error::new(Kind::Usage, message)
            .hint(format!("name a file that holds it with --passphrase-file, or give systemd's {CREDENTIAL}"))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use oa_nips::nostr::Keys;

    use super::*;

    fn write(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_file_comes_before_the_credential() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let mut source =
            PassphraseSource { file: Some(file.clone()), credentials: Some(dir.path().to_owned()) };
        write(&dir.path().join(CREDENTIAL), "credential\n", 0o440);
        write(&file, "file\n", 0o600);
        assert_eq!(source.kept().unwrap(), Passphrase::new("file"));
        source.file = None;
        assert_eq!(source.kept().unwrap(), Passphrase::new("credential"));
        std::fs::remove_file(dir.path().join(CREDENTIAL)).unwrap();
        assert_eq!(source.kept().unwrap(), None);
    }

    #[test]
    fn a_file_that_is_named_must_be_good() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let source = PassphraseSource { file: Some(file.clone()), credentials: None };
        assert_eq!(source.kept().unwrap_err().kind, Kind::Usage);
        write(&file, "horse", 0o644);
        let error = source.kept().unwrap_err();
        assert_eq!(error.hint.unwrap(), format!("chmod 600 {}", file.display()));
        assert!(!error.message.contains("horse"), "{}", error.message);
    }

    #[test]
    fn keys_and_seeds_open_with_what_the_file_holds() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("passphrase");
        write(&file, "horse\n", 0o600);
        let source = PassphraseSource { file: Some(file.clone()), credentials: None };
        let passphrase = Passphrase::new("horse").unwrap();
        let (key, seed) = (dir.path().join("operator.key"), dir.path().join("seed"));
        let (keys, words) = (Keys::generate(), Seed::generate());
        KeyFile::save_encrypted(&key, keys.clone(), &passphrase).unwrap();
        words.save_encrypted(&seed, &passphrase).unwrap();
        assert_eq!(*source.key(&key).unwrap().keys(), keys);
        assert_eq!(source.seed(&seed).unwrap().node(), words.node());
        write(&file, "staple\n", 0o600);
        for error in [source.key(&key).unwrap_err(), source.seed(&seed).unwrap_err()] {
            assert!(
                error.message.contains("wrong passphrase") && !error.message.contains("staple"),
                "{error}"
            );
        }
    }
}
