//! What a mount shows: a tree somewhere else. Whoever reaches one, such as the client of the operator protocol,
//! implements this; the file system above knows nothing of relays.

use futures_util::future::BoxFuture;
use oa_nips::files::{OpError, Stat};

/// What a tree answers, maybe late, maybe never: whoever asks brings a deadline, and drops the future at its end.
pub(crate) type Answer<'a, T> = BoxFuture<'a, Result<T, OpError>>;

/// A tree somewhere else. Paths are absolute; errors are the protocol's. Calls come concurrently, also for one path.
///
/// A future that is dropped may have taken effect or not.
pub(crate) trait RemoteTree: Send + Sync + 'static {
    /// What a path is. The size of a value or a stream is 0 where it is not known.
    fn stat<'a>(&'a self, path: &'a str) -> Answer<'a, Stat>;

    /// The entries of a folder.
    fn list<'a>(&'a self, path: &'a str) -> Answer<'a, Vec<Stat>>;

    /// At most `count` bytes from `offset`, 0 for as many as there are; past the end nothing. A value is a snapshot
    /// as of this read; a stream answers what is there, and never waits for more.
    fn read<'a>(&'a self, path: &'a str, offset: u64, count: u64) -> Answer<'a, Vec<u8>>;

    /// Replaces the whole content; creates the file if it is not there.
    fn write<'a>(&'a self, path: &'a str, body: Vec<u8>) -> Answer<'a, ()>;

    /// Adds one message.
    fn append<'a>(&'a self, path: &'a str, body: Vec<u8>) -> Answer<'a, ()>;

    /// Asks a call file.
    fn call<'a>(&'a self, path: &'a str, body: Vec<u8>) -> Answer<'a, Vec<u8>>;

    /// Creates a folder.
    fn mkdir<'a>(&'a self, path: &'a str) -> Answer<'a, ()>;

    /// Removes a file or an empty folder.
    fn remove<'a>(&'a self, path: &'a str) -> Answer<'a, ()>;

    /// Moves a file or folder; a file or an empty folder that is at `to` is replaced, a folder with something in it
    /// is refused with `exists`.
    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> Answer<'a, ()>;
}
