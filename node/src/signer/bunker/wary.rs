//! The signer of a node's agent whose key is in a bunker: one that is away is asked no more, until it is back.
//!
//! Everybody's mail stands in one line to be opened. Who waited for a bunker that does not answer, each time anew, would
//! hold up all of it; so after the first silence calls fail at once, and a task asks now and then whether it is back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oa_nips::nostr::util::BoxedFuture;
use oa_nips::nostr::{Event, PublicKey, UnsignedEvent};
use oa_nips::port::{Signer, SignerError};
use tokio::sync::Notify;

use super::{Bunker, Silence};

/// The first and the longest pause between two questions whether the bunker is back.
const ASK_FIRST: Duration = Duration::from_secs(1);
const ASK_LAST: Duration = Duration::from_secs(30);

/// A bunker that is asked only while it answers. A cheap handle.
#[derive(Debug, Clone)]
pub struct Wary {
    bunker: Bunker,
    is_asking: Arc<AtomicBool>,
    /// Told when it is back.
    back: Arc<Notify>,
    /// Why the last call came to nothing, if another time it may not.
    trouble: Arc<Mutex<Option<String>>>,
}

impl Wary {
    /// A wary signer; `back` is told when the bunker answers again after a silence.
    pub fn new(bunker: Bunker, back: Arc<Notify>) -> Self {
        Self { bunker, is_asking: Arc::default(), back, trouble: Arc::default() }
    }

    /// The bunker.
    pub fn bunker(&self) -> &Bunker {
        &self.bunker
    }

    /// Why nothing comes of calls now: it is away, asks its owner first, or does not allow what is asked.
    pub fn trouble(&self) -> Option<String> {
        let silence = self.bunker.link().silence().map(|silence| silence.why);
        silence.or_else(|| self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    async fn ask<T>(&self, call: impl Future<Output = Result<T, SignerError>>) -> Result<T, SignerError> {
        if let Some(Silence { why, .. }) = self.bunker.link().silence() {
            self.ask_again();
            return Err(SignerError::Unavailable(format!("the bunker is away: {why}")));
        }
        let outcome = call.await;
        if self.bunker.link().silence().is_some() {
            self.ask_again();
        }
        let trouble = match &outcome {
            Err(SignerError::Unavailable(why)) => Some(why.clone()),
            Ok(_) | Err(SignerError::Refused(_)) => None,
        };
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        outcome
    }

    /// Has it asked whether it is back, unless that is being done.
    fn ask_again(&self) {
        if self.is_asking.swap(true, Ordering::AcqRel) {
            return;
        }
        let (link, is_asking, back) =
            (self.bunker.link().downgrade(), self.is_asking.clone(), self.back.clone());
        tokio::spawn(async move {
            let mut pause = ASK_FIRST;
            // Ends with the last handle, too.
            while let Some(link) = link.upgrade() {
                // Any answer will do; one that it knows no ping is one.
                let _ = link.ping().await;
                if link.silence().is_none() {
                    break;
                }
                drop(link);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ASK_LAST);
            }
            is_asking.store(false, Ordering::Release);
            back.notify_one();
        });
    }
}

impl Signer for Wary {
    fn public_key(&self) -> PublicKey {
        self.bunker.public_key()
    }

    fn is_immediate(&self) -> bool {
        false
    }

    fn sign(&self, event: UnsignedEvent) -> BoxedFuture<'_, Result<Event, SignerError>> {
        Box::pin(self.ask(self.bunker.sign(event)))
    }

    fn nip44_encrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        Box::pin(self.ask(self.bunker.nip44_encrypt(peer, text)))
    }

    fn nip44_decrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        Box::pin(self.ask(self.bunker.nip44_decrypt(peer, text)))
    }

    fn nip04_encrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        Box::pin(self.ask(self.bunker.nip04_encrypt(peer, text)))
    }

    fn nip04_decrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        Box::pin(self.ask(self.bunker.nip04_decrypt(peer, text)))
    }
}
