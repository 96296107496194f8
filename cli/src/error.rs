//! What a command ends with when it fails: a sentence, a hint, an exit code.

use std::fmt;

use oa_nips::files::{Code, OpError};
use oa_node::home::HomeError;
use oa_node::node::StartError;
use oa_node::signer::{KeyFileError, SaveError, SeedError};
use oa_node::store::backend::BackendError;

/// Which exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anything that is none of the others: 1.
    Failed,
    /// The command line, or a file it names, is wrong: 2.
    Usage,
    /// There is no such thing: 3.
    NotFound,
    /// It is not allowed: 4.
    Denied,
    /// Nobody answered: 5.
    TimedOut,
}

impl Kind {
    /// The exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Denied => 4,
            Self::TimedOut => 5,
        }
    }
}

/// A command's failure.
#[derive(Debug)]
pub(crate) struct Error {
    /// Decides the exit code.
    pub(crate) kind: Kind,
    /// What went wrong, with its causes.
    pub(crate) message: String,
    /// What to do next.
    pub(crate) hint: Option<String>,
}

/// What commands return.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure of this kind.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// With what to do next.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// A sentence of an error and all its sources.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

impl From<OpError> for Error {
    fn from(error: OpError) -> Self {
        let kind = match error.code {
            Code::NotFound => Kind::NotFound,
            Code::PermissionDenied | Code::ApprovalRequired => Kind::Denied,
            Code::InvalidPath | Code::InvalidInput => Kind::Usage,
            _ => Kind::Failed,
        };
        Self { kind, hint: next(&error), message: error.message }
    }
}

/// What to do about an operation's error, where its path tells.
fn next(error: &OpError) -> Option<String> {
    if error.code == Code::NotFound && error.message.starts_with("there is no agent") {
        return Some("`oa agent list` shows who there is".to_owned());
    }
    let (path, reason) = error.message.split_once(": ").filter(|(path, _)| path.starts_with('/'))?;
    let folder =
        path.rsplit_once('/').map_or("/", |(folder, _)| if folder.is_empty() { "/" } else { folder });
    match (error.code, reason) {
        (Code::NotFound, "no such file") => Some(format!("`oa ls {folder}` shows what there is")),
        (Code::PermissionDenied, "not allowed") => Some(format!(
            "`oa ls {folder}` shows what there is for this home's key, and `oa key show` whose that is"
        )),
        (Code::IsDir, _) => Some(format!("oa ls {path}")),
        (Code::NotDir, _) => Some(format!("it is a file: oa cat {path}")),
        _ => None,
    }
}

impl From<BackendError> for Error {
    fn from(error: BackendError) -> Self {
        let hint = match &error {
            BackendError::DiskFull { .. } => "make room and start again; nothing was lost",
            BackendError::Corrupt { .. } => "nothing was changed; put back a copy of the home from before",
            BackendError::NewerFormat { .. } => "a newer oa wrote it, and nothing was changed: run that one",
            BackendError::Stopped(_) | BackendError::Io { .. } => {
                "nothing was changed; see what the message names"
            }
        };
        Self::new(Kind::Failed, chain(&error)).hint(hint)
    }
}

impl From<StartError> for Error {
    fn from(error: StartError) -> Self {
        let message = chain(&error);
        match error {
            StartError::Store(error) => error.into(),
            StartError::NoRelay => {
                Self::new(Kind::Usage, message).hint("name one in config.toml, or with --relay")
            }
            StartError::Tool { .. } | StartError::Lease(_) => Self::new(Kind::Usage, message),
            StartError::OtherNode { .. } => Self::new(Kind::Failed, message)
                .hint("put back the seed it was made with, or choose another home"),
        }
    }
}

/// Errors of files in a home bring their own hint.
macro_rules! from_hinted {
    ($($error:ty),*) => {$(
        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self { kind: Kind::Failed, message: chain(&error), hint: error.hint() }
            }
        }
    )*};
}

from_hinted!(SeedError, SaveError, KeyFileError);

impl From<HomeError> for Error {
    fn from(error: HomeError) -> Self {
        let kind = if matches!(error, HomeError::Missing(_)) { Kind::NotFound } else { Kind::Failed };
        Self::new(kind, chain(&error)).hint(error.hint())
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::new(Kind::Failed, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operations_error_says_what_to_do_next() {
        let hint = |code, message: &str| Error::from(OpError::new(code, message)).hint;
        for (code, message, wanted) in [
            (Code::NotFound, "there is no agent named bob", Some("`oa agent list` shows who there is")),
            (
                Code::NotFound,
                "/agents/bob/memory/x: no such file",
                Some("`oa ls /agents/bob/memory` shows what there is"),
            ),
            (Code::NotFound, "/x: no such file", Some("`oa ls /` shows what there is")),
            (Code::IsDir, "/agents: is a folder", Some("oa ls /agents")),
            (
                Code::NotDir,
                "/agents/bob/status: is no folder",
                Some("it is a file: oa cat /agents/bob/status"),
            ),
            (Code::NotFound, "/wallet/transfer: no account is called \"x\"", None),
            (Code::Io, "no path here", None),
        ] {
            assert_eq!(hint(code, message).as_deref(), wanted, "{message}");
        }
        let denied = hint(Code::PermissionDenied, "/agent: not allowed").unwrap_or_default();
        assert!(denied.starts_with("`oa ls /` shows"), "{denied}");
    }
}
