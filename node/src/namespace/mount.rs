//! The mount table: which service serves a path, and what the mount itself allows.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use oa_nips::files::Code;
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::path::Path;
use super::service::{Change, FileService, FileType, Stat, file};
use crate::money::Caps;

/// What a mount lets the agent do, whatever [`super::rights`] says besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// As the table of rights says.
    #[default]
    ReadWrite,
    /// Reading only.
    ReadOnly,
    /// Of `/identity`: who it is, signing and checking; no encryption.
    SignOnly,
    /// As read_write, up to so much money.
    Budgeted(Caps),
    /// Nothing: as if it were not there.
    Disabled,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadWrite => "read_write",
            Self::ReadOnly => "read_only",
            Self::SignOnly => "sign_only",
            Self::Budgeted(_) => "budgeted",
            Self::Disabled => "disabled",
        })
    }
}

/// One mount.
#[derive(Debug, Clone)]
pub struct Mount {
    /// Where.
    pub at: Path,
    /// What it allows.
    pub access: Access,
    /// Who serves it.
    pub service: Arc<dyn FileService>,
    /// Whether the mount itself is a folder, or which type of file.
    pub is: FileType,
    /// What it is, for `/mounts`: a word or two.
    pub what: String,
}

/// Mounts, of which the one with the longest prefix on whole components serves a path.
#[derive(Debug, Clone, Default)]
pub struct Mounts {
    /// The longest first.
    mounts: Vec<Mount>,
}

/// A mount that was found, and the path within it.
#[derive(Debug, Clone)]
pub struct Found<'a> {
    /// The mount.
    pub mount: &'a Mount,
    /// Absolute beneath it.
    pub rest: Path,
}

impl Mounts {
    /// Mounts a folder; what was mounted there is shadowed.
    pub fn mount(&mut self, at: Path, service: Arc<dyn FileService>, what: impl Into<String>) {
        self.put(Mount { at, access: Access::default(), service, is: FileType::Dir, what: what.into() });
    }

    /// Mounts a single file.
    pub fn mount_file(
        &mut self,
        at: Path,
        is: FileType,
        service: Arc<dyn FileService>,
        what: impl Into<String>,
    ) {
        self.put(Mount { at, access: Access::default(), service, is, what: what.into() });
    }

    /// Puts a mount in its place.
    pub fn put(&mut self, mount: Mount) {
        self.mounts.retain(|old| old.at != mount.at);
        let place = self.mounts.partition_point(|old| old.at.as_str().len() >= mount.at.as_str().len());
        self.mounts.insert(place, mount);
    }

    /// Sets what the mounts at a path and beneath it allow: whoever takes `/nostr` away means all of it.
    ///
    /// # Errors
    /// `NotFound` when nothing is mounted there.
    pub fn restrict(&mut self, at: &Path, access: Access) -> Result<(), Error> {
        let beneath = at.beneath();
        let mut is_there = false;
        for mount in &mut self.mounts {
            if mount.at == *at || mount.at.as_str().starts_with(&beneath) {
                (mount.access, is_there) = (access, true);
            }
        }
        if is_there { Ok(()) } else { Err(Error::new(Code::NotFound, at, "nothing is mounted there")) }
    }

