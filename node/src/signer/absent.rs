//! Stands for a key that should be in a file and cannot be read from there: everything waits for it.

use oa_nips::nostr::util::BoxedFuture;
use oa_nips::nostr::{Event, PublicKey, UnsignedEvent};
use oa_nips::port::{Signer, SignerError};

/// A key that is not at hand.
#[derive(Debug)]
pub struct Absent {
    key: PublicKey,
    why: String,
}

impl Absent {
    /// The key of this address, and why it is not there.
    pub fn new(key: PublicKey, why: impl Into<String>) -> Self {
        Self { key, why: why.into() }
    }

    /// Why it is not there.
    pub fn why(&self) -> &str {
        &self.why
    }

    fn away<T>(&self) -> BoxedFuture<'_, Result<T, SignerError>> {
        Box::pin(async { Err(SignerError::Unavailable(self.why.clone())) })
    }
}

impl Signer for Absent {
    fn public_key(&self) -> PublicKey {
        self.key
    }

    fn is_immediate(&self) -> bool {
        false
    }

    fn sign(&self, _: UnsignedEvent) -> BoxedFuture<'_, Result<Event, SignerError>> {
        self.away()
    }

    fn nip44_encrypt<'a>(
        &'a self,
        _: &'a PublicKey,
        _: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        self.away()
    }

    fn nip44_decrypt<'a>(
        &'a self,
        _: &'a PublicKey,
        _: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        self.away()
    }

    fn nip04_encrypt<'a>(
        &'a self,
        _: &'a PublicKey,
        _: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        self.away()
    }

    fn nip04_decrypt<'a>(
        &'a self,
        _: &'a PublicKey,
        _: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        self.away()
    }
}
