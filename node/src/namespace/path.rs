//! A path that cannot be wrong: absolute, without `.`, `..`, NUL or empty components.

use std::fmt;
use std::str::FromStr;

/// Longest path, in bytes.
pub const PATH_BYTES_MAX: usize = 4096;
/// Longest component, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// An absolute path, parsed once. `/` alone is the root.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(String);

/// Why a string is no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("not absolute")]
    Relative,
    #[error("over {PATH_BYTES_MAX} bytes")]
    TooLong,
    #[error("a component over {NAME_BYTES_MAX} bytes")]
    NameTooLong,
    #[error("an empty component")]
    Empty,
    #[error("a component that is . or ..")]
    Dots,
    #[error("a control character")]
    Control,
}

impl Path {
    /// The root.
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// The path as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components, none for the root.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|part| !part.is_empty())
    }

    /// The path one component further.
    ///
    /// # Errors
    /// When `name` is no component.
    pub fn join(&self, name: &str) -> Result<Self, PathError> {
        if self.0 == "/" { format!("/{name}").parse() } else { format!("{}/{name}", self.0).parse() }
    }

    /// The prefix of everything beneath: the path with a slash at its end.
    pub fn beneath(&self) -> String {
        if self.0 == "/" { self.0.clone() } else { format!("{}/", self.0) }
    }

    /// The path that [`Path::strip`] left, as an absolute one.
    pub(super) fn beneath_root(rest: &str) -> Self {
        Self(format!("/{rest}"))
    }

    /// The folder it is in; the root is in itself.
    #[must_use]
    pub fn parent(&self) -> Self {
        match self.0.rsplit_once('/') {
            Some(("", _)) | None => Self::root(),
            Some((parent, _)) => Self(parent.to_owned()),
        }
    }

    /// The last component, nothing for the root.
    pub fn name(&self) -> Option<&str> {
        self.components().last()
    }

    /// The rest of this path under `base`, on whole components: `/walletX` is not under `/wallet`.
    pub fn strip<'a>(&'a self, base: &str) -> Option<&'a str> {
        let rest = self.0.strip_prefix(base)?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
    }
}

impl FromStr for Path {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        if text.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        let rest = text.strip_prefix('/').ok_or(PathError::Relative)?;
        if rest.is_empty() {
            return Ok(Self::root());
        }
        for part in rest.split('/') {
            match part {
                "" => return Err(PathError::Empty),
                "." | ".." => return Err(PathError::Dots),
                _ if part.len() > NAME_BYTES_MAX => return Err(PathError::NameTooLong),
                _ if part.chars().any(char::is_control) => return Err(PathError::Control),
                _ => {}
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl AsRef<str> for Path {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_absolute_paths_parse() {
        for good in ["/", "/a", "/a/b.json", "/memory/ž", "/a/...", "/a/.hidden"] {
            assert_eq!(good.parse::<Path>().unwrap().as_str(), good);
        }
        let long = format!("/{}", "x/".repeat(2500));
        for (bad, why) in [
            ("", PathError::Relative),
            ("a", PathError::Relative),
            ("//", PathError::Empty),
            ("/a//b", PathError::Empty),
            ("/a/", PathError::Empty),
            ("/a/../b", PathError::Dots),
            ("/..", PathError::Dots),
            ("/a/./b", PathError::Dots),
            ("/a\0b", PathError::Control),
            (&long, PathError::TooLong),
            (&format!("/{}", "x".repeat(256)), PathError::NameTooLong),
        ] {
            assert_eq!(bad.parse::<Path>(), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn prefixes_match_whole_components() {
        let path: Path = "/wallet/pay".parse().unwrap();
        assert_eq!(path.strip("/wallet"), Some("pay"));
        assert_eq!(path.strip("/wal"), None);
        assert_eq!("/walletX".parse::<Path>().unwrap().strip("/wallet"), None);
    }
}
