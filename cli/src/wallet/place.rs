//! Where a wallet's things are: the folder `wallet` of a home.

use std::path::{Path, PathBuf};

use oa_node::home::Home;

use crate::error::Result;

/// The folder, locked for this process unless it was only looked at.
#[derive(Debug)]
pub(crate) struct Place {
    dir: PathBuf,
    _home: Option<Home>,
}

impl Place {
    /// Creates the folder if need be, for its owner only, and locks it: one process at a time runs a wallet.
    ///
    /// # Errors
    /// When another process has it.
    pub(crate) fn open(home: &Path) -> Result<Self> {
        let home = Home::open(home.join("wallet"))?;
        Ok(Self { dir: home.dir().to_owned(), _home: Some(home) })
    }

    /// The folder as it may be, for whoever only reads a file there.
    pub(crate) fn peek(home: &Path) -> Self {
        Self { dir: home.join("wallet"), _home: None }
    }

    /// The configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("wallet.toml")
    }

    /// The Lightning node's words.
    pub(crate) fn seed(&self) -> PathBuf {
        self.dir.join("seed")
    }

    /// The key that the wallet answers under.
    pub(crate) fn key(&self) -> PathBuf {
        self.dir.join("wallet.key")
    }

    /// The admin connection: what `oa wallet` uses.
    pub(crate) fn admin(&self) -> PathBuf {
        self.dir.join("admin.nwc")
    }

    /// Accounts, connections and requests.
    pub(crate) fn db(&self) -> PathBuf {
        self.dir.join("wallet.db")
    }

    /// What the Lightning node keeps.
    pub(crate) fn lightning(&self) -> PathBuf {
        self.dir.join("lightning")
    }

    /// Copies of it.
    pub(crate) fn backups(&self) -> PathBuf {
        self.dir.join("backups")
    }
}
