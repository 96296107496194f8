//! Where a watch gets its bytes from.

use oa_nips::files::OpError;
use oa_nips::files::watch::Piece;
use oa_nips::nostr::util::BoxedFuture;

/// A file that is watched by one caller.
pub(crate) trait Source: Send {
    /// Ends when there may be more than the last [`Source::read`] saw, or when it would fail now. What happened since
    /// then is not forgotten: a call that comes late ends at once.
    fn changed(&mut self) -> BoxedFuture<'_, ()>;

    /// Bytes from `offset` on, at most `count`, as [`Piece`] says; with a `count` of 0 only the length. Of a value
    /// all bytes are of the one content that [`Piece::edition`] names.
    ///
    /// # Errors
    /// Whatever ends the watch: the file is gone, or the caller may no longer read it.
    fn read(&self, offset: u64, count: usize) -> BoxedFuture<'_, Result<Piece, OpError>>;
}
