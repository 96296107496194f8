//! What a file operation fails with: the operator protocol's codes, so that a tick, a remote operator, FUSE and a
//! WASI program are told the same.

use oa_nips::files::{Code, OpError};

use serde::{Deserialize, Serialize};

use super::path::PathError;

/// Characters of a path that an error quotes.
const QUOTED_MAX: usize = 200;

/// A code, the path as its reader knows it, and a reason in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct Error {
    /// For programs.
    pub code: Code,
    /// As it was asked for; cut if it is long.
    pub path: String,
    /// For people.
    pub reason: String,
}

impl Error {
    /// An error of this kind about `path`.
    pub fn new(code: Code, path: impl AsRef<str>, reason: impl Into<String>) -> Self {
        Self { code, path: path.as_ref().chars().take(QUOTED_MAX).collect(), reason: reason.into() }
    }

    /// There is nothing of this name.
    pub fn not_found(path: impl AsRef<str>) -> Self {
        Self::new(Code::NotFound, path, "no such file")
    }

    /// It is there, and not for this caller or not for this verb.
    pub fn denied(path: impl AsRef<str>) -> Self {
        Self::new(Code::PermissionDenied, path, "not allowed")
    }

    /// A file was asked for.
    pub fn is_dir(path: impl AsRef<str>) -> Self {
        Self::new(Code::IsDir, path, "is a folder")
    }

    /// A folder was asked for.
    pub fn not_dir(path: impl AsRef<str>) -> Self {
        Self::new(Code::NotDir, path, "is no folder")
    }

    /// What was written is not what the file takes.
    pub fn invalid(path: impl AsRef<str>, reason: impl Into<String>) -> Self {
        Self::new(Code::InvalidInput, path, reason)
    }

    /// More than the file holds.
    pub fn too_large(path: impl AsRef<str>, limit: usize) -> Self {
        Self::new(Code::TooLarge, path, format!("over {limit} bytes"))
    }

    /// What holds the file failed.
    pub fn io(path: impl AsRef<str>, reason: impl Into<String>) -> Self {
        Self::new(Code::Io, path, reason)
    }

    /// The text is no path.
    pub fn invalid_path(path: impl AsRef<str>, reason: PathError) -> Self {
        Self::new(Code::InvalidPath, path, format!("not a path: {reason}"))
    }

    /// The same error about the path as the caller knows it: services know only what is beneath their mount.
    #[must_use]
    pub fn at(mut self, path: impl AsRef<str>) -> Self {
        self.path = path.as_ref().chars().take(QUOTED_MAX).collect();
        self
    }
}

impl From<Error> for OpError {
    fn from(error: Error) -> Self {
        Self::new(error.code, error.to_string())
    }
}