    /// The mount that serves a path; those that are disabled serve nothing.
    ///
    /// # Errors
    /// `NotFound`
    pub fn find(&self, path: &Path) -> Result<Found<'_>, Error> {
        let found = self.mounts.iter().find_map(|mount| {
            let rest = if mount.at.as_str() == "/" {
                path.as_str().get(1..)?
            } else {
                path.strip(mount.at.as_str())?
            };
            Some((mount, rest))
        });
        match found {
            Some((mount, rest)) if mount.access != Access::Disabled => {
                Ok(Found { mount, rest: Path::beneath_root(rest) })
            }
            _ => Err(Error::not_found(path)),
        }
    }

    /// What mounts add directly beneath a folder: names and types.
    pub fn names<'a>(&'a self, folder: &'a Path) -> impl Iterator<Item = (&'a str, FileType)> {
        let beneath = folder.beneath();
        self.mounts.iter().filter(|mount| mount.access != Access::Disabled).filter_map(move |mount| {
            let rest = mount.at.as_str().strip_prefix(&beneath).filter(|rest| !rest.is_empty())?;
            Some(rest.split_once('/').map_or((rest, mount.is), |(name, _)| (name, FileType::Dir)))
        })
    }

    /// A folder's entries with the mounts in it; a folder of nothing but mounts is one too.
    pub(crate) fn entries(&self, folder: &Path, own: Result<Vec<Stat>, Error>) -> Result<Vec<Stat>, Error> {
        let names: BTreeMap<&str, FileType> = self.names(folder).collect();
        let mut entries = match own {
            Err(error) if error.code == Code::NotFound && (!names.is_empty() || *folder == Path::root()) => {
                Vec::new()
            }
            own => own?,
        };
        for (name, file_type) in names {
            if entries.iter().all(|entry| entry.name != name) {
                entries.push(file(name, file_type, 0));
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// All of them, by path.
    pub fn iter(&self) -> impl Iterator<Item = &Mount> {
        let mut mounts: Vec<&Mount> = self.mounts.iter().collect();
        mounts.sort_by(|a, b| a.at.cmp(&b.at));
        mounts.into_iter()
    }
}

impl Found<'_> {
    /// The change as the service knows it: paths within the mount.
    pub(crate) fn within(&self, mounts: &Mounts, change: Change) -> Result<Change, Error> {
        let Change::Rename(to) = change else { return Ok(change) };
        let target = mounts.find(&to)?;
        if target.mount.at != self.mount.at {
            return Err(Error::invalid(&to, format!("not under {}, like what is renamed", self.mount.at)));
        }
        Ok(Change::Rename(target.rest))
    }

    /// Refuses what the mount does not allow.
    ///
    /// # Errors
    /// `PermissionDenied`, with the mount's word for why.
    pub fn allow(&self, path: &Path, change: &Change) -> Result<(), Error> {
        let refused =
            || Err(Error::new(Code::PermissionDenied, path, format!("mounted {}", self.mount.access)));
        match self.mount.access {
            // How much, its service counts.
            Access::ReadWrite | Access::Budgeted(_) => Ok(()),
            Access::SignOnly if matches!(self.rest.as_str(), "/sign" | "/verify") => match change {
                Change::Call(_) => Ok(()),
                _ => refused(),
            },
            Access::ReadOnly | Access::SignOnly | Access::Disabled => refused(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::blocks::Fixed;

    fn path(text: &str) -> Path {
        text.parse().unwrap()
    }

    fn mounts() -> Mounts {
        let mut mounts = Mounts::default();
        for at in ["/wallet", "/wallet/history", "/identity"] {
            mounts.mount(path(at), Arc::new(Fixed::default()), "test");
        }
        mounts
    }

    #[test]
    fn the_longest_prefix_serves_on_whole_components() {
        let mounts = mounts();
        let at = |text: &str| {
            mounts.find(&path(text)).map(|found| (found.mount.at.to_string(), found.rest.to_string()))
        };
        assert_eq!(at("/wallet/pay").unwrap(), ("/wallet".to_owned(), "/pay".to_owned()));
        assert_eq!(at("/wallet/history/1").unwrap(), ("/wallet/history".to_owned(), "/1".to_owned()));
        assert_eq!(at("/wallet").unwrap().1, "/");
        assert_eq!(at("/walletX").unwrap_err().code, Code::NotFound);
        assert_eq!(mounts.names(&Path::root()).count(), 3);
    }

    #[test]
    fn what_is_taken_away_is_taken_with_all_that_is_mounted_beneath() {
        let mut mounts = mounts();
        mounts.mount(path("/walletX"), Arc::new(Fixed::default()), "test");
        mounts.restrict(&path("/wallet"), Access::ReadOnly).unwrap();
        let call = Change::Call(Vec::new());
        let allow = |text: &str| mounts.find(&path(text)).and_then(|found| found.allow(&path(text), &call));
        assert_eq!(allow("/wallet/history/1").unwrap_err().code, Code::PermissionDenied);
        assert!(allow("/walletX/1").is_ok());
    }

    #[test]
    fn a_mount_takes_rights_away() {
        let mut mounts = mounts();
        mounts.restrict(&path("/identity"), Access::SignOnly).unwrap();
        mounts.restrict(&path("/wallet/history"), Access::Disabled).unwrap();
        let call = Change::Call(Vec::new());
        let allow = |text: &str| mounts.find(&path(text)).and_then(|found| found.allow(&path(text), &call));
        assert!(allow("/identity/sign").is_ok());
        assert_eq!(allow("/identity/decrypt").unwrap_err().code, Code::PermissionDenied);
        assert_eq!(allow("/wallet/history/1").unwrap_err().code, Code::NotFound);
        assert!(mounts.restrict(&path("/nothing"), Access::ReadOnly).is_err());
    }
}
